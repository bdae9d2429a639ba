"""Questions to answers: retrieve, put the adapters in, generate, say what the answer rests on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from prag.config import GenerateConfig, Recipe
from prag.generate import Engine, Request
from prag.lora import Adapter, Merged, merge
from prag.methods import Method
from prag.metrics import extract
from prag.model import BaseModel
from prag.prompts import passage_text, question_ids
from prag.records import Answer, Hit, Passage, PragError, Source


@dataclass(frozen=True)
class Library:
    """What answering needs of a knowledge base.

    `passages` gives passages by id; `adapter` gives the key and the adapter of a passage, or None
    where it has none because nothing could be asked about it. `notes` go with every answer.
    """

    base: BaseModel
    recipe: Recipe
    engine: Engine
    search: Callable[[Sequence[str], int], list[list[Hit]]]
    passages: Callable[[Sequence[str]], list[Passage]]
    adapter: Callable[[str], tuple[str, Adapter] | None]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Prepared:
    request: Request
    sources: tuple[Source, ...]
    notes: tuple[str, ...]
    timings: dict[str, float]


def answer_all(
    library: Library,
    questions: Sequence[str],
    method: Method,
    top_k: int,
    generate: GenerateConfig,
) -> list[Answer]:
    """An answer to each question, in order. One that cannot be answered has its `error` set."""
    began = time.perf_counter()
    hits: list[list[Hit]] = [[] for _ in questions]
    if method.retrieves:
        hits = library.search(questions, top_k)
    retrieve = (time.perf_counter() - began) / max(1, len(questions))
    prepared: list[_Prepared | PragError] = []
    for question, found in zip(questions, hits, strict=True):
        try:
            prepared.append(_prepare(library, question, method, found, retrieve))
        except PragError as error:
            prepared.append(error)
    good = [p for p in prepared if isinstance(p, _Prepared)]
    made = iter(library.engine.generate([p.request for p in good], generate))
    answers = []
    for question, p in zip(questions, prepared, strict=True):
        if isinstance(p, PragError):
            answers.append(Answer(question, method.name, "", "", (), 0, 0, error=str(p)))
            continue
        out = next(made)
        answers.append(
            Answer(
                question=question,
                method=method.name,
                text=extract(out.text),
                raw=out.text,
                sources=p.sources,
                prompt_tokens=len(p.request.ids),
                generated_tokens=len(out.ids),
                timings={**p.timings, "generate": out.seconds},
                notes=(*library.notes, *p.notes),
            )
        )
    return answers


def _prepare(
    library: Library, question: str, method: Method, hits: list[Hit], retrieve: float
) -> _Prepared:
    if not question.strip(" ?\t\r\n"):
        raise PragError("the question is empty")
    if method.retrieves and not hits:
        raise PragError(
            f"no passage fits the question {question!r} (none shares a word with it that counts): "
            "ask in other words, or with --method closed-book"
        )
    began = time.perf_counter()
    passages = library.passages([hit.passage_id for hit in hits])
    merged, used, notes = _adapters(library, hits) if method.adapters_in_weights else (None, {}, ())
    load = time.perf_counter() - began
    texts = [passage_text(p, library.recipe.wording) for p in passages]
    ids = question_ids(
        library.base.tokenizer,
        question,
        texts if method.text_in_prompt else [],
        library.recipe.wording,
    )
    sources = tuple(
        Source(p.id, p.title, p.text, hit.score, used.get(p.id), method.text_in_prompt)
        for p, hit in zip(passages, hits, strict=True)
    )
    timings = {"retrieve": retrieve, "load": load}
    return _Prepared(Request(tuple(ids), merged), sources, tuple(notes), timings)


def _adapters(
    library: Library, hits: list[Hit]
) -> tuple[Merged | None, dict[str, str], tuple[str, ...]]:
    """The adapters of the hits as the recipe merges them, their keys by passage, what to say."""
    found = [(hit.passage_id, library.adapter(hit.passage_id)) for hit in hits]
    there = [(passage, *pair) for passage, pair in found if pair is not None]
    notes = [
        f"passage {passage} has no adapter: nothing could be asked about it"
        for passage, pair in found
        if pair is None
    ]
    if library.recipe.merge == "best" and len(there) > 1:
        there = there[:1]
        notes.append(
            f"recipe {library.recipe.name!r} puts the best passage's adapter alone into the weights"
        )
    if not there:
        notes.append("no adapter is in the weights")
        return None, {}, tuple(notes)
    keys = {passage: key for passage, key, _ in there}
    return merge([adapter for _, _, adapter in there]), keys, tuple(notes)
