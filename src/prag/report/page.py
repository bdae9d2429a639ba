"""The page: tables, figures and rows in one HTML file that asks nothing of any other place."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from prag.disk import explain, replace_text
from prag.drawing import Drawing, drawing
from prag.records import PragError
from prag.report import figures, tables
from prag.report.browse import rows_json
from prag.report.labels import run_names, slug
from prag.report.load import COSTS, Run, load_run

TYPES_IN_MAIN_TABLE = 4  # a set with more has a table of its own
ERRORS_SHOWN = 100


@dataclass(frozen=True)
class ReportFiles:
    """What was written: the page, tables and figures beside it, what the reader should know."""

    page: Path
    table: Path
    figures: tuple[Path, ...]
    notes: tuple[str, ...]


def make_report(runs: Sequence[Path], out: Path) -> ReportFiles:
    """Write report.html, table.md and figures/*.png into `out` from run folders of `prag eval`.

    The same runs give the same bytes. Unfinished runs are taken and said to be so.

    Args:
        runs: folders with summary.json and, to browse the rows, rows.jsonl or rows.jsonl.gz.
        out: made if it is not there; an earlier report in it is replaced.

    Raises:
        PragError: a folder is no run, the same folder is named twice, `out` cannot be written,
            or jinja2 or matplotlib is not installed.
    """
    if not runs:
        raise PragError("no run to report on: name one or more folders that `prag eval` wrote")
    folders = [folder.resolve() for folder in runs]
    for i, folder in enumerate(folders):
        if folder in folders[:i]:
            raise PragError(f"{runs[i]}: named twice; name each run once")
    template = _template()
    loaded = [load_run(folder) for folder in runs]
    names = run_names(loaded)
    drawn = _draw(loaded, names)
    notes = [
        f"{name}: {note}" for run, name in zip(loaded, names, strict=True) for note in run.notes
    ]
    notes += _cut_notes(loaded, names)
    page, table = out / "report.html", out / "table.md"
    saved: list[Path] = []
    try:
        folder = out / "figures"
        folder.mkdir(parents=True, exist_ok=True)
        for file, figure in drawn:
            (folder / file).write_bytes(figure.png)
            saved.append(folder / file)
        text = template.render(**_context(loaded, names, drawn, notes))
        replace_text(page, _utf8(text))
        replace_text(table, _utf8(tables.markdown(tables.main(loaded, names, most_types=0))))
        others = sorted(f.name for f in folder.glob("*.png") if f not in saved)
    except OSError as error:
        raise PragError(explain(error, out, "writing the report")) from error
    if others:
        notes.append(f"figures/ also holds files that this report did not write: {_few(others)}")
    return ReportFiles(page, table, tuple(saved), tuple(notes))


def _draw(runs: Sequence[Run], names: Sequence[str]) -> list[tuple[str, Drawing]]:
    """Every figure with the name of its file."""
    drawn: list[tuple[str, Drawing]] = []
    slugs = [slug(name) for name in names]
    slugs = [s if slugs.count(s) == 1 else f"{s}-{i + 1}" for i, s in enumerate(slugs)]
    with drawing():
        for run, name, end in zip(runs, names, slugs, strict=True):
            made = [
                figures.forest(run, name),
                *(figures.tradeoff(run, name, cost) for cost in COSTS),
                figures.types(run, name),
                figures.noise(run, name),
                figures.conflict(run, name),
                figures.codecs(run, name),
            ]
            drawn += [(f"{d.kind}-{end}.png", d) for d in made if d is not None]
    return drawn


def _context(
    runs: Sequence[Run], names: Sequence[str], drawn: list[tuple[str, Drawing]], notes: list[str]
) -> dict[str, Any]:
    rows, count = rows_json(runs, names)
    style, script = _asset("page.css"), _asset("page.js")
    return {
        "title": "; ".join(names),
        "runs": [tables.about(run, name) for run, name in zip(runs, names, strict=True)],
        "alarms": tables.alarms(runs, names),
        "errors": tables.errors(runs, names)[:ERRORS_SHOWN],
        "errors_in_all": sum(len(run.errors) for run in runs),
        "notes": notes,
        "main": tables.main(runs, names, TYPES_IN_MAIN_TABLE),
        "by_type": [
            (name, tables.by_type(run))
            for run, name in zip(runs, names, strict=True)
            if len(run.types) > TYPES_IN_MAIN_TABLE
        ],
        "contrasts": tables.contrasts(runs, names),
        "kept": tables.kept(runs, names),
        "retrieval": tables.retrieval(runs, names),
        "conflict": tables.conflict(runs, names),
        "codecs": tables.codecs(runs, names),
        "forgetting": tables.forgetting(runs, names),
        "figures": {
            kind: [_shown(file, d) for file, d in drawn if d.kind == kind]
            for kind in {d.kind for _, d in drawn}
        },
        "rows": rows,
        "row_count": count,
        "style": style,
        "script": script,
        "style_hash": _hash(style),
        "script_hash": _hash(script),
    }


def _cut_notes(runs: Sequence[Run], names: Sequence[str]) -> list[str]:
    """What the figures leave out."""
    most = figures.TYPES_SHOWN
    return [
        f"{name}: the figure by type shows the {most} largest of {len(run.types)} types"
        for run, name in zip(runs, names, strict=True)
        if len(run.types) > most
    ]


def _shown(file: str, drawing: Drawing) -> dict[str, str]:
    data = base64.b64encode(drawing.svg).decode("ascii")
    return {"file": file, "alt": drawing.alt, "data": f"data:image/svg+xml;base64,{data}"}


def _template() -> Any:
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError as error:
        raise PragError("the page of a report needs jinja2: pip install 'prag[eval]'") from error
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_asset("page.html"))


def _asset(name: str) -> str:
    return (resources.files("prag.report") / "templates" / name).read_text(encoding="utf-8")


def _utf8(text: str) -> str:
    """The text without lone surrogates, as a broken answer may hold: they have no UTF-8."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _hash(text: str) -> str:
    """How the page's own policy names the one script and the one style that may run."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode()


def _few(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
