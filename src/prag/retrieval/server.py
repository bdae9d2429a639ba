"""A search server, Elasticsearch or OpenSearch, through its official client.

Both speak the same HTTP for what is needed here, so that each request is written once; the clients
bring connections, TLS and authentication. The client of Elasticsearch refuses other products, so
OpenSearch has its own. What they cannot settle is one `PragError` that names the server, what it
was asked and what it said.

Credentials come from the environment alone, are kept nowhere else and shown in no message:

    PRAG_ELASTICSEARCH_API_KEY                              or
    PRAG_ELASTICSEARCH_USER, PRAG_ELASTICSEARCH_PASSWORD
    PRAG_ELASTICSEARCH_CA_CERTS                             a file of certificates to trust
    PRAG_OPENSEARCH_USER, PRAG_OPENSEARCH_PASSWORD, PRAG_OPENSEARCH_CA_CERTS
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol
from urllib.parse import urlsplit

from prag.records import PragError

PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds before each further attempt, where waiting can help."""

SECONDS = 60.0
"""How long one answer may take."""

TRANSIENT = frozenset({429, 502, 503, 504})
"""Statuses of a server that is overloaded or on its way up."""

PORTS = {"http": 80, "https": 443}

# Servers of version 8 and 9 take this; of its own accord a client of 9 asks for 9 alone.
_ELASTIC = "application/vnd.elasticsearch+{}; compatible-with=8"


class RefusedError(PragError):
    """The server answered with an error; `status` is that of HTTP."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


class _Failure(Exception):  # noqa: N818  (not for those who use this module)
    """One attempt failed: with a status, or without an answer."""

    def __init__(self, status: int | None, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class _Send(Protocol):
    def __call__(
        self, method: str, path: str, body: str | None, media: str, timeout: float
    ) -> Any: ...


class Server:
    """One server, and how often it had to be asked again (`retried`)."""

    def __init__(self, kind: str, url: str) -> None:
        """Make the client; nothing is sent.

        Args:
            kind: `elasticsearch` or `opensearch`.
            url: as `checked_url` gives it.

        Raises:
            PragError: the client is not installed, or the credentials are incomplete.
        """
        self.kind, self.url, self.retried = kind, url, 0
        self._lock = threading.Lock()
        self._send: _Send = {"elasticsearch": _elasticsearch, "opensearch": _opensearch}[kind](url)

    def ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | str | None = None,
        *,
        timeout: float = SECONDS,
        patient: bool = True,
    ) -> Any:
        """Send a request, again after a pause where that can help; the answer's JSON.

        Args:
            body: an object, or lines of JSON.
            patient: ask again; else once.

        Raises:
            RefusedError: the server answered with an error.
            PragError: it gave no answer, or is another product.
        """
        media = "x-ndjson" if isinstance(body, str) else "json"
        text = json.dumps(body) if isinstance(body, Mapping) else body
        pauses: list[float | None] = [*(PAUSES if patient else ()), None]
        for attempt, pause in enumerate(pauses, start=1):
            try:
                return self._send(method, path, text, media, timeout)
            except _Failure as failure:
                if pause is None or failure.status not in (None, *TRANSIENT):
                    raise self._error(method, path, failure, attempt) from None
                self.wait(pause)
        raise AssertionError("the last attempt returns or raises")

    def each(
        self, path: str, items: Sequence[str], answers: Callable[[Any], list[dict[str, Any]]]
    ) -> list[dict[str, Any]]:
        """Send many items in one request, those that the server had no room for again.

        Args:
            items: the lines of each.
            answers: from the server's answer, the answers to the items with their `status`.

        Returns:
            The last answer to each item, in order; it may be an error.

        Raises:
            PragError: as `ask`, or there are not as many answers as items.
        """
        found: dict[int, dict[str, Any]] = {}
        waiting = list(range(len(items)))
        for pause in (*PAUSES, None):
            said = self.ask("POST", path, "".join(items[i] for i in waiting))
            with self.documented(path):
                found.update(zip(waiting, answers(said), strict=True))
                waiting = [i for i in waiting if found[i]["status"] in TRANSIENT]
            if not waiting or pause is None:
                break
            self.wait(pause, len(waiting))
        return [found[i] for i in range(len(items))]

    def version(self) -> str:
        """The server's version; one request, not repeated.

        Raises:
            PragError: it is not there, refuses, or is the other product.
        """
        about = self.ask("GET", "/", patient=False)
        with self.documented("/"):
            version = about["version"]
            if (version.get("distribution") == "opensearch") != (self.kind == "opensearch"):
                raise _other_product(self.kind, self.url)
            return str(version["number"])

    @contextmanager
    def documented(self, path: str) -> Iterator[None]:
        """Read an answer to a path in here: one of another form than documented is an error."""
        try:
            yield
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise PragError(
                f"{self.url}: the answer to {path} is not of the form that {self.kind} documents"
                f" ({error!r}); see that the address is the server's, and nothing stands between"
            ) from error

    def wait(self, seconds: float, requests: int = 1) -> None:
        """Pause before asking again, and count it."""
        with self._lock:
            self.retried += requests
        time.sleep(seconds)

    def _error(self, method: str, path: str, failure: _Failure, attempts: int) -> PragError:
        times = "" if attempts == 1 else f" {attempts} times"
        asked = f"{self.url}: {method} {path} failed{times}: {failure.reason}"
        name = self.kind.upper()
        if failure.status is None:
            return PragError(f"{asked}; see that the server runs and can be reached from here")
        ways = {
            401: f"set PRAG_{name}_USER and PRAG_{name}_PASSWORD"
            + (f", or PRAG_{name}_API_KEY" if self.kind == "elasticsearch" else ""),
            403: "give the user of the credentials the rights for indexes named prag-*",
            404: "run `prag build` to make the index again",
            429: "the server is overloaded: try later, or give it more memory",
        }
        mend = ways.get(failure.status, "see the server's log")
        return RefusedError(f"{asked} (status {failure.status}); {mend}", failure.status)


def checked_url(url: str) -> str:
    """The address of a server as it is kept: with its port, without a slash at the end.

    Raises:
        PragError: it is no HTTP address, or has a user, a password or more in it.
    """
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname
    except ValueError:
        raise PragError("the retriever's address cannot be read: use http://HOST:PORT") from None
    if parts.username is not None or parts.password is not None:
        # It would be written to disk, and be shown.
        raise PragError(
            "the retriever's address has a user or a password in it: leave them out and set"
            " PRAG_ELASTICSEARCH_USER and PRAG_ELASTICSEARCH_PASSWORD (PRAG_OPENSEARCH_... for"
            " OpenSearch) in the environment"
        )
    if parts.scheme not in PORTS or not host or parts.query or parts.fragment:
        raise PragError(f"the retriever's address is {url!r}: use one like http://127.0.0.1:9200")
    name = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{name}:{port or PORTS[parts.scheme]}{parts.path.rstrip('/')}"


def _elasticsearch(url: str) -> _Send:
    try:
        import elasticsearch
    except ImportError:
        raise _not_installed("elasticsearch") from None
    user, key, certificates = _credentials("ELASTICSEARCH")
    options: dict[str, Any] = {"api_key": key} if key else {"basic_auth": user} if user else {}
    if certificates:
        options["ca_certs"] = certificates
    client = elasticsearch.Elasticsearch(url, max_retries=0, retry_on_timeout=False, **options)

    def send(method: str, path: str, body: str | None, media: str, timeout: float) -> Any:
        headers = {"accept": _ELASTIC.format("json")}
        if body is not None:
            headers["content-type"] = _ELASTIC.format(media)
        try:
            patient = client.options(request_timeout=timeout)
            return patient.perform_request(method, path, headers=headers, body=body).body
        except elasticsearch.UnsupportedProductError:
            raise _other_product("elasticsearch", url) from None
        except elasticsearch.ApiError as error:
            raise _Failure(error.status_code, _reason(error.body)) from None
        except elasticsearch.ConnectionTimeout:
            raise _Failure(None, f"no answer within {timeout:g} s") from None
        except (elasticsearch.TransportError, elasticsearch.SerializationError) as error:
            raise _Failure(None, str(error)) from None

    return send


def _opensearch(url: str) -> _Send:
    try:
        import opensearchpy
    except ImportError:
        raise _not_installed("opensearch") from None
    user, _, certificates = _credentials("OPENSEARCH")
    options: dict[str, Any] = {"http_auth": user} if user else {}
    if certificates:
        options["ca_certs"] = certificates
    client = opensearchpy.OpenSearch(
        [url], max_retries=0, retry_on_timeout=False, retry_on_status=(), **options
    )

    def send(method: str, path: str, body: str | None, media: str, timeout: float) -> Any:
        headers = {"content-type": f"application/{media}"}
        try:
            return client.transport.perform_request(
                method, path, headers=headers, body=body, timeout=timeout
            )
        except opensearchpy.ConnectionTimeout:
            raise _Failure(None, f"no answer within {timeout:g} s") from None
        except opensearchpy.ConnectionError as error:
            raise _Failure(None, str(error.error)) from None
        except opensearchpy.TransportError as error:
            status = error.status_code if isinstance(error.status_code, int) else None
            raise _Failure(status, _reason(error.info)) from None
        except opensearchpy.OpenSearchException as error:
            raise _Failure(None, str(error)) from None

    return send


def _credentials(name: str) -> tuple[tuple[str, str] | None, str | None, str | None]:
    """User and password, key, and certificates, of the environment."""
    user, password, key, certificates = (
        os.environ.get(f"PRAG_{name}_{what}") or None
        for what in ("USER", "PASSWORD", "API_KEY", "CA_CERTS")
    )
    if (user is None) != (password is None):
        raise PragError(f"PRAG_{name}_USER and PRAG_{name}_PASSWORD go together: set both")
    both = None if user is None or password is None else (user, password)
    return both, key, certificates


def reason_of(error: Any) -> str:
    """What an error object of the server says: its type and its reason."""
    if isinstance(error, dict):
        causes = error.get("root_cause")
        inner = causes[0] if isinstance(causes, list) and causes else error
        return f"{inner.get('type')}: {inner.get('reason')}"
    return str(error)[:500] or "no reason given"


def _reason(body: Any) -> str:
    return reason_of(body.get("error", body) if isinstance(body, dict) else body)


def _not_installed(kind: str) -> PragError:
    return PragError(f"the retriever {kind} needs a package: pip install 'prag[{kind}]'")


def _other_product(kind: str, url: str) -> PragError:
    other = {"elasticsearch": "opensearch", "opensearch": "elasticsearch"}[kind]
    return PragError(
        f"{url}: this server does not say that it is {kind}; if it is {other}, make a knowledge"
        f" base with --retriever {other}"
    )
