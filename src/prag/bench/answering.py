"""`prag bench answer`: what an answer takes without passages, with their text, and with adapters.

The passages are the package's invented ones, and their adapters are drawn at random and so small
that the model writes what it would without them: answers of the same length are compared, whatever
they say. All are given for 20 tokens: the time to the first, and 19 times what each further one
took.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from prag.bench.timing import Spread, alternate, ratio
from prag.config import GenerateConfig, Recipe, default_recipe
from prag.evaluate.texts import format_passages
from prag.generate import TransformersEngine
from prag.inject import injected
from prag.knowledge_base.export import write_peft
from prag.lora import Adapter, Site, merge
from prag.methods import METHODS
from prag.methods.answering import answer_all
from prag.methods.base import Ask, Library, Shelved
from prag.model import BaseModel
from prag.prefixes import Prefix
from prag.progress import Tell, silent
from prag.prompts import style_named
from prag.quiet import shared_beginning
from prag.records import AdapterKey, Answer, Hit, Passage, PragError
from prag.replay import sites_of
from prag.store import AdapterStore, StoredItem

TOKENS = 20
"""New tokens that every answer is given for."""

K = 3
"""Passages whose adapters are in the weights."""

CONTEXTS = (3, 5, 10)
"""Passages in the prompt."""

TOGETHER = 16
"""Questions of one batch, each with other adapters."""

SMALL = 1e-4
"""The deviation of the drawn factors."""


@dataclass(frozen=True)
class _Shelf:
    """Passages, where their adapters are stored, and the same adapters as PEFT folders."""

    base: BaseModel
    recipe: Recipe
    sites: tuple[Site, ...]
    passages: tuple[Passage, ...]
    store: AdapterStore
    folders: tuple[Path, ...]
    beginning: Prefix | None

    def key(self, passage_id: str) -> AdapterKey:
        return AdapterKey(passage_id, self.base.fingerprint, "bench")

    @property
    def library(self) -> Library:
        known = {p.id: p for p in self.passages}

        def search(
            questions: Sequence[str], k: int, allowed: Container[str] | None = None
        ) -> list[list[Hit]]:
            raise PragError("these methods are given their passages")

        return Library(
            base=self.base,
            recipe=replace(self.recipe, combine="together"),  # one answer of each way
            engine=TransformersEngine(self.base),
            search=search,
            passages=lambda ids: [known[i] for i in ids],
            adapter=lambda i: Shelved(str(self.key(i)), self.store.read(self.key(i)), 0),
            augmentation=lambda _: None,
            beginning=self.beginning,
        )

    def ask(self, n: int, k: int) -> Ask:
        """The n-th question, with k passages from the n-th on."""
        all_of_them = len(self.passages)
        hits = tuple(Hit(self.passages[(n + i) % all_of_them].id, 1.0, i) for i in range(k))
        return Ask(f"What is {self.passages[n % all_of_them].title} known for?", hits, k)


def bench_answer(
    base: BaseModel, questions: int = 4, rounds: int = 5, progress: Tell = silent
) -> dict[str, Any]:
    """Time the ways to answer, the change of adapters, and a batch against one by one, in turns.

    Args:
        questions: asked one after the other in each run of a way to answer.
        rounds: of turns.

    Returns:
        `ways`: for each the seconds to the first token, for 20, and tokens a second after the
        first. `update_ms`, `update_kept_ms`, `update_ratio_peft`, `parametric_over_closed_book`,
        `parametric_over_in_context` (for k passages, by name of k), `batch16_over_serial`, and
        under `runs` the spreads of what was timed as a whole.

    Raises:
        PragError: `peft` is not installed, or the model says nothing to compare by.
    """
    with tempfile.TemporaryDirectory() as folder:
        shelf = _shelf(base, Path(folder))
        with shelf.store:
            return _measured(shelf, questions, rounds, progress)


def _measured(shelf: _Shelf, questions: int, rounds: int, progress: Tell) -> dict[str, Any]:
    said: dict[str, list[list[Answer]]] = {}
    ways = {"closed-book": ("closed-book", 0), "parametric": ("parametric", K)}
    ways |= {f"in-context-{k}": ("in-context", k) for k in CONTEXTS}
    ways["combined"] = ("combined", K)
    runs = {name: _way(shelf, name, *way, questions, said) for name, way in ways.items()}
    runs |= {
        "update": _update(shelf),
        "update_kept": _update_kept(shelf),
        "update_peft": _update_peft(shelf),
        "batch16": _batch(shelf, TOGETHER),
        "serial": _batch(shelf, 1),
    }
    for name, run in runs.items():  # what a first run alone costs is not measured
        if name not in ("batch16", "serial"):
            run()
    said.clear()
    spreads = alternate(runs, rounds, progress)
    made = {name: [_figures(answers) for answers in turns] for name, turns in said.items()}
    whole = {name: Spread(tuple(f["seconds"] for f in turns)) for name, turns in made.items()}
    return {
        "ways": {
            name: {key: _median([f[key] for f in turns]) for key in turns[0]}
            for name, turns in made.items()
        },
        "update_ms": 1000 * spreads["update"].median,
        "update_kept_ms": 1000 * spreads["update_kept"].median,
        "update_ratio_peft": ratio(spreads["update_peft"], spreads["update"]),
        "parametric_over_closed_book": ratio(whole["parametric"], whole["closed-book"]),
        "parametric_over_in_context": {
            str(k): ratio(whole["parametric"], whole[f"in-context-{k}"]) for k in CONTEXTS
        },
        "batch16_over_serial": ratio(spreads["serial"], spreads["batch16"]),
        "runs": {name: spread.as_dict() for name, spread in spreads.items()},
    }


def _figures(answers: Sequence[Answer]) -> dict[str, float]:
    """Of one run's answers, the means: to the first token, for 20, and tokens a second after it."""
    first, rest, tokens = 0.0, 0.0, 0
    for answer in answers:
        begun = answer.first_token_seconds or 0.0
        first += begun
        rest += sum(answer.timings.values()) - begun
        tokens += answer.generated_tokens - 1
    if tokens < 1 or rest <= 0:
        raise PragError(
            "the model ends its answers after one token: nothing says how fast it writes on"
        )
    first /= len(answers)
    each = rest / tokens
    return {
        "first_token_s": first,
        "seconds": first + (TOKENS - 1) * each,
        "tokens_per_s": 1 / each,
    }


def _median(values: Sequence[float]) -> float:
    return Spread(tuple(values)).median


def _shelf(base: BaseModel, folder: Path) -> _Shelf:
    recipe = default_recipe(base.parameters)
    sites = sites_of(base, recipe.train)
    passages = tuple(passage for passage, _ in format_passages())
    store = AdapterStore.open(folder / "store")
    shelf = _Shelf(
        base,
        recipe,
        sites,
        passages,
        store,
        tuple(folder / f"peft-{n}" for n in range(len(passages))),
        shared_beginning(base, sites, recipe),
    )
    generator = torch.Generator().manual_seed(0)
    adapters = [drawn(sites, recipe, base.dtype, generator) for _ in passages]
    items = [StoredItem(shelf.key(p.id), a, "") for p, a in zip(passages, adapters, strict=True)]
    store.commit(items, sites, recipe.codec)
    for passage, adapter, where in zip(passages, adapters, shelf.folders, strict=True):
        write_peft(where, base.name, adapter, passage)
    return shelf


def drawn(
    sites: Sequence[Site], recipe: Recipe, dtype: torch.dtype, generator: torch.Generator
) -> Adapter:
    """An adapter of small numbers, normally distributed: it leaves what a model says as it is."""
    rank = recipe.train.rank

    def draw(*shape: int) -> torch.Tensor:
        return SMALL * torch.randn(*shape, generator=generator).to(dtype)

    factors = {site.name: (draw(rank, site.inputs), draw(site.outputs, rank)) for site in sites}
    return Adapter(factors, rank, recipe.train.alpha)


def _way(
    shelf: _Shelf,
    name: str,
    method: str,
    k: int,
    questions: int,
    said: dict[str, list[list[Answer]]],
) -> Callable[[], object]:
    library = shelf.library
    asks = [shelf.ask(n, k) for n in range(questions)]
    style = style_named("direct", shelf.recipe.wording)

    def run() -> None:
        answers: list[Answer] = []
        for ask in asks:
            answers += answer_all(
                library, METHODS[method], [ask], style, GenerateConfig(max_new_tokens=TOKENS)
            )
        said.setdefault(name, []).append(answers)

    return run


def _batch(shelf: _Shelf, rows: int) -> Callable[[], object]:
    library = shelf.library
    asks = [shelf.ask(n, K) for n in range(TOGETHER)]
    style = style_named("direct", shelf.recipe.wording)
    config = GenerateConfig(max_new_tokens=TOKENS, rows=rows)
    return lambda: answer_all(library, METHODS["parametric"], asks, style, config)


def _update(shelf: _Shelf) -> Callable[[], object]:
    """Load three adapters, merge them, put them into the model, and take them out."""
    keys = [shelf.key(p.id) for p in shelf.passages[:K]]

    def run() -> None:
        with injected(shelf.base, [merge([shelf.store.read(key) for key in keys])]):
            pass

    return run


def _update_kept(shelf: _Shelf) -> Callable[[], object]:
    """The same with adapters that are in memory, as those of the last questions are."""
    kept = [shelf.store.read(shelf.key(p.id)) for p in shelf.passages[:K]]

    def run() -> None:
        with injected(shelf.base, [merge(kept)]):
            pass

    return run


def _update_peft(shelf: _Shelf) -> Callable[[], object]:
    try:
        from peft import PeftModel
    except ImportError as error:
        raise PragError("the way to compare with needs peft: pip install 'prag[bench]'") from error
    model = copy.deepcopy(shelf.base.model)
    names = [f"a{n}" for n in range(K)]
    folders: Mapping[str, str] = dict(zip(names, map(str, shelf.folders), strict=False))

    def run() -> None:
        wrapped = PeftModel.from_pretrained(model, folders["a0"], adapter_name="a0")
        for name in names[1:]:
            wrapped.load_adapter(folders[name], adapter_name=name)
        wrapped.add_weighted_adapter(names, [1.0] * K, "merged", combination_type="cat")
        wrapped.set_adapter("merged")
        wrapped.unload()

    return run
