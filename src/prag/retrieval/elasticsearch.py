"""BM25 by a server: Elasticsearch, as the paper has it, or OpenSearch.

The passages go into an index of the server; the knowledge base's folder keeps what it is:

    meta.json            as of every index; `settings` names the server and its index
    indexes.json         the server's indexes that are this folder's, where there are others than
                         the one of meta.json: those of a build that was killed, or that could
                         not be deleted. The next build deletes them
    data-<8 hex>/        ids.npy, index.json

An index of the server is called prag-<digest of the corpus>-<8 hex>, is filled once and never
changed. A build makes a new one, and meta.json names it when it holds every passage; then the old
one is deleted. The text is analysed by the server (`english`: lower case, 33 stop words, stems),
with k1 = 1.2 and b = 0.75, the server's own defaults, written down so that nobody's template
changes them. Title and text are fields of their own, and a question is asked as the paper's
published code asks it (`QUERY`), so a ranking is not that of `bm25`, where both are one text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Container, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from prag.disk import explain, replace_text
from prag.records import Hit, Passage, PragError, content_id
from prag.retrieval.base import ReplacedError, check_search
from prag.retrieval.bm25 import K1, B
from prag.retrieval.folder import Filled, IdList, IndexInfo, index_info, read_index, write_index
from prag.retrieval.server import RefusedError, Server, checked_url, reason_of

INDEXES = "indexes.json"
_NAME = re.compile(r"prag-[0-9a-z]+-[0-9a-f]{8}")

PASSAGES_AT_ONCE = 1000
BYTES_AT_ONCE = 5_000_000
"""What one bulk request holds at most, whichever comes first."""

QUESTIONS_AT_ONCE = 64
PAGE = 10_000  # hits; what the server gives at once at most

BODY: dict[str, Any] = {
    "settings": {
        "index": {
            # Searched only when it is whole; refreshed once.
            "refresh_interval": "-1",
            "similarity": {"default": {"type": "BM25", "k1": K1, "b": B}},
        }
    },
    "mappings": {
        "dynamic": "strict",
        "properties": {
            "title": {"type": "text", "analyzer": "english", "index_options": "freqs"},
            "text": {"type": "text", "analyzer": "english", "index_options": "freqs"},
            "position": {"type": "integer", "index": False},
        },
    },
}
"""What an index is made with: the passage, and its place in the corpus, for ties."""

QUERY: dict[str, Any] = {"type": "best_fields", "fields": ["text", "title"], "tie_breaker": 0.5}
"""How a question is matched: the score of the better field, and half of the other's (the retriever
of the published code; the paper says BM25 by Elasticsearch)."""

R = TypeVar("R", bound="ElasticsearchRetriever")


class ElasticsearchRetriever:
    """Ranks passages by the words they share with the question, on a server."""

    kind: str = "elasticsearch"

    def __init__(self, server: Server, info: IndexInfo, left: int = 0) -> None:
        self.server = server
        self.info = info
        self.left = left  # indexes of the server that are to be deleted

    def __len__(self) -> int:
        return self.info.passages

    @property
    def notes(self) -> tuple[str, ...]:
        """What the build met that did no harm, for who runs it."""
        notes = []
        if self.info.settings["retried"]:
            notes.append(
                f"{self.server.url} had no room or gave no answer {self.info.settings['retried']}"
                " times, and was asked again"
            )
        if self.left:
            notes.append(
                f"{self.left} indexes of {self.server.url} that are no longer used could not be"
                " deleted; the next build tries again"
            )
        return tuple(notes)

    @classmethod
    def build(
        cls: type[R],
        passages: Iterable[Passage],
        folder: Path,
        digest: str | None = None,
        *,
        url: str,
    ) -> R:
        """Index the passages on the server, switch the folder over to them, and open it.

        Passages are drawn as they are sent: an iterator that counts what it gives shows the
        progress. What the server had no room for is sent again after a pause, and counted in
        `info.settings["retried"]`.

        Args:
            passages: each once; their order decides between equal scores.
            folder: made if need be; an index that is there is replaced at the end.
            digest: the hash of the corpus to keep with the index; None takes that of the ids.
            url: the server's address, like http://127.0.0.1:9200. Credentials come from the
                environment, see `server`.

        Raises:
            PragError: no passages, one given twice, no client, the server is not there, refuses
                or loses passages, or the folder cannot be written.
        """
        server = Server(cls.kind, checked_url(url))
        version = server.version()
        old = _indexes(folder)
        made: list[str] = []

        def fill(data: Path) -> Filled:
            name = f"prag-{_word(digest)}-{data.name.removeprefix('data-')}"
            made.append(name)
            _keep(folder, [*old, (server.url, name)])
            (data / "index.json").write_text(json.dumps({"url": server.url, "index": name}))
            server.ask("PUT", f"/{name}", BODY)
            ids = IdList()
            for batch in _batches(ids.reading(passages)):
                _send(server, name, batch)
            known = ids.array()
            server.ask("POST", f"/{name}/_refresh")
            _check_count(server, name, len(known))
            settings = {
                "url": server.url,
                "index": name,
                "server": version,
                "analyzer": "english",
                "query": QUERY,
                "k1": K1,
                "b": B,
                "retried": server.retried,
            }
            return Filled(known, settings, (_PACKAGES[cls.kind],))

        try:
            write_index(folder, cls.kind, fill, digest)
        finally:
            # The one in force stays, whether that is the new one or, after a failure, the old.
            mine = [*old, *((server.url, name) for name in made)]
            current = _in_force(folder)
            if mine:
                _keep(folder, _deleted(cls.kind, server, [i for i in mine if i != current]))
        return cls.open(folder)

    @classmethod
    def open(cls: type[R], folder: Path) -> R:
        """Open the index of a folder, and see that the server has it whole.

        Raises:
            PragError: no index there, a damaged or foreign one; the server is not there, refuses,
                or has no such index, or another number of passages in it.
        """

        def load(data: Path, info: IndexInfo) -> R:
            if info.settings.get("query") != QUERY:
                raise ValueError("its title and text are not fields of their own")
            server = Server(cls.kind, checked_url(info.settings["url"]))
            server.version()
            _check_count(server, info.settings["index"], info.passages)
            return cls(server, info, left=len(_indexes(folder)) - 1)

        return read_index(folder, cls.kind, load)

    def search(
        self, questions: Sequence[str], k: int, allowed: Container[str] | None = None
    ) -> list[list[Hit]]:
        """See `Retriever.search`. A question that shares no word with a passage has no hits.

        `allowed` can only be asked, not sent, so pages of hits are fetched, ever larger, until k
        allowed ones are found.

        Raises:
            PragError: also when the server gives no answer, or not that of every shard.
        """
        check_search(questions, k)
        with self.server.documented("/_msearch"):
            return self._search(questions, k, allowed)

    def _search(
        self, questions: Sequence[str], k: int, allowed: Container[str] | None
    ) -> list[list[Hit]]:
        found: list[list[Hit]] = [[] for _ in questions]
        after: dict[int, list[float] | None] = {
            i: None for i, question in enumerate(questions) if question.strip()
        }
        size = min(k, PAGE)
        while after:
            for i, page in self._pages({i: questions[i] for i in after}, after, size):
                for hit in page:
                    if len(found[i]) < k and (allowed is None or hit["_id"] in allowed):
                        found[i].append(Hit(hit["_id"], float(hit["sort"][0]), len(found[i])))
                if len(found[i]) == k or len(page) < size:
                    del after[i]
                else:
                    after[i] = page[-1]["sort"]
            size = min(4 * size, PAGE)
        return found

    def _pages(
        self, questions: dict[int, str], after: dict[int, list[float] | None], size: int
    ) -> Iterator[tuple[int, list[dict[str, Any]]]]:
        """The next `size` hits of each question."""
        numbers = list(questions)
        for start in range(0, len(numbers), QUESTIONS_AT_ONCE):
            chunk = numbers[start : start + QUESTIONS_AT_ONCE]
            lines = [self._lines(questions[i], size, after[i]) for i in chunk]
            for i, answer in zip(chunk, self._answers(lines), strict=True):
                yield i, answer["hits"]["hits"]

    def _lines(self, question: str, size: int, after: list[float] | None) -> str:
        """A search as the two lines of a multi search.

        As the published code asks, word frequencies are those of all shards together. Every search
        goes to the same copies of the shards, so that a page follows on the one before.
        """
        header = {
            "index": self.info.settings["index"],
            "search_type": "dfs_query_then_fetch",
            "preference": "prag",
        }
        body: dict[str, Any] = {
            "query": {"multi_match": {"query": question, **QUERY}},
            "sort": [{"_score": "desc"}, {"position": "asc"}],
            "size": size,
            "_source": False,
            "track_total_hits": False,
        }
        if after is not None:
            body["search_after"] = after
        return f"{json.dumps(header)}\n{json.dumps(body)}\n"

    def _answers(self, lines: Sequence[str]) -> list[dict[str, Any]]:
        """The answer to each search, whole.

        Raises:
            PragError: one is an error, or not all shards answered in time.
        """
        answers = self.server.each("/_msearch", lines, lambda said: list(said["responses"]))
        where = f"{self.server.url}: the search of {self.info.settings['index']} failed"
        for answer in answers:
            if "error" in answer:
                said = f"{where}: {reason_of(answer['error'])} (status {answer['status']})"
                if answer["status"] == 404:
                    raise ReplacedError(
                        f"{said}; another build may have replaced it: open it again, or run "
                        "`prag build` to make it again"
                    )
                raise RefusedError(
                    f"{said}; see the server's log, or run `prag build` to make the index again",
                    answer["status"],
                )
            shards = answer["_shards"]
            if shards["failed"] or answer["timed_out"]:
                why = [reason_of(f.get("reason")) for f in shards.get("failures", [])[:1]]
                raise PragError(
                    f"{where} on {shards['failed']} of {shards['total']} shards"
                    f" ({'; '.join(why) or 'time ran out'}), and hits would be missing; see the"
                    " state of the cluster, and ask again"
                )
        return answers


class OpenSearchRetriever(ElasticsearchRetriever):
    """The same, of OpenSearch."""

    kind: str = "opensearch"


_PACKAGES = {"elasticsearch": "elasticsearch", "opensearch": "opensearch-py"}


def _batches(passages: Iterator[Passage]) -> Iterator[list[tuple[str, str]]]:
    """Ids and lines of passages, as many as go into one request."""
    batch: list[tuple[str, str]] = []
    size = 0
    for position, passage in enumerate(passages):
        # Created, not put in place: a request whose answer was lost, sent again, changes nothing.
        action = json.dumps({"create": {"_id": passage.id}})
        source = json.dumps({"title": passage.title, "text": passage.text, "position": position})
        batch.append((passage.id, f"{action}\n{source}\n"))
        size += len(batch[-1][1])
        if len(batch) == PASSAGES_AT_ONCE or size >= BYTES_AT_ONCE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _send(server: Server, index: str, batch: Sequence[tuple[str, str]]) -> None:
    """Put a batch of passages into an index.

    Raises:
        PragError: the server did not take all of them.
    """

    def answers(said: Any) -> list[dict[str, Any]]:
        return [item["create"] for item in said["items"]]

    taken = server.each(f"/{index}/_bulk", [lines for _, lines in batch], answers)
    # 409, there already, is of a request whose answer was lost. A passage that was given twice
    # is found in the list of ids.
    refused = [
        (passage, answer)
        for (passage, _), answer in zip(batch, taken, strict=True)
        if answer["status"] not in (200, 201, 409)
    ]
    if refused:
        passage, answer = refused[0]
        raise PragError(
            f"{server.url}: {len(refused)} of {len(batch)} passages sent to {index} were not"
            f" indexed, the first is {passage}: {reason_of(answer.get('error'))} (status"
            f" {answer['status']}); see the server's log and its disk, then run `prag build`"
        )


def _check_count(server: Server, index: str, passages: int) -> None:
    answer = server.ask("GET", f"/{index}/_count")
    with server.documented("/_count"):
        count, shards = answer["count"], answer["_shards"]
        failed, total = shards["failed"], shards["total"]
    if failed:
        raise PragError(
            f"{server.url}: {failed} of {total} shards of {index} do not answer; see the state of"
            " the cluster"
        )
    if count != passages:
        raise PragError(
            f"{server.url}: the index {index} holds {count} passages, not {passages}:"
            " something else has changed it; run `prag build` to make it again"
        )


# The server's indexes that are a folder's


def _indexes(folder: Path) -> list[tuple[str, str]]:
    """Address and name of each, the one in force among them."""
    try:
        listed = json.loads((folder / INDEXES).read_text("utf-8"))
        found = [(str(url), str(name)) for url, name in listed]
    except (FileNotFoundError, NotADirectoryError):
        found = []
    except (OSError, ValueError, TypeError) as error:
        raise PragError(
            f"{folder / INDEXES} cannot be read ({error}); it lists indexes of the server that"
            " the next build deletes: delete it, and those indexes by hand"
        ) from error
    current = _in_force(folder)
    # Only what a build of this module made is ever deleted.
    found = [i for i in found if _NAME.fullmatch(i[1]) and i != current]
    return [current, *found] if current is not None else found


def _in_force(folder: Path) -> tuple[str, str] | None:
    try:
        info = index_info(folder)
        if info.kind in _PACKAGES:
            return str(info.settings["url"]), str(info.settings["index"])
    except (PragError, KeyError):
        pass
    return None


def _keep(folder: Path, indexes: Sequence[tuple[str, str]]) -> None:
    """Write the list of a folder's indexes beside the one in force; no file where there is none."""
    current = _in_force(folder)
    others = [i for i in indexes if i != current]
    path = folder / INDEXES
    try:
        if others:
            replace_text(path, json.dumps(others) + "\n")
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise PragError(explain(error, folder, "listing the server's indexes")) from error


def _deleted(
    kind: str, server: Server, indexes: Sequence[tuple[str, str]]
) -> list[tuple[str, str]]:
    """Delete indexes of the server; what is left because it could not be."""
    left = []
    for url, name in indexes:
        try:
            at = server if url == server.url else Server(kind, url)
            at.ask("DELETE", f"/{name}", patient=False)
        except RefusedError as error:
            if error.status != 404:
                left.append((url, name))
        except PragError:
            left.append((url, name))
    return left


def _word(digest: str | None) -> str:
    """The digest as a part of an index's name."""
    if digest is None:
        return "corpus"
    return digest if re.fullmatch(r"[0-9a-z]+", digest) else content_id(digest)
