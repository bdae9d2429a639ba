"""The parts of a knowledge base's folder, opened when they are needed, and who may write to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from prag.augment import AugmentationFile
from prag.corpus import Catalogue
from prag.disk import one_writer
from prag.knowledge_base import settings
from prag.knowledge_base.augmentations import Augmentations
from prag.knowledge_base.settings import Settings
from prag.model import BaseModel, load_model
from prag.records import PragError
from prag.store import AdapterStore


class Folder:
    """What `KnowledgeBase` is made of: the files, the settings, the base model, the lock."""

    def __init__(
        self,
        folder: Path,
        found: Settings,
        base: BaseModel | None = None,
        device: str = "cpu",
    ) -> None:
        self.folder = folder
        self.settings = found
        self.device = device if base is None else str(base.device)
        self._base = base

    @property
    def base(self) -> BaseModel:
        """The base model, loaded once.

        Raises:
            PragError: it cannot be loaded, or is not the model that this folder was made with.
        """
        if self._base is None:
            base = load_model(self.settings.model, device=self.device)
            self._check_base(base)
            self._base = base
        return self._base

    def _check_base(self, base: BaseModel) -> None:
        if base.fingerprint != self.settings.base:
            raise PragError(
                f"{self.folder} was made with the model {self.settings.model!r} of fingerprint "
                f"{self.settings.base}; {base.name!r} has {base.fingerprint}. Adapters fit only "
                "the model they were trained on: restore that model, or make a new knowledge base"
            )

    @property
    def _augmentations(self) -> Augmentations:
        origins = (*self.settings.origins, f"self:{self.settings.base}")
        return Augmentations(self.folder, self.settings.recipe, origins)

    def _catalogue(self, readonly: bool = False) -> Catalogue:
        return Catalogue.open(self.folder / "corpus.sqlite", readonly)

    @property
    def _adapters(self) -> Path | str:
        return settings.adapters_at(self.folder, self.settings)

    def _store(self, readonly: bool = False) -> AdapterStore:
        return AdapterStore.open(self._adapters, readonly)

    def _prefer(self, origin: str) -> None:
        others = tuple(o for o in self.settings.origins if o != origin)
        self._save(replace(self.settings, origins=(origin, *others)))

    def _forget(self, passage_ids: set[str]) -> None:
        if AdapterStore.exists(self._adapters):
            with self._store() as store:
                there = store.keys()
                store.discard([key for key in there if key.passage in passage_ids])
        for path in sorted((self.folder / "augmentations").glob("*.jsonl")):
            AugmentationFile(path).remove(passage_ids)

    def _save(self, changed: Settings) -> None:
        settings.save(self.folder, changed)
        self.settings = changed

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """The one writer; what is on the disk is what it starts from.

        Raises:
            PragError: another process is writing, or the folder cannot be written.
        """
        with one_writer(self.folder):
            self.settings = settings.load(self.folder)
            yield
