"""How many questions are let in at once, and the threads that they are answered in."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from prag.serve.asking import Asked, Call, Reply
from prag.serve.errors import BusyError, status_of
from prag.serve.service import Service
from prag.serve.shapes import timings


class Gate:
    """Lets in as many questions as there is room for, and runs each in a thread of its own.

    Used by the thread of the event loop alone.
    """

    def __init__(self, service: Service) -> None:
        self.service = service
        self.most = service.settings.rows + service.settings.queue
        self.inside = 0
        self._seconds = 1.0  # of a question, of late
        self._threads = ThreadPoolExecutor(self.most, thread_name_prefix="prag-ask")

    def close(self) -> None:
        """Let no more in."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def enter(self, questions: int = 1) -> None:
        """Take the room for some questions; `leave` gives it back.

        Raises:
            BusyError: there is none.
        """
        if self.inside + questions > self.most:
            rows = self.service.settings.rows
            raise BusyError(max(1, round(self._seconds * self.inside / rows)))
        self.inside += questions

    def leave(self, questions: int = 1) -> None:
        """Give the room back."""
        self.inside -= questions

    async def answer(self, asked: Asked, call: Call) -> Reply:
        """Answer a question that was let in."""
        meters = self.service.meters
        status = "500"
        try:
            loop = asyncio.get_running_loop()
            reply = await loop.run_in_executor(self._threads, self.service.answer, asked, call)
            status = "200"
        except asyncio.CancelledError:
            status = "499"
            raise
        except Exception as error:
            status = str(status_of(error))
            raise
        finally:
            meters.questions.labels(asked.method, status).inc()
        self._seconds += 0.1 * (reply.total_seconds - self._seconds)
        for stage, seconds in timings(reply).items():
            meters.seconds.labels(asked.method, stage).observe(seconds)
        meters.tokens.labels("prompt").inc(reply.answer.prompt_tokens)
        meters.tokens.labels("generated").inc(reply.answer.generated_tokens)
        return reply
