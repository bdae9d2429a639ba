"""What a method is, what it may use, and the steps that methods share.

A method answers one question as a generator: it yields a `Request` when it wants the model to go
on writing and is sent what the model wrote, so that each method reads as a straight story while
`answering` runs many questions side by side in batches.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Container, Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from prag.config import GenerateConfig, Recipe
from prag.generate import Engine, Generated, Request
from prag.lora import Adapter, Merged, merge
from prag.methods.offered import offers_answers
from prag.model import BaseModel
from prag.prefixes import Prefix
from prag.prompts import Style, passage_text, question_ids
from prag.records import Augmentation, Hit, Passage, PragError, Source


@dataclass(frozen=True)
class Shelved:
    """An adapter as it stands in the store: its key, itself, and the bytes that were read."""

    key: str
    adapter: Adapter
    bytes: int


class Search(Protocol):
    """Finds the k best passages for each question, among the allowed ones (None: all)."""

    def __call__(
        self, questions: Sequence[str], k: int, allowed: Container[str] | None = None
    ) -> list[list[Hit]]:
        """The hits of each question, best first."""
        ...


@dataclass(frozen=True)
class Library:
    """What answering needs of a knowledge base.

    `passages` gives passages by id; `adapter` the adapter of a passage, or None where it has none
    because nothing could be asked about it; `augmentation` what that adapter was trained on, or
    None where the passage was not augmented. `beginning` is what prompts begin with, read already,
    where the recipe's adapters add nothing to it. `notes` go with every answer.
    """

    base: BaseModel
    recipe: Recipe
    engine: Engine
    search: Search
    passages: Callable[[Sequence[str]], list[Passage]]
    adapter: Callable[[str], Shelved | None]
    augmentation: Callable[[str], Augmentation | None]
    beginning: Prefix | None = None
    notes: tuple[str, ...] = ()

    def adapters(self, hits: Sequence[Hit]) -> tuple[list[tuple[Hit, Shelved]], list[Hit]]:
        """The adapters that the recipe puts into the weights, and the hits found without one."""
        there: list[tuple[Hit, Shelved]] = []
        without: list[Hit] = []
        weights = relative([hit.score for hit in hits])
        for hit, weight in zip(hits, weights, strict=True):
            if self.recipe.merge == "score" and weight == 0:
                continue
            shelved = self.adapter(hit.passage_id)
            if shelved is None:
                without.append(hit)
                continue
            there.append((hit, shelved))
            if self.recipe.merge == "best":
                break
        return there, without

    def merged(
        self, there: Sequence[tuple[Hit, Shelved]], beside_text: bool = False
    ) -> Merged | None:
        """Those adapters as the recipe merges them; None for none.

        Args:
            beside_text: the text of the passages is in the prompt too.
        """
        if not there:
            return None
        by_score = self.recipe.merge == "score"
        weights = relative([hit.score for hit, _ in there]) if by_score else [1.0] * len(there)
        times = self.recipe.beside_text if beside_text else 1.0
        return merge([s.adapter for _, s in there], [times * weight for weight in weights])


def relative(scores: Sequence[float]) -> list[float]:
    """Each score over the highest, from 0 to 1; 1 each where none is above 0."""
    highest = max(scores, default=0.0)
    return [max(0.0, s / highest) if highest > 0 else 1.0 for s in scores]


@dataclass(frozen=True)
class Ask:
    """A question and the passages that were chosen for it, the best first.

    `k` is how many passages a method that searches for itself may take each time;
    `search_seconds` is what finding `hits` took.
    """

    question: str
    hits: tuple[Hit, ...]
    k: int = 3
    search_seconds: float = 0.0


@dataclass
class Desk:
    """One question being answered: what the method uses, and a record of what it did."""

    library: Library
    ask: Ask
    style: Style
    config: GenerateConfig
    sources: dict[str, Source] = field(default_factory=dict)  # by passage id, in order of use
    notes: list[str] = field(default_factory=list)
    searches: int = 0
    adapter_bytes: int = 0
    timings: dict[str, float] = field(default_factory=dict)

    def fetch(self, hits: Sequence[Hit], in_prompt: bool) -> list[Passage]:
        """The passages of some hits, noted as sources of the answer."""
        passages = self.library.passages([hit.passage_id for hit in hits])
        for passage, hit in zip(passages, hits, strict=True):
            self.sources[passage.id] = Source(
                passage.id, passage.title, passage.text, hit.score, None, in_prompt
            )
        return passages

    def texts(self, passages: Sequence[Passage]) -> list[str]:
        """The passages as they stand in a prompt."""
        return [passage_text(p, self.library.recipe.wording) for p in passages]

    def adapters(self) -> list[tuple[Hit, Shelved]]:
        """The adapters of the question's hits, each with its hit; notes what was used.

        Returns:
            None of them for a question that the recipe leaves to the base model.
        """
        began = time.perf_counter()
        recipe = self.library.recipe
        if recipe.offered == "base" and offers_answers(self.ask.question):
            self.notes.append(
                f"the question offers its answers: recipe {recipe.name!r} leaves adapters out"
            )
            return []
        there, without = self.library.adapters(self.ask.hits)
        self.notes += [
            f"passage {hit.passage_id} has no adapter: nothing could be asked about it"
            for hit in without
        ]
        if recipe.merge == "best" and len(self.ask.hits) > 1:
            self.notes.append(
                f"recipe {recipe.name!r} puts the best passage's adapter alone into the weights"
            )
        if not there:
            self.notes.append("no adapter is in the weights")
        for hit, shelved in there:
            source = self.sources[hit.passage_id]
            self.sources[hit.passage_id] = replace(source, adapter=shelved.key)
        self.adapter_bytes = sum(shelved.bytes for _, shelved in there)
        self._took("load", began)
        return there

    def merged(
        self, there: Sequence[tuple[Hit, Shelved]], beside_text: bool = False
    ) -> Merged | None:
        """As `Library.merged`, which counts as loading."""
        began = time.perf_counter()
        merged = self.library.merged(there, beside_text)
        self._took("load", began)
        return merged

    def search(self, query: str) -> tuple[Hit, ...]:
        """A search of the method's own; the count of searches is part of the answer."""
        began = time.perf_counter()
        self.searches += 1
        (hits,) = self.library.search([query], self.ask.k)
        self._took("retrieve", began)
        return tuple(hits)

    def prompt(self, texts: Sequence[str], said: str = "") -> tuple[int, ...]:
        """The prompt with these passages, the assistant having said something already."""
        library = self.library
        return tuple(
            question_ids(
                library.base.tokenizer,
                self.ask.question,
                texts,
                library.recipe.wording,
                self.style,
                said,
            )
        )

    @property
    def limit(self) -> int:
        """New tokens that the answer may have, with its reasoning."""
        return self.config.reasoning_tokens if self.style.reasons else self.config.max_new_tokens

    def _took(self, stage: str, began: float) -> None:
        self.timings[stage] = self.timings.get(stage, 0.0) + time.perf_counter() - began


Steps = Generator[Request, Generated, str]
"""Requests to the model, what it wrote for each sent back; returns the raw answer."""


class Method(Protocol):
    """One way to answer.

    `given_passages`: it starts from passages that are chosen for it; `searches`: it searches
    for itself while it writes; `uses_adapters`: it changes the weights.
    """

    name: str
    given_passages: bool
    searches: bool
    uses_adapters: bool

    def steps(self, desk: Desk) -> Steps:
        """Answer the question on the desk."""
        ...


def reply(desk: Desk, texts: Sequence[str], adapters: Merged | None) -> Steps:
    """The model answers once, from a prompt with these texts and with these adapters."""
    made = yield Request(
        desk.prompt(texts),
        adapters,
        max_new_tokens=desk.limit,
        until=reasoned if desk.style.reasons else None,
        again=desk.style.reasons,  # the worked examples are the same for every question
    )
    return (yield from conclude(desk, made.text, texts, adapters))


def conclude(desk: Desk, said: str, texts: Sequence[str], adapters: Merged | None) -> Steps:
    """The raw answer: as it was said, or, where reasoning came to no answer, with one asked for.

    A chain of thought that does not say "the answer is" is continued by it, for every method
    alike, so that all are scored on an answer and none on where its reasoning was cut off.
    """
    if not desk.style.reasons:
        return said
    said = before_next_question(said)
    if says_answer(said):
        return said
    said = f"{said.rstrip()} So the answer is"
    made = yield Request(
        desk.prompt(texts, said if said.startswith(" ") else f" {said}"),
        adapters,
        max_new_tokens=desk.config.max_new_tokens,
    )
    return said + made.text


_SAYS = re.compile(r"\bthe answer is\b", re.IGNORECASE)
_NEXT = re.compile(r"\n\s*(Question|Passage \d+):")


def says_answer(text: str) -> bool:
    """Whether reasoning has come to its answer."""
    return _SAYS.search(text) is not None


def before_next_question(text: str) -> str:
    """The text before the model goes on to make up another question, as few-shot prompts invite."""
    following = _NEXT.search(text)
    return text[: following.start()] if following else text


def reasoned(text: str) -> bool:
    """Whether a chain of thought is over: an answer and the end of its sentence, or a new question.

    The end of a sentence is seen when something comes after it.
    """
    if _NEXT.search(text):
        return True
    lead = _SAYS.search(text)
    return lead is not None and sentence_end(text[lead.end() :]) is not None


def sentence_end(text: str) -> int | None:
    """Where the first sentence of a text that is being written ends, None while it may go on.

    A sentence has ended when the next has begun, or at a line break; a line without a letter or
    digit (a colon after the lead, say) is none.
    """
    from sentencex import segment

    begun = next((i for i, c in enumerate(text) if c.isalnum()), None)
    if begun is None:
        return None
    body = text[begun:]
    line = body.split("\n", 1)[0]
    # Kinds of white space are made alike, each one character, since the segmenter does not
    # survive all of them.
    parts = list(segment("en", "".join(" " if c.isspace() else c for c in line)))
    if len(parts) > 1:
        return begun + len(parts[0].rstrip())
    return begun + len(line.rstrip()) if len(line) < len(body) else None


def over_after_sentence(text: str) -> bool:
    """Ends a continuation where its first sentence has ended."""
    return sentence_end(text) is not None


def first_sentence(made: Generated) -> tuple[str, bool]:
    """The first sentence of what was made, and whether the model went no further than it."""
    end = sentence_end(made.text)
    return made.text[:end], end is None and made.ended


def no_hits(question: str) -> PragError:
    """The error for a question that nothing in the corpus fits."""
    return PragError(
        f"no passage fits the question {question!r} (none shares a word with it that counts): "
        "ask in other words, or with --method closed-book"
    )
