"""The measures of an answer, and retrieval measures against their definitions."""

from __future__ import annotations

import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from prag.evaluate.measures import measure, retrieval_measures, rouge_l
from prag.metrics import exact_match, presence, token_scores, token_scores_published
from prag.records import PragError

pytestmark = pytest.mark.fast

WORDS = ["a", "the", "Rome", "rome,", "old", "yes", "no", "12", "é"]
TEXT = st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join)
PASSAGES = [f"p{n}" for n in range(8)]


def longest_common(left, right):
    """The length of the longest common subsequence, by its recursion."""
    if not left or not right:
        return 0
    if left[0] == right[0]:
        return 1 + longest_common(left[1:], right[1:])
    return max(longest_common(left[1:], right), longest_common(left, right[1:]))


def rouge_l_by_definition(answer, gold):
    left, right = (
        "".join(
            c if c in "abcdefghijklmnopqrstuvwxyz0123456789" else " " for c in t.lower()
        ).split()
        for t in (answer, gold)
    )
    return 2 * longest_common(left, right) / (len(left) + len(right)) if left + right else 0.0


@given(TEXT, TEXT, st.lists(TEXT, max_size=3))
def test_measure_is_what_the_metrics_say(raw, answer, golds):
    for rule, tokens in (("squad", token_scores), ("published", token_scores_published)):
        scores = tokens(answer, golds)
        assert measure(raw, answer, golds, rule) == {
            "em": exact_match(answer, golds),
            "f1": scores.f1,
            "precision": scores.precision,
            "recall": scores.recall,
            "presence": presence(raw, golds),
            "rouge_l": rouge_l(answer, golds),
        }
    assert measure(raw, answer, golds) == measure(raw, answer, golds, "squad")


def test_measure_of_a_known_answer():
    got = measure("It is the old Rome. Yes", "the old Rome", ["Rome", "old Milan and Rome"])
    assert got == pytest.approx(
        # Rome: F1 2/3 of 1/2 and 1; the other: 2/3 of 1 and 1/2, which has the higher precision.
        {"em": 0, "f1": 2 / 3, "precision": 1, "recall": 0.5, "presence": 1, "rouge_l": 4 / 7}
    )
    # Presence looks at the whole raw text, the others only at the answer.
    assert measure("Milan. No, Rome", "Milan", ["Rome"])["presence"] == 1.0
    assert measure("Milan. No, Rome", "Milan", ["Rome"])["em"] == 0.0
    assert measure("yes it is", "yes it is", ["yes"], "squad")["f1"] == 0.5
    assert measure("yes it is", "yes it is", ["yes"], "published")["f1"] == 0.0


def test_measure_takes_no_other_rule():
    with pytest.raises(PragError, match=r"'hotpot'.*squad, published"):
        measure("a", "a", ["a"], "hotpot")


@given(TEXT, st.lists(TEXT, max_size=3))
@example("Rome 12", ["12 Rome", "Rome"])
def test_rouge_l_is_its_definition_best_over_the_golds(answer, golds):
    best = max((rouge_l_by_definition(answer, gold) for gold in golds), default=0.0)
    assert rouge_l(answer, golds) == pytest.approx(best)


def test_rouge_l_does_not_stem_and_reads_latin_letters_only():
    assert rouge_l("walking", ["walked"]) == 0.0
    assert rouge_l("東京", ["東京"]) == 0.0
    assert rouge_l("walking", []) == 0.0


RANKINGS = st.lists(st.sampled_from(PASSAGES), unique=True, max_size=8)
CASES = st.dictionaries(
    st.sampled_from(["q1", "q2", "q3"]),
    st.tuples(
        RANKINGS,
        st.sets(st.sampled_from(PASSAGES), min_size=1),
        st.lists(st.sampled_from([0.0, 1.0, 1.0 + 1e-12, -3.0, None]), min_size=8, max_size=8),
    ),
)


@given(CASES)
def test_retrieval_measures_are_their_definitions_in_the_order_given(cases):
    """Whatever the scores are: rising, tied, missing, or apart only beyond single precision."""
    hits = {q: list(zip(found, scores)) for q, (found, _, scores) in cases.items()}  # noqa: B905
    gold = {q: needed for q, (_, needed, _) in cases.items()}
    got = retrieval_measures(hits, gold, depths=(1, 3, 5))
    assert list(got) == ["recall@1", "recall@3", "recall@5", "mrr"]
    for q, (found, needed, _) in cases.items():
        for k in (1, 3, 5):
            share = len(needed.intersection(found[:k])) / len(needed)
            assert got[f"recall@{k}"][q] == pytest.approx(share)
        first = next((1 / n for n, p in enumerate(found, 1) if p in needed), 0.0)
        assert got["mrr"][q] == pytest.approx(first)
    assert all(set(values) == set(cases) for values in got.values())


def test_ties_keep_the_order_given():
    """trec_eval alone would put the larger id first."""
    for order in (["a", "b"], ["b", "a"]):
        hits = {"q": [(p, 7.0) for p in order]}
        got = retrieval_measures(hits, {"q": ["a"]}, depths=[1])
        assert got["recall@1"]["q"] == float(order[0] == "a")
        assert got["mrr"]["q"] == 1 / (1 + order.index("a"))


def test_a_deep_ranking_keeps_its_order():
    hits = {"q": [(f"p{n % 7}-{n}", 0.0) for n in range(5000)]}
    got = retrieval_measures(hits, {"q": ["p3-4791"]}, depths=[4791, 4792])
    assert (got["recall@4791"]["q"], got["recall@4792"]["q"]) == (0.0, 1.0)
    assert got["mrr"]["q"] == pytest.approx(1 / 4792)


def test_only_the_questions_of_gold_are_measured():
    hits = {"q": [("a", 1.0)], "unknown": [("a", 1.0)]}
    assert retrieval_measures(hits, {"q": ["a"]}, [1]) == {
        "recall@1": {"q": 1.0},
        "mrr": {"q": 1.0},
    }
    assert retrieval_measures(hits, {}, [1]) == {"recall@1": {}, "mrr": {}}
    assert retrieval_measures({"q": []}, {"q": ["a"]}, [1])["mrr"] == {"q": 0.0}


@pytest.mark.parametrize(
    ("hits", "gold", "depth", "message"),
    [
        ({"q": []}, {"q": []}, 1, "question q: no gold passages"),
        ({}, {"q": ["a"]}, 1, "question q: no hits"),
        ({"q": [("a", 1.0), ("b", 1.0), ("a", 0.5)]}, {"q": ["a"]}, 1, "passage a is twice"),
        ({"q": []}, {"q": ["a"]}, 0, "recall@0"),
    ],
)
def test_what_cannot_be_measured_is_refused(hits, gold, depth, message):
    with pytest.raises(PragError, match=message):
        retrieval_measures(hits, gold, [depth])


@pytest.mark.parametrize(
    ("library", "act"),
    [
        ("rouge_score.rouge_scorer", lambda: measure("a", "a", ["a"])),
        ("ir_measures", lambda: retrieval_measures({"q": []}, {"q": ["a"]}, [1])),
    ],
)
def test_a_missing_library_is_named_with_its_remedy(monkeypatch, library, act):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(PragError, match=r"pip install 'prag\[eval\]'"):
        act()
