"""The packaged texts keep what the prompts and the evaluation count on."""

from __future__ import annotations

import re

import pytest

from prag.augment.checks import pair_of
from prag.evaluate import texts
from prag.evaluate.texts import format_passages, general_questions, held_paragraphs
from prag.metrics import extract, extract_published, normalise, presence
from prag.records import PragError
from prag.worked_examples import WORKED

pytestmark = pytest.mark.fast

EXAMPLES = [example for examples in WORKED.values() for example in examples]


def words(*texts):
    return len(" ".join(texts).split())


def holds(text, part):
    """Whether the part stands in the text as it is written, not within a longer word."""
    return re.search(rf"(?<!\w){re.escape(part)}(?!\w)", text) is not None


def test_worked_examples_are_as_many_as_the_paper_shows():
    assert {name: len(examples) for name, examples in WORKED.items()} == {
        "2wikimultihopqa": 8,
        "hotpotqa": 11,
    }
    assert len({example.question for example in EXAMPLES}) == len(EXAMPLES)


@pytest.mark.parametrize("name", WORKED)
def test_worked_examples_are_short(name):
    lengths = [words(e.question, e.reasoning) for e in WORKED[name]]
    assert max(lengths) <= 45
    assert 30 <= sum(lengths) / len(lengths) <= 40


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: e.question[:40])
def test_a_worked_example_leads_to_its_answer(example):
    steps, lead, end = example.reasoning.partition(" So the answer is ")
    assert lead
    assert end.endswith(".")
    answer = end[:-1]
    assert 1 <= words(answer) <= 4
    assert 1 <= len(re.findall(r"\.(?= |$)", steps)) <= 3
    assert example.question.endswith("?")
    assert "  " not in example.question + example.reasoning
    if answer not in ("yes", "no"):
        assert presence(steps, [answer])
    # Both rules that cut an answer out of generated text find this one.
    assert extract(example.reasoning) == answer
    assert extract_published(example.reasoning, chain_of_thought=True) == answer


@pytest.mark.parametrize("name", WORKED)
def test_worked_examples_say_yes_once_and_no_once(name):
    answers = [extract(example.reasoning) for example in WORKED[name]]
    assert sorted(a for a in answers if a in ("yes", "no")) == ["no", "yes"]
    assert len(set(answers)) == len(answers)


def test_general_questions_are_fifty_and_distinct():
    questions = general_questions()
    assert [q.id for q in questions] == [f"g{i:02}" for i in range(1, 51)]
    assert len({q.text for q in questions}) == 50
    assert {q.kind for q in questions} == {"general"}
    assert {q.gold_passages for q in questions} == {()}


@pytest.mark.parametrize("question", general_questions(), ids=lambda q: q.id)
def test_a_general_question_has_answers_that_it_does_not_hold(question):
    assert question.text.endswith("?")
    assert question.golds
    forms = [normalise(gold) for gold in question.golds]
    assert all(forms)
    assert len(set(forms)) == len(forms)
    assert not presence(question.text, question.golds)


def test_a_number_is_golden_in_digits_and_in_words():
    digits = [q for q in general_questions() if any(g.isdecimal() for g in q.golds)]
    assert len(digits) == 12
    assert all(any(g.isalpha() for g in q.golds) for q in digits)


def test_held_text_is_eight_paragraphs_of_about_85_words():
    paragraphs = held_paragraphs()
    assert len(set(paragraphs)) == len(paragraphs) == 8
    assert all(80 <= words(p) <= 95 for p in paragraphs)
    assert 660 <= words(*paragraphs) <= 740
    assert all("\n" not in p and "  " not in p and p == p.strip() for p in paragraphs)


def test_format_passages_are_twelve_and_distinct():
    passages = [passage for passage, _ in format_passages()]
    assert len(passages) == 12
    assert len({p.id for p in passages}) == 12
    for one in passages:
        inside = [p.title for p in passages if p is not one and p.title in one.title + one.text]
        assert not inside, f"{one.title} speaks of {inside}"
    questions = [pair.question for _, made in format_passages() for pair in made.pairs]
    assert len(set(questions)) == len(questions) == 60


@pytest.mark.parametrize(("passage", "made"), format_passages(), ids=lambda x: getattr(x, "id", ""))
def test_a_format_passage_holds_its_answers(passage, made):
    assert made.passage_id == passage.id
    assert made.origin == "packaged:format"
    assert made.rejects == ()
    (rewrite,) = made.rewrites
    assert rewrite != passage.text
    assert 40 <= words(passage.text) <= 80
    assert 40 <= words(rewrite) <= 80
    assert passage.title in passage.text
    assert passage.title in rewrite
    assert len(made.pairs) == 5
    for pair in made.pairs:
        assert pair_of(vars(pair)) == pair  # what generated pairs are held to
        assert pair.question.endswith("?")
        assert 1 <= words(pair.answer) <= 4
        # "the Ystrel" stands in the text as "The Ystrel" too.
        bare = pair.answer.removeprefix("the ")
        assert holds(passage.text, bare), pair
        assert holds(rewrite, bare), pair
        assert holds(pair.full_answer, bare), pair
        assert pair.full_answer.endswith(".")


def test_format_years_and_numbers_stand_in_text_and_rewrite_alike():
    for passage, made in format_passages():
        numbers = re.compile(r"\d[\d,]*\d|\d")
        assert set(numbers.findall(made.rewrites[0])) <= set(numbers.findall(passage.text))


def test_a_missing_file_is_named():
    with pytest.raises(PragError, match=r"evaluate/data/none\.txt is missing.*install prag"):
        texts._read("none.txt")
