"""A knowledge base as one looks into it: its corpus, what is known of each passage, its state."""

from __future__ import annotations

from collections.abc import Collection

from prag.corpus import Counts, DocumentRow
from prag.knowledge_base import inspect
from prag.knowledge_base.folder import Folder
from prag.knowledge_base.inspect import Status, VerifyReport
from prag.progress import Tell, silent
from prag.records import AdapterKey, Augmentation, Passage
from prag.store import AdapterStore


class Looker(Folder):
    """Reads no model and writes nothing."""

    def passages(self) -> list[Passage]:
        """The passages of the corpus, in its order."""
        with self._catalogue(readonly=True) as catalogue:
            return list(catalogue.passages())

    def documents(self) -> list[DocumentRow]:
        """The documents, in the order in which they were first added."""
        with self._catalogue(readonly=True) as catalogue:
            return list(catalogue.documents())

    def count(self) -> Counts:
        """How many documents and passages there are."""
        with self._catalogue(readonly=True) as catalogue:
            return catalogue.count()

    def document(self, name: str) -> DocumentRow | None:
        """The document of a name, None if there is none."""
        with self._catalogue(readonly=True) as catalogue:
            return catalogue.document(name)

    def passages_of(self, name: str) -> list[Passage]:
        """The passages of a document, in its order; none where there is no such document."""
        with self._catalogue(readonly=True) as catalogue:
            return catalogue.passages_of(name)

    def documents_of(self, passage_id: str) -> list[str]:
        """The names of the documents that hold a passage.

        Raises:
            PragError: there is no such passage.
        """
        with self._catalogue(readonly=True) as catalogue:
            return catalogue.documents_of(passage_id)

    def augmentations_of(self, passage_ids: Collection[str]) -> dict[str, Augmentation]:
        """The augmentation that is used for each of the passages that have one."""
        return self._augmentations.known(set(passage_ids))

    def adapters_of(self, passage_ids: Collection[str]) -> dict[str, AdapterKey]:
        """The key of the adapter that questions are answered with, of each passage that has one."""
        built = self.settings.built
        if built is None or not AdapterStore.exists(self._adapters):
            return {}
        keys = [
            AdapterKey(passage, self.settings.base, fingerprint)
            for passage in passage_ids
            for fingerprint in reversed(built.fingerprints)  # the preferred one is the last word
        ]
        with self._store(readonly=True) as store:
            there = store.has(keys)
        return {key.passage: key for key in keys if key in there}

    def stored(self) -> tuple[int, int]:
        """How many adapters are in the store, and how many bytes they take on the disk."""
        if not AdapterStore.exists(self._adapters):
            return 0, 0
        with self._store(readonly=True) as store:
            return len(store), store.size().bytes_on_disk

    def corpus_digest(self) -> str:
        """The hash of the corpus: another digest is another corpus."""
        with self._catalogue(readonly=True) as catalogue:
            return catalogue.digest()

    def status(self) -> Status:
        """What there is and what is missing."""
        with self._catalogue(readonly=True) as catalogue:
            return inspect.status(self.folder, self.settings, catalogue, self._augmentations)

    def verify(self, progress: Tell | None = None) -> VerifyReport:
        """Read everything and check it: passages, adapters, index."""
        with self._catalogue(readonly=True) as catalogue:
            return inspect.verify(
                self.folder, self.settings, catalogue, self._augmentations, progress or silent
            )
