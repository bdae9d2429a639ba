"""What the page's tables show, as plain values that the template writes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prag.report.labels import contrast_name, grouped, ordered, origin_name
from prag.report.load import MEASURES, Contrast, Estimate, MethodResult, Run
from prag.report.pooling import adapted_question, pooled

POOLED = "All sets pooled"
ADAPTED = f"{POOLED}, without questions that offer their answers"
_EVEN = 1e-9  # means closer than this share the mark of the highest


@dataclass(frozen=True)
class Cell:
    """A mean, its interval, whether it is the highest of its column, and the errors in it."""

    mean: str
    interval: str
    best: bool
    errors: int


@dataclass(frozen=True)
class Column:
    """One set, or one type of it, with its result by method."""

    heading: str
    n: int
    results: dict[str, MethodResult]


@dataclass(frozen=True)
class MeasureTable:
    """One measure: `spans` are the sets and how many columns each has."""

    measure: str
    spans: list[tuple[str, int]]
    columns: list[Column]
    groups: list[tuple[str, list[tuple[str, list[Cell | None]]]]]


def main(runs: Sequence[Run], names: Sequence[str], most_types: int) -> list[MeasureTable]:
    """Methods by sets, and under a set its types unless they are more than `most_types`."""
    spans, columns = [], []
    for run, name in zip(runs, names, strict=True):
        own = [Column("all", run.n, run.methods)]
        if 1 < len(run.types) <= most_types:
            own += [Column(t.name or "no type", t.n, t.methods) for t in run.types]
        spans.append((name, len(own)))
        columns += own
    return _measure_tables(runs, spans, columns)


def by_type(run: Run) -> list[MeasureTable]:
    """Methods by the types of one set, the largest type first."""
    kinds = sorted(run.types, key=lambda t: -t.n)
    columns = [Column(t.name or "no type", t.n, t.methods) for t in kinds]
    return _measure_tables([run], [], columns)


def markdown(tables: Sequence[MeasureTable]) -> str:
    """The tables in Markdown, for a README or a paper: a mean and its interval in each cell."""
    lines = []
    for table in tables:
        heads = [" ".join(name.replace("|", "/").split()) for name, _ in table.spans]
        lines += [f"{table.measure}, 95 % intervals", ""]
        lines.append(f"| method | {' | '.join(heads)} |")
        lines.append("| --- " * (len(heads) + 1) + "|")
        for _, rows in table.groups:
            for label, cells in rows:
                shown = ["" if c is None else f"{c.mean} {c.interval}".strip() for c in cells]
                lines.append(f"| {label} | {' | '.join(shown)} |")
        lines.append("")
    return "\n".join(lines)


def _measure_tables(
    runs: Sequence[Run], spans: list[tuple[str, int]], columns: list[Column]
) -> list[MeasureTable]:
    made = []
    for measure in MEASURES:
        highest = [
            max(
                (r.measures[measure].value for r in c.results.values() if measure in r.measures),
                default=0.0,
            )
            for c in columns
        ]
        groups = [
            (
                heading,
                [
                    (
                        label,
                        [
                            _cell(column.results.get(label), measure, top)
                            for column, top in zip(columns, highest, strict=True)
                        ],
                    )
                    for label in labels
                ],
            )
            for heading, labels in grouped(runs)
        ]
        made.append(MeasureTable(measure, spans, columns, groups))
    return made


def _cell(result: MethodResult | None, measure: str, highest: float) -> Cell | None:
    if result is None:
        return None
    estimate = result.measures.get(measure)
    if estimate is None:
        return Cell("–", "", False, result.errors)
    best = estimate.value >= highest - _EVEN and highest > 0
    return Cell(f"{estimate.value:.3f}", interval(estimate), best, result.errors)


def interval(estimate: Estimate, digits: int = 2) -> str:
    """The ends, or nothing where there are none."""
    if estimate.low is None or estimate.high is None:
        return ""
    if estimate.low < 0:
        return f"{estimate.low:.{digits}f} to {estimate.high:.{digits}f}".replace("-", "−")
    return f"{estimate.low:.{digits}f}–{estimate.high:.{digits}f}"


def alarms(runs: Sequence[Run], names: Sequence[str]) -> list[str]:
    """What must be seen before any figure is: runs that did not end, and errors."""
    said = []
    for run, name in zip(runs, names, strict=True):
        if not run.complete:
            said.append(f"{name} is not finished: its figures are of the rows made so far.")
        if run.errors:
            said.append(f"{name}: {_count(len(run.errors), 'row')} ended in an error.")
        if run.about.get("modified"):
            said.append(f"{name} was run with code that was changed after its commit.")
    return said


def errors(runs: Sequence[Run], names: Sequence[str]) -> list[tuple[str, str, str, str]]:
    """Run, method, question and error."""
    return [
        (name, str(e.get("method", "")), str(e.get("id", "")), str(e.get("error", "")))
        for run, name in zip(runs, names, strict=True)
        for e in run.errors
    ]


def about(run: Run, name: str) -> dict[str, Any]:
    """The facts of a run, in the order in which they are shown, without what it does not say."""
    a = run.about
    origins = a.get("origins")
    origins = origins if isinstance(origins, dict) else {}
    passages = "the gold passages" if a.get("gold") else f"{a.get('top_k')} retrieved"
    held = f" from {a['passages']:,}" if isinstance(a.get("passages"), int) else ""
    changed = {True: ", changed after it", False: ", unchanged"}.get(a.get("modified"), "")  # type: ignore[arg-type]
    facts = {
        "Set": run.set,
        "Questions": f"{run.n:,}" + ("" if run.complete else ", not finished"),
        "Model": _with(a.get("model"), a.get("base"), "base"),
        "Recipe": _with(a.get("recipe"), a.get("merge"), "merge"),
        "Augmentations": "; ".join(
            f"{origin_name(str(origin))} ({_count(number, 'passage')})"
            for origin, number in origins.items()
        ),
        "Passages": passages + held,
        "Seed": _text(a.get("seed")),
        "Answers cut by": {"squad": "the rule of prag", "published": "the published rule"}.get(
            str(a.get("metrics")), _text(a.get("metrics"))
        ),
        "Commit": a["commit"] + changed if a.get("commit") else "not known",
        "Version": _text(a.get("version")),
        "Errors": f"{len(run.errors):,}",
    }
    return {
        "name": name,
        "complete": run.complete,
        "facts": [(key, str(value)) for key, value in facts.items() if value],
        "command": _text(a.get("command")),
    }


def contrasts(runs: Sequence[Run], names: Sequence[str]) -> list[tuple[str, list[list[str]]]]:
    """By run: name, difference in presence, its p and p after Holm, the others, questions.

    The last are those over all runs together, where they can be pooled; where their recipe leaves
    the questions that offer their answers to the base model, also without those.
    """
    made = [(name, run.contrasts) for run, name in zip(runs, names, strict=True)]
    made.append((POOLED, pooled(runs)))
    if all(run.about.get("offered") == "base" for run in runs):
        made.append((ADAPTED, pooled(runs, adapted_question)))
    return [(name, [_line(c) for c in own]) for name, own in made if own]


def _line(c: Contrast) -> list[str]:
    return [
        contrast_name(c),
        signed(c.difference.get("presence")),
        _p(c.p),
        _p(c.p_holm),
        *(signed(c.difference.get(measure)) for measure in ("em", "f1")),
        f"{c.n:,}",
    ]


def kept(runs: Sequence[Run], names: Sequence[str]) -> list[list[str]]:
    """By run and method: the share of the gold passage's gain that is kept among k passages."""
    return [
        [name, label, f"{point.k}", both(point.kept), f"{point.n:,}"]
        for run, name in zip(runs, names, strict=True)
        for label in ordered(run.noise)
        for point in run.noise[label]
        if point.kept is not None and point.k > 1
    ]


def codecs(runs: Sequence[Run], names: Sequence[str]) -> list[list[str]]:
    """By run, method and codec: bytes a question, presence, and the change from all the bits."""
    return [
        [
            name,
            label,
            point.codec,
            f"{point.bytes:,.0f}",
            both(point.measures.get("presence")),
            signed(point.change.get("presence")),
            signed(point.change.get("f1")),
            f"{point.n:,}",
        ]
        for run, name in zip(runs, names, strict=True)
        for label in ordered(run.codecs)
        for point in run.codecs[label]
    ]


def retrieval(runs: Sequence[Run], names: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """The measures of retrieval that any run has, and a line for each run that has them."""
    heads: list[str] = []
    for run in runs:
        heads += [name for name in run.retrieval if name not in heads]
    heads.sort(key=lambda name: (name == "mrr", int(name.partition("@")[2] or 0)))
    lines = [
        [name, f"{_asked(run):,}", *(both(run.retrieval.get(head)) for head in heads)]
        for run, name in zip(runs, names, strict=True)
        if run.retrieval
    ]
    return heads, lines


def conflict(runs: Sequence[Run], names: Sequence[str]) -> list[tuple[str, str, list[list[str]]]]:
    """By run: its name, how many questions, and a line a method (n, errors, follows, keeps)."""
    made = []
    for run, name in zip(runs, names, strict=True):
        if run.conflict is None:
            continue
        c = run.conflict
        lines = []
        for label in ordered(c.methods):
            m = c.methods[label]
            lines.append([label, f"{m.n:,}", f"{m.errors:,}", both(m.follows), both(m.keeps)])
        left = f"; {_count(c.without, 'question')} had no passage to change" if c.without else ""
        made.append((name, f"{_count(c.n, 'question')}{left}", lines))
    return made


def forgetting(runs: Sequence[Run], names: Sequence[str]) -> list[list[str]]:
    """A line for each run and measure of forgetting."""
    lines = []
    for run, name in zip(runs, names, strict=True):
        for f in run.forgetting:
            if f.name == "accuracy":
                what, change = "general questions, presence", signed(f.change)
            else:
                what = "perplexity"
                change = f"× {both(f.change)}" if f.change else "–"
            lines.append([name, what, f"{f.n:,}", both(f.without), both(f.with_), change, _p(f.p)])
    return lines


def both(estimate: Estimate | None) -> str:
    """A mean and its interval in one text."""
    if estimate is None:
        return "–"
    digits = 3 if abs(estimate.value) < 10 else 1
    ends = interval(estimate, min(digits, 2))
    return f"{estimate.value:.{digits}f}" + (f" ({ends})" if ends else "")


def signed(estimate: Estimate | None) -> str:
    """A difference, its sign always shown."""
    if estimate is None:
        return "–"
    ends = interval(estimate)
    return f"{estimate.value:+.3f}".replace("-", "−") + (f" ({ends})" if ends else "")


def _asked(run: Run) -> int:
    section = run.about.get("retrieval")
    return int(section.get("n", run.n)) if isinstance(section, dict) else run.n


def _count(number: Any, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _with(value: Any, detail: Any, what: str) -> str:
    return "" if value is None else f"{value}" + (f" ({what} {detail})" if detail else "")


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _p(p: float | None) -> str:
    return "–" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"
