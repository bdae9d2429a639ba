"""Answers in the shapes that OpenAI's clients know."""

from __future__ import annotations

import time
import uuid
from typing import Any

from prag.serve.asking import Reply


class ChatShapes:
    """The shapes of a chat completion."""

    def __init__(self, model: str) -> None:
        self.model, self.id = model, f"chatcmpl-{uuid.uuid4().hex}"
        self.created = int(time.time())

    def _of(self, kind: str, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        head = {"id": self.id, "object": kind, "created": self.created, "model": self.model}
        return {**head, "choices": choices, **more}

    def whole(self, replies: list[Reply]) -> dict[str, Any]:
        """All of it at once."""
        choices = [
            {
                "index": i,
                "message": {"role": "assistant", "content": r.text},
                "logprobs": None,
                "finish_reason": r.finish,
            }
            for i, r in enumerate(replies)
        ]
        return self._of("chat.completion", choices, usage=usage(replies), prag=told(replies[0]))

    def first(self, index: int) -> dict[str, Any] | None:
        """The chunk before any text, if there is one."""
        return self._chunk(index, {"role": "assistant", "content": ""})

    def piece(self, index: int, text: str) -> dict[str, Any]:
        """A chunk with more text."""
        return self._chunk(index, {"content": text})

    def last(self, index: int, reply: Reply) -> dict[str, Any]:
        """The chunk that says why an answer ends, and what it rests on."""
        return {**self._chunk(index, {}, reply.finish), "prag": told(reply)}

    def total(self, replies: list[Reply]) -> dict[str, Any]:
        """The chunk of the usage."""
        return self._of("chat.completion.chunk", [], usage=usage(replies))

    def _chunk(
        self, index: int, delta: dict[str, Any], finish: str | None = None
    ) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
        return self._of("chat.completion.chunk", [choice])


class TextShapes(ChatShapes):
    """The shapes of a completion."""

    def __init__(self, model: str) -> None:
        super().__init__(model)
        self.id = f"cmpl-{uuid.uuid4().hex}"

    def whole(self, replies: list[Reply]) -> dict[str, Any]:
        """All of it at once."""
        choices = [_text(i, r.text, r.finish) | {"prag": told(r)} for i, r in enumerate(replies)]
        return self._of("text_completion", choices, usage=usage(replies))

    def first(self, index: int) -> dict[str, Any] | None:
        """The chunk before any text, if there is one."""
        return None

    def piece(self, index: int, text: str) -> dict[str, Any]:
        """A chunk with more text."""
        return self._of("text_completion", [_text(index, text, None)])

    def last(self, index: int, reply: Reply) -> dict[str, Any]:
        """The chunk that says why an answer ends, and what it rests on."""
        choice = _text(index, "", reply.finish) | {"prag": told(reply)}
        return self._of("text_completion", [choice])

    def total(self, replies: list[Reply]) -> dict[str, Any]:
        """The chunk of the usage."""
        return self._of("text_completion", [], usage=usage(replies))


def _text(index: int, text: str, finish: str | None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": finish}


def usage(replies: list[Reply]) -> dict[str, Any]:
    """Tokens of all that the model was asked."""
    read = sum(r.answer.prompt_tokens for r in replies)
    made = sum(r.answer.generated_tokens for r in replies)
    return {"prompt_tokens": read, "completion_tokens": made, "total_tokens": read + made}


def timings(reply: Reply) -> dict[str, float]:
    """Seconds by stage."""
    first = reply.answer.first_token_seconds
    times = {**reply.answer.timings, "total": reply.total_seconds}
    return times if first is None else {**times, "first_token": first}


def told(reply: Reply) -> dict[str, Any]:
    """What an answer rests on."""
    answer = reply.answer
    return {
        "method": answer.method,
        "question": reply.question,
        "answer": answer.text,
        "passages": [
            {
                "id": s.passage_id,
                "title": s.title,
                "text": s.text,
                "documents": reply.documents.get(s.passage_id, []),
                "score": s.score,
                "adapter": s.adapter,
                "in_prompt": s.in_prompt,
            }
            for s in answer.sources
        ],
        "timings": {stage: round(seconds, 6) for stage, seconds in timings(reply).items()},
        "notes": list(answer.notes),
    }
