"""The upkeep of a store: verify, sweep, compact."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from prag.lora import Site
from prag.records import AdapterKey, PragError
from prag.store import codecs
from prag.store.errors import explained
from prag.store.index import FORMAT_VERSION, Index, Row, sites_to_json
from prag.store.shards import (
    SUFFIX,
    Entry,
    Header,
    ShardDamage,
    Shards,
    checksum,
    read_entry,
    read_header,
)

MAX_ADAPTERS = 100_000
"""Adapters that compaction puts into one shard, so that the header stays readable."""


@dataclass(frozen=True)
class Damage:
    """Adapters of one shard that cannot be read, and why."""

    shard: str
    keys: tuple[AdapterKey, ...]
    reason: str


@dataclass(frozen=True)
class VerifyReport:
    """What `verify` found.

    Args:
        checked: adapters looked at, the damaged ones included.
        damaged: what cannot be read; `discard` the keys and build them again.
        orphans: files under `shards/` that no row names; `sweep` deletes them.
    """

    checked: int
    damaged: tuple[Damage, ...]
    orphans: tuple[str, ...]


@dataclass(frozen=True)
class SweepReport:
    """What `sweep` deleted: temporary files, shards, and their bytes."""

    temporaries: int
    shards: int
    freed: int


@dataclass(frozen=True)
class CompactReport:
    """What `compact` did.

    Args:
        moved: adapters copied.
        shards_before, shards_after: files.
        bytes_before, bytes_after: of all files under `shards/`.
        damaged: adapters that were left where they are.
    """

    moved: int
    shards_before: int
    shards_after: int
    bytes_before: int
    bytes_after: int
    damaged: tuple[Damage, ...]


@dataclass(frozen=True)
class StoreSize:
    """How much a store holds: `bytes_live` of adapters, `bytes_on_disk` of all its files."""

    adapters: int
    bytes_live: int
    bytes_on_disk: int
    shards: int


@dataclass(frozen=True)
class _Source:
    """A shard that compaction may empty: its sound rows, and whether it has dead bytes."""

    rows: tuple[Row, ...]
    garbage: bool


def metadata(codec: str, rank: int, alpha: float, sites: str) -> dict[str, str]:
    """The `__metadata__` of a shard; `sites` is their JSON."""
    return {
        "format": "prag-adapters",
        "format_version": str(FORMAT_VERSION),
        "dtype": codec,
        "rank": str(rank),
        "alpha": repr(float(alpha)),
        "sites": sites,
    }


def verify(
    index: Index, shards: Shards, progress: Callable[[int, int], None] | None
) -> VerifyReport:
    """See `AdapterStore.verify`."""
    problems = index.problems()
    if problems:
        raise PragError(
            f"{index.path}: the index of the adapter store is damaged ({problems[0]}): restore "
            "this file from a copy, or move its folder away and run `prag build` to make the "
            "adapters again"
        )
    files = [path.name for path in shards.temporaries()]
    present = shards.names()
    named = index.shards()
    total, checked = index.count(), 0
    damaged: list[Damage] = []
    for shard in named:
        rows = index.rows_of_shard(shard)
        found = _check_shard(index, shards, shard, rows)
        if found:
            # A writer may have moved or replaced them meanwhile: then they are not damaged.
            index.refresh()
            still = set(index.rows_of_shard(shard))
            found = [(row, reason) for row, reason in found if row in still]
        damaged.extend(_grouped(shard, found))
        checked += len(rows)
        if progress is not None:
            progress(checked, max(total, checked))
    orphans = sorted(files + [s + SUFFIX for s in present if s not in set(named)])
    return VerifyReport(checked, tuple(damaged), tuple(orphans))


def survey(
    index: Index, shards: Shards, progress: Callable[[int, int], None] | None
) -> VerifyReport:
    """See `AdapterStore.survey`."""
    if not shards.far:
        return verify(index, shards, progress)
    sizes = shards.sizes()
    index.refresh()
    damaged: list[Damage] = []
    for shard, end in index.ends().items():
        size = sizes.get(shard)
        if size is None or size < end:
            reason = "the object is missing" if size is None else f"truncated: {size} bytes"
            keys = tuple(row.key for row in index.rows_of_shard(shard))
            damaged.append(Damage(shard, keys, reason))
    return VerifyReport(index.count(), tuple(damaged), ())


def sweep(index: Index, shards: Shards, alive: float) -> SweepReport:
    """See `AdapterStore.sweep`."""
    temporaries = shards.temporaries()
    index.refresh()
    named = set(index.shards())
    freed = 0
    for path in temporaries:
        with explained(path, "sweeping"):
            freed += path.stat().st_size
            path.unlink()
    sizes = [shards.remove(shard) for shard in shards.leftovers(named, alive)]
    removed = [size for size in sizes if size is not None]
    index.tidy()
    return SweepReport(len(temporaries), len(removed), freed + sum(removed))


def compact(index: Index, shards: Shards, target_bytes: int) -> CompactReport:
    """See `AdapterStore.compact`."""
    before = (len(shards.names()), shards.bytes_on_disk())
    if not shards.far:
        sweep(index, shards, 0.0)
    damaged: list[Damage] = []
    moved = 0
    for sources in _sources(index, shards, target_bytes, damaged):
        if len(sources) == 1 and not sources[0].garbage:
            continue  # one small shard: nothing to put it together with
        for rows in packs(_still(index, sources), target_bytes):
            _move(index, shards, rows)
            moved += len(rows)
            for shard in {row.shard for row in rows}:
                if not index.names_shard(shard):
                    shards.remove(shard)
    return CompactReport(
        moved=moved,
        shards_before=before[0],
        shards_after=len(shards.names()),
        bytes_before=before[1],
        bytes_after=shards.bytes_on_disk(),
        damaged=tuple(damaged),
    )


def _sources(
    index: Index, shards: Shards, target_bytes: int, damaged: list[Damage]
) -> list[list[_Source]]:
    """The shards worth rewriting, in groups that may share a shard; damage is noted."""
    groups: dict[tuple[str, int, float, str], list[_Source]] = {}
    for shard in index.shards():
        rows = index.rows_of_shard(shard)
        live = sum(row.length for row in rows)
        try:
            with shards.reading(shard) as file:
                garbage = len(read_header(file).entries) != len(rows)
        except ShardDamage:
            garbage = True  # the rows still know where their bytes are
        if not garbage and 2 * live >= target_bytes:
            continue
        found = _check_payloads(shards, shard, rows)
        if found and index.refresh():
            now = set(index.rows_of_shard(shard))
            found = [(row, reason) for row, reason in found if row in now]
        damaged.extend(_grouped(shard, found))
        bad = {row for row, _ in found}
        sound = tuple(row for row in rows if row not in bad)
        if sound:
            groups.setdefault(rows[0].form, []).append(_Source(sound, garbage))
    return list(groups.values())


def _still(index: Index, sources: Sequence[_Source]) -> list[Row]:
    """The rows of these shards that no other writer has moved or replaced meanwhile."""
    rows = [row for source in sources for row in source.rows]
    index.refresh()
    now = index.rows(row.key for row in rows)
    return [row for row in rows if now.get(row.key) == row]


def packs(rows: Sequence[Row], target_bytes: int) -> Iterator[list[Row]]:
    """The rows in runs of at most `target_bytes` and at least one row."""
    pack: list[Row] = []
    size = 0
    for row in rows:
        if pack and (size + row.length > target_bytes or len(pack) == MAX_ADAPTERS):
            yield pack
            pack, size = [], 0
        pack.append(row)
        size += row.length
    if pack:
        yield pack


def _move(index: Index, shards: Shards, rows: Sequence[Row]) -> None:
    """Copy the bytes of these rows into one new shard, then point the rows to it."""
    first = rows[0]
    sites = index.sites(first.layout)
    if sites is None:
        raise PragError(f"{index.path}: has lost the layout {first.layout}: restore it from a copy")

    try:
        shard, entries = write_rows(shards, rows, sites, (payload(shards, row) for row in rows))
    except ShardDamage as damage:
        # It was sound a moment ago: the disk is failing, this is no time to go on.
        raise PragError(
            f"{shards.where(first.shard)}: the shard changed while it was copied ({damage}): check "
            "the disk, then run `prag verify`"
        ) from damage
    index.move(rows, shard, entries)


def payload(shards: Shards, row: Row) -> bytes:
    """The stored bytes of an adapter, read plainly and checked.

    Raises:
        ShardDamage: they are gone or not those that were stored.
    """
    with shards.reading(row.shard) as file:
        data = read_entry(file, row.entry)
    if checksum(data) != row.checksum:
        raise ShardDamage("its checksum does not match")
    return data


def write_rows(
    shards: Shards, rows: Sequence[Row], sites: Sequence[Site], payloads: Iterable[bytes]
) -> tuple[str, list[Entry]]:
    """Write the bytes of these rows, all of one form, as one new shard; no row names it yet."""
    first = rows[0]
    return shards.write(
        metadata(first.dtype, first.rank, first.alpha, sites_to_json(sites)),
        codecs.SAFETENSORS[first.dtype],
        [str(row.key) for row in rows],
        first.length,
        codecs.width(first.dtype),
        payloads,
    )


def _check_shard(
    index: Index, shards: Shards, shard: str, rows: Sequence[Row]
) -> list[tuple[Row, str]]:
    """The rows whose bytes, or whose place in the header, are not as the index says."""
    try:
        with shards.reading(shard) as file:
            header = read_header(file)
    except ShardDamage as damage:
        return [(row, str(damage)) for row in rows]
    found = dict(_check_payloads(shards, shard, rows))
    for row in rows:
        if row not in found:
            reason = _contradiction(index, header, row)
            if reason is not None:
                found[row] = reason
    return list(found.items())


def _check_payloads(shards: Shards, shard: str, rows: Sequence[Row]) -> list[tuple[Row, str]]:
    found: list[tuple[Row, str]] = []
    try:
        with shards.reading(shard) as file:
            for row in rows:
                try:
                    if checksum(read_entry(file, row.entry)) != row.checksum:
                        found.append((row, "its checksum does not match"))
                except ShardDamage as damage:
                    found.append((row, str(damage)))
    except ShardDamage as damage:
        return [(row, str(damage)) for row in rows]
    return found


def _contradiction(index: Index, header: Header, row: Row) -> str | None:
    """What the shard's header says otherwise than the index, None if they agree."""
    if header.entries.get(str(row.key)) != Entry(row.offset, row.length):
        return "the header places it elsewhere than the index"
    sites = index.sites(row.layout)
    if sites is None:
        return "the index has lost its layout"
    expected = metadata(row.dtype, row.rank, row.alpha, sites_to_json(sites))
    for name, value in expected.items():
        if header.metadata.get(name) != value:
            return f"the header gives another {name} than the index"
    return None


def _grouped(shard: str, found: Sequence[tuple[Row, str]]) -> Iterator[Damage]:
    """One `Damage` for each reason."""
    by_reason: dict[str, list[AdapterKey]] = {}
    for row, reason in found:
        by_reason.setdefault(reason, []).append(row.key)
    for reason, keys in by_reason.items():
        yield Damage(shard, tuple(keys), reason)
