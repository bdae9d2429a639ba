"""Four methods and a control over one built knowledge base: a row a question, means with intervals.

    python scripts/measure_answers.py KB QUESTIONS --out FILE [--seed N]

QUESTIONS is JSON lines with `id`, `question`, `golden_answers`. The control `shuffled` answers
each question with the adapters of the next question's passages: what parametric has above it is
knowledge, what it has above closed-book is the form of the answer. Rows and means go to FILE.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prag import KnowledgeBase
from prag.config import GenerateConfig
from prag.generate import Request, TransformersEngine
from prag.lora import merge
from prag.methods import METHODS
from prag.metrics import exact_match, extract, f1, presence
from prag.prompts import question_ids
from prag.records import AdapterKey, Answer
from prag.store import AdapterStore
from provenance import SAMPLES, interval, revision

MEASURES = ("presence", "em", "f1")


def main() -> None:
    """Ask, score, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("kb", type=Path)
    parser.add_argument("questions", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    options = parser.parse_args()

    commit, modified = revision()
    kb = KnowledgeBase.open(options.kb)
    asked = [json.loads(line) for line in options.questions.read_text("utf-8").splitlines()]
    texts = [row["question"] for row in asked]
    made = {name: kb.ask_many(texts, name) for name in METHODS}
    rows = [
        row(name, question, answer.raw, answer)
        for name, answers in made.items()
        for question, answer in zip(asked, answers, strict=True)
    ]
    for question, raw in zip(asked, shuffled(kb, texts, made["parametric"]), strict=True):
        rows.append(row("shuffled", question, raw, None))
    names = (*METHODS, "shuffled")
    means = {
        name: {
            m: interval([r[m] for r in rows if r["method"] == name], options.seed) for m in MEASURES
        }
        for name in names
    }
    by_method = {n: [r["presence"] for r in rows if r["method"] == n] for n in names}
    contrasts = {
        f"{a} - {b}": interval(
            [x - y for x, y in zip(by_method[a], by_method[b], strict=True)], options.seed
        )
        for a, b in (
            ("parametric", "shuffled"),
            ("parametric", "in-context"),
            ("combined", "in-context"),
        )
    }
    status = kb.status()
    result = {
        "questions": len(asked),
        "passages": status.passages,
        "model": status.model,
        "base": status.base,
        "recipe": status.recipe,
        "augmented": status.augmented,
        "pairs": status.pairs,
        "seed": options.seed,
        "bootstrap_samples": SAMPLES,
        "commit": commit,
        "modified": modified,
        "command": f"python scripts/measure_answers.py KB {options.questions.name} "
        f"--out {options.out.name} --seed {options.seed}",
        "means": means,
        "presence_contrasts": contrasts,
        "rows": rows,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", "utf-8")
    print(table(means))
    print(json.dumps(contrasts, indent=1))


def row(name: str, question: dict[str, Any], raw: str, answer: Answer | None) -> dict[str, Any]:
    """One answer, scored."""
    golds, text = question["golden_answers"], extract(raw)
    return {
        "id": question["id"],
        "method": name,
        "raw": raw,
        "answer": text,
        "presence": presence(raw, golds),
        "em": exact_match(text, golds),
        "f1": f1(text, golds),
        "passages": [s.passage_id for s in answer.sources] if answer else [],
        "prompt_tokens": answer.prompt_tokens if answer else None,
        "seconds": {k: round(v, 4) for k, v in answer.timings.items()} if answer else None,
        "error": answer.error if answer else None,
    }


def shuffled(kb: KnowledgeBase, texts: Sequence[str], parametric: Sequence[Answer]) -> list[str]:
    """Each question answered with the adapters that the next question had."""
    sets = [[s.adapter for s in answer.sources if s.adapter] for answer in parametric]
    requests = []
    with AdapterStore.open(kb.folder / "adapters", readonly=True) as store:
        for text, keys in zip(texts, sets[1:] + sets[:1], strict=True):
            adapters = [store.read(AdapterKey(*key.split("-"))) for key in keys]
            ids = question_ids(kb.base.tokenizer, text, [], kb.settings.recipe.wording)
            requests.append(Request(tuple(ids), merge(adapters) if adapters else None))
    made = TransformersEngine(kb.base).generate(requests, GenerateConfig())
    return [generated.text for generated in made]


def table(means: dict[str, dict[str, dict[str, float]]]) -> str:
    """The means in Markdown."""
    lines = [f"| method | {' | '.join(MEASURES)} |", "| --- " * (len(MEASURES) + 1) + "|"]
    for name, measures in means.items():
        cells = [
            f"{measures[m]['mean']:.3f} [{measures[m]['low']:.3f}, {measures[m]['high']:.3f}]"
            for m in MEASURES
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
