"""The report: what is read, what is shown, and that nothing of a row becomes a part of the page."""

from __future__ import annotations

import base64
import gzip
import hashlib
import html.parser
import json
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prag.evaluate.summary import CONTRASTS as COMPARED
from prag.records import PragError
from prag.report import figures, make_report
from prag.report.browse import rows_json
from prag.report.labels import contrast_name, grouped, ordered, run_names, style
from prag.report.load import load_run
from prag.report.placing import Box, apart, place
from prag.report.pooling import adapted_question, pooled
from prag.report.tables import ADAPTED, POOLED, codecs, contrasts, kept, main, signed

pytestmark = pytest.mark.fast

# label: (presence, seconds, prompt tokens, bytes of adapters)
METHODS = {
    "closed-book": (0.15, 0.21, 40, 0),
    "closed-book-cot": (0.18, 0.95, 610, 0),
    "in-context": (0.42, 0.33, 520, 0),
    "in-context-cot": (0.45, 1.2, 1100, 0),
    "da-rag": (0.43, 0.6, 1150, 0),
    "da-rag-cot": (0.44, 1.6, 1720, 0),
    "flare": (0.35, 2.9, 1900, 0),
    "flare-cot": (0.33, 4.8, 2800, 0),
    "dragin": (0.36, 3.4, 2100, 0),
    "dragin-cot": (0.38, 5.2, 2900, 0),
    "ircot": (0.40, 6.1, 3500, 0),
    "parametric": (0.40, 0.24, 40, 4_600_000),
    "parametric-cot": (0.41, 1.0, 610, 4_600_000),
    "combined": (0.52, 0.36, 520, 4_600_000),
    "combined-cot": (0.55, 1.25, 1100, 4_600_000),
    "shuffled": (0.20, 0.24, 40, 4_600_000),
    "format-only": (0.19, 0.23, 40, 1_500_000),
}
CONTRASTS = (
    ("parametric", "shuffled"),
    ("shuffled", "closed-book"),
    ("parametric", "in-context"),
    ("combined", "in-context"),
    ("combined", "parametric"),
    ("parametric-cot", "closed-book-cot"),
)
FEW = ("closed-book", "in-context", "parametric", "combined-cot", "shuffled")
TYPES = {
    "popqa": ("occupation", "capital", "author"),
    "2wikimultihopqa": ("comparison", "bridge_comparison", "compositional", "inference"),
}
NOISE = (1, 3, 5, 10)


def interval(values: np.ndarray, seed: int = 0) -> list[float]:
    draws = np.random.default_rng(seed).integers(0, len(values), (400, len(values)))
    return [float(q) for q in np.quantile(values[draws].mean(1), (0.025, 0.975))]


def estimate(name: str, values: np.ndarray) -> dict[str, Any]:
    return {name: float(values.mean()), f"{name}_ci": interval(values)}


def make_run(
    folder: Path,
    name: str = "popqa",
    n: int = 60,
    seed: int = 0,
    labels: Iterable[str] = tuple(METHODS),
    **changes: Any,
) -> dict[str, Any]:
    """A plausible run of the methods, written to `folder`; the summary that was written."""
    chance = np.random.default_rng(seed + len(name))
    kinds = TYPES[name]
    ease = chance.normal(0, 0.2, n)
    scores: dict[str, np.ndarray] = {}
    rows: list[dict[str, Any]] = []

    def ask(label: str, mean: float, of: int = n, **more: Any) -> np.ndarray:
        base = METHODS[label.partition("@")[0]]
        hit = (chance.random(of) < np.clip(mean + ease[:of], 0, 1)).astype(float)
        for i in range(of):
            gold = f"Answer {i}"
            raw = f"The answer is {gold}." if hit[i] else f"It is thought that guess {i} is meant."
            rows.append(
                {
                    "id": f"{name}-{i}",
                    "set": name,
                    "type": kinds[i % len(kinds)],
                    "method": label,
                    "question": f"What is the {kinds[i % len(kinds)]} of subject number {i}?",
                    "golds": [gold, f"alias of {i}"],
                    "hits": [
                        {
                            "id": f"{i * 3 + k:016x}",
                            "title": f"Passage {i}.{k}",
                            "score": 9.0 - k,
                            "adapter": f"{i * 3 + k:016x}-b-r" if base[3] else None,
                            "in_prompt": base[2] > 100,
                            "gold": k == 0,
                        }
                        for k in range(0 if label.startswith("closed-book") else 3)
                    ],
                    "prompt_hash": "0" * 16,
                    "raw": raw,
                    "answer": gold if hit[i] else f"guess {i}",
                    "measures": {"em": hit[i], "f1": hit[i], "presence": hit[i]},
                    "seconds": base[1] * float(chance.uniform(0.8, 1.2)),
                    "prompt_tokens": base[2],
                    "notes": [],
                    "error": None,
                    **more,
                }
            )
        return hit

    def result(label: str, hit: np.ndarray) -> dict[str, Any]:
        made: dict[str, Any] = {"n": len(hit), "errors": 0}
        for measure, share in (("presence", 1.0), ("em", 0.8), ("f1", 0.9)):
            made |= estimate(measure, hit * share)
        seconds, tokens, size = METHODS[label][1:]
        return made | {"seconds": seconds, "prompt_tokens": tokens, "adapter_bytes": size}

    for label in labels:
        scores[label] = ask(label, METHODS[label][0])
    kind_of = np.array([i % len(kinds) for i in range(n)])
    contrasts = {}
    for a, b in (pair for pair in CONTRASTS if {*pair} <= {*labels}):
        gap = scores[a] - scores[b]
        p = float(np.clip(np.exp(-12 * abs(gap.mean())), 0.0004, 1))
        made = {"n": n, "presence": float(gap.mean()), "ci": interval(gap), "p": p}
        made |= {
            "p_holm": min(1.0, 6 * p),
            **estimate("em", gap * 0.8),
            **estimate("f1", gap * 0.9),
        }
        contrasts[f"{a}-{b}"] = made
    noise = {}
    for label, fall in (("in-context", 0.02), ("parametric", 0.03), ("combined", 0.012)):
        mean = METHODS[label][0]
        noise[label] = []
        for k in NOISE:
            hit = ask(f"{label}@noise-{k}", mean - fall * k, control={"k": k})
            noise[label].append({"k": k, "n": n, **estimate("presence", hit)})
    conflict = {}
    for label, mean in (("in-context", 0.6), ("parametric", 0.4), ("combined", 0.75)):
        hit = ask(f"{label}@conflict", mean, 50, control={"instead": "Someone Else"})
        kept = estimate("keeps", (1 - hit) * 0.4)
        conflict[label] = {"n": 50, "errors": 0, **estimate("follows", hit), **kept}
    general = {label: chance.random(50) < 0.8 for label in ("without", "with")}
    change = general["with"].astype(float) - general["without"]
    accuracy = estimate("without", general["without"] * 1.0) | estimate(
        "with", general["with"] * 1.0
    )
    rows.append({"id": "p1", "method": "perplexity", "measures": {"perplexity": 9.1}})
    summary: dict[str, Any] = {
        "set": name,
        "n": n,
        "complete": True,
        "gold": False,
        "top_k": 3,
        "seed": seed,
        "metrics": "squad",
        "model": "SmolLM2-135M-Instruct",
        "base": "0123456789abcdef",
        "recipe": "small",
        "merge": "best",
        "origins": {"self:0123456789abcdef": 41, "file:strong@1234": 19},
        "passages": 998,
        "commit": "5d21beb0c0ffee",
        "modified": False,
        "version": "0.1.0",
        "command": f"prag eval kb --set {name} --limit {n} --out runs/{name}",
        "notes": ["2 questions without an answer were left out"],
        "methods": {label: result(label, hit) for label, hit in scores.items()},
        "types": {
            kind: {
                "n": int((kind_of == i).sum()),
                "methods": {
                    label: result(label, hit[kind_of == i]) for label, hit in scores.items()
                },
            }
            for i, kind in enumerate(kinds)
        },
        "contrasts": contrasts,
        "retrieval": {
            "n": n,
            **{f"recall@{k}": x for k, x in ((1, 0.41), (3, 0.62), (10, 0.81))},
            **{
                f"recall@{k}_ci": x for k, x in ((1, [0.3, 0.5]), (3, [0.5, 0.7]), (10, [0.7, 0.9]))
            },
            **{"mrr": 0.53, "mrr_ci": [0.44, 0.62]},
        },
        "noise": noise,
        "conflict": {"n": 50, "without": 10, "methods": conflict},
        "forgetting": {
            "accuracy": {
                "n": 50,
                **accuracy,
                **{"difference": float(change.mean()), "ci": interval(change), "p": 0.31},
            },
            "perplexity": {
                **{"n": 20, "without": 17.2, "with": 18.9, "with_ci": [18.1, 19.8]},
                **{"ratio": 1.1, "ratio_ci": [1.05, 1.15]},
            },
        },
        "errors": [],
        **changes,
    }
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "rows.jsonl").write_text(text, encoding="utf-8")
    return summary


HOSTILE = (
    "\ud800$\\frac{</script><script>alert(1)</script><img src=x onerror=alert(2)>\u2028 & <!--"
)


class Elements(html.parser.HTMLParser):
    """Every element of a page with its attributes, and the text within each table row."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.lines: list[list[str]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag == "tr":
            self.lines.append([])
        if tag in ("th", "td") and self.lines:
            self.lines[-1].append("")

    def handle_data(self, data: str) -> None:
        if self.lines and self.lines[-1]:
            self.lines[-1][-1] += data


def data_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    return json.loads(found[1])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("report")
    popqa = make_run(root / "popqa")
    wiki = make_run(
        root / "wiki",
        "2wikimultihopqa",
        labels=FEW,
        complete=False,
        modified=True,
        errors=[{"id": "2wikimultihopqa-3", "method": "flare", "error": "out of memory"}],
    )
    (root / "out" / "figures").mkdir(parents=True)
    (root / "out" / "figures" / "old.png").write_bytes(b"")
    files = make_report([root / "popqa", root / "wiki"], root / "out")
    page = files.page.read_text(encoding="utf-8")
    return {"files": files, "page": page, "elements": Elements(page), "popqa": popqa, "wiki": wiki}


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A run of two methods with nothing but their means."""
    methods = {m: {"n": 2, "errors": 0, "presence": 0.5} for m in ("closed-book", "parametric")}
    folder = tmp_path / "small"
    folder.mkdir()
    summary = {"set": "own", "n": 2, "complete": True, "methods": methods}
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def test_files_and_notes(made: dict[str, Any]) -> None:
    files = made["files"]
    assert len(files.figures) == 2 * 7
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in files.figures)
    assert "popqa: 2 questions without an answer were left out" in files.notes
    assert any("old.png" in note for note in files.notes)


def test_page_asks_nothing_of_another_place(made: dict[str, Any]) -> None:
    page = made["page"]
    for tag, attributes in made["elements"].found:
        for name in ("src", "href", "srcset", "action", "poster", "data"):
            target = attributes.get(name)
            assert target is None or re.match(r"data:image/svg|#\w|figures/[\w-]+\.png$", target)
        assert not any(name.startswith("on") for name in attributes), tag
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
    assert style
    assert not re.search(r"url\(|@import", style[1])
    for text in re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', page):
        svg = base64.b64decode(text).decode()
        assert not re.search(r'href="(?!#)', svg)
    assert "default-src 'none'" in page


def test_script_that_may_run_is_the_one_that_stands_there(made: dict[str, Any]) -> None:
    page = made["page"]
    for element in ("script", "style"):
        text = re.search(rf"<{element}>(.*?)</{element}>", page, re.DOTALL)
        assert text
        digest = base64.b64encode(hashlib.sha256(text[1].encode()).digest()).decode()
        assert f"{element}-src 'sha256-{digest}'" in page


def test_page_says_what_the_summary_says(made: dict[str, Any]) -> None:
    lines = [line for line in made["elements"].lines if line and line[0] == "parametric"]
    columns = []
    for summary in (made["popqa"], made["wiki"]):
        columns += [summary["methods"], *(t["methods"] for t in summary["types"].values())]
    for line, measure in zip(lines, ("presence", "em", "f1"), strict=False):
        for cell, column in zip(line[1:], columns, strict=True):
            result = column["parametric"]
            low, high = result[f"{measure}_ci"]
            assert cell.replace("▲", "").strip() == f"{result[measure]:.3f}{low:.2f}–{high:.2f}"


def test_sections_unfinished_runs_and_origins_are_said(made: dict[str, Any]) -> None:
    page = made["page"]
    ids = {attributes.get("id") for tag, attributes in made["elements"].found if tag == "section"}
    assert ids == {
        *("runs", "results", "contrasts", "costs", "types"),
        *("noise", "conflict", "forgetting", "retrieval", "rows"),
    }
    assert "2wikimultihopqa is not finished" in page
    assert "2wikimultihopqa: 1 row ended in an error" in page
    assert "out of memory" in page
    assert "2wikimultihopqa was run with code that was changed" in page
    assert "pairs by the model itself (41 passages); pairs from the file strong@1234" in page
    images = [attributes for tag, attributes in made["elements"].found if tag == "img"]
    assert all(image["alt"] for image in images)


def test_rows_stand_in_the_page(made: dict[str, Any]) -> None:
    data = data_of(made["page"])
    assert data["runs"] == ["popqa", "2wikimultihopqa"]
    assert len(data["questions"]) == 2 * 60
    assert len(data["rows"]) == (17 + 5) * 60 + 2 * (12 * 60 + 3 * 50)
    assert "perplexity" not in data["methods"]
    row = next(r for r in data["rows"] if data["methods"][r[1]] == "combined@noise-5")
    assert "k: 5" in row[10]
    passage, bits = row[6][0]
    assert (data["passages"][passage], bits) == (["0" * 16, "Passage 0.0"], 7)


def test_a_run_without_sections_has_a_page_without_them(small: Path) -> None:
    files = make_report([small], small / "out")
    page = files.page.read_text(encoding="utf-8")
    ids = {a.get("id") for tag, a in Elements(page).found if tag == "section"}
    assert ids == {"runs", "results", "costs", "rows"}
    assert "There are no rows to browse" in page
    assert files.figures == ()
    assert files.notes == ("own: no rows.jsonl: the rows cannot be browsed",)


def test_nothing_of_a_run_becomes_a_part_of_the_page(small: Path) -> None:
    labels = ("closed-book", HOSTILE)
    result = {"n": 2, "errors": 1, "presence": 0.5, "presence_ci": [0.1, 0.9], "seconds": 2}
    methods = dict.fromkeys(labels, result)
    contrast = {"n": 2, "presence": 0.1, "ci": [-0.1, 0.2], "p": 0.5, "p_holm": 0.5}
    told = dict.fromkeys(
        ("model", "base", "recipe", "merge", "commit", "version", "command"), HOSTILE
    )
    summary = {
        **{"set": HOSTILE, "n": 2, "complete": False, "methods": methods, "notes": [HOSTILE]},
        **told,
        "origins": {f"file:{HOSTILE}": 2},
        "types": {HOSTILE: {"n": 2, "methods": methods}, "b": {"n": 1, "methods": methods}},
        "contrasts": {f"{HOSTILE}-closed-book": contrast},
        "noise": {HOSTILE: [{"k": 1, "n": 2, "presence": 0.4}]},
        "errors": [{"id": HOSTILE, "method": HOSTILE, "error": HOSTILE}],
    }
    hit = {"id": HOSTILE, "title": HOSTILE, "adapter": HOSTILE, "in_prompt": True, "gold": False}
    names = ("id", "set", "type", "method", "question", "raw", "answer", "error")
    more = {"golds": [HOSTILE], "hits": [hit], "notes": [HOSTILE]}
    row = dict.fromkeys(names, HOSTILE) | more
    (small / "summary.json").write_text(json.dumps(summary))
    (small / "rows.jsonl").write_text(json.dumps(row) + "\n")
    files = make_report([small], small / "out")
    page = files.page.read_bytes().decode("utf-8")
    elements = Elements(page).found
    assert [tag for tag, _ in elements].count("script") == 2
    assert not [
        a for tag, a in elements if tag == "img" and not (a["src"] or "").startswith("data:")
    ]
    assert not [a for _, a in elements if "onerror" in a]
    seen = HOSTILE.replace("\ud800", "?")
    assert data_of(page)["rows"][0][2] == seen
    assert len(files.figures) == 4
    assert all(re.fullmatch(r"[a-z0-9-]+\.png", path.name) for path in files.figures)
    before = {path: path.read_bytes() for path in (files.page, *files.figures)}
    make_report([small], small / "out")
    assert {path: path.read_bytes() for path in before} == before


def test_the_script_puts_rows_in_as_text_only() -> None:
    from importlib import resources

    script = (resources.files("prag.report") / "templates" / "page.js").read_text(encoding="utf-8")
    forbidden = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|fetch\(|XMLHttp|import\("
    )
    assert not re.search(forbidden, script)


@settings(max_examples=60)
@given(st.text(), st.text(), st.one_of(st.none(), st.text()), st.lists(st.text(), max_size=3))
def test_rows_json_keeps_every_text(
    raw: str, title: str, error: str | None, golds: list[str]
) -> None:
    run = _loaded([{"id": 1, "method": "m", "raw": raw, "error": error, "golds": golds}])
    run.rows[0]["hits"] = [{"id": "p", "title": title, "in_prompt": False, "adapter": "k"}, None]
    text, count = rows_json([run], ["own"])
    data = json.loads(text)
    assert not set("<>&\u2028\u2029") & set(text)
    assert count == 1
    assert data["rows"][0][2] == raw
    assert data["rows"][0][5] == (error or "")
    assert data["passages"] == [["p", title]]
    assert data["questions"][0][4] == golds


def _loaded(rows: list[dict[str, Any]], **more: Any) -> Any:
    from prag.report.load import Run

    empty = {"about": {}, "methods": {}, "types": (), "contrasts": (), "retrieval": {}, "noise": {}}
    empty |= {"conflict": None, "codecs": {}, "forgetting": (), "errors": (), "notes": ()}
    known = {"folder": Path("own"), "set": "own", "n": 1, "complete": True, **empty}
    return Run(**(known | {"rows": tuple(rows)} | more))


def test_a_noise_curve_holds_what_was_asked_with_noise_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The method itself, given three passages by the retriever, is no point of the curve."""
    curve = [{"k": k, "n": 3, "presence": 0.5 - k / 100} for k in (1, 3)]
    itself = {"in-context": {"n": 3, "errors": 0, "presence": 0.2}}
    run = _load(tmp_path, methods=itself, noise={"in-context": curve})
    drawn: list[Any] = []
    monkeypatch.setattr(figures, "finish", lambda kind, figure, alt: drawn.append(figure))
    figures.noise(run, "own")
    (line,) = drawn[0].axes[0].lines
    assert line.get_xydata().tolist() == [[1.0, 0.49], [3.0, 0.47]]


def test_the_highest_mean_is_marked_ties_included(tmp_path: Path) -> None:
    def result(presence: float | None) -> dict[str, Any]:
        return {"n": 3, "errors": 0, "presence": presence, "em": 0.1 if presence == 0.4 else 0.05}

    means = {"closed-book": 0.1, "in-context": 0.4, "parametric": 0.4, "shuffled": 0.2, "new": None}
    methods = {label: result(mean) for label, mean in means.items()}
    types = {"a": {"n": 1, "methods": {"shuffled": result(1.0)}}, "b": {"n": 2, "methods": {}}}
    run = _load(tmp_path, methods=methods, types=types)
    table, other, _ = main([run], ["own"], most_types=4)
    marks, others = (
        {
            label: [cell.best if cell else None for cell in cells]
            for _, lines in shown.groups
            for label, cells in lines
        }
        for shown in (table, other)
    )
    assert [label for label, cells in others.items() if cells[0]] == ["in-context", "parametric"]
    assert [heading for heading, _ in table.groups] == [
        "without adapters",
        "with adapters",
        "controls",
    ]
    assert marks == {
        "closed-book": [False, None, None],
        "in-context": [True, None, None],
        "new": [False, None, None],
        "parametric": [True, None, None],
        "shuffled": [False, True, None],
    }
    assert [column.heading for column in main([run], ["own"], most_types=1)[0].columns] == ["all"]


def _load(tmp_path: Path, **changes: Any) -> Any:
    summary = {"set": "own", "n": 3, "complete": True, "methods": {}, **changes}
    folder = tmp_path / "run"
    folder.mkdir(exist_ok=True)
    (folder / "summary.json").write_text(json.dumps(summary))
    return load_run(folder)


def test_contrast_keys_are_cut_between_methods(tmp_path: Path) -> None:
    mean = {"n": 1}
    one = {"n": 1, "presence": 0.2, "ci": [0.1, 0.3], "p": 0.01, "p_holm": 0.02}
    labels = ("closed-book", "closed-book-cot", "in-context", "parametric", "shuffled")
    keys = ("closed-book-cot-in-context", "parametric-shuffled", "shuffled-closed-book", "x-y")
    run = _load(tmp_path, methods=dict.fromkeys(labels, mean), contrasts=dict.fromkeys(keys, one))
    assert [contrast_name(c) for c in run.contrasts] == [
        "closed-book-cot − in-context",
        "parametric − shuffled (knowledge)",
        "shuffled − closed-book (format)",
        "x-y",
    ]
    assert signed(run.contrasts[0].difference["presence"]) == "+0.200 (0.10–0.30)"


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "null",
        '{"set": "a", "n": 1, "complete": true}',
        '{"set": "a", "n": 1, "complete": true, "methods": []}',
        '{"set": "a", "n": null, "complete": true, "methods": {}}',
        '{"set": "a", "n": 1, "complete": true, "methods": {"m": {"n": 1, "em": "high"}}}',
        '{"set": "a", "n": 1, "complete": true, "methods": {"m": {"n": 1, "em": 1, "em_ci": [1]}}}',
        '{"set": "a", "n": 1, "complete": true, "methods": {}, "noise": {"m": [{"n": 1}]}}',
        '{"set": "a", "n": 1, "complete": true, "methods": {}, "types": [1]}',
        '{"set": "a", "n": 1, "complete": true, "methods": {}, "forgetting": {"perplexity": [1]}}',
        None,
    ],
)
def test_a_broken_summary_names_the_run_and_the_mending(tmp_path: Path, text: str | None) -> None:
    folder = tmp_path / "runs" / "popqa"
    folder.mkdir(parents=True)
    if text is not None:
        (folder / "summary.json").write_text(text)
    with pytest.raises(PragError, match=r"popqa.*`prag eval` again"):
        make_report([folder], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_rows_packed_torn_or_twofold(small: Path) -> None:
    good = json.dumps({"id": "1", "method": "m", "raw": "a", "seconds": float("nan")})
    torn = f'{good}\n{{"id": "2", "met'.encode()
    (small / "rows.jsonl.gz").write_bytes(gzip.compress(torn))
    run = load_run(small)
    assert [row["id"] for row in run.rows] == ["1"]
    assert run.rows[0]["seconds"] is None
    assert run.notes == ("rows.jsonl.gz: 1 lines cannot be read and were left out",)
    (small / "rows.jsonl").write_text(good + "\n" + good + "\n")
    run = load_run(small)
    assert len(run.rows) == 2
    assert "not read" in run.notes[0]
    (small / "rows.jsonl").unlink()
    (small / "rows.jsonl.gz").write_bytes(torn)
    assert "cannot be browsed" in load_run(small).notes[0]


def test_runs_of_one_set_are_told_apart() -> None:
    def run(name: str, **about: Any) -> Any:
        return _loaded([], set=name, about=about)

    runs = [run("a", seed=0), run("a", seed=1), run("b", seed=0), run("c"), run("c")]
    assert run_names(runs) == ["a, seed 0", "a, seed 1", "b", "c, run 1", "c, run 2"]


def test_methods_keep_their_order_and_their_own_look() -> None:
    assert ordered(["shuffled", "x", "parametric-cot", "closed-book", "parametric"]) == [
        *("closed-book", "parametric", "parametric-cot", "shuffled", "x")
    ]
    looks = [style(label) for label in METHODS]
    assert len(set(looks)) == len(looks)
    assert style("parametric@noise-5") == style("parametric")
    assert grouped([]) == []


points = st.tuples(st.floats(200, 400), st.floats(200, 400))


@settings(max_examples=50)
@given(st.lists(points, min_size=1, max_size=9))
def test_labels_and_points_cover_nothing(at: list[tuple[float, float]]) -> None:
    moved = apart(at)
    assert all(
        (a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2 >= 63
        for i, a in enumerate(moved)
        for b in moved[:i]
    )
    frame = Box(0, 0, 600, 600)
    boxes = [
        Box(x - 30, y - 5, x + 30, y + 5) for x, y in place(moved, [(60.0, 10.0)] * len(at), frame)
    ]
    markers = [Box(x - 4, y - 4, x + 4, y + 4) for x, y in moved]
    for i, box in enumerate(boxes):
        assert frame.holds(box)
        assert not any(box.overlap(other) for other in boxes[:i] + markers)


@pytest.mark.parametrize("missing", ["matplotlib", "jinja2"])
def test_a_missing_library_is_named(
    small: Path, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(PragError, match=rf"{missing}: pip install 'prag\[eval\]'"):
        make_report([small], small / "out")


def test_a_callers_plots_are_left_alone() -> None:
    import matplotlib

    from prag.drawing import drawing

    with matplotlib.rc_context({"font.size": 3.0, "axes.grid": False}):
        before = dict(matplotlib.rcParams)
        with drawing():
            assert matplotlib.rcParams["axes.grid"]
            assert matplotlib.rcParams["font.size"] == 9
        assert dict(matplotlib.rcParams) == before


def test_what_is_asked_for_wrongly(small: Path) -> None:
    with pytest.raises(PragError, match="no run to report on"):
        make_report([], small)
    with pytest.raises(PragError, match="named twice"):
        make_report([small, small / ".." / small.name], small)
    (small / "file").write_text("")
    with pytest.raises(PragError, match="writing the report"):
        make_report([small], small / "file")


def test_importing_the_room_brings_no_heavy_library_along() -> None:
    code = "import sys, prag.report; print({'torch', 'matplotlib', 'jinja2'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_main_table_in_markdown(small: Path, tmp_path: Path) -> None:
    made = make_report([small], tmp_path / "out")
    lines = made.table.read_text("utf-8").splitlines()
    assert lines[0] == "presence, 95 % intervals"
    head, rule, *rows = [line for line in lines if line.startswith("|")]
    assert head.split("|")[1].strip() == "method"
    assert head.count("|") == rule.count("|") == rows[0].count("|") == 3
    methods = json.loads((small / "summary.json").read_text("utf-8"))["methods"]
    for label, result in methods.items():
        assert any(r.startswith(f"| {label} | {result['presence']:.3f} ") for r in rows)


def test_runs_on_different_sets_are_pooled(tmp_path: Path) -> None:
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", "2wikimultihopqa", n=50)
    runs = [load_run(tmp_path / name) for name in "ab"]
    by_hand = [
        sum(row["measures"]["presence"] * sign for row in run.rows if row["method"] == label)
        for run in runs
        for label, sign in (("parametric", 1), ("shuffled", -1))
    ]
    found = {(c.first, c.second): c for c in pooled(runs)}
    assert found.keys() == {pair for pair in COMPARED if {*pair} <= METHODS.keys()}
    knowledge = found["parametric", "shuffled"]
    assert knowledge.n == 110
    assert knowledge.difference["presence"].value == pytest.approx(sum(by_hand) / 110, abs=1e-4)
    (name, lines) = contrasts(runs, ["a", "b"])[-1]
    assert name == "All sets pooled"
    assert len(lines) == len(found)


def test_questions_left_to_the_base_are_also_left_out_of_a_pool(tmp_path: Path) -> None:
    made = {"a": ("popqa", 60), "b": ("2wikimultihopqa", 50)}
    for name, (set_name, n) in made.items():
        make_run(tmp_path / name, set_name, n=n)
        summary, file = tmp_path / name / "summary.json", tmp_path / name / "rows.jsonl"
        about = json.loads(summary.read_text("utf-8"))
        summary.write_text(json.dumps({**about, "offered": "base"}), "utf-8")
        rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
        offering = [row["id"] for row in rows if row["method"] == "parametric"][:10]
        for row in rows:
            if row["id"] in offering:
                row["question"] = "Which is older, the mill or the mint?"
        file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    runs = [load_run(tmp_path / name) for name in made]
    names = [name for name, _ in contrasts(runs, list(made))]
    assert names[-2:] == [POOLED, ADAPTED]
    assert {c.n for c in pooled(runs)} == {110}
    assert {c.n for c in pooled(runs, adapted_question)} == {90}


@pytest.mark.parametrize(
    "changes",
    [
        {"recipe": "paper"},
        {"gold": True},
        {"complete": False},
        {"name": "popqa"},  # the same set again: its questions would count twice
    ],
)
def test_runs_that_differ_in_more_than_their_set_are_not_pooled(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", **{"name": "2wikimultihopqa", "n": 50, "seed": 0, **changes})
    assert pooled([load_run(tmp_path / name) for name in "ab"]) == ()
    assert pooled([load_run(tmp_path / "a")]) == ()


def test_codecs_have_a_curve_and_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The adapters as they are stored are the curve's last point."""
    few = {"codec": "base6", "n": 3, "presence": 0.5, "adapter_bytes": 92400.0}
    few |= {"presence_change": -0.1, "presence_change_ci": [-0.2, 0.05], "f1_change": 0.0}
    methods = {"parametric": {"n": 3, "errors": 0, "presence": 0.6, "adapter_bytes": 1013760}}
    run = _load(tmp_path, methods=methods, codecs={"parametric": [few]})
    cells = [
        "own",
        "parametric",
        "base6",
        "92,400",
        "0.500",
        "−0.100 (−0.20 to 0.05)",
        "+0.000",
        "3",
    ]
    assert codecs([run], ["own"]) == [cells]
    page = make_report([tmp_path / "run"], tmp_path / "out").page.read_text()
    assert "92,400" in page
    assert (tmp_path / "out/figures/codecs-own.png").is_file()
    drawn: list[Any] = []
    monkeypatch.setattr(figures, "finish", lambda kind, figure, alt: drawn.append(figure))
    figures.codecs(run, "own")
    (line,) = drawn[0].axes[0].lines
    assert line.get_xydata().tolist() == [[92400.0, 0.5], [1013760.0, 0.6]]


def test_what_is_kept_of_a_gain_stands_under_the_noise(tmp_path: Path) -> None:
    curve = [
        {"k": 1, "n": 3, "presence": 0.6},
        {"k": 3, "n": 3, "presence": 0.5, "kept": 0.8, "kept_ci": [0.6, 0.95]},
    ]
    run = _load(tmp_path, noise={"parametric": curve})
    assert kept([run], ["own"]) == [["own", "parametric", "3", "0.800 (0.60–0.95)", "3"]]
    page = make_report([tmp_path / "run"], tmp_path / "out").page.read_text()
    assert "0.800 (0.60–0.95)" in page
