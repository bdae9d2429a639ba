"""What goes wrong, as a status and as OpenAI's body of an error."""

from __future__ import annotations

from typing import Any

from prag.records import EngineError, PragError
from prag.serve.asking import GoneError, TimedOutError
from prag.serve.service import NotReadyError, UnknownError


class AskError(Exception):
    """A request that is refused."""

    def __init__(self, status: int, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param = status, message, param


class BusyError(AskError):
    """There is no room for another question."""

    def __init__(self, seconds: int) -> None:
        super().__init__(429, f"too many questions at once: try again in {seconds} s")
        self.seconds = seconds


def status_of(error: Exception) -> int:
    """The HTTP status that says what kind of error it is."""
    if isinstance(error, AskError):
        return error.status
    kinds: list[tuple[type[Exception], int]] = [
        (UnknownError, 404),
        (NotReadyError, 503),
        (EngineError, 502),
        (PragError, 400),
        (TimedOutError, 504),
        (GoneError, 499),
    ]
    return next((status for kind, status in kinds if isinstance(error, kind)), 500)


def message_of(error: Exception) -> str:
    """What the asker is told."""
    if isinstance(error, TimedOutError):
        return "the question was not answered within its time"
    if isinstance(error, GoneError):
        return "the client went away"
    if status_of(error) == 500:
        return "something went wrong here: the log of the service says what"
    return str(error)


def body_of(error: Exception) -> dict[str, Any]:
    """The body that tells of an error."""
    param = error.param if isinstance(error, AskError) else None
    return error_body(status_of(error), message_of(error), param=param)


def error_body(
    status: int, message: str, code: str | None = None, param: str | None = None
) -> dict[str, Any]:
    """The body of an error, as OpenAI's."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
