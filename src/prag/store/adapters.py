"""The adapter store: commit adapters, read them back, nothing lost between."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import torch

from prag.config import CODECS, Codec
from prag.disk import sync
from prag.lora import Adapter, Site, flatten, numbers, unflatten
from prag.records import AdapterKey, PragError
from prag.store import codecs, upkeep
from prag.store.errors import DamagedAdapter, MissingAdapter, explained, is_address
from prag.store.index import Index, Row, begun, layout_id, sites_to_json
from prag.store.objects import Objects
from prag.store.remote import exists_at, open_at
from prag.store.shards import ShardDamage, ShardFolder, Shards, checksum, header_of

ALIVE = 24 * 3600.0
"""Seconds in which a shard at an address that nothing names may still be about to be named."""

RECENT = 1.0
"""Seconds in which a store at an address is not asked again whether it has grown."""


@dataclass(frozen=True)
class StoredItem:
    """An adapter to commit.

    Args:
        key: what it is the adapter of.
        adapter: its factors.
        examples: the digest of what it was trained on.
    """

    key: AdapterKey
    adapter: Adapter
    examples: str


class AdapterStore:
    """Adapters in a folder or at the address of an object store; see `open`.

    Any number of processes and threads may read while one writes. A store in a folder does not keep
    a second writer out: the caller holds a lock around everything that writes. One at an address
    takes any number of writers (`prag.store.log`). A store must not be carried over a fork: open it
    in the child.
    """

    def __init__(
        self, place: Path | str, index: Index, shards: Shards, objects: Objects | None = None
    ) -> None:
        self.place = place
        self.index = index
        self.shards = shards
        self._objects = objects

    @classmethod
    def open(cls, place: Path | str, readonly: bool = False) -> AdapterStore:
        """Open a store; no shard is read, no row is counted.

        Opening for writing makes what is not there yet, and removes nothing.

        Args:
            place: the folder of the store, or its address (`s3://bucket/path`; `prag.store.objects`
                says which).
            readonly: refuse to write; a folder that cannot be written opens.

        Raises:
            PragError: there is no store, its index is lost, cannot be read or is of a newer
                format, the folder cannot be written, or the address cannot be reached.
        """
        if is_address(place):
            objects, replica, remote = open_at(str(place), readonly)
            return cls(place, replica, remote, objects)
        folder = Path(place)
        path = folder / "index.sqlite"
        shards = ShardFolder(folder / "shards")
        with explained(folder, "opening the adapter store"):
            empty = not path.is_file() or path.stat().st_size == 0
            if empty and shards.names():
                # An empty index would make a sweep delete them all.
                raise PragError(
                    f"{path}: the index of the adapter store is missing, {len(shards.names())} "
                    "shards are there: restore the index from a copy, or move the folder "
                    f"{folder} away and run `prag build` to make the adapters again"
                )
            if empty and readonly:
                raise PragError(f"{folder}: there is no adapter store yet: run `prag build`")
            if not readonly:
                shards.path.mkdir(parents=True, exist_ok=True)
        index = Index(path, readonly)
        if empty:
            with explained(folder, "opening the adapter store"):
                sync(folder)
                sync(folder.parent)
        return cls(folder, index, shards)

    @staticmethod
    def exists(place: Path | str) -> bool:
        """Whether anything was ever stored there; a killed creation may leave less than a store."""
        if is_address(place):
            return exists_at(str(place))
        folder = Path(place)
        return begun(folder / "index.sqlite") or bool(ShardFolder(folder / "shards").names())

    def close(self) -> None:
        """Close the index and let go of the maps; adapters that were read stay valid."""
        self.index.close()
        self.shards.close()

    def __enter__(self) -> AdapterStore:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return self.index.count()

    @property
    def far(self) -> bool:
        """Whether it is at an address, where others may write too."""
        return self.shards.far

    @property
    def retried(self) -> int:
        """Requests that were made again since it was opened; none where it is in a folder."""
        return 0 if self._objects is None else self._objects.retried

    def keys(self, base: str | None = None, recipe: str | None = None) -> list[AdapterKey]:
        """The keys that are stored, sorted; only those of a base model, of a recipe, if given."""
        return self.index.keys(base, recipe)

    def has(self, keys: Iterable[AdapterKey]) -> set[AdapterKey]:
        """Those of the keys that are stored."""
        keys = set(keys)
        found = set(self.index.examples(keys))
        if len(found) < len(keys) and self.index.refresh(within=RECENT):
            found = set(self.index.examples(keys))
        return found

    def examples(self, keys: Iterable[AdapterKey]) -> dict[AdapterKey, str]:
        """The examples digests of those of the keys that are stored."""
        return self.index.examples(keys)

    def commit(
        self, items: Sequence[StoredItem], sites: Sequence[Site], codec: Codec = "float32"
    ) -> None:
        """Store a batch of adapters as one shard. When this returns they survive a power cut.

        A key that is stored already gets the new adapter; the old bytes stay as garbage until
        `compact`. If this raises, no adapter of the batch is stored and nothing of it stays.

        Args:
            items: the adapters, all of one rank and one alpha, each key once; none is no work.
            sites: the sites that every one of them covers.
            codec: how their numbers are stored (`codecs`).

        Raises:
            PragError: the disk is full, the folder cannot be written, or a number does not fit
                into `codec`.
            ValueError: the batch is not as described above.
        """
        self._must_write()
        if not items:
            return
        rank, alpha = _form(items, sites)
        layout = sites_to_json(sites)
        sums: list[str] = []

        def payloads() -> Iterator[memoryview]:
            for item in items:
                payload = _encode(item, sites, codec)
                sums.append(checksum(payload))
                yield payload

        shard, entries = self.shards.write(
            upkeep.metadata(codec, rank, alpha, layout),
            codecs.SAFETENSORS[codec],
            [str(item.key) for item in items],
            codecs.length(codec, numbers(sites, rank)),
            codecs.width(codec),
            payloads(),
        )
        created = int(time.time())
        form = (codec, rank, float(alpha), layout_id(layout))
        rows = [
            Row(item.key, shard, e.offset, e.length, *form, digest, item.examples, created)
            for item, e, digest in zip(items, entries, sums, strict=True)
        ]
        try:
            self.index.add(rows, layout)
        except BaseException:
            # Look before deleting: the error may have come after the commit.
            with suppress(PragError):
                if not self.index.names_shard(shard):
                    self.shards.abandon(shard)
            raise

    def read(self, key: AdapterKey, dtype: torch.dtype = torch.float32) -> Adapter:
        """An adapter, its bytes checked against their checksum.

        Raises:
            MissingAdapter: it is not stored; says what is stored of this passage.
            DamagedAdapter: its bytes are gone or not those that were stored.
        """
        return self.read_many([key], dtype)[key]

    def read_many(
        self, keys: Iterable[AdapterKey], dtype: torch.dtype = torch.float32
    ) -> dict[AdapterKey, Adapter]:
        """Several adapters, in the order of their keys; errors as of `read`."""
        keys = list(dict.fromkeys(keys))
        rows = self.index.rows(keys)
        if len(rows) < len(keys) and self.index.refresh(within=RECENT):
            rows = self.index.rows(keys)
        return {key: self._read(key, rows.get(key), dtype) for key in keys}

    def stored_bytes(self, keys: Iterable[AdapterKey]) -> dict[AdapterKey, int]:
        """The bytes that reading each of those adapters takes; without those not stored."""
        return {key: row.length for key, row in self.index.rows(list(keys)).items()}

    def verify(self, progress: Callable[[int, int], None] | None = None) -> upkeep.VerifyReport:
        """Read every adapter and check it, and every shard's header against the index.

        Without the writer's lock, a shard that is just being written counts among the orphans.

        Args:
            progress: called with how many adapters are done and how many there are.

        Raises:
            PragError: the index itself is damaged.
        """
        return upkeep.verify(self.index, self.shards, progress)

    def survey(self, progress: Callable[[int, int], None] | None = None) -> upkeep.VerifyReport:
        """What a build looks at before it starts.

        In a folder that is all (`verify`); at an address only that every shard is there in its
        size, since to read them means to download them.
        """
        return upkeep.survey(self.index, self.shards, progress)

    def sweep(self, alive: float = ALIVE) -> upkeep.SweepReport:
        """Delete what a killed writer left: temporary files, shards that no row names.

        In a folder, call it under the writer's lock only: the shard that another writer has written
        and not yet entered looks just like a leftover. At an address age tells.

        Args:
            alive: seconds, at an address: a younger shard may be that of another writer.
        """
        self._must_write()
        return upkeep.sweep(self.index, self.shards, alive)

    def discard(self, keys: Iterable[AdapterKey]) -> int:
        """Forget adapters (withdrawn, or damaged); shards that this empties are deleted.

        Returns:
            How many of the keys were stored.
        """
        self._must_write()
        keys = list(dict.fromkeys(keys))
        self.index.refresh()
        touched = {row.shard for row in self.index.rows(keys).values()}
        count = self.index.delete(keys) if touched else 0
        for shard in touched:
            if not self.index.names_shard(shard):
                self.shards.remove(shard)
        return count

    def compact(self, target_bytes: int = 256 * 1024 * 1024) -> upkeep.CompactReport:
        """Rewrite small shards, and shards with garbage, into few of about `target_bytes`.

        Every adapter is checked as it is copied; a damaged one stays where it is and is
        reported. Safe to kill. Call it under the writer's lock; readers may go on. It first does
        what `sweep` does.
        """
        self._must_write()
        return upkeep.compact(self.index, self.shards, target_bytes)

    def size(self) -> upkeep.StoreSize:
        """How much there is."""
        if self.far:  # by the index: a listing of many shards takes many requests
            live = self.index.live_bytes()
            return upkeep.StoreSize(self.index.count(), live, live, len(self.index.shards()))
        with explained(self.index.path, "reading its size"):
            index_bytes = self.index.path.stat().st_size
        return upkeep.StoreSize(
            adapters=self.index.count(),
            bytes_live=self.index.live_bytes(),
            bytes_on_disk=self.shards.bytes_on_disk() + index_bytes,
            shards=len(self.shards.names()),
        )

    def _must_write(self) -> None:
        if self.index.readonly:
            raise PragError(
                f"{self.place}: this adapter store was opened for reading only: open it for "
                "writing, under the lock of its knowledge base"
            )

    def _read(self, key: AdapterKey, row: Row | None, dtype: torch.dtype) -> Adapter:
        while row is not None:
            try:
                return self._decode(row, dtype)
            except ShardDamage as damage:
                # A compaction may have moved the adapter since its row was read.
                self.index.refresh()
                now = self.index.rows([key]).get(key)
                if now == row:
                    held = [r.key for r in self.index.rows_of_shard(row.shard)]
                    where = self.shards.where(row.shard)
                    raise DamagedAdapter(key, where, held, str(damage)) from damage
                row = now
        raise MissingAdapter(key, self.index.keys_of_passage(key.passage), self.place)

    def _decode(self, row: Row, dtype: torch.dtype) -> Adapter:
        data = self.shards.copy(row.shard, row.entry, row.checksum)
        sites = self.index.sites(row.layout)
        if sites is None or row.dtype not in CODECS:
            raise ShardDamage("the index does not know its layout or its dtype")
        P = numbers(sites, row.rank)
        if row.length != codecs.length(row.dtype, P):
            raise ShardDamage("the index gives it another length than its layout has")
        vector = codecs.decode(data, row.dtype, P, dtype)  # [P]
        return unflatten(vector, sites, row.rank, row.alpha)


def shard_bytes(
    keys: Sequence[AdapterKey], sites: Sequence[Site], rank: int, alpha: float, codec: Codec
) -> int:
    """Bytes of the shard that `commit` writes for adapters of these keys, without writing it."""
    length = codecs.length(codec, numbers(sites, rank))
    metadata = upkeep.metadata(codec, rank, alpha, sites_to_json(sites))
    names = [str(key) for key in keys]
    kind, width = codecs.SAFETENSORS[codec], codecs.width(codec)
    return len(header_of(metadata, kind, names, length, width)) + len(names) * length


def _form(items: Sequence[StoredItem], sites: Sequence[Site]) -> tuple[int, float]:
    """The rank and alpha that all items share; ValueError if they are no batch."""
    names = {site.name for site in sites}
    if not names or len(names) != len(sites):
        raise ValueError("sites: at least one, each name once")
    if len({item.key for item in items}) != len(items):
        raise ValueError("a key stands twice in the batch")
    rank, alpha = items[0].adapter.rank, items[0].adapter.alpha
    for item in items:
        adapter = item.adapter
        if (adapter.rank, adapter.alpha) != (rank, alpha):
            raise ValueError("the adapters of a batch have one rank and one alpha")
        if set(adapter.factors) != names:
            raise ValueError(f"{item.key}: the adapter covers other sites than those given")
        for site in sites:
            A, B = adapter.factors[site.name]
            if A.shape != (rank, site.inputs) or B.shape != (site.outputs, rank):
                raise ValueError(f"{item.key}: the factors of {site.name} have other shapes")
    return rank, alpha


def _encode(item: StoredItem, sites: Sequence[Site], codec: Codec) -> memoryview:
    """The bytes of an adapter."""
    try:
        return codecs.encode(flatten(item.adapter, sites).detach().cpu(), codec)
    except PragError as error:
        raise PragError(f"{item.key}: {error}") from error
