"""Long texts into passages: whole sentences, packed into chunks of about as many words.

A word is what stands between white space. A chunk is one line: its words joined by one space.
"""

from __future__ import annotations

import re
from itertools import pairwise

from prag.records import PragError

_LONGEST = 1.5  # times `words`: no chunk is longer
_SHORTEST = 0.25  # times `words`: a shorter chunk joins a neighbour where the two fit

_PARAGRAPHS = re.compile(r"\n[^\S\n]*\n\s*")  # a blank line ends a paragraph


def chunk(text: str, words: int = 100) -> list[str]:
    """Split a text into chunks of about `words` words.

    Sentences stay whole: one is added to a chunk while that brings the chunk nearer to `words`.
    Only a sentence of more than 1.5 x `words` words is split, into parts of about equal length.
    A chunk that is at least half full ends with its paragraph when the next paragraph does not
    fit. A chunk of fewer than `words` / 4 words joins the one before it, or else the one behind
    it, where the two together have no more than 1.5 x `words` words.

    Args:
        text: paragraphs separated by blank lines; other white space only separates words.
        words: the length aimed at, at least 1.

    Returns:
        The chunks in order; joined by a space they give the text's words, none lost. A text of
        no more than `words` words is one chunk, an empty text none.

    Raises:
        PragError: `words` is below 1.
    """
    if words < 1:
        raise PragError(f"a chunk has at least 1 word, not {words}")
    longest = int(_LONGEST * words)
    chunks: list[list[str]] = []
    current: list[str] = []
    for paragraph in _PARAGRAPHS.split(text):
        pieces = _pieces(paragraph, words, longest)
        size = sum(len(piece) for piece in pieces)
        if 2 * len(current) >= words and len(current) + size > words:
            chunks.append(current)
            current = []
        for piece in pieces:
            if current and not _fits(len(current), len(piece), words, longest):
                chunks.append(current)
                current = []
            current += piece
    if current:
        chunks.append(current)
    return [" ".join(part) for part in _join_short(chunks, _SHORTEST * words, longest)]


def _fits(have: int, more: int, words: int, longest: int) -> bool:
    """Whether `more` words bring a chunk of `have` words nearer to `words`, within `longest`."""
    return have + more <= longest and have + more - words <= abs(words - have)


def _pieces(paragraph: str, words: int, longest: int) -> list[list[str]]:
    """The sentences of a paragraph as lists of words, those over `longest` words split."""
    pieces = []
    for sentence in _sentences(paragraph):
        if len(sentence) <= longest:
            pieces.append(sentence)
            continue
        parts = -(-len(sentence) // words)
        edges = [len(sentence) * i // parts for i in range(parts + 1)]
        pieces += [sentence[a:b] for a, b in pairwise(edges)]
    return pieces


def _sentences(paragraph: str) -> list[list[str]]:
    """The sentences of a paragraph, each a list of words."""
    from sentencex import segment

    # Single spaces first: sentencex panics on some white space of more than one byte (a
    # no-break space or U+2028 behind a capital letter), and the words are what counts.
    line = " ".join(paragraph.split())
    sentences: list[list[str]] = []
    begun = ""
    for part in segment("en", line):
        begun += part
        # A boundary inside a word ("end.Next") would put a space there: it is passed over.
        if begun.endswith(" "):
            sentences.append(begun.split())
            begun = ""
    if begun:
        sentences.append(begun.split())
    return sentences


def _join_short(chunks: list[list[str]], shortest: float, longest: int) -> list[list[str]]:
    """Chunks of fewer than `shortest` words joined to the one before, or else the one behind."""
    joined: list[list[str]] = []
    for part in chunks:
        short = len(part) < shortest or (joined and len(joined[-1]) < shortest)
        if joined and short and len(joined[-1]) + len(part) <= longest:
            joined[-1] = joined[-1] + part
        else:
            joined.append(part)
    return joined
