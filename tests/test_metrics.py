"""Scores against a second writing of SQuAD's definition, and the rules that cut answers out."""

from __future__ import annotations

import string
from itertools import groupby

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from prag.metrics import exact_match, extract, extract_published, f1, normalise, presence

pytestmark = pytest.mark.fast

ARTICLES = ("a", "an", "the")
WORDS = st.sampled_from(
    [
        "a",
        "An",
        "THE",
        "the-the",
        "yes",
        "No",
        "no.",
        "Paris",
        "paris,",
        "U.S.",
        "1,887",
        "thé",
        "l'an",
        "a’b",
        "_a_",
        "İstanbul",
        "ﬁn",
        "東京",
        "band",
        "?",
        "",
        "\n",
        "e\u0301",
    ]
)
TEXT = st.one_of(st.text(max_size=30), st.lists(WORDS, max_size=8).map(" ".join))


def squad_tokens(text):
    """Lower case; no punctuation; runs of letters and digits that are articles go; white space."""
    kept = "".join(c for c in text.lower() if c not in string.punctuation)
    runs = ("".join(run) for _, run in groupby(kept, str.isalnum))
    return "".join(" " if run in ARTICLES else run for run in runs).split()


def squad_f1(prediction, gold):
    """The harmonic mean of precision and recall over tokens counted as often as both have them."""
    left, right = squad_tokens(prediction), squad_tokens(gold)
    if not left and not right:
        return 1.0
    rest, same = list(right), 0
    for token in left:
        if token in rest:
            rest.remove(token)
            same += 1
    if same == 0:
        return 0.0
    precision, recall = same / len(left), same / len(right)
    return 2 * precision * recall / (precision + recall)


@given(TEXT)
@example("The the A an Apple")
@example("a’b thean the_an")
def test_normalise_is_squads(text):
    assert normalise(text) == " ".join(squad_tokens(text))


@given(TEXT, st.lists(TEXT, max_size=4))
@example("the", ["a"])
@example("no", ["yes", "No."])
@example("Paris Paris", ["Paris", "Paris Paris London"])
def test_scores_are_squads_best_over_the_golds(prediction, golds):
    same = any(squad_tokens(prediction) == squad_tokens(g) for g in golds)
    assert exact_match(prediction, golds) == float(same)
    best = max((squad_f1(prediction, g) for g in golds), default=0.0)
    assert f1(prediction, golds) == pytest.approx(best)


@given(TEXT, TEXT)
def test_scores_are_symmetric_and_in_order(one, other):
    assert f1(one, [other]) == f1(other, [one])
    assert 0.0 <= exact_match(one, [other]) <= f1(one, [other]) <= 1.0
    assert f1(one, [one]) == exact_match(one, [one]) == 1.0


def test_f1_of_known_pairs():
    assert f1("the Harbour Road Library", ["Harbour Library"]) == pytest.approx(0.8)
    assert f1("yes", ["no"]) == 0.0
    assert f1("yes it is", ["yes"]) == pytest.approx(0.5)
    assert f1("anything", []) == exact_match("anything", []) == 0.0
    assert f1("", ["Paris"]) == 0.0
    assert f1("", [""]) == f1("the", ["a!"]) == 1.0


@given(TEXT, TEXT, TEXT)
def test_a_gold_put_into_a_text_is_present(before, gold, after):
    text = f"{before} {gold} {after}"
    assert presence(text, [gold]) == float(bool(squad_tokens(gold)))


@pytest.mark.parametrize(
    ("text", "golds", "there"),
    [
        ("He lived in Parisian houses", ["Paris"], 0.0),
        ("He lived in Paris.", ["Paris"], 1.0),
        ("the population was 15,140", ["15140"], 1.0),
        ("the population was 15,140", ["140"], 0.0),
        ("no one knows", ["no"], 1.0),
        ("nobody knows", ["no"], 0.0),
        ("an answer", ["the"], 0.0),
        ("an answer", [], 0.0),
        ("New old York", ["New York"], 0.0),
        ("New York", ["London", "new york"], 1.0),
    ],
)
def test_presence_is_of_whole_words(text, golds, there):
    assert presence(text, golds) == there


@pytest.mark.parametrize(
    ("raw", "answer"),
    [
        (" J. K. Rowling. He wrote", "J. K. Rowling"),
        (" 15,140.", "15,140"),
        (": Paris\nQuestion: and?", "Paris"),
        (" U.S. Senate. It sits", "U.S. Senate"),
        (' "Clay and Water". It is', "Clay and Water"),
        (" “Clay and Water.” It is", "Clay and Water"),
        (" no. Because", "no"),
        (" yes! Indeed", "yes"),
        (" Dr. Who", "Dr. Who"),
        (" Martin Luther King Jr. was", "Martin Luther King Jr. was"),
        (" 3.5 metres. Or so", "3.5 metres"),
        (" Paris, France", "Paris, France"),
        ("\n\n  Rome \n Milan", "Rome"),
        ("I think that the answer is: Oslo. Yes", "Oslo"),
        ("The answer is Oslo. No, the ANSWER IS Bergen.", "Bergen"),
        ("The answer is", ""),
        ("", ""),
        (" \n\t ", ""),
    ],
)
def test_extract(raw, answer):
    assert extract(raw) == answer


@given(st.text(max_size=80))
def test_extract_takes_any_text_and_gives_a_piece_of_one_line(raw):
    got = extract(raw)
    assert got in raw
    assert got == got.strip()
    assert len(got.splitlines()) <= 1


@given(st.text(alphabet="ab JK.,!?\n", max_size=40))
def test_extract_of_an_extract_is_itself(raw):
    assert extract(extract(raw)) == extract(raw)


@pytest.mark.parametrize(
    ("raw", "thought", "answer"),
    [
        (" J. K. Rowling.", False, "J"),
        (" 15,140.", False, "15"),
        (" Paris\nQuestion", False, "Paris"),
        ("\n Paris", False, "Paris"),
        ("The answer is Rome. So", False, "The answer is Rome"),
        ("He was born. So the answer is Rome. The answer is Oslo", True, "Rome"),
        ("So the answer is: Rome", True, "Rome"),
        ("Rome, so", True, "Rome"),
        ("", True, ""),
    ],
)
def test_extract_published(raw, thought, answer):
    assert extract_published(raw, chain_of_thought=thought) == answer
