"""What fewer bytes cost in answers, over runs of `prag eval --methods codecs`: table and figure.

    python scripts/codec_curve.py results/eval/*-gold-codecs --out docs/codecs.svg

Presence and its change from float32 over all questions; intervals are of 5,000 bootstrap samples
drawn within each set (seed 0), paired by question.
"""

from __future__ import annotations

import argparse
import gzip
import json
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import numpy as np

from prag.store.codecs import length

PUBLISHED = 1_543_368
"""Bytes of a published adapter of SmolLM2: rank 2, all layers, float32 (`prag bench store`)."""


def main() -> None:
    """Print the table and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    found: dict[str, dict[tuple[str, str], float]] = {}
    read: dict[str, int] = {}  # bytes of one adapter of float32, from the rows
    for run in args.runs:
        with gzip.open(run / "rows.jsonl.gz", "rt") as file:
            for row in map(json.loads, file):
                if row["method"].startswith("parametric"):
                    key = row["set"], row["id"]
                    found.setdefault(row["method"], {})[key] = row["measures"]["presence"]
                    if row["method"] == "parametric" and row["adapter_bytes"]:
                        used = sum(hit["adapter"] is not None for hit in row["hits"])
                        read["float32"] = row["adapter_bytes"] // used
    numbers = read["float32"] // 4
    whole = found["parametric"]
    keys = list(whole)
    sets = sorted({s for s, _ in keys})
    members = [np.array([i for i, k in enumerate(keys) if k[0] == s]) for s in sets]
    rng = np.random.default_rng(0)
    samples = [np.concatenate([rng.choice(m, len(m)) for m in members]) for _ in range(5000)]
    points = []
    print(f"| codec | bytes | published over it | {' | '.join(sets)} | change of presence |")
    print(f"| {' | '.join(['---'] * (4 + len(sets)))} |")
    for label, values in found.items():
        codec = label.partition("@")[2] or "float32"
        change = np.array([values[k] - whole[k] for k in keys])
        low, high = np.quantile([change[s].mean() for s in samples], [0.025, 0.975])
        size = length(codec, numbers)
        means = [np.mean([values[k] for k in keys if k[0] == s]) for s in sets]
        shown = " | ".join(f"{m:.3f}" for m in means)
        print(
            f"| {codec} | {size:,} | {PUBLISHED / size:.1f} | {shown} | "
            f"{change.mean():+.3f} [{low:+.3f}, {high:+.3f}] |"
        )
        points.append((codec, size, float(np.mean(list(values.values()))), low, high))
    draw(points, len(keys), args.out)


def draw(points: list[tuple[str, int, float, float, float]], n: int, out: Path) -> None:
    """Presence over bytes; the bars are the interval of the change from float32."""
    whole = next(p for p in points if p[0] == "float32")[2]
    figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    for codec, size, mean, low, high in points:
        axes.errorbar(
            size / 1000, mean, [[mean - whole - low], [high - mean + whole]], fmt="o", color="C0"
        )
        offset = (5, -14) if codec == "bfloat16" else (5, 6)
        axes.annotate(codec, (size / 1000, mean), offset, textcoords="offset points")
    axes.axvline(PUBLISHED / 16 / 1000, color="0.6", linestyle=":", label="1/16 of a published one")
    axes.set_xscale("log")
    axes.set_xlabel("kilobytes of an adapter")
    axes.set_ylabel("answer presence")
    axes.set_title(f"Parametric answers over bytes, {n} questions, gold passages", fontsize=10)
    axes.legend(fontsize=8)
    plt.rcParams["svg.hashsalt"] = "prag"
    figure.savefig(out, metadata={"Date": None})


if __name__ == "__main__":
    main()
