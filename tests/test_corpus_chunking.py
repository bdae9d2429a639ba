"""Chunking: no word is lost, sizes are bounded, sentences and paragraphs stay whole."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prag.corpus import chunk
from prag.records import PragError

pytestmark = pytest.mark.fast

_WORD = st.one_of(
    st.sampled_from(["a", "Dr.", "end.", "Next", "no!", "Why?", "3.5", "(see", "A", "U.S.", "。"]),
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=6),
)
_GAP = st.sampled_from([" ", " ", "  ", "\n", "\n\n", "\n \n", "\t", "\u00a0", "\u2028", "\x85"])
_TEXTS = st.lists(st.tuples(_WORD, _GAP), max_size=120).map(
    lambda pairs: "".join(word + gap for word, gap in pairs)
)


def sentence(words: int, first: str = "It") -> str:
    return " ".join([first, *["word"] * (words - 2), "end."])


@given(_TEXTS, st.integers(1, 30))
def test_no_word_is_lost_and_order_is_kept(text: str, words: int) -> None:
    chunks = chunk(text, words)
    assert " ".join(chunks).split() == text.split()
    assert all(part == " ".join(part.split()) for part in chunks)
    assert chunks == chunk(text, words)


@given(_TEXTS, st.integers(1, 30))
def test_sizes_are_bounded(text: str, words: int) -> None:
    sizes = [len(part.split()) for part in chunk(text, words)]
    assert all(1 <= size <= 1.5 * words for size in sizes)
    for before, size in pairwise(sizes):
        assert size >= words / 4 or before + size > int(1.5 * words)


@given(_TEXTS, st.integers(1, 30))
def test_a_small_text_is_one_chunk_and_chunking_it_again_changes_nothing(
    text: str, words: int
) -> None:
    small = " ".join(text.split()[:words])
    chunks = chunk(small, words)
    assert chunks == ([small] if small else [])
    assert [again for part in chunks for again in chunk(part, words)] == chunks


def test_sentences_stay_whole() -> None:
    text = " ".join(sentence(30) for _ in range(10))
    assert [len(part.split()) for part in chunk(text, 100)] == [90, 90, 90, 30]
    assert all(part.endswith("end.") for part in chunk(text, 100))


def test_a_chunk_ends_with_its_paragraph_when_the_next_does_not_fit() -> None:
    first = " ".join(sentence(20) for _ in range(3))
    second = " ".join(sentence(20, "Then") for _ in range(3))
    assert chunk(f"{first}\n\n{second}", 100) == [first, second]
    assert chunk(f"{first} {second}", 100) != [first, second]


def test_a_long_sentence_is_split_into_equal_parts() -> None:
    assert [len(part.split()) for part in chunk(sentence(151), 100)] == [75, 76]
    assert [len(part.split()) for part in chunk(sentence(150), 100)] == [150]


def test_a_short_last_chunk_joins_the_one_before() -> None:
    text = " ".join([sentence(50), sentence(50), sentence(24)])
    assert [len(part.split()) for part in chunk(text, 100)] == [124]
    text = " ".join([sentence(50), sentence(50), sentence(25)])
    assert [len(part.split()) for part in chunk(text, 100)] == [100, 25]


def test_a_boundary_inside_a_word_does_not_break_it() -> None:
    assert chunk("First end.Next one.", 2) == ["First end.Next one."]
    assert chunk("該当。次。 more", 1) == ["該当。次。", "more"]


def test_white_space_of_several_bytes_behind_an_initial() -> None:
    text = "By A\u2028. Then J.\u00a0K. Rowling A\x85. left."
    assert chunk(text) == ["By A . Then J. K. Rowling A . left."]


def test_less_than_one_word_is_refused() -> None:
    with pytest.raises(PragError, match="at least 1 word"):
        chunk("text", 0)
