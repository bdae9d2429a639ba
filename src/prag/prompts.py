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
from prag.records import ID_LENGTH, Augmentation, Passage, PragError


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


def ask_text(question: str) -> str:
    """The question, stripped, ending in exactly one question mark."""
    return re.sub(r"[\s?]+\Z", "", question).lstrip() + "?"


def user_turn(question: str, passages: Sequence[str], wording: Wording) -> str:
    """The instruction, the passages as numbered lines if any, a blank line, the question.

    Args:
        passages: the passages' texts as `passage_text` gives them.
    """
    lines = "".join(f"Passage {i}: {text}\n" for i, text in enumerate(passages, start=1))
    return f"{wording.instruction}\n{lines}\nQuestion: {ask_text(question)}"


def assistant_turn(answer: str, wording: Wording) -> str:
    """What the assistant is trained to say: the lead, the answer, a full stop."""
    answer = answer.strip()
    return f"{wording.answer_lead} {answer}" + ("" if answer.endswith(".") else ".")


def passage_text(passage: Passage, wording: Wording) -> str:
    """A passage on one line, as the wording says: `{text}` alone or with its `{title}`.

    A title that is empty, or that the text begins with, is not put before it.
    """
    title, text = " ".join(passage.title.split()), " ".join(passage.text.split())
    if not title or text.startswith(title):
        return text
    return wording.passage.format(title=title, text=text)


def question_ids(
    tokenizer: Any, question: str, passages: Sequence[str], wording: Wording
) -> list[int]:
    """The prompt of a question: the user's turn, and the lead of the assistant's answer.

    The lead is the same that training sequences have, so that all methods answer in the place
    where the adapters have learnt to.
    """
    turn = chat_ids(tokenizer, user_turn(question, passages, wording))
    return turn + text_ids(tokenizer, wording.answer_lead)


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
    """
    text = passage_text(passage, wording)
    contexts: list[tuple[str, str, list[str]]] = []  # question, answer, passages in the prompt
    opened = (len(augmentation.pairs) + 1) // 2 if train.sequences == "paper" else 0
    for index, pair in enumerate(augmentation.pairs):
        if index < opened:
            for version in (text, *augmentation.rewrites):
                contexts.append((pair.question, pair.answer, [version]))
        else:
            contexts.append((pair.question, pair.answer, []))
    examples = []
    for question, answer, passages in contexts:
        prompt = chat_ids(tokenizer, user_turn(question, passages, wording))
        said = text_ids(tokenizer, assistant_turn(answer, wording))
        learn_from = 1 if train.loss == "all" else len(prompt)
        examples.append(Example(tuple(prompt + said), learn_from))
    return Lesson(passage.id, tuple(examples))


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
