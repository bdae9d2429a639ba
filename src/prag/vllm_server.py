"""A vLLM server, spoken to by HTTP: what it serves, completions, adapters in and out.

vLLM itself is not needed here, so the server may be on another machine. It has to be started with
`--enable-lora` and `VLLM_ALLOW_RUNTIME_LORA_UPDATING=True` (docs/vllm.md), and to see the folder
that adapters are written to.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections import OrderedDict
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import torch
from torch.nn.functional import pad

from prag.disk import explain
from prag.lora import Adapter, Merged
from prag.peft_folder import write_peft_folder
from prag.records import ID_LENGTH, EngineError, PragError

if TYPE_CHECKING:
    import httpx

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What `--max-lora-rank` of a server may be."""


@dataclass(frozen=True)
class Served:
    """A base model that a server serves: its name there, and its context in tokens."""

    name: str
    context: int


@dataclass(frozen=True)
class Piece:
    """New tokens as they come, each with its log-probability where that was asked for."""

    ids: tuple[int, ...]
    logs: tuple[float, ...]


class RefusedError(PragError):
    """The server refuses: with an HTTP status, and what it said."""

    def __init__(self, url: str, path: str, status: int, said: str) -> None:
        hint = ""
        if status == 401:
            hint = " (its key is read from VLLM_API_KEY)"
        elif status == 404 and path == "models":
            hint = " (--engine-url is the URL of a vLLM server up to /v1)"
        super().__init__(f"the server {url} refuses {path}: {status} {said}{hint}")
        self.status, self.said = status, said


class Server:
    """One vLLM server. May be used from any thread."""

    def __init__(self, url: str, timeout: float = 600.0, key: str | None = None) -> None:
        """Nothing is sent yet.

        Args:
            url: where it is, up to `/v1`.
            timeout: seconds without a word from the server after which it is given up.
            key: its `--api-key`; by default VLLM_API_KEY of the environment, if that is set.

        Raises:
            PragError: httpx is not installed.
        """
        try:
            import httpx
        except ImportError as error:
            raise PragError("the vLLM engine needs: pip install 'prag[vllm]'") from error
        self.url = url.rstrip("/")
        self.timeout = timeout
        key = key or os.environ.get("VLLM_API_KEY")
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(timeout, connect=10.0),
            # As many connections as the caller has threads.
            limits=httpx.Limits(max_connections=None),
        )

    def served(self, name: str | None = None) -> Served:
        """The base model that it serves.

        Args:
            name: which one; by default the only one.

        Raises:
            PragError: there is none of that name, or none is named and there are several.
        """
        listed = self._asked("GET", "models").get("data", [])
        cards = {card["id"]: card for card in listed if card.get("parent") is None}
        if name is None and len(cards) == 1:
            (name,) = cards
        if name is None or name not in cards:
            asked = "none was named" if name is None else f"not {name!r}"
            raise EngineError(
                f"the server {self.url} serves {', '.join(map(repr, cards)) or 'no model'}, "
                f"{asked}: give its name there (--engine-model)"
            )
        return Served(name, int(cards[name].get("max_model_len") or 2**31))

    def logs_of(self, model: str, ids: tuple[int, ...]) -> list[float]:
        """The log-probability of each token of a text [T] after the first: T - 1 of them.

        Raises:
            PragError: the server cannot be reached or refuses.
        """
        body = {"model": model, "prompt": list(ids), "max_tokens": 1, "prompt_logprobs": 0}
        (choice,) = self._asked("POST", "completions", body)["choices"]
        seen = choice["prompt_logprobs"]
        return [float(seen[i][str(ids[i])]["logprob"]) for i in range(1, len(ids))]

    def complete(self, body: dict[str, Any]) -> Generator[Piece, None, None]:
        """The tokens of one completion as they are made, the end token among them.

        Closing the iterator before its end closes the connection, and the server stops.

        Raises:
            RefusedError: with status 404 where it does not know the model or adapter.
            PragError: the server cannot be reached, or breaks off.
        """
        asked = {**body, "stream": True, "return_token_ids": True}
        done = False
        with self._streamed("completions", asked) as response:
            for line in response.iter_lines():
                if not line.startswith("data:"):
                    continue
                text = line.removeprefix("data:").strip()
                if text == "[DONE]":
                    done = True  # and read to its end, so that the connection can serve again
                else:
                    yield from self._pieces(json.loads(text))
        if not done:
            raise EngineError(f"the server {self.url} broke off in the middle of an answer")

    def _pieces(self, event: dict[str, Any]) -> Iterator[Piece]:
        if "error" in event:
            raise EngineError(f"the server {self.url} broke off: {event['error']}")
        for choice in event.get("choices", []):
            if choice.get("token_ids") is None:
                raise EngineError(
                    f"the server {self.url} gives no token ids (`return_token_ids`): it is not "
                    "vLLM, or too old a one"
                )
            logs = (choice.get("logprobs") or {}).get("token_logprobs", ())
            yield Piece(tuple(choice["token_ids"]), tuple(logs))

    def load(self, name: str, folder: Path, rank: int) -> None:
        """Let the server know an adapter by a name.

        Raises:
            PragError: it does not take it; the text says how it has to be started.
        """
        body = {"lora_name": name, "lora_path": str(folder)}
        try:
            self._sent("POST", "load_lora_adapter", body)
        except RefusedError as error:
            raise EngineError(f"{error}\n{_mend(error.said, folder, rank)}".rstrip()) from error

    def unload(self, name: str) -> None:
        """Let the server forget an adapter; one that it has forgotten already is no error.

        Raises:
            PragError: the server cannot be reached or refuses.
        """
        try:
            self._sent("POST", "unload_lora_adapter", {"lora_name": name})
        except RefusedError as error:
            if error.status != 404:
                raise

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _asked(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        try:
            return dict(self._sent(method, path, body).json())
        except ValueError as error:
            raise EngineError(
                f"{self.url}/{path} answers with no JSON: give the URL of a vLLM server up to /v1 "
                "(--engine-url)"
            ) from error

    def _sent(self, method: str, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        with self._reached():
            response = self._client.request(method, f"{self.url}/{path}", json=body)
        return self._accepted(path, response)

    @contextmanager
    def _streamed(self, path: str, body: dict[str, Any]) -> Iterator[httpx.Response]:
        with (
            self._reached(),
            self._client.stream("POST", f"{self.url}/{path}", json=body) as response,
        ):
            if response.is_error:
                response.read()
            yield self._accepted(path, response)

    def _accepted(self, path: str, response: httpx.Response) -> httpx.Response:
        if response.is_error:
            raise RefusedError(self.url, path, response.status_code, _said(response.text))
        return response

    @contextmanager
    def _reached(self) -> Iterator[None]:
        import httpx

        try:
            yield
        except httpx.TimeoutException as error:
            raise EngineError(
                f"the server {self.url} said nothing for {self.timeout:g} s: {error!r}"
            ) from error
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise EngineError(
                f"no vLLM server answers at {self.url}: {error}. Start one (docs/vllm.md), or give "
                "another URL (--engine-url)"
            ) from error


def _said(text: str) -> str:
    """What a server says of an error: the message of vLLM's JSON, or the text as it is."""
    try:
        reply = json.loads(text)
        return str(reply["error"]["message"] if "error" in reply else reply["detail"])
    except (ValueError, KeyError, TypeError):
        return text.strip()[:500]


def _mend(said: str, folder: Path, rank: int) -> str:
    """What to do about an adapter that a server does not take."""
    if "max_lora_rank" in said:
        enough = next((r for r in RANKS if r >= rank), None)
        start = "" if enough is None else f"start it with --max-lora-rank {enough}, or "
        return f"The adapters of a question have rank {rank}: {start}take fewer passages (top-k)"
    if "No adapter found" in said:
        return (
            f"It does not see the folder {folder}: give one that both see by the same path "
            "(--adapter-folder)"
        )
    if "LoRA is not enabled" in said or said == "Not Found":
        return (
            "It takes no adapters: start it with --enable-lora, and with "
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True in its environment"
        )
    return ""


class Adapters:
    """The adapters that a server has by name: those used last, up to a number of them.

    A name is that of one set of adapters, by its content, and of this object: two that use one
    server do not take away what the other needs. What a request uses stays until it is done. A
    folder stays as long as its name, since a server may read it again.
    """

    def __init__(self, server: Server, base_name: str, folder: Path, most: int) -> None:
        """Nothing on the server yet.

        Args:
            base_name: the base model's, for the files.
            folder: where adapters are written; the server must see it by the same path.
            most: how many the server has at a time.
        """
        self.server, self.base_name, self.folder, self.most = server, base_name, folder, most
        self._prefix = f"prag-{uuid4().hex[:8]}"
        self._users: OrderedDict[str, _Users] = OrderedDict()  # by name, the last used at the end
        self._changed = threading.Condition()

    @contextmanager
    def held(self, merged: Merged) -> Iterator[str]:
        """Within the block the server has the adapter, by the name that is given.

        Waits where as many as there may be are in use.

        Raises:
            PragError: the folder cannot be written, or the server does not take the adapter.
        """
        name = f"{self._prefix}-{content_of(merged)}"
        users = self._take(name, merged)
        try:
            yield name
        except RefusedError as error:
            if error.status == 404:  # the server was started anew: the next use loads it again
                with self._changed:
                    if self._users.get(name) is users:
                        del self._users[name]
            raise
        finally:
            with self._changed:
                users.count -= 1
                self._changed.notify_all()

    def close(self) -> None:
        """Take all adapters from the server, in order, and delete their folders."""
        with self._changed:
            while self._users:
                self._drop(next(iter(self._users)))

    def _take(self, name: str, merged: Merged) -> _Users:
        # The lock is held while the server loads: it loads one at a time anyway.
        with self._changed:
            while name not in self._users:
                if len(self._users) < self.most:
                    self._load(name, merged)
                    self._users[name] = _Users()
                    break
                idle = next((n for n, users in self._users.items() if not users.count), None)
                if idle is None:
                    self._changed.wait()
                else:
                    self._drop(idle)
            self._users.move_to_end(name)
            self._users[name].count += 1
            return self._users[name]

    def _load(self, name: str, merged: Merged) -> None:
        folder = self.folder / name
        try:
            write_peft_folder(folder, self.base_name, as_adapter(merged))
            self.server.load(name, folder.resolve(), merged.rank)
        except (OSError, PragError) as error:
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, OSError):
                raise PragError(explain(error, folder, "writing an adapter")) from error
            raise

    def _drop(self, name: str) -> None:
        self.server.unload(name)
        del self._users[name]
        shutil.rmtree(self.folder / name, ignore_errors=True)


@dataclass
class _Users:
    """How many requests use an adapter now."""

    count: int = 0


def content_of(merged: Merged) -> str:
    """16 hex digits of all numbers of an adapter and of the sites that they are for."""
    digest = sha256()
    for site, pair in sorted(merged.factors.items()):
        for factor in pair:
            digest.update(f"{site} {factor.dtype} {tuple(factor.shape)};".encode())
            digest.update(factor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:ID_LENGTH]


def as_adapter(merged: Merged) -> Adapter:
    """A merged adapter as one of a single rank and scale 1, which is what a PEFT folder can say.

    Sites of a smaller rank are padded with zeros, which add nothing.
    """
    R = merged.rank
    factors = {
        name: (pad(A, (0, 0, 0, R - A.shape[0])), pad(B, (0, R - B.shape[1])))  # [R, I], [O, R]
        for name, (A, B) in merged.factors.items()
    }
    return Adapter(factors, rank=R, alpha=R)
