"""Which generated pairs are kept. Everything else is a `Reject` with its reason."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from prag.metrics import normalise
from prag.records import Passage, QAPair, Reject

MAX_QUESTION_WORDS = 40
MAX_ANSWER_WORDS = 25
_STOP = frozenset(
    re.findall(
        r"\w+",
        "a an the of in on at to for from by with and or is was are were be been did do does has "
        "have had what which who whom whose when where why how many much name it its he she his "
        "her they their this that these those there as into during about after before first",
    )
)


def ungrounded(pair: QAPair, passage: Passage) -> str | None:
    """Why a pair is not grounded in its passage, or None if it is.

    The answer stands in the passage (after normalisation), not in the question; the question
    names something of the passage (a content word of its title or text) and is a question.
    """
    question, answer = normalise(pair.question), normalise(pair.answer)
    if not pair.question.rstrip().endswith("?") or len(question.split()) < 3:
        return "not a question"
    if len(question.split()) > MAX_QUESTION_WORDS:
        return f"question of more than {MAX_QUESTION_WORDS} words"
    if not answer:
        return "no answer"
    if len(answer.split()) > MAX_ANSWER_WORDS:
        return f"answer of more than {MAX_ANSWER_WORDS} words"
    whole = normalise(f"{passage.title} {passage.text}")
    if f" {answer} " not in f" {whole} ":
        return "answer not in the passage"
    if f" {answer} " in f" {question} ":
        return "answer in the question"
    if not (set(question.split()) - _STOP) & (set(whole.split()) - _STOP):
        return "question names nothing of the passage"
    return None


def keep_new(
    pair: QAPair, passage: Passage, kept: Sequence[QAPair], *, grounded: bool
) -> Reject | None:
    """Why a pair is not taken beside those that are kept already, or None if it is."""
    shown = f"{pair.question} -> {pair.answer}"
    if grounded and (reason := ungrounded(pair, passage)):
        return Reject(shown, reason)
    if any(normalise(pair.question) == normalise(k.question) for k in kept):
        return Reject(shown, "question asked before")
    return None


def take(
    pairs: Iterable[QAPair],
    passage: Passage,
    most: int,
    kept: list[QAPair],
    rejects: list[Reject],
    *,
    grounded: bool,
) -> None:
    """Add pairs to those kept until there are `most`, and what is not taken to the rejects."""
    for pair in pairs:
        if len(kept) == most:
            return
        reject = keep_new(pair, passage, kept, grounded=grounded)
        if reject is None:
            kept.append(pair)
        else:
            rejects.append(reject)


def no_span(passage: Passage) -> Reject:
    """What is told of a passage in which nothing can be an answer."""
    return Reject(passage.title, "no span of the passage can be an answer")


def parse_pairs(text: str) -> list[QAPair]:
    """The pairs of a JSON list with `question`, `answer` and `full_answer`.

    List answers are joined by ", ", numbers become strings, null becomes "Unknown", as the
    published code does. Text around the list is passed over.

    Raises:
        ValueError: no JSON list, an empty one, or an element that has not the three fields.
    """
    reason = "no JSON list"
    decoder = json.JSONDecoder()
    for start in (m.start() for m in re.finditer(r"\[", text)):
        try:
            data, _ = decoder.raw_decode(text, start)
            if pairs := [pair_of(item) for item in data]:
                return pairs
            raise ValueError("an empty list")
        except RecursionError:
            raise ValueError("lists within lists without end") from None
        except ValueError as error:
            if reason == "no JSON list":  # the first list's fault is the one to tell
                reason = (
                    f"not JSON: {error}" if isinstance(error, json.JSONDecodeError) else str(error)
                )
    raise ValueError(reason)


def pair_of(item: Any) -> QAPair:
    """One element of such a list.

    Raises:
        ValueError: it is no object, or lacks a field, or a field is empty.
    """
    if not isinstance(item, dict):
        raise ValueError(f"an element of the list is {item!r}, not an object")
    values = {}
    for key in ("question", "answer", "full_answer"):
        if key not in item:
            raise ValueError(f"an element has no field {key!r}")
        values[key] = _as_text(item[key])
        if not values[key]:
            raise ValueError(f"an element's {key!r} is empty")
    return QAPair(**values)


def _as_text(value: Any) -> str:
    if value is None:
        return "Unknown"
    if isinstance(value, list):
        return ", ".join(_as_text(v) for v in value)
    if isinstance(value, dict):
        raise ValueError(f"a field is an object: {value!r}")
    return whole_text(str(value).strip())


def whole_text(text: str) -> str:
    """The text itself.

    Raises:
        ValueError: it has half of a surrogate pair (JSON can escape one), which no file can hold.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"a text is no Unicode text: {error}") from None
    return text
