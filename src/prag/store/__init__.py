"""The adapter store: durable, checksummed, memory-mapped. Its format is docs/store-format.md."""

from prag.config import CODECS, Codec
from prag.store.adapters import ALIVE, AdapterStore, StoredItem, shard_bytes
from prag.store.errors import DamagedAdapter, MissingAdapter, is_address, mending
from prag.store.transfer import TransferReport, transfer
from prag.store.upkeep import CompactReport, Damage, StoreSize, SweepReport, VerifyReport

__all__ = [
    "ALIVE",
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
    "TransferReport",
    "VerifyReport",
    "is_address",
    "mending",
    "shard_bytes",
    "transfer",
]
