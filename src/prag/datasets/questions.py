"""Questions, sets of them, and the gathering that turns the rows of a file into a set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from prag.datasets.rows import Row
from prag.records import Passage


@dataclass(frozen=True)
class Question:
    """A question with the answers that count as right.

    `golds` holds the answer first, then its aliases, each once. `kind` is the type that figures
    are reported by, '' if the set has none. `gold_passages` are the ids of the passages that
    hold the answer, empty where the set does not say.
    """

    id: str
    text: str
    golds: tuple[str, ...]
    kind: str
    gold_passages: tuple[str, ...]


@dataclass(frozen=True)
class QuestionSet:
    """The questions of a file in its order, and the passages it brings, each once.

    `notes` say in plain words, with counts, what was folded, left out or missing.
    """

    name: str
    questions: tuple[Question, ...]
    passages: tuple[Passage, ...]
    notes: tuple[str, ...]


class Gathering:
    """What the rows of one file add up to.

    Every row is checked, those behind the limit too: a file is good or it is not. Only the
    questions up to the limit are kept and counted in the notes; of passages all are.

    Args:
        name: of the set.
        limit: how many questions to keep, None for all.
    """

    def __init__(self, name: str, limit: int | None) -> None:
        self._name = name
        self._limit = limit
        self._questions: list[Question] = []
        self._scorable = 0  # questions of the file that have an answer
        self._places: dict[str, Row] = {}  # the first row of each question id
        self._passages: dict[str, Passage] = {}
        self._counts: Counter[str] = Counter()
        self._notes: list[str] = []

    def passage(self, title: str, text: str) -> str | None:
        """Keep a passage, unless it is there already; its id, or None if it has no text.

        Title and text are stripped as the corpus strips a record, so that the ids are those
        of a knowledge base to which the passages are added.
        """
        passage = Passage(title.strip(), text.strip())
        if not passage.text:
            self._counts["passages without a text, left out"] += 1
            return None
        id_ = passage.id
        if id_ in self._passages:
            self._counts["further occurrences of a passage, which is kept once"] += 1
        else:
            self._passages[id_] = passage
        return id_

    def once(self, row: Row, id_: str) -> str:
        """A question's id, if no row before had it.

        Raises:
            PragError: one had.
        """
        if id_ in self._places:
            raise row.error(
                f"a second question of this id, the first is {self._places[id_].place}; "
                "take one out, or give it another id"
            )
        self._places[id_] = row
        return id_

    def question(
        self,
        row: Row,
        id_: str,
        golds: Iterable[str],
        kind: str = "",
        gold_passages: Iterable[str] = (),
    ) -> None:
        """Keep a question, if the limit is not reached.

        Raises:
            PragError: its text is missing or blank, or no golden answer is left of `golds`.
        """
        text = row.text("question")
        stripped = [gold.strip() for gold in golds]
        answers = tuple(dict.fromkeys(gold for gold in stripped if gold))
        if not answers:
            raise row.error(
                "no golden answer; a question without one cannot be scored: fill it, or take "
                "the row out"
            )
        self.count("golden answers that are blank, left out", stripped.count(""))
        if not self.full:
            passages = tuple(dict.fromkeys(gold_passages))
            self._questions.append(Question(id_, text, answers, kind, passages))
        self._scorable += 1

    @property
    def full(self) -> bool:
        """Whether the limit is reached."""
        return self._limit is not None and len(self._questions) >= self._limit

    def count(self, what: str, number: int = 1) -> None:
        """Add to the count of a note, unless the limit is reached."""
        if number and not self.full:
            self._counts[what] += number

    def note(self, text: str) -> None:
        """Add a note that is not a count."""
        self._notes.append(text)

    def finish(self) -> QuestionSet:
        """The set, with its notes."""
        notes = list(self._notes)
        if len(self._questions) < self._scorable:
            notes.append(f"the first {len(self._questions):,} of {self._scorable:,} questions")
        notes += [f"{what}: {number:,}" for what, number in self._counts.items()]
        return QuestionSet(
            self._name, tuple(self._questions), tuple(self._passages.values()), tuple(notes)
        )
