"""Before a run: the corpus is in the knowledge base, and the adapters that it needs are encoded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from prag.batches import TOKENS_A_STEP
from prag.datasets import Question, QuestionSet
from prag.evaluate.choosing import Chosen
from prag.evaluate.conflict import Changed, changed_augmentation
from prag.evaluate.texts import FORMAT_ORIGIN, format_passages
from prag.knowledge_base import KnowledgeBase
from prag.knowledge_base.build import Plan, discard_damaged, encode_missing, plan_lessons
from prag.lora import Site, flatten, unflatten
from prag.methods import Library, Shelved
from prag.progress import Tell
from prag.prompts import Lesson
from prag.records import AdapterKey, Augmentation, Document, Passage, PragError, content_id
from prag.store import AdapterStore, Codec, codecs

FORMAT_ONLY = "format-only"


def add_corpus(kb: KnowledgeBase, data: QuestionSet) -> QuestionSet:
    """Put the passages of a set into a knowledge base that is empty; one with a corpus keeps it.

    Returns:
        The set with the gold passages that the knowledge base holds, a note counting the others.

    Raises:
        PragError: the set brings no passages and the knowledge base holds none.
    """
    there = {p.id for p in kb.passages()}
    if not there:
        if not data.passages:
            raise PragError(
                f"the questions of {data.name} come without passages and {kb.folder} holds none: "
                "give --kb with a knowledge base over a corpus that answers them"
            )
        documents = [Document(f"{data.name}:{p.id}", data.name, (p,)) for p in data.passages]
        kb.add_documents(documents)
        there = {p.id for p in data.passages}
    questions = tuple(
        replace(q, gold_passages=tuple(p for p in q.gold_passages if p in there))
        for q in data.questions
    )
    lost = sum(len(q.gold_passages) for q in data.questions) - sum(
        len(q.gold_passages) for q in questions
    )
    note = f"{lost} gold passages are not in the corpus of {kb.folder}, and count for nothing"
    return replace(data, questions=questions, notes=(*data.notes, *([note] if lost else [])))


def encode(kb: KnowledgeBase, given: Sequence[Chosen], tell: Tell) -> None:
    """Encode the passages whose adapters the conditions put into the weights, and no others.

    Where the recipe takes the best passage alone, that is the first of each question's passages
    that has an adapter at all.
    """
    best_alone = kb.settings.recipe.merge == "best"
    without: set[str] = set()
    known: set[str] | None = None
    while True:
        wanted: set[str] = set()
        for chosen in given:
            for hits in chosen.values():
                able = [hit.passage_id for hit in hits if hit.passage_id not in without]
                wanted |= set(able[:1] if best_alone else able)
        if known is not None and wanted <= known:
            return
        report = kb.build(tell, only=wanted)
        known = wanted
        without |= set(report.left_out)
        if not report.left_out:
            return


def extra_adapters(
    kb: KnowledgeBase,
    folder: Path,
    questions: Sequence[Question],
    changed: Mapping[str, Changed],
    with_format: bool,
    tell: Tell,
) -> Callable[[str], Shelved | None]:
    """The adapters that are of this run and not of the corpus, in a store of the run's own.

    They are those of changed passages, by passage id, and under `FORMAT_ONLY` one that was trained
    on sequences of passages outside the corpus: as many as an adapter of the corpus has, each of
    another passage, so that it learns the form of an answer and no passage.

    Args:
        folder: of the run; the store is made in it.
    """
    recipe, base = kb.settings.recipe, kb.base
    library = kb.library()
    lessons: dict[AdapterKey, Lesson] = {}
    if changed:
        passages: list[Passage] = []
        augmentations: dict[str, Augmentation] = {}
        for question in questions:
            if question.id not in changed:
                continue
            change = changed[question.id]
            for index, (passage, original) in enumerate(
                zip(change.passages, change.originals, strict=True)
            ):
                of = library.augmentation(original)
                if of is not None:
                    passages.append(passage)
                    augmentations[passage.id] = changed_augmentation(question, change, index, of)
        unique = list({p.id: p for p in passages}.values())
        lessons |= plan_lessons(base, recipe, unique, augmentations).lessons
    format_key = None
    if with_format:
        lesson = _format_lesson(kb)
        format_key = AdapterKey(
            lesson.passage_id, base.fingerprint, recipe.fingerprint(FORMAT_ORIGIN)
        )
        lessons[format_key] = lesson
    plan = Plan(lessons, ())
    with AdapterStore.open(folder / "adapters") as store:
        store.sweep()
        discard_damaged(store, True, tell)
        codec = kb.settings.codec
        encode_missing(base, recipe, store, [plan], len(lessons), TOKENS_A_STEP, codec, tell)
    shelf = AdapterStore.open(folder / "adapters", readonly=True)
    by_passage = {key.passage: key for key in lessons}

    def adapter(passage_id: str) -> Shelved | None:
        key = format_key if passage_id == FORMAT_ONLY else by_passage.get(passage_id)
        if key is None:
            return None
        return Shelved(str(key), shelf.read(key), shelf.stored_bytes([key])[key])

    return adapter


def _format_lesson(kb: KnowledgeBase) -> Lesson:
    """Sequence i of the lesson of outside passage i."""
    outside = format_passages()
    known = {augmentation.passage_id: augmentation for _, augmentation in outside}
    plan = plan_lessons(kb.base, kb.settings.recipe, [p for p, _ in outside], known)
    each = list(plan.lessons.values())
    size = max(len(lesson.examples) for lesson in each)
    examples = tuple(
        lesson.examples[i] for i, lesson in zip(range(size), each * size, strict=False)
    )
    return Lesson(content_id(FORMAT_ONLY), examples)


def stored_as(library: Library, codec: Codec) -> Library:
    """A library whose adapters come back as a store with that codec gives them back."""

    def adapter(passage_id: str) -> Shelved | None:
        shelved = library.adapter(passage_id)
        if shelved is None:
            return None
        kept = shelved.adapter
        sites = tuple(Site(n, A.shape[1], B.shape[0]) for n, (A, B) in kept.factors.items())
        vector = flatten(kept, sites)  # [P]
        data = bytearray(codecs.encode(vector, codec))
        vector = codecs.decode(data, codec, vector.numel(), vector.dtype)
        read = unflatten(vector, sites, kept.rank, kept.alpha)
        return Shelved(shelved.key, read, len(data))

    return replace(library, adapter=adapter)


def with_extra(
    library: Library, passages: Mapping[str, Passage], adapter: Callable[[str], Shelved | None]
) -> Library:
    """A library that also holds the changed passages and the run's own adapters."""

    def find(ids: Sequence[str]) -> list[Passage]:
        rest = iter(library.passages([i for i in ids if i not in passages]))
        return [passages[i] if i in passages else next(rest) for i in ids]

    def augmentation(passage_id: str) -> Augmentation | None:
        return None if passage_id in passages else library.augmentation(passage_id)

    def either(passage_id: str) -> Shelved | None:
        return adapter(passage_id) if passage_id in passages else library.adapter(passage_id)

    return replace(library, passages=find, augmentation=augmentation, adapter=either)
