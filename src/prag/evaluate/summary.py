"""Rows to figures: means with intervals, contrasts, and each control in its own section."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from prag.evaluate.conditions import condition_named
from prag.evaluate.measures import retrieval_measures
from prag.evaluate.rows import Row
from prag.evaluate.settings import DEPTHS
from prag.evaluate.statistics import Interval, holm, interval, paired, share

MEASURES = ("em", "f1", "precision", "recall", "presence", "rouge_l")
COSTS = (
    "seconds",
    "first_token_seconds",
    "prompt_tokens",
    "generated_tokens",
    "adapter_bytes",
    "searches",
)

CONTRASTS = (
    ("parametric", "shuffled"),
    ("shuffled", "closed-book"),
    ("parametric", "format-only"),
    ("format-only", "closed-book"),
    ("parametric", "closed-book"),
    ("in-context", "closed-book"),
    ("parametric", "in-context"),
    ("combined", "in-context"),
    ("combined", "parametric"),
    ("da-rag", "in-context"),
    ("parametric", "da-rag"),
    ("flare", "in-context"),
    ("dragin", "in-context"),
    ("ircot", "in-context"),
    ("parametric-cot", "in-context-cot"),
    ("combined-cot", "in-context-cot"),
    ("parametric-cot", "parametric"),
    ("in-context-cot", "in-context"),
)
"""Fixed before any result was seen; those whose two sides were run are reported, with Holm's
correction across them. Parametric minus shuffled is knowledge, shuffled minus closed-book form."""


def summarise(rows: Sequence[Row], seed: int) -> dict[str, Any]:
    """Everything of a summary that follows from the rows.

    A row with an error has no measures: it is counted, and left out of means. In a contrast a
    question counts when both sides answered it.
    """
    by_label: dict[str, dict[str, Row]] = defaultdict(dict)
    for row in rows:
        by_label[row["method"]][row["id"]] = row
    plain = {
        label: own
        for label, own in by_label.items()
        if condition_named(label).control in ("none", "shuffled", "format-only")
    }
    sections: dict[str, Any] = {
        "methods": {label: _method(list(own.values()), seed) for label, own in plain.items()},
        "types": _types(plain, seed),
        "contrasts": contrasts(plain, seed),
        "noise": _noise(by_label, seed),
        "conflict": _conflict(by_label, seed),
        "codecs": _codecs(by_label, seed),
        "forgetting": _forgetting(by_label, seed),
        "errors": [
            {"id": row["id"], "method": row["method"], "error": row["error"]}
            for row in rows
            if row["error"] is not None
        ],
    }
    kept = ("methods", "types", "contrasts", "errors")
    return {name: s for name, s in sections.items() if s or name in kept}


def contrasts(by_label: Mapping[str, Mapping[str, Row]], seed: int) -> dict[str, dict[str, Any]]:
    """Paired differences of the two sides of each contrast, with Holm's correction on presence."""
    made: dict[str, dict[str, Any]] = {}
    for a, b in CONTRASTS:
        if a not in by_label or b not in by_label:
            continue
        both = [
            (x["measures"], by_label[b][i]["measures"])
            for i, x in by_label[a].items()
            if i in by_label[b] and x["error"] is None and by_label[b][i]["error"] is None
        ]
        if not both:
            continue
        entry: dict[str, Any] = {"n": len(both)}
        for measure in ("presence", "em", "f1"):
            c = paired([x[measure] for x, _ in both], [y[measure] for _, y in both], seed)
            entry[measure] = round(c.difference, 4)
            entry["ci" if measure == "presence" else f"{measure}_ci"] = _pair(c.low, c.high)
            if measure == "presence":
                entry["p"] = c.p
        made[f"{a}-{b}"] = entry
    for entry, p in zip(made.values(), holm([e["p"] for e in made.values()]), strict=True):
        entry["p_holm"] = p
    return made


def retrieval(
    hits: Mapping[str, Sequence[tuple[str, float | None]]],
    gold: Mapping[str, Collection[str]],
    seed: int,
) -> dict[str, Any] | None:
    """Recall and MRR of the retriever over the questions whose gold passages are known."""
    known = {i: g for i, g in gold.items() if g}
    if not known:
        return None
    found = retrieval_measures({i: hits[i] for i in known}, known, DEPTHS)
    entry: dict[str, Any] = {"n": len(known)}
    for name, each in found.items():
        entry |= _mean(name, list(each.values()), seed)
    return entry


def _method(rows: Sequence[Row], seed: int) -> dict[str, Any]:
    good = [row for row in rows if row["error"] is None]
    entry: dict[str, Any] = {"n": len(good), "errors": len(rows) - len(good)}
    if not good:
        return entry
    for measure in MEASURES:
        entry |= _mean(measure, [row["measures"][measure] for row in good], seed)
    for cost in COSTS:
        known = [row[cost] for row in good if row[cost] is not None]
        entry[cost] = round(sum(known) / len(known), 4) if known else None
    return entry


def _types(by_label: Mapping[str, Mapping[str, Row]], seed: int) -> dict[str, Any]:
    kinds: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    ids: dict[str, set[str]] = defaultdict(set)
    for label, own in by_label.items():
        for row in own.values():
            ids[row["type"]].add(row["id"])
            if row["error"] is None:
                kinds[row["type"]][label].append(row)
    return {
        kind: {
            "n": len(ids[kind]),
            "methods": {label: _some(rows, seed) for label, rows in own.items()},
        }
        for kind, own in sorted(kinds.items())
    }


def _some(rows: Sequence[Row], seed: int) -> dict[str, Any]:
    entry: dict[str, Any] = {"n": len(rows)}
    for measure in ("presence", "em", "f1"):
        entry |= _mean(measure, [row["measures"][measure] for row in rows], seed)
    return entry


def _noise(by_label: Mapping[str, Mapping[str, Row]], seed: int) -> dict[str, Any]:
    curves: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for label, own in by_label.items():
        condition = condition_named(label)
        good = [row for row in own.values() if row["error"] is None]
        if condition.control == "noise" and good:
            method = label.partition("@")[0]
            entry = {"k": condition.k, **_some(good, seed), "errors": len(own) - len(good)}
            alone, without = by_label.get(f"{method}@noise-1"), by_label.get("closed-book")
            if alone and without and condition.k != 1:
                entry |= _kept(own, alone, without, seed)
            curves[method].append(entry)
    return {label: sorted(points, key=lambda p: p["k"]) for label, points in curves.items()}


def _kept(
    among: Mapping[str, Row], alone: Mapping[str, Row], without: Mapping[str, Row], seed: int
) -> dict[str, Any]:
    """The share of the gold passage's gain in presence that is kept among others."""
    ids = [i for i in among if all(i in m and _ok(m[i]) for m in (among, alone, without))]
    if not ids:
        return {}
    part, whole, floor = (
        [rows[i]["measures"]["presence"] for i in ids] for rows in (among, alone, without)
    )
    kept = share(part, whole, floor, seed)
    if kept is None:
        return {}
    return {"kept": round(kept.mean, 4), "kept_ci": _pair(kept.low, kept.high)}


def _conflict(by_label: Mapping[str, Mapping[str, Row]], seed: int) -> dict[str, Any]:
    methods: dict[str, Any] = {}
    questions: set[str] = set()
    for label, own in by_label.items():
        if condition_named(label).control != "conflict":
            continue
        good = [row for row in own.values() if row["error"] is None]
        questions |= own.keys()
        entry: dict[str, Any] = {"n": len(good), "errors": len(own) - len(good)}
        if good:
            entry |= _mean("follows", [row["measures"]["follows"] for row in good], seed)
            entry |= _mean("keeps", [row["measures"]["presence"] for row in good], seed)
        methods[label.partition("@")[0]] = entry
    return {"n": len(questions), "methods": methods} if methods else {}


def _codecs(by_label: Mapping[str, Mapping[str, Row]], seed: int) -> dict[str, Any]:
    """By method: each codec's presence, and what it differs by from the adapters as they are."""
    curves: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for label, own in by_label.items():
        condition = condition_named(label)
        good = [row for row in own.values() if _ok(row)]
        if condition.codec is None or not good:
            continue
        method = label.partition("@")[0]
        entry = {"codec": condition.codec, **_some(good, seed), "errors": len(own) - len(good)}
        entry["adapter_bytes"] = sum(row["adapter_bytes"] for row in good) / len(good)
        whole = by_label.get(method, {})
        both = [row["id"] for row in good if row["id"] in whole and _ok(whole[row["id"]])]
        if both:
            for measure in ("presence", "f1"):
                c = paired(
                    [own[i]["measures"][measure] for i in both],
                    [whole[i]["measures"][measure] for i in both],
                    seed,
                )
                entry[f"{measure}_change"] = round(c.difference, 4)
                entry[f"{measure}_change_ci"] = _pair(c.low, c.high)
        curves[method].append(entry)
    return {method: sorted(c, key=lambda p: -p["adapter_bytes"]) for method, c in curves.items()}


def _forgetting(by_label: Mapping[str, Mapping[str, Row]], seed: int) -> dict[str, Any]:
    entry: dict[str, Any] = {}
    without, with_adapters = (
        {i: row["measures"]["presence"] for i, row in by_label.get(label, {}).items() if _ok(row)}
        for label in ("closed-book@general", "parametric@general")
    )
    both = [i for i in without if i in with_adapters]
    if both:
        a, b = [with_adapters[i] for i in both], [without[i] for i in both]
        c = paired(a, b, seed)
        entry["accuracy"] = {
            "n": len(both),
            **_mean("without", b, seed),
            **_mean("with", a, seed),
            "difference": round(c.difference, 4),
            "ci": _pair(c.low, c.high),
            "p": c.p,
        }
    rows = [row["measures"] for row in by_label.get("perplexity", {}).values() if _ok(row)]
    if rows:
        entry["perplexity"] = {
            "n": len(rows),
            "without": round(rows[0]["base_perplexity"], 4),
            **_mean("with", [m["perplexity"] for m in rows], seed),
            **_mean("ratio", [m["perplexity"] / m["base_perplexity"] for m in rows], seed),
        }
    return entry


def _ok(row: Row) -> bool:
    return row["error"] is None


def _mean(name: str, values: Sequence[float], seed: int) -> dict[str, Any]:
    found: Interval = interval(values, seed)
    return {name: round(found.mean, 4), f"{name}_ci": _pair(found.low, found.high)}


def _pair(low: float, high: float) -> list[float]:
    return [round(low, 4), round(high, 4)]
