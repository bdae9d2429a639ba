"""The adapter store: durable, checksummed, memory-mapped. Its format is docs/store-format.md."""

from prag.store.adapters import DTYPES, AdapterStore, Kind, StoredItem
from prag.store.errors import DamagedAdapter, MissingAdapter
from prag.store.upkeep import CompactReport, Damage, StoreSize, SweepReport, VerifyReport

__all__ = [
    "DTYPES",
    "AdapterStore",
    "CompactReport",
    "Damage",
    "DamagedAdapter",
    "Kind",
    "MissingAdapter",
    "StoreSize",
    "StoredItem",
    "SweepReport",
    "VerifyReport",
]
