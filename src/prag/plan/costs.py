"""Hours, bytes and money of a corpus and its questions: arithmetic, and nothing is measured here.

A build: every passage is augmented, trained and kept, and the corpus is indexed.

    augment = N rule_s                                     pairs by rule
            = tries (passes over the prompts + passes for the longest text of each batch)
    encode  = sum over steps of (step_s + operations / train_flop_per_s) + encoded keep_s + fixed_s
    index   = N index_s

An answer, of B together, with n tokens of the prompt left to read and w written, by k adapters of
P numbers each:

    read    = max(B operations(n) / prefill_flop_per_s, weights / memory_bytes_per_s)
    write   = (w - 1) max((weights + keys and values) / memory_bytes_per_s, B operations(1) / ...)
    seconds = (question_s + adapted (read + write)) / B + k P / load_numbers_per_s + N search_s

Break-even: the questions Q after which what the adapters cost is less than what they have saved,

    Q = cost of the adapters / (a question in-context - a question parametric)

in hours and, where something has a price, in money, the adapters' storage over the months included.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from prag.knowledge_base.augmentations import BATCH
from prag.plan.hardware import Hardware
from prag.plan.operations import Operations, finishing, low_rank, reading, training_steps
from prag.plan.shape import Adapted, Shape
from prag.plan.sizes import Sizes
from prag.plan.workload import Asked, Workload
from prag.records import PragError

HOUR = 3600.0
GB = 1e9


@dataclass(frozen=True)
class Use:
    """How the corpus is asked, and for how long it is kept.

    Args:
        questions: in all.
        top_k: passages whose adapters go into the weights.
        contexts: numbers of passages in the prompt that in-context is planned for.
        answer_tokens: new tokens of an answer.
        rows: questions answered together.
        augment_rows: passages that a model augments together.
        tries: generations that one text of an augmentation takes, on the average.
        months: that everything is stored.
    """

    questions: int = 1_000_000
    top_k: int = 3
    contexts: tuple[int, ...] = (3,)
    answer_tokens: int = 20
    rows: int = 1
    augment_rows: int = BATCH
    tries: float = 1.0
    months: float = 12.0

    def __post_init__(self) -> None:
        for name in ("questions", "top_k", "answer_tokens", "rows", "augment_rows", "tries"):
            if not 1 <= getattr(self, name) < math.inf:
                raise PragError(f"{name} is at least 1, not {getattr(self, name)}")
        if not self.contexts or min(self.contexts) < 1:
            raise PragError("contexts are numbers of passages, each at least 1")
        if not 0 <= self.months < math.inf:
            raise PragError(f"months is at least 0, not {self.months}")


@dataclass(frozen=True)
class Way:
    """One method, for all questions.

    Args:
        prompt_tokens: read for a question; those that all begin with are read once and not here.
        seconds: of one question.
        hours: of all questions.
        ahead: hours before the first question, beside indexing.
        bytes: that it needs of the knowledge base.
        money: of hours, those ahead too, and of storage.
    """

    prompt_tokens: float
    seconds: float
    hours: float
    ahead: float
    bytes: float
    money: float


@dataclass(frozen=True)
class BreakEven:
    """Questions after which parametric has cost less; None, with the reason, for never."""

    hours: float | None
    money: float | None
    reason: str


@dataclass(frozen=True)
class Costs:
    """What a corpus costs: `operations` of one adapter, hours by stage, methods, break-evens.

    `train_steps` are those of the whole build. `money` is that of the build.
    """

    operations: float
    train_steps: float
    hours: dict[str, float]
    money: float
    ways: dict[str, Way]
    break_even: dict[str, BreakEven]

    def as_dict(self) -> dict[str, object]:
        """As JSON has it."""
        return asdict(self)


def costs_of(
    shape: Shape, adapted: Adapted, work: Workload, sizes: Sizes, hardware: Hardware, use: Use
) -> Costs:
    """All of it.

    Raises:
        PragError: a prompt and its answer do not fit the model's context.
    """
    operations, steps = training_of(shape, adapted, work)
    hours = {
        "augment": _augmenting(shape, work, hardware, use) / HOUR,
        "encode": encoding_seconds(operations.total, steps, work, hardware) / HOUR,
        "index": work.passages * hardware.index_s.value / HOUR,
    }
    ahead = hours["augment"] + hours["encode"]
    ways = _ways(shape, adapted, work, sizes, hardware, use, ahead)
    price = hardware.price_per_hour.value
    return Costs(
        operations=operations.total / work.encoded,
        train_steps=steps,
        hours=hours,
        money=sum(hours.values()) * price,
        ways=ways,
        break_even={
            f"in-context-{k}": break_even(
                ways["parametric"].seconds,
                ways[f"in-context-{k}"].seconds,
                ahead,
                price,
                sizes.learnt / GB * use.months * hardware.storage_per_gb_month.value,
            )
            for k in use.contexts
        },
    )


def training_of(shape: Shape, adapted: Adapted, work: Workload) -> tuple[Operations, float]:
    """Operations and steps of training the adapters of a whole corpus."""
    groups, times = work.groups()
    total, count = Operations(), 0
    for group in groups:
        steps = training_steps(shape, adapted, group, work.begins, work.recipe.train.epochs)
        total = sum(steps, total) + finishing(adapted, len(group))
        count += len(steps)
    return Operations(total.products * times, total.attention * times), count * times


def encoding_seconds(operations: float, steps: float, work: Workload, hardware: Hardware) -> float:
    """Seconds of the stage `encode` of a build."""
    trained = steps * hardware.step_s.value + operations / hardware.train_flop_per_s.value
    return trained + work.encoded * hardware.keep_s.value + hardware.fixed_s.value


def pass_seconds(
    shape: Shape, hardware: Hardware, rows: float, before: float, low: float = 0.0
) -> float:
    """Seconds of one pass that writes a token for each of so many rows.

    Args:
        before: tokens before it, whose keys and values are read.
        low: multiply-adds a token of the adapters in the weights.
    """
    read = pass_bytes(shape, hardware.bytes_per_number.value, rows, before, low)
    computed = rows * reading(shape, 1, before, low).total
    return max(
        read / hardware.memory_bytes_per_s.value, computed / hardware.prefill_flop_per_s.value
    )


def pass_bytes(shape: Shape, width: float, rows: float, before: float, low: float = 0.0) -> float:
    """Bytes that such a pass reads, with so many bytes a number: weights, keys and values."""
    return weights(shape) * width + rows * (before * shape.kv_bytes(width) + low * width)


def weights(shape: Shape) -> int:
    """Numbers of the weights that a pass reads: linear maps, and those that give logits."""
    return shape.layers * shape.linear + shape.hidden * shape.vocabulary


def generating_seconds(
    shape: Shape,
    hardware: Hardware,
    prompt: float,
    new: float,
    rows: float,
    begins: float = 0.0,
    low: float = 0.0,
) -> float:
    """Seconds of reading so many prompts together and of writing `new` tokens to each."""
    first = max(
        rows * reading(shape, prompt, begins, low).total / hardware.prefill_flop_per_s.value,
        weights(shape) * hardware.bytes_per_number.value / hardware.memory_bytes_per_s.value,
    )
    halfway = begins + prompt + new / 2
    slower = hardware.adapted.value if low else 1.0
    then = max(0.0, new - 1) * pass_seconds(shape, hardware, rows, halfway, low)
    return hardware.question_s.value + slower * (first + then)


def break_even(
    parametric: float, in_context: float, ahead: float, price: float, storage: float
) -> BreakEven:
    """Questions after which adapters have paid for themselves.

    Args:
        parametric, in_context: seconds of a question.
        ahead: hours that the adapters took.
        price: money an hour.
        storage: money that keeping the adapters costs.
    """
    saved = (in_context - parametric) / HOUR
    if saved <= 0:
        return BreakEven(
            None,
            None,
            f"never: a parametric question takes {parametric:.3g} s, an in-context one "
            f"{in_context:.3g} s",
        )
    hours = ahead / saved
    if price > 0:
        return BreakEven(hours, (ahead * price + storage) / (saved * price), "")
    if storage > 0:
        return BreakEven(hours, None, "never in money: an hour costs nothing, but storage does")
    return BreakEven(hours, None, "")


def _ways(
    shape: Shape,
    adapted: Adapted,
    work: Workload,
    sizes: Sizes,
    hardware: Hardware,
    use: Use,
    ahead: float,
) -> dict[str, Way]:
    search = work.passages * hardware.search_s.value
    low = low_rank(adapted, use.top_k)
    load = low / hardware.load_numbers_per_s.value

    def asked(prompt: float, low: float = 0.0) -> float:
        if work.begins + prompt + use.answer_tokens > shape.context:
            raise PragError(
                f"a prompt of {work.begins + prompt:.0f} tokens and {use.answer_tokens} new ones "
                f"do not fit the {shape.context} of {shape.name}: plan for fewer passages"
            )
        rows, new = use.rows, use.answer_tokens
        return generating_seconds(shape, hardware, prompt, new, rows, work.begins, low) / rows

    def way(prompt: float, seconds: float, size: float, before: float = 0.0) -> Way:
        hours = use.questions * seconds / HOUR
        stored = size / GB * use.months * hardware.storage_per_gb_month.value
        money = (hours + before) * hardware.price_per_hour.value + stored
        return Way(prompt, seconds, hours, before, size, money)

    bare = work.prompt
    found = {"closed-book": way(bare, asked(bare), 0.0)}
    for k in use.contexts:
        long = bare + k * work.passage_tokens
        found[f"in-context-{k}"] = way(long, asked(long) + search, sizes.text)
    alone = asked(bare, low)
    found["parametric"] = way(bare, alone + load + search, sizes.total, ahead)
    long = bare + use.top_k * work.passage_tokens
    both = asked(long, low) + load + search
    if work.recipe.combine == "surer":
        long, both = long + bare, both + alone
    found[f"combined-{use.top_k}"] = way(long, both, sizes.total, ahead)
    return found


def _augmenting(shape: Shape, work: Workload, hardware: Hardware, use: Use) -> float:
    """Seconds of augmenting the corpus, by rule or by the base model."""
    if not work.asked:
        return work.passages * hardware.rule_s.value
    order = sorted(range(len(work.sample)), key=lambda i: len(work.sample[i].text))
    kinds = max(map(len, work.asked))
    seconds = 0.0
    for kind in range(kinds):
        asked = [work.asked[i][kind] for i in order if kind < len(work.asked[i])]
        seconds += _written(shape, hardware, asked, use.augment_rows)
    return use.tries * seconds * work.passages / len(work.sample)


def _written(shape: Shape, hardware: Hardware, asked: Sequence[Asked], rows: int) -> float:
    """Seconds of texts that are written in batches; each goes on until its longest is written.

    A sample that is less than a batch has the share of one that it would be.
    """
    seconds = 0.0
    for at in range(0, len(asked), rows):
        batch = asked[at : at + rows]
        prompt = max(a.prompt for a in batch)
        new = max(a.written for a in batch)
        seconds += generating_seconds(shape, hardware, prompt, new, rows) * len(batch) / rows
    return seconds
