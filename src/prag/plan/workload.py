"""What a corpus asks of a model, read off a sample of it: tokens, lessons, bytes.

Nothing is assumed of lengths that the sample can tell: its passages are augmented by the recipe's
rule (or come with augmentations made elsewhere), become the lessons that a build would train on,
and are grouped as a build groups them.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from prag.augment import Cloze, read_foreign, taught
from prag.batches import TOKENS_A_STEP, group_lessons
from prag.config import Recipe
from prag.evaluate.texts import format_passages
from prag.model import BaseModel
from prag.prefixes import attends_to_all
from prag.prompts import Lesson, chat_ids, lesson, passage_text, question_ids, style_named, text_ids
from prag.quiet import MOST, beginning
from prag.records import Augmentation, Passage, PragError
from prag.replay import sites_of

DRAWN = 2048
"""Passages whose groups are counted, where a corpus has more: the rest is in proportion."""

MOST_SAMPLED = 256
"""Passages of a larger sample that are looked at, evenly spread."""


@dataclass(frozen=True)
class Asked:
    """What a model that writes augmentations is asked for one passage: tokens in and out."""

    prompt: int
    written: int


@dataclass(frozen=True)
class Workload:
    """A corpus of `passages`, as a sample of it tells.

    Args:
        sample: passages of the sample.
        augmentations: of each of them.
        lessons: of those that have a pair; the others get no adapter.
        begins: tokens at the beginning of every sequence that are read once for all.
        prompt: tokens of a question without passages, those that begin all left out.
        passage_tokens: that one passage adds to a prompt.
        asked: for each passage of the sample, its generations; none where pairs are made by rule.
        source: where the sample comes from, for a reader.
    """

    passages: int
    recipe: Recipe
    sample: tuple[Passage, ...]
    augmentations: tuple[Augmentation, ...]
    lessons: tuple[Lesson, ...]
    begins: int
    prompt: float
    passage_tokens: float
    asked: tuple[tuple[Asked, ...], ...]
    source: str

    def __post_init__(self) -> None:
        if self.passages < 1:
            raise PragError(f"a corpus has at least 1 passage, not {self.passages}")
        if not self.lessons:
            raise PragError(
                f"no passage of the sample ({self.source}) has a pair to train on: nothing says "
                "what an adapter costs"
            )

    @property
    def encoded(self) -> float:
        """Passages that get an adapter."""
        return self.passages * len(self.lessons) / len(self.sample)

    @property
    def tokens_trained(self) -> float:
        """Tokens that one passage is trained on, those of every epoch."""
        whole = sum(le.tokens - self.begins * len(le.examples) for le in self.lessons)
        return whole * self.recipe.train.epochs / len(self.lessons)

    def groups(self, tokens_a_step: int = TOKENS_A_STEP) -> tuple[list[list[Lesson]], float]:
        """Groups of lessons as a build makes them, and how many times the corpus has as many.

        The sample stands for the corpus as often as it goes into it; the rest is drawn from it with
        one seed.
        """
        wanted = max(1, round(min(self.encoded, DRAWN)))
        drawn = repeated(self.lessons, wanted)
        lessons = [replace(le, passage_id=f"{n:016x}") for n, le in enumerate(drawn)]
        return group_lessons(lessons, tokens_a_step, self.begins), self.encoded / wanted


def repeated(items: Sequence[Lesson], wanted: int) -> list[Lesson]:
    """So many of them: all as often as they go into it, then some drawn without repeats."""
    rest = random.Random(0).sample(list(items), wanted % len(items))
    return [*items] * (wanted // len(items)) + rest


def workload(
    base: BaseModel,
    recipe: Recipe,
    passages: int,
    sample: Sequence[Passage] | None = None,
    augmentations: Mapping[str, Augmentation] | None = None,
    questions: Sequence[str] = (),
    source: str = "12 packaged passages",
) -> Workload:
    """Look at a sample of a corpus as a build would.

    Args:
        base: a loaded model or a skeleton; only its tokenizer and its sites are used.
        passages: N, of the corpus.
        sample: by default the packaged passages, which come with augmentations.
        augmentations: by passage id, of at least those passages that are to count; needed where
            the recipe has them written by a model.
        questions: whose tokens count as a question's; by default those of the sample's pairs.

    Raises:
        PragError: a recipe whose augmentation is not counted here, no augmentations where they
            are needed, or nothing to train on.
    """
    if recipe.train.step != "sequence":
        raise PragError(
            f"train.step {recipe.train.step!r} is not counted by `prag plan`: it counts sequence"
        )
    style = recipe.augment.style
    if style not in ("json", "cloze"):
        raise PragError(
            f"augment.style {style!r} is not counted by `prag plan`: it counts cloze and json"
        )
    if sample is None:
        packaged = format_passages()
        sample = [p for p, _ in packaged]
        if style == "json" and augmentations is None:
            augmentations = {p.id: a for p, a in packaged}
    if len(sample) > MOST_SAMPLED:
        sample = [sample[i * len(sample) // MOST_SAMPLED] for i in range(MOST_SAMPLED)]
    if augmentations is not None:
        sample = [p for p in sample if p.id in augmentations]
        used = [augmentations[p.id] for p in sample]
        if not sample:
            raise PragError(f"none of the augmentations is of a passage of the sample ({source})")
    elif style == "cloze":
        used = Cloze(base, recipe.augment).augment(sample)
    else:
        raise PragError(
            f"recipe {recipe.name} has its pairs written by a model: give --augmentations FILE, "
            "which says how long they are, or leave --sample out"
        )
    lessons, parts = [], []
    for passage, augmentation in zip(sample, used, strict=True):
        part = taught(augmentation, passage, recipe)
        parts.append(part)
        if part.pairs:
            lessons.append(lesson(base.tokenizer, passage, part, recipe.train, recipe.wording))
    begins = shared(base, recipe)
    direct = style_named("direct", recipe.wording)
    asked = list(questions) or [p.question for a in parts for p in a.pairs]

    def prompt(texts: Sequence[str]) -> float:
        some = asked[:: max(1, len(asked) // 64)]
        sizes = [len(question_ids(base.tokenizer, q, texts, recipe.wording, direct)) for q in some]
        return sum(sizes) / max(1, len(sizes)) - begins

    texts = [passage_text(p, recipe.wording) for p in sample]
    lead = len(text_ids(base.tokenizer, "Passage 1: \n"))
    each = sum(len(text_ids(base.tokenizer, t)) for t in texts) / len(texts) + lead
    written = style == "json"
    return Workload(
        passages=passages,
        recipe=recipe,
        sample=tuple(sample),
        augmentations=tuple(used),
        lessons=tuple(lessons),
        begins=begins,
        prompt=prompt(()) if asked else 0.0,
        passage_tokens=each,
        asked=tuple(_asked(base, p, a) for p, a in zip(sample, parts, strict=True))
        if written
        else (),
        source=source,
    )


def shared(base: BaseModel, recipe: Recipe) -> int:
    """Tokens of the beginning that `prag.quiet.shared_beginning` reads once, without reading it."""
    if recipe.train.quiet == 0:
        return 0
    length = len(beginning(base, recipe))
    fits = all(length <= MOST * site.inputs for site in sites_of(base, recipe.train))
    return length if fits and attends_to_all(base) else 0


def sample_of(path: Path) -> list[Passage]:
    """The passages of a knowledge base's folder, or of a file or folder of documents.

    Raises:
        PragError: there are none, or something cannot be read.
    """
    from prag.corpus import read
    from prag.knowledge_base import KnowledgeBase

    if (path / "prag.json").is_file():
        found = KnowledgeBase.open(path).passages()
    else:
        report = read([path])
        if report.problems:
            first = report.problems[0]
            raise PragError(f"the sample {path} cannot be read: {first.text}: {first.reason}")
        found = list({p.id: p for d in report.documents for p in d.passages}.values())
    if not found:
        raise PragError(f"the sample {path} holds no passage")
    return found


def augmentations_of(path: Path, sample: Sequence[Passage]) -> dict[str, Augmentation]:
    """The augmentations of a file made elsewhere, by the whole ids of the passages they are of."""
    whole = {p.id[:12]: p.id for p in sample}
    found = {}
    for augmentation in read_foreign(path, origin=f"file:{path.name}"):
        known = whole.get(augmentation.passage_id[:12])
        if known is not None:
            found[known] = replace(augmentation, passage_id=known)
    return found


def _asked(base: BaseModel, passage: Passage, made: Augmentation) -> tuple[Asked, ...]:
    """The generations that would have given this augmentation, each tried once."""
    from prag.augment.asking import pairs_prompt, rewrite_prompt

    def tokens(text: str) -> int:
        return len(text_ids(base.tokenizer, text))

    text = f"{passage.title}\n{passage.text}".strip()
    rewrite = len(chat_ids(base.tokenizer, rewrite_prompt(text)))
    pairs = len(chat_ids(base.tokenizer, pairs_prompt(text, len(made.pairs))))
    said = json.dumps([asdict(p) for p in made.pairs], ensure_ascii=False, separators=(",", ":"))
    return (*(Asked(rewrite, tokens(r)) for r in made.rewrites), Asked(pairs, tokens(said)))
