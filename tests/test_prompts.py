"""Every text the model is given, read back from the byte tokenizer."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from conftest import byte_tokenizer
from prag.config import PAPER, SMALL, TrainConfig, Wording
from prag.prompts import (
    Example,
    Lesson,
    ask_text,
    assistant_turn,
    chat_ids,
    lesson,
    passage_text,
    question_ids,
    style_named,
    user_turn,
)
from prag.records import Augmentation, Passage, PragError, QAPair

pytestmark = pytest.mark.fast

TOKENIZER = byte_tokenizer()
PASSAGE = Passage("Krog Light", "A lighthouse of\nstone, built in 1887.")
FLAT = "A lighthouse of stone, built in 1887."
WORDING = Wording(instruction="Answer.")
DIRECT = style_named("direct", WORDING)
REASONING = style_named("2wikimultihopqa", WORDING)


def augmentation(pairs, rewrites=("Built in 1887, of stone.",)):
    made = tuple(QAPair(f"q{i} ?? ", f"answer {i}", f"full {i}") for i in range(pairs))
    return Augmentation(PASSAGE.id, rewrites, made, "test")


def texts(one):
    return [TOKENIZER.decode(e.ids) for e in one.examples]


def sequence(question, answer, passage=None):
    """METHOD's sequence, written out."""
    shown = f"Passage 1: {passage}\n" if passage else ""
    user = f"Answer.\n{shown}\nQuestion: {question}?"
    return f"<s>user\n{user}</s><s>assistant\nThe answer is {answer}."


@pytest.mark.parametrize(
    ("pairs", "order"),
    [
        (0, ""),
        (1, "0o 0r"),
        (2, "0o 0r 1-"),
        (3, "0o 0r 1o 1r 2-"),
        (4, "0o 0r 1o 1r 2- 3-"),
        (5, "0o 0r 1o 1r 2o 2r 3- 4-"),
    ],
)
def test_the_papers_sequences_in_their_order(pairs, order):
    """METHOD, 2: the first (n + 1) // 2 with the passage and with the rewrite, the others bare."""
    made = augmentation(pairs)
    shown = {"o": FLAT, "r": made.rewrites[0], "-": None}
    expected = [sequence(f"q{i}", f"answer {i}", shown[kind]) for i, kind in order.split()]
    one = lesson(TOKENIZER, PASSAGE, made, PAPER.train, WORDING)
    assert texts(one) == expected
    assert one.passage_id == PASSAGE.id
    assert one.tokens == sum(len(e.ids) for e in one.examples)
    assert all(e.learn_from == 1 for e in one.examples)  # METHOD, 3: all tokens


def test_without_a_rewrite_only_the_passage_is_shown():
    one = lesson(TOKENIZER, PASSAGE, augmentation(2, rewrites=()), PAPER.train, WORDING)
    assert texts(one) == [sequence("q0", "answer 0", FLAT), sequence("q1", "answer 1")]


def test_two_rewrites_are_both_shown():
    one = lesson(TOKENIZER, PASSAGE, augmentation(1, rewrites=("x", "y")), PAPER.train, WORDING)
    assert texts(one) == [sequence("q0", "answer 0", shown) for shown in (FLAT, "x", "y")]


def test_closed_book_shows_no_passage():
    one = lesson(TOKENIZER, PASSAGE, augmentation(3), SMALL.train, WORDING)
    end = TOKENIZER.eos_token
    assert texts(one) == [sequence(f"q{i}", f"answer {i}") + end for i in range(3)]


@pytest.mark.parametrize("sequences", ["paper", "closed-book"])
def test_answer_loss_learns_the_assistants_turn(sequences):
    train = TrainConfig(sequences=sequences, loss="answer")
    one = lesson(TOKENIZER, PASSAGE, augmentation(3), train, WORDING)
    for i, e in zip(
        (0, 0, 1, 1, 2) if sequences == "paper" else (0, 1, 2), one.examples, strict=True
    ):
        assert TOKENIZER.decode(e.ids[e.learn_from :]) == f"The answer is answer {i}."
        assert TOKENIZER.decode(e.ids[: e.learn_from]).endswith("<s>assistant\n")


@pytest.mark.parametrize("sequences", ["paper", "closed-book"])
@pytest.mark.parametrize("loss", ["all", "answer"])
def test_the_end_of_the_turn_is_learnt_where_a_recipe_says_so(sequences, loss):
    train = TrainConfig(sequences=sequences, loss=loss)
    plain = lesson(TOKENIZER, PASSAGE, augmentation(3), train, WORDING)
    ended = lesson(TOKENIZER, PASSAGE, augmentation(3), replace(train, end=True), WORDING)
    assert ended.examples == tuple(
        Example((*e.ids, TOKENIZER.eos_token_id), e.learn_from) for e in plain.examples
    )


def test_a_tokenizer_without_an_end_token_cannot_teach_it():
    tokenizer = byte_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(PragError, match=r"train\.end = false"):
        lesson(tokenizer, PASSAGE, augmentation(1), TrainConfig(end=True), WORDING)


def test_no_system_turn_and_no_end_token():
    tokenizer = byte_tokenizer()
    seen = []
    apply = tokenizer.apply_chat_template
    tokenizer.apply_chat_template = lambda turns, **kw: (seen.append(turns), apply(turns, **kw))[1]
    one = lesson(tokenizer, PASSAGE, augmentation(3), PAPER.train, WORDING)
    question_ids(tokenizer, "Who", [], WORDING, DIRECT)
    assert len(seen) == 6
    assert all([turn["role"] for turn in turns] == ["user"] for turns in seen)
    assert all(e.ids[-1] != tokenizer.eos_token_id for e in one.examples)
    # Only the template's own special tokens: the tokenizer adds none.
    assert all(e.ids.count(tokenizer.bos_token_id) == 2 for e in one.examples)


@pytest.mark.parametrize("recipe", [PAPER, SMALL])
@pytest.mark.parametrize("question", ["q0", " q0?", "q0 ? ?"])
def test_a_question_is_asked_where_training_has_its_answer(recipe, question):
    """Its prompt is the trained sequence up to the answer: same turn, same lead, token by token."""
    one = lesson(TOKENIZER, PASSAGE, augmentation(1), recipe.train, recipe.wording)
    shown = [passage_text(PASSAGE, recipe.wording)] if recipe is PAPER else []
    style = style_named(recipe.train.style, recipe.wording)
    prompt = question_ids(TOKENIZER, question, shown, recipe.wording, style)
    trained = list(one.examples[0].ids)
    assert trained[: len(prompt)] == prompt
    end = TOKENIZER.eos_token if recipe.train.end else ""
    assert TOKENIZER.decode(trained[len(prompt) :]) == f" answer 0.{end}"
    assert TOKENIZER.decode(prompt).endswith(recipe.wording.answer_lead)


@given(st.text(max_size=20))
@example("Who\u00a0?")
@example("Who?\u2003? ?")
@example("")
def test_a_question_ends_in_one_mark(question):
    asked = ask_text(question)
    assert asked.endswith("?")
    assert asked == asked.strip()
    assert asked[:-1] == asked[:-1].rstrip()
    assert not asked[:-1].endswith("?")
    assert ask_text(asked) == asked
    assert asked[:-1] in question


def test_passages_are_numbered_lines():
    assert user_turn("Who", ["one", "two"], WORDING) == (
        "Answer.\nPassage 1: one\nPassage 2: two\n\nQuestion: Who?"
    )
    assert user_turn("Who", [], WORDING) == "Answer.\n\nQuestion: Who?"


@pytest.mark.parametrize(("answer", "said"), [("Rome", "Rome."), (" Rome. ", "Rome."), ("7", "7.")])
def test_what_the_assistant_says_ends_in_one_full_stop(answer, said):
    pair = QAPair("q", answer, f"It is {answer}")
    assert assistant_turn(pair, DIRECT) == f"The answer is {said}"
    assert assistant_turn(pair, REASONING) == f"Answer: It is {answer}".rstrip(" .") + "."


def test_reasoning_stands_after_worked_examples_before_the_passages():
    """METHOD, 2: few-shot examples, then the passages, then the question; the whole answer."""
    train = replace(PAPER.train, style="2wikimultihopqa")
    one = lesson(TOKENIZER, PASSAGE, augmentation(1), train, WORDING)
    first = texts(one)[0]
    worked = first.index("Question: ")
    assert first.index("Answer.") < worked < first.index(f"Passage 1: {FLAT}")
    assert first.index("Passage 1: ") < first.index("Question: q0?")
    assert first.count("\nAnswer: ") == 8 + 1
    assert first.endswith("assistant\nAnswer: full 0.")
    assert first.count("So the answer is") == 8
    prompt = question_ids(TOKENIZER, "q0", [FLAT], WORDING, REASONING)
    assert list(one.examples[0].ids)[: len(prompt)] == prompt


def test_what_was_said_is_continued():
    prompt = question_ids(TOKENIZER, "Who", [], WORDING, DIRECT)
    more = question_ids(TOKENIZER, "Who", [], WORDING, DIRECT, " Ada")
    assert more[: len(prompt)] == prompt
    assert TOKENIZER.decode(more[len(prompt) :]) == " Ada"


def test_no_such_style():
    with pytest.raises(PragError, match="use direct, 2wikimultihopqa, hotpotqa"):
        style_named("sideways", WORDING)


@pytest.mark.parametrize(
    ("title", "text", "shown"),
    [
        ("Velan", "A river\n\nof  Italy.", "Velan: A river of Italy."),
        ("Velan", "Velan is a river.", "Velan is a river."),
        ("", "A river.", "A river."),
        (" \n", "A river.", "A river."),
        ("Two\nlines", "A river.", "Two lines: A river."),
        ("{text} {x}", "A {river}.", "{text} {x}: A {river}."),
    ],
)
def test_a_passage_on_one_line_with_its_title(title, text, shown):
    passage = Passage(title, text)
    assert passage_text(passage, Wording(passage="{title}: {text}")) == shown
    assert passage_text(passage, Wording()) == " ".join(text.split())


def test_the_digest_changes_with_every_token():
    one = Lesson("p", (Example((1, 2, 3), 1), Example((4, 5), 1)))
    others = [
        Lesson("p", (Example((1, 2, 3), 1), Example((4, 5), 2))),
        Lesson("p", (Example((4, 5), 1), Example((1, 2, 3), 1))),
        Lesson("p", (Example((1, 2, 3, 4, 5), 1),)),
        Lesson("p", (Example((1, 2), 1), Example((3, 4, 5), 1))),
        Lesson("p", (Example((12, 3), 1), Example((4, 5), 1))),
        Lesson("p", (Example((1, 2, 3), 1),)),
    ]
    for e, i in [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]:
        changed = [list(x.ids) for x in one.examples]
        changed[e][i] += 10
        others.append(Lesson("p", tuple(Example(tuple(ids), 1) for ids in changed)))
    digests = {one.digest, *(o.digest for o in others)}
    assert len(digests) == 1 + len(others)
    assert replace(one, passage_id="q").digest == one.digest
    assert len(one.digest) == 16


def test_a_tokenizer_without_a_chat_template_is_refused():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(PragError, match="no chat template: use an instruction-tuned model"):
        chat_ids(tokenizer, "Who?")
