"""Where the adapters of a knowledge base are kept: cleaning it up, and another place for them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from prag.knowledge_base import settings
from prag.knowledge_base.asking import Asked
from prag.progress import Tell, silent
from prag.records import PragError
from prag.store import (
    ALIVE,
    AdapterStore,
    CompactReport,
    SweepReport,
    TransferReport,
    is_address,
    transfer,
)


@dataclass(frozen=True)
class CollectReport:
    """What `collect` did.

    `discarded` are adapters of passages that are not in the corpus.
    """

    discarded: int
    swept: SweepReport
    compacted: CompactReport | None


class Housing(Asked):
    """A knowledge base as the keeper of adapters."""

    def collect(
        self, alive: float = ALIVE, *, foreign: bool = False, compact: bool = False
    ) -> CollectReport:
        """Delete what no index names, of writers that were killed.

        Args:
            alive: seconds; at an address younger shards are left, they may be another writer's.
            foreign: also the adapters of passages that are not in this corpus. At an address that
                is what other knowledge bases have there.
            compact: then write small shards, and those with dead bytes, into few large ones.
        """
        with self._writing(), self._catalogue() as catalogue, self._store() as store:
            discarded = 0
            if foreign:
                ids = set(catalogue.ids())
                discarded = store.discard([k for k in store.keys() if k.passage not in ids])  # noqa: SIM118
            compacted = store.compact() if compact else None
            swept = store.sweep(alive)
        return CollectReport(discarded, swept, compacted)

    def relocate(self, address: str | None, progress: Tell | None = None) -> TransferReport:
        """Copy the adapters to an address, or back into the folder (None), and use them there.

        Those at the old place stay there; delete them when the new ones have answered.

        Raises:
            PragError: a damaged adapter, or the new place cannot be written; nothing is switched.
        """
        tell = progress or silent
        with self._writing():
            changed = replace(self.settings, adapters=checked_place(address))
            place = settings.adapters_at(self.folder, changed)
            if changed == self.settings:
                raise PragError(f"the adapters of {self.folder} are at {place} already")
            report = TransferReport(0, 0)
            if AdapterStore.exists(self._adapters):
                with self._store(readonly=True) as source, AdapterStore.open(place) as target:
                    report = transfer(source, target, lambda n, of: tell("store", n, of))
            else:
                AdapterStore.open(place).close()
            self._save(changed)
        self._forget_open()
        return report


def checked_place(address: str | None) -> str | None:
    """The address as it is.

    Raises:
        PragError: it is none.
    """
    if address is not None and not is_address(address):
        raise PragError(f"{address} is no address: give one such as s3://bucket/path")
    return address
