"""Every text the model is given, and which of its tokens are trained on.

The structure of the prompts is the paper's (section 3.2 and its published code), the wording is
this project's and can be replaced by a recipe (`config.Wording`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prag.config import TrainConfig, Wording
from prag.records import ID_LENGTH, Augmentation, Passage, PragError, QAPair
from prag.worked_examples import WORKED

REASONING_LEAD = "Answer:"
"""What the assistant's turn begins with where it reasons first (METHOD, 2)."""


@dataclass(frozen=True)
class Example:
    """One training sequence: token ids [T], and the first position whose token is learnt.

    Tokens `learn_from` .. T-1 carry loss, each predicted from those before it.
    """

    ids: tuple[int, ...]
    learn_from: int


@dataclass(frozen=True)
class Lesson:
    """All that the adapter of one passage is trained on, in order."""

    passage_id: str
    examples: tuple[Example, ...]

    @property
    def digest(self) -> str:
        """16 hex digits of the tokens: an adapter whose lesson has changed is out of date."""
        text = ";".join(f"{e.learn_from}:{','.join(map(str, e.ids))}" for e in self.examples)
        return hashlib.sha256(text.encode()).hexdigest()[:ID_LENGTH]

    @property
    def tokens(self) -> int:
        """Tokens of all its examples, once."""
        return sum(len(e.ids) for e in self.examples)


@dataclass(frozen=True)
class Style:
    """How an answer is asked for.

    `lead` is what the assistant's turn begins with. With worked `examples` (each a question and
    the reasoning that answers it) the model is to reason before it answers.
    """

    lead: str
    examples: str = ""

    @property
    def reasons(self) -> bool:
        """Whether the answer comes after a chain of thought."""
        return bool(self.examples)


def style_named(name: str, wording: Wording) -> Style:
    """`direct`, or few-shot chain of thought with the worked examples of a question set.

    Raises:
        PragError: there are no worked examples of that name.
    """
    if name == "direct":
        return Style(wording.answer_lead)
    if name not in WORKED:
        raise PragError(f"no style {name!r}: use direct, {', '.join(WORKED)}")
    examples = "".join(
        f"Question: {ask_text(e.question)}\n{REASONING_LEAD} {e.reasoning}\n\n"
        for e in WORKED[name]
    )
    return Style(REASONING_LEAD, examples)


def ask_text(question: str) -> str:
    """The question, stripped, ending in exactly one question mark."""
    return re.sub(r"[\s?]+\Z", "", question).lstrip() + "?"


def user_turn(question: str, passages: Sequence[str], wording: Wording, examples: str = "") -> str:
    """The instruction, worked examples and numbered passages if any, a blank line, the question.

    Args:
        passages: the passages' texts as `passage_text` gives them.
        examples: of a `Style`.
    """
    lines = "".join(f"Passage {i}: {text}\n" for i, text in enumerate(passages, start=1))
    return f"{wording.instruction}\n{examples}{lines}\nQuestion: {ask_text(question)}"


def assistant_turn(pair: QAPair, style: Style) -> str:
    """What the assistant is trained to say: the lead, the answer, a full stop.

    The answer is the short one, or with reasoning the whole one (METHOD, 2).
    """
    answer = (pair.full_answer if style.reasons else pair.answer).strip()
    return f"{style.lead} {answer}" + ("" if answer.endswith(".") else ".")


def passage_text(passage: Passage, wording: Wording) -> str:
    """A passage on one line, as the wording says: `{text}` alone or with its `{title}`.

    A title that is empty, or that the text begins with, is not put before it.
    """
    title, text = " ".join(passage.title.split()), " ".join(passage.text.split())
    if not title or text.startswith(title):
        return text
    return wording.passage.format(title=title, text=text)


def question_ids(
    tokenizer: Any,
    question: str,
    passages: Sequence[str],
    wording: Wording,
    style: Style,
    said: str = "",
) -> list[int]:
    """The prompt of a question: the user's turn, and the lead of the assistant's answer.

    The lead is the same that training sequences have, so that all methods answer in the place
    where the adapters have learnt to.

    Args:
        said: what the assistant has said already, to be continued.
    """
    turn = chat_ids(tokenizer, user_turn(question, passages, wording, style.examples))
    return turn + text_ids(tokenizer, style.lead + said)


def lesson(
    tokenizer: Any,
    passage: Passage,
    augmentation: Augmentation,
    train: TrainConfig,
    wording: Wording,
) -> Lesson:
    """The training sequences of a passage.

    `paper`: with n pairs, the first (n + 1) // 2 give one sequence with the passage in the
    prompt and one for each rewrite, the others one sequence with no passage (METHOD, 2).
    `closed-book`: one sequence a pair, with no passage.

    Raises:
        PragError: the end of a turn is to be learnt, and the tokenizer has no token for it.
    """
    text = passage_text(passage, wording)
    style = style_named(train.style, wording)
    contexts: list[tuple[QAPair, list[str]]] = []  # a pair, and the passages in its prompt
    opened = (len(augmentation.pairs) + 1) // 2 if train.sequences == "paper" else 0
    for index, pair in enumerate(augmentation.pairs):
        if index < opened:
            for version in (text, *augmentation.rewrites):
                contexts.append((pair, [version]))
        else:
            contexts.append((pair, []))
    examples = []
    end = [_end_of_turn(tokenizer)] if train.end else []
    for pair, passages in contexts:
        turn = user_turn(pair.question, passages, wording, style.examples)
        prompt = chat_ids(tokenizer, turn)
        said = text_ids(tokenizer, assistant_turn(pair, style)) + end
        learn_from = 1 if train.loss == "all" else len(prompt)
        examples.append(Example(tuple(prompt + said), learn_from))
    return Lesson(passage.id, tuple(examples))


def _end_of_turn(tokenizer: Any) -> int:
    end: int | None = tokenizer.eos_token_id
    if end is None:
        raise PragError(
            "the model's tokenizer has no end token: set tokenizer.eos_token in the model's "
            "folder, or train.end = false in the recipe"
        )
    return end


def chat_ids(tokenizer: Any, user: str) -> list[int]:
    """The chat template of one user turn, up to where the assistant begins; no system turn.

    Raises:
        PragError: the tokenizer has no chat template.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise PragError(
            "the model's tokenizer has no chat template: use an instruction-tuned model, or set "
            "tokenizer.chat_template in the model's folder"
        )
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": user}], tokenize=False, add_generation_prompt=True
    )
    return text_ids(tokenizer, text)


def text_ids(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a text, without special tokens added."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
