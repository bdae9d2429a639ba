"""dragin: retrieval when the model needs it and for what it attends to (Su et al. 2024).

RIND (section 3.2): a written word has the score  entropy x attention x meaning:  how unsure the
model was of it, how much the words after it attend to it, and 0 if it is a stop word. The first
word above a threshold is where the model needed something. QFS (section 3.3): the query is the
words before it that it attends to most. The text is cut before the word and goes on with the
passages that were found.

As in the published code, tokens are joined to words (entropies averaged, attention added), and
attention is divided by its mean over the sentence, so that a threshold means the same for short and
long ones; and the query takes words of the question and of what was written, no stop words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from torch import Tensor

from prag.generate import Generated, Request
from prag.methods.base import (
    Desk,
    Steps,
    before_next_question,
    conclude,
    first_sentence,
    over_after_sentence,
    reasoned,
    says_answer,
    sentence_end,
)
from prag.prompts import ask_text
from prag.trace import pieces_of

THRESHOLD = 1.0
"""RIND above which the model is taken to need something (0.8 to 1.3 in the published settings)."""

QUERY_WORDS = 25
"""Words of a query (25 or 35 in the published settings)."""

MOST_SEARCHES = 4
"""Searches for one question, so that a model which is never sure comes to an end."""


@dataclass(frozen=True)
class Word:
    """A word of a text: the character and the tokens at which it begins and ends."""

    text: str
    at: int
    first: int
    last: int  # the token after its last one


class Dragin:
    """Starts without passages: the first search comes when it is needed."""

    name = "dragin"
    given_passages = False
    searches = True
    uses_adapters = False

    def steps(self, desk: Desk) -> Steps:
        """Write, cut where something was needed, search, write on from there."""
        texts: list[str] = []
        said, left = "", desk.limit
        while left > 0:
            prompt = desk.prompt(texts, said)
            made = yield Request(
                prompt,
                max_new_tokens=left,
                until=reasoned if desk.style.reasons else None,
                watch="attention",
                again=True,
            )
            need = needed(made) if desk.searches < MOST_SEARCHES else None
            if need is None:
                said += made.text
                break
            query = formulate(desk, prompt, said, made, need)
            hits = desk.search(query or desk.ask.question)
            if hits:
                texts = desk.texts(desk.fetch(hits, in_prompt=True))
            else:
                desk.notes.append(f"nothing was found for {query!r}")
            said, left = said + made.text[: need.at].rstrip(), left - need.first
            # The rest of this sentence, written with what was found, stands: the next need is
            # looked for behind it, and so every search brings the answer forward.
            made = yield Request(
                desk.prompt(texts, said),
                max_new_tokens=max(1, left),
                until=over_after_sentence,
                again=True,
            )
            sentence, over = first_sentence(made)
            said, left = said + sentence, left - max(1, len(made.ids))
            if over or (desk.style.reasons and says_answer(said)):
                break
        return (yield from conclude(desk, before_next_question(said), texts, None))


def needed(made: Generated) -> Word | None:
    """The first word whose RIND is above the threshold, None if there is none."""
    return next((word for word, score in rind(made) if score > THRESHOLD), None)


def rind(made: Generated) -> list[tuple[Word, float]]:
    """The words of a generated text with their scores."""
    words = words_of(made.pieces)
    if made.trace is None or made.trace.attention is None or not words:
        return []
    n = len(made.ids)
    own = made.trace.attention[:, -n:]  # [n, T + n] -> [n, n]: from new tokens to new tokens
    most = own.tril(-1).max(dim=0).values.tolist()  # [n]: the most that a later token pays to each
    scored: list[tuple[Word, float]] = []
    for sentence in _by_sentence(made.text, words):
        attention = [sum(most[w.first : w.last]) for w in sentence]
        mean = sum(attention) / len(attention)
        for word, paid in zip(sentence, attention, strict=True):
            unsure = sum(made.trace.entropies[word.first : word.last]) / (word.last - word.first)
            counts = mean > 0 and meaningful(word.text)
            scored.append((word, unsure * paid / mean if counts else 0.0))
    return scored


def formulate(desk: Desk, prompt: tuple[int, ...], said: str, made: Generated, need: Word) -> str:
    """The query: the words before `need` that it attends to most, in the order of the text.

    Words come from the question, from what was said before, and from this text.
    """
    if made.trace is None or made.trace.attention is None:
        return ""
    paid = made.trace.attention[need.first : need.last].mean(dim=0)  # [n, T + n] -> [T + n]
    before = words_of(pieces_of(desk.library.base, prompt))
    text = "".join(pieces_of(desk.library.base, prompt))
    question = ask_text(desk.ask.question)
    asked = text.rfind(question)
    spans = [(asked, asked + len(question)), (len(text) - len(said), len(text))]
    candidates = [
        (w.text, _sum(paid, w.first, w.last))
        for w in before
        if any(low <= w.at + len(w.text) / 2 < high for low, high in spans)
    ]
    T = len(prompt)
    candidates += [
        (w.text, _sum(paid, T + w.first, T + w.last))
        for w in words_of(made.pieces)
        if w.last <= need.first
    ]
    kept = [(i, word, a) for i, (word, a) in enumerate(candidates) if meaningful(word)]
    best = sorted(kept, key=lambda c: (-c[2], c[0]))[:QUERY_WORDS]
    return " ".join(word for _, word, _ in sorted(best))


def words_of(pieces: Sequence[str]) -> list[Word]:
    """Tokens joined to words: a word begins at white space; `at` is where its letters begin."""
    words: list[Word] = []
    at = 0
    for i, piece in enumerate(pieces):
        if not words or piece[:1].isspace() or (i and pieces[i - 1][-1:].isspace()):
            words.append(Word(piece, at, i, i + 1))
        else:
            w = words[-1]
            words[-1] = Word(w.text + piece, w.at, w.first, i + 1)
        at += len(piece)
    return [
        Word(w.text.strip(), w.at + len(w.text) - len(w.text.lstrip()), w.first, w.last)
        for w in words
        if w.text.strip()
    ]


def meaningful(word: str) -> bool:
    """Whether a word is no stop word and holds a letter or digit."""
    bare = word.lower().strip(".,;:!?\"'()[]")
    return any(c.isalnum() for c in bare) and bare not in _stop_words()


@lru_cache(maxsize=1)
def _stop_words() -> frozenset[str]:
    from bm25s.stopwords import STOPWORDS_EN_PLUS

    return frozenset(STOPWORDS_EN_PLUS)


def _by_sentence(text: str, words: Sequence[Word]) -> list[list[Word]]:
    """The words of each sentence, none empty."""
    sentences: list[list[Word]] = []
    end = -1
    for word in words:
        if not sentences or word.at >= end:
            sentences.append([])
            length = sentence_end(text[word.at :])
            end = len(text) if length is None else word.at + length
        sentences[-1].append(word)
    return sentences


def _sum(weights: Tensor, first: int, last: int) -> float:
    return float(weights[first:last].sum())
