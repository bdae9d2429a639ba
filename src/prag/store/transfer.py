"""Copying adapters from one store to another, as they are stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prag.records import PragError
from prag.store.adapters import AdapterStore
from prag.store.index import Row, sites_to_json
from prag.store.shards import ShardDamage
from prag.store.upkeep import packs, payload, write_rows


@dataclass(frozen=True)
class TransferReport:
    """What a transfer did: adapters copied, and those that were there already."""

    copied: int
    kept: int


def transfer(
    source: AdapterStore,
    target: AdapterStore,
    progress: Callable[[int, int], None],
    target_bytes: int = 64 * 1024 * 1024,
) -> TransferReport:
    """Copy every adapter to another store; the source stays as it is. Can be run again.

    Each is checked as it is read. Shards of the target are put together from those of the source,
    up to about `target_bytes`.

    Raises:
        PragError: an adapter is damaged, or the target cannot be written; what was copied stays.
    """
    total = len(source)
    copied = kept = 0
    groups: dict[tuple[str, int, float, str], list[Row]] = {}
    for shard in source.index.shards():
        for row in source.index.rows_of_shard(shard):
            groups.setdefault(row.form, []).append(row)
    for rows in groups.values():
        there = target.index.rows(row.key for row in rows)
        missing = [r for r in rows if r.key not in there or there[r.key].checksum != r.checksum]
        kept += len(rows) - len(missing)
        for pack in packs(missing, target_bytes):
            progress(copied + kept, total)
            _copy(source, target, pack)
            copied += len(pack)
    progress(total, total)
    return TransferReport(copied, kept)


def _copy(source: AdapterStore, target: AdapterStore, rows: list[Row]) -> None:
    sites = source.index.sites(rows[0].layout)
    if sites is None:
        raise PragError(f"{source.place}: its index has lost the layout {rows[0].layout}")

    def payloads() -> Iterator[bytes]:
        for row in rows:
            try:
                yield payload(source.shards, row)
            except ShardDamage as damage:
                raise PragError(
                    f"{source.shards.where(row.shard)}: the adapter of passage {row.key.passage} "
                    f"is damaged ({damage}): run `prag build` first, which makes it again"
                ) from damage

    shard, entries = write_rows(target.shards, rows, sites, payloads())
    moved = [
        Row(row.key, shard, e.offset, e.length, *row.form, row.checksum, row.examples, row.created)
        for row, e in zip(rows, entries, strict=True)
    ]
    target.index.add(moved, sites_to_json(sites))
