"""The question that a conversation comes to: one that stands alone, to search for and to answer.

The model is asked to write it, after worked examples, and is believed only as far as a rule can
check: all that its question speaks of was spoken of in the conversation, and something of the last
question is in it, and it does not lean on anything itself. Otherwise the question before and what
was answered stand before the last question, for the search and for the model.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from bm25s.stopwords import STOPWORDS_EN_PLUS

from prag.config import GenerateConfig
from prag.generate import Engine, Request
from prag.model import BaseModel
from prag.prompts import text_ids
from prag.serve.asking import Turn

TURNS = 6
"""Of a conversation, the last ones that count."""

MOST = 300
"""Characters of a turn, or of a question that the model writes, that are of use."""

_EXAMPLES = """\
A conversation, and its last question written so that it can be understood alone.

User: Who wrote The Silver Garden?
Assistant: Maria Lind.
User: When was she born?
Alone: When was Maria Lind born?

User: What is the capital of Norland?
Assistant: The capital is Vesper.
User: And how many people live there?
Alone: How many people live in Vesper?

User: Which river flows through Tolm?
Assistant: The Arve.
User: What is the name of the town's mayor?
Alone: What is the name of the mayor of Tolm?

"""
_WORD = re.compile(r"[^\W_]+")
_GOES_ON = re.compile(
    r"\b(he|she|it|they|him|her|his|hers|its|them|their|theirs|this|that|these|those|there|then|"
    r"one|ones|same|other|another|else)\b|^\s*(and|but|or|so|what about|how about)\b",
    re.IGNORECASE,
)


def condense(base: BaseModel, engine: Engine, turns: Sequence[Turn]) -> str:
    """The question to search for and to answer.

    Args:
        turns: of the user and the assistant; the last is the user's.
    """
    last = turns[-1].text.strip()
    before = [t for t in turns[:-1] if t.text.strip()][-TURNS:]
    asked = [i for i, turn in enumerate(before) if turn.role == "user"]
    if not asked or not goes_on(last):
        return last
    names = {"user": "User", "assistant": "Assistant"}
    said = "".join(f"{names[t.role]}: {' '.join(t.text.split())}\n" for t in [*before, turns[-1]])
    ids = tuple(text_ids(base.tokenizer, f"{_EXAMPLES}{said}Alone:"))
    request = Request(ids, max_new_tokens=48, until=lambda text: "\n" in text.lstrip())
    (made,) = engine.generate([request], GenerateConfig())
    alone = made.text.strip().split("\n")[0].strip()
    if _believable(alone, last, before):
        return alone
    return " ".join([*(" ".join(t.text.split())[:MOST] for t in before[asked[-1] :]), last])


def goes_on(question: str) -> bool:
    """Whether a question leans on what was said before it: it has a pronoun, or hardly a word."""
    return len(content(question)) < 2 or _GOES_ON.search(question) is not None


def content(text: str) -> set[str]:
    """The words that carry meaning, in lower case."""
    return {w for w in _WORD.findall(text.lower()) if w not in STOPWORDS_EN_PLUS}


def _believable(alone: str, last: str, before: Sequence[Turn]) -> bool:
    if not alone.endswith("?") or len(alone) > MOST or goes_on(alone):
        return False
    known = content(" ".join(t.text for t in before)) | content(last)
    new = content(alone)
    return new <= known and bool(new & content(last) or not content(last)) and bool(new)
