"""A plan from what a user says: model, recipe, corpus, machine, questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prag.config import CODECS, Codec, Recipe, default_recipe
from prag.model import load_model
from prag.plan.calibration import calibrate
from prag.plan.costs import Costs, Use, costs_of
from prag.plan.figures import hardware_of
from prag.plan.hardware import UNITS, Hardware, hardware_named
from prag.plan.shape import Shape, adapted_of, own_tokens, shape_of, skeleton
from prag.plan.sizes import FAR, HEAPS, Sizes, sizes_of
from prag.plan.workload import Workload, augmentations_of, sample_of, workload
from prag.progress import Tell, silent
from prag.records import PragError

HERE = "here"
"""The hardware that is this machine, timed now."""


@dataclass(frozen=True)
class Plan:
    """What is planned, with what, and what comes of it."""

    shape: Shape
    work: Workload
    codec: Codec
    sizes: Sizes
    hardware: Hardware
    use: Use
    costs: Costs
    assumptions: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it: everything but the texts of the sample."""
        work = self.work
        return {
            "model": {"name": self.shape.name, "parameters": self.shape.parameters},
            "recipe": work.recipe.name,
            "codec": self.codec,
            "corpus": {
                "passages": work.passages,
                "encoded": work.encoded,
                "sample": {"source": work.source, "passages": len(work.sample)},
                "passage_tokens": work.passage_tokens,
                "prompt_tokens": work.prompt,
                "read_once_tokens": work.begins,
                "tokens_trained": work.tokens_trained,
            },
            "use": asdict(self.use),
            "hardware": {
                "name": self.hardware.name,
                "figures": {
                    name: {**asdict(figure), "unit": UNITS[name]}
                    for name, figure in self.hardware.figures.items()
                },
            },
            "bytes": self.sizes.as_dict(),
            **self.costs.as_dict(),
            "assumptions": list(self.assumptions),
        }


def plan(
    passages: int,
    model: str = "smollm2",
    recipe: Recipe | None = None,
    *,
    codec: str | None = None,
    hardware: str = HERE,
    figures: Sequence[Path] = (),
    sample: Path | None = None,
    augmentations: Path | None = None,
    use: Use | None = None,
    price: float | None = None,
    storage_price: float | None = None,
    seconds: float = 60.0,
    progress: Tell = silent,
) -> Plan:
    """Draw up a plan.

    Args:
        passages: N, of the corpus.
        model: `smollm2`, a built-in shape, or the id or folder of a model.
        recipe: by default that of the model's size.
        codec: how adapters are stored; by default as the recipe says.
        hardware: `here` (this machine is timed, with the model loaded), a built-in machine, or a
            TOML file.
        figures: files of `prag bench encode` and `answer`; they go before `hardware`.
        sample: passages of the corpus, or a knowledge base; by default 12 packaged ones.
        augmentations: of the sample, made elsewhere.
        price, storage_price: an hour, and a GB and month.
        seconds: of training that this machine is timed with.

    Raises:
        PragError: a number that makes no sense, or a model, recipe, machine or file that is not
            there or does not fit.
    """
    if passages < 1:
        raise PragError(f"a corpus has at least 1 passage, not {passages}")
    for name, value in (("--price", price), ("--storage-price", storage_price)):
        if value is not None and value < 0:
            raise PragError(f"{name} is at least 0, not {value}")
    if codec is not None and codec not in CODECS:
        raise PragError(f"no codec {codec!r}: use one of {', '.join(CODECS)}")
    if figures and hardware != HERE:
        raise PragError("--figures and --hardware exclude each other: both say what a machine does")
    named = None if hardware == HERE else hardware_named(hardware)
    use = use or Use()
    timed = not figures and named is None
    if timed and not own_tokens(model):
        raise PragError(
            f"{model} is a shape without weights, which cannot be timed: give --hardware or "
            "--figures, or the folder of the model itself"
        )
    base = load_model(model) if timed else skeleton(model)
    recipe = recipe or default_recipe(base.parameters)
    known: Codec = next((c for c in CODECS if c == codec), recipe.codec)
    found = None if sample is None else sample_of(sample)
    given = None
    if augmentations is not None:
        if found is None:
            raise PragError("--augmentations are of the passages of --sample: give both")
        given = augmentations_of(augmentations, found)
    work = workload(
        base,
        recipe,
        passages,
        found,
        given,
        source="12 packaged passages" if sample is None else str(sample),
    )
    shape, adapted = shape_of(base), adapted_of(base, recipe)
    sizes = sizes_of(work, adapted, known)
    if named is None and figures:
        named = hardware_of(figures, recipe, use.rows)
    if named is None:
        named = calibrate(base, shape, adapted, work, sizes, known, use, seconds, progress)
    named = named.priced(price, storage_price)
    return Plan(
        shape=shape,
        work=work,
        codec=known,
        sizes=sizes,
        hardware=named,
        use=use,
        costs=costs_of(shape, adapted, work, sizes, named, use),
        assumptions=_assumptions(model, work, named, use, measured_on_another=bool(figures)),
    )


def _assumptions(
    model: str, work: Workload, hardware: Hardware, use: Use, measured_on_another: bool
) -> tuple[str, ...]:
    """All that was not measured, a line each."""
    lines = [
        f"{name} = {figure.value:.4g} {UNITS[name]}: {figure.note}"
        for name, figure in hardware.figures.items()
        if figure.origin == "assumed" and not (name == "rule_s" and work.asked)
    ]
    lines.append(
        f"the corpus is like its sample ({work.source}, {len(work.sample)} passages): tokens, "
        "pairs, bytes; the words of its index grow by the power that the sample shows up to "
        f"{FAR} times the sample, by {HEAPS} from there (Heaps' law)"
    )
    if not own_tokens(model):
        lines.append(f"tokens are those of the tokenizer of smollm2, not of {model}")
    if work.asked:
        lines.append(
            f"a model augments {use.augment_rows} passages together and tries each text "
            f"{use.tries:g} times; what keeps it to JSON costs nothing"
        )
    if measured_on_another:
        lines.append("a model or texts other than those of the figures run at the same rates")
    lines.append(
        "stages and the parts of an answer follow each other on one machine at one price, those "
        "that need no accelerator too; the service's own time is not counted"
    )
    lines.append(f"every answer has {use.answer_tokens} tokens, {use.rows} answered together")
    return tuple(lines)
