"""Which questions offer their answers, told by their form."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prag.methods.offered import offers_answers

pytestmark = pytest.mark.fast

OFFERED = [
    "Is Calver older than Brixo?",
    "are both mills in Moria",
    "The mill burned down. Did the mint burn down too?",
    "Isn't Velan on the Ossa?",
    "Does the man who built Calver live in Velan?",
    "Which is older, the mill or the mint?",
    "Which is older the mill or the mint ?",
    "Who was born first, Ada Fowl or Ben Crow?",
    "Who is the taller: Ada Fowl or Ben Crow?",
    "Which of the two mills burned down?",
    "Were the mill and the mint built in the same year?",
]
ASKED = [
    "Who built the mill?",
    "In what year was the mill built?",
    "What is the Ossa or Osse called in Moria?",
    "Where is the Temple of the Two Rivers?",
    "Who wrote Right or Wrong?",
    "Did the mill burn down in what year?",
    "Is the mill in which town?",
    "Was it the mill? Who built it?",
    "The island of Merrow is where?",
    "Island of Merrow: who owns it?",
    "Candle makers used which wax?",
    "",
    "?",
]


@pytest.mark.parametrize("question", OFFERED)
def test_these_offer_their_answers(question):
    assert offers_answers(question)


@pytest.mark.parametrize("question", ASKED)
def test_these_do_not(question):
    assert not offers_answers(question)


@given(st.sampled_from(OFFERED + ASKED[:-2]), st.sampled_from(["", " ", "  \n"]))
def test_white_space_does_not_matter(question, space):
    spread = space + question.replace(" ", " " + space) + space
    assert offers_answers(spread) == offers_answers(question)


@given(st.text(max_size=300))
def test_any_text_is_told(text):
    assert offers_answers(text) in (True, False)
