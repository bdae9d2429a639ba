"""The adapter store: durable, checksummed, memory-mapped. Its format is docs/store-format.md."""

from prag.config import CODECS, Codec
from prag.store.adapters import AdapterStore, StoredItem, shard_bytes
from prag.store.errors import DamagedAdapter, MissingAdapter
from prag.store.upkeep import CompactReport, Damage, StoreSize, SweepReport, VerifyReport

__all__ = [
    "CODECS",
    "AdapterStore",
    "Codec",
    "CompactReport",
    "Damage",
    "DamagedAdapter",
    "MissingAdapter",
    "StoreSize",
    "StoredItem",
    "SweepReport",
    "VerifyReport",
    "shard_bytes",
]
