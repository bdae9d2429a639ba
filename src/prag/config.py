"""One small typed config a stage, and the fingerprint of a recipe."""

from __future__ import annotations

import hashlib
import json
import math
import sys
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from string import Formatter
from typing import Any, Literal, get_args

from prag.everyday import everyday_digest
from prag.records import ID_LENGTH, PragError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Codec = Literal["float32", "float16", "bfloat16", "int8", "int4", "base6", "int2", "base3"]
"""How adapters are stored (`prag.store.codecs`)."""

CODECS: tuple[Codec, ...] = get_args(Codec)

Precision = Literal["float32", "mixed"]
"""In which precision adapters are trained (`prag.precision`)."""


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise PragError(message)


def _floats(config: Any) -> None:
    """Make `32` given for a float field `32.0`: both are one value, and one fingerprint."""
    for f in fields(config):
        if f.type == "float" and type(getattr(config, f.name)) is int:
            object.__setattr__(config, f.name, float(getattr(config, f.name)))


@dataclass(frozen=True)
class Wording:
    """The fixed texts of the prompts; a recipe file may give its own (section `[wording]`)."""

    instruction: str = (
        "Answer the question with the knowledge given below together with what you know yourself."
    )
    answer_lead: str = "The answer is"
    passage: str = "{text}"  # of one passage; holds {text}, may hold {title}

    def __post_init__(self) -> None:
        try:
            held = {name for _, name, _, _ in Formatter().parse(self.passage) if name is not None}
            self.passage.format(title="", text="")
        except (LookupError, ValueError, AttributeError, TypeError) as error:
            raise PragError("wording.passage may hold {title} and {text} only") from error
        _require("text" in held, "wording.passage holds {text}, or the passage would be left out")


Step = Literal["sequence", "passage"]
"""What one step of the optimizer learns of a passage."""


@dataclass(frozen=True)
class AugmentConfig:
    """What to make of a passage before it is encoded.

    `style` is how pairs are made: `json` (a model is asked for one JSON list, by constrained
    decoding, as the paper asks), or, for weak models, spans of the passage are taken as answers,
    and a question for each is written by the model after worked examples (`spans`) or made by
    rule of the span's sentence (`cloze`).
    """

    style: Literal["json", "spans", "cloze"] = "json"
    rewrites: int = 1  # rewrites a passage
    pairs: int = 3  # question-answer pairs a passage
    temperature: float = 0.7  # of sampling; 0 is greedy
    top_k: int = 50  # tokens that sampling chooses from
    max_new_tokens: int = 512  # tokens of one generation
    attempts: int = 3  # generations tried for a passage before it is given up
    seed: int = 0

    def __post_init__(self) -> None:
        _floats(self)
        _require(
            self.style in ("json", "spans", "cloze"), "augment.style is 'json', 'spans' or 'cloze'"
        )
        _require(self.rewrites >= 0, "augment.rewrites is at least 0")
        _require(self.pairs >= 1, "augment.pairs is at least 1")
        _require(self.temperature >= 0, "augment.temperature is at least 0")
        _require(self.top_k >= 0, "augment.top_k is at least 0 (0: all tokens)")
        _require(self.max_new_tokens >= 1, "augment.max_new_tokens is at least 1")
        _require(self.attempts >= 1, "augment.attempts is at least 1")


@dataclass(frozen=True)
class TrainConfig:
    """How the adapter of a passage is trained.

    `sequences` is what it is trained on: `paper` (METHOD: the first half of the pairs with the
    passage and with its rewrite in the prompt, the others without) or `closed-book` (every pair
    without any passage). `style` is what the assistant is trained to say: the short answer
    (`direct`), or the whole one after the worked examples of a question set (METHOD, 2).
    `step` is what one step of the optimizer learns: a `sequence` after the other, or all those of a
    `passage` together, their losses added up and what they begin with alike computed once
    (`prag.tree`).
    `loss` is which tokens count: `all`, or `answer` (the assistant's). `sites` are the linear maps
    of a layer's gated feed-forward block that get an adapter: `all`, or those that go `in` to it
    (gate and up). With `quiet` above 0 adapters add nothing to the beginning that all prompts
    share, and read the more weakly what any text gives a site, the larger it is (`prag.quiet`).
    With `precision` `mixed` the base computes in bfloat16 where the machine multiplies that
    natively; what is learnt stays in float32 (`prag.precision`).
    """

    sequences: Literal["paper", "closed-book"] = "paper"
    style: Literal["direct", "2wikimultihopqa", "hotpotqa"] = "direct"
    define: bool = False  # before the pairs, what the passage says its title is
    end: bool = False  # the token that ends a turn is learnt after the answer
    step: Step = "sequence"
    loss: Literal["all", "answer"] = "all"
    layers: float = 1.0  # share of the layers that get an adapter, counted from the last
    sites: Literal["all", "in"] = "all"
    quiet: float = 0.0  # 0: A reads everything alike
    rank: int = 2  # r
    alpha: float = 32.0  # scale = alpha / r
    learning_rate: float = 3e-4  # constant
    epochs: int = 1  # passes over the sequences of a passage
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.01  # decoupled, a step: learning_rate x weight_decay
    precision: Precision = "float32"
    seed: int = 0  # of the initial adapter, one for a base model

    def __post_init__(self) -> None:
        _floats(self)
        _require(self.sequences in ("paper", "closed-book"), "train.sequences: paper, closed-book")
        _require(
            self.style in ("direct", "2wikimultihopqa", "hotpotqa"),
            "train.style: direct, 2wikimultihopqa, hotpotqa",
        )
        _require(self.step in get_args(Step), "train.step: sequence, passage")
        _require(self.loss in ("all", "answer"), "train.loss is 'all' or 'answer'")
        _require(0 < self.layers <= 1, "train.layers is above 0 and at most 1")
        _require(self.sites in ("all", "in"), "train.sites is 'all' or 'in'")
        _require(0 <= self.quiet < math.inf, "train.quiet is at least 0, and finite")
        _require(self.precision in get_args(Precision), "train.precision: float32, mixed")
        _require(self.rank >= 1, "train.rank is at least 1")
        _require(self.alpha > 0, "train.alpha is above 0")
        _require(self.learning_rate > 0, "train.learning_rate is above 0")
        _require(self.epochs >= 1, "train.epochs is at least 1")
        _require(0 <= self.beta1 < 1 and 0 <= self.beta2 < 1, "train.beta1, beta2 are in [0, 1)")
        _require(self.epsilon > 0, "train.epsilon is above 0")
        _require(self.weight_decay >= 0, "train.weight_decay is at least 0")


LATER: dict[str, Any] = {
    "define": False,
    "end": False,
    "step": "sequence",
    "layers": 1.0,
    "sites": "all",
    "quiet": 0.0,
    "precision": "float32",
}
"""Fields of `TrainConfig` that older adapters were made without, each with what it was then."""


@dataclass(frozen=True)
class GenerateConfig:
    """How an answer is generated. The defaults are the paper's for direct answers."""

    max_new_tokens: int = 20  # tokens
    reasoning_tokens: int = 128  # tokens of a chain of thought, where one is asked for
    temperature: float = 0.0  # 0 is greedy
    top_k: int = 50  # tokens that sampling chooses from; no effect when greedy
    top_p: float = 1.0  # probability mass that sampling chooses from; no effect when greedy
    seed: int = 0  # of sampling; no effect when greedy
    rows: int = 16  # questions of one batch

    def __post_init__(self) -> None:
        _floats(self)
        _require(self.max_new_tokens >= 1, "generate.max_new_tokens is at least 1")
        _require(self.reasoning_tokens >= 1, "generate.reasoning_tokens is at least 1")
        _require(self.temperature >= 0, "generate.temperature is at least 0")
        _require(self.top_k >= 0, "generate.top_k is at least 0 (0: all tokens)")
        _require(0 < self.top_p <= 1, "generate.top_p is in (0, 1]")
        _require(self.rows >= 1, "generate.rows is at least 1")


@dataclass(frozen=True)
class Recipe:
    """What to augment and how to train, and what to do with the adapters of k passages.

    `beside_text` is what each delta counts times where the passages' text is in the prompt too.
    `offered` is who answers a question that asks for yes or no, or for one of two: the `adapted`
    model, or the `base` model, without adapters (`prag.methods.offered`).
    `combine` is how a question is answered from text and adapters: `together`, both at once, or
    `surer`, so and without the text, and the answer taken that the model holds for likelier.
    `codec` is how a knowledge base stores adapters where it is not told otherwise (`prag.store`).

    `merge` is `sum` (the adapters of all k passages, by concatenation), `score` (the same, each
    weighed by its passage's retrieval score over that of the best) or `best` (only the adapter of
    the best passage goes into the weights).
    """

    name: str
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    wording: Wording = field(default_factory=Wording)
    merge: Literal["sum", "score", "best"] = "sum"
    beside_text: float = 1.0
    offered: Literal["adapted", "base"] = "adapted"
    combine: Literal["together", "surer"] = "together"
    codec: Codec = "float32"

    def __post_init__(self) -> None:
        _floats(self)
        _require(self.merge in ("sum", "score", "best"), "merge is 'sum', 'score' or 'best'")
        _require(self.combine in ("together", "surer"), "combine is 'together' or 'surer'")
        _require(self.codec in CODECS, f"codec is one of {', '.join(CODECS)}")
        _require(self.offered in ("adapted", "base"), "offered is 'adapted' or 'base'")
        _require(0 < self.beside_text < math.inf, "beside_text is above 0, and finite")

    def fingerprint(self, origin: str) -> str:
        """16 hex digits of all that decides an adapter, the augmentation's origin included.

        Not the name, nor what is done with adapters once they are made (`merge`, `beside_text`,
        `offered`, `combine`, `codec`). A field that came to be after adapters had been made counts
        only where it differs from what was done before.
        """
        train = asdict(self.train)
        parts: dict[str, Any] = {
            "train": {k: v for k, v in train.items() if LATER.get(k) != v},
            "wording": asdict(self.wording),
            "origin": origin,
        }
        if self.train.quiet > 0:
            parts["everyday"] = everyday_digest()
        made_here = not origin.startswith("file:")
        counts = {"rewrites": self.augment.rewrites, "pairs": self.augment.pairs}
        parts["augment"] = asdict(self.augment) if made_here else counts
        return _digest(parts)

    def augment_fingerprint(self, origin: str) -> str:
        """16 hex digits of all that decides an augmentation; recipes may share it."""
        return _digest({"augment": asdict(self.augment), "origin": origin})


PAPER = Recipe(name="paper")
"""METHOD to the letter: Su et al. 2025, direct answers, one epoch."""

SMALL = Recipe(
    name="small",
    augment=AugmentConfig(
        style="cloze", rewrites=0, pairs=5, temperature=0.0, max_new_tokens=32, attempts=1
    ),
    train=TrainConfig(
        sequences="closed-book",
        define=True,
        end=True,
        loss="answer",
        layers=0.5,
        sites="in",
        quiet=300.0,
        rank=4,
        learning_rate=2e-3,
        epochs=6,
        precision="mixed",
    ),
    wording=Wording(instruction="Answer the question.", passage="{title}: {text}"),
    merge="score",
    beside_text=0.75,
    offered="base",
    combine="surer",
    codec="base6",
)
"""For models under 1 B parameters: short closed-book sequences and a stronger training, of adapters
that can be added up (docs/log.md says how it was chosen)."""

RECIPES = {"paper": PAPER, "small": SMALL}


def default_recipe(parameters: int) -> Recipe:
    """`small` for a model under 1 B parameters, else `paper`."""
    return SMALL if parameters < 1_000_000_000 else PAPER


def load_recipe(name: str) -> Recipe:
    """A recipe by its name, or read from a TOML file.

    A file names the recipe it starts from and what it changes:

        base = "paper"
        merge = "sum"
        [train]
        epochs = 2

    Raises:
        PragError: no such recipe or file, an unknown field, or a value that is not allowed.
    """
    if name in RECIPES:
        return RECIPES[name]
    path = Path(name)
    if not path.is_file():
        raise PragError(f"no recipe {name!r}: use one of {', '.join(RECIPES)}, or a TOML file")
    try:
        with path.open("rb") as file:
            return recipe_from_dict(tomllib.load(file), name=path.stem)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PragError(f"{path}: not a TOML file: {error}") from error
    except PragError as error:
        raise PragError(f"{path}: {error}") from error


def recipe_from_dict(data: dict[str, Any], name: str | None = None) -> Recipe:
    """The recipe that `data` describes: fields not given are those of its `base` (`paper`)."""
    data = dict(data)
    base = data.pop("base", "paper")
    if not isinstance(base, str) or base not in RECIPES:
        raise PragError(f"base = {base!r}: use one of {', '.join(RECIPES)}")
    recipe = replace(RECIPES[base], name=str(data.pop("name", name or base)))
    for section in ("augment", "train", "wording"):
        recipe = replace(
            recipe, **{section: _updated(getattr(recipe, section), data.pop(section, {}), section)}
        )
    return _updated(recipe, data, "recipe")  # type: ignore[no-any-return]


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """Every field of the recipe, in the form that `recipe_from_dict` reads."""
    return asdict(recipe)


def _updated(config: Any, values: Any, where: str) -> Any:
    if not isinstance(values, dict):
        raise PragError(f"[{where}] is a table of fields, not {values!r}")
    known = {f.name: getattr(config, f.name) for f in fields(config)}
    for key, value in values.items():
        if key not in known:
            raise PragError(f"[{where}] has no field {key!r}; it has {', '.join(known)}")
        kind = type(known[key])
        if kind is float and type(value) is int:
            values = {**values, key: float(value)}
        elif type(value) is not kind:
            raise PragError(f"[{where}] {key} = {value!r} is not of kind {kind.__name__}")
    return replace(config, **values)


def _digest(parts: dict[str, Any]) -> str:
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:ID_LENGTH]
