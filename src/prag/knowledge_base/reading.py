"""What answering opens, kept between questions until another build has changed it."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from functools import cached_property

from prag.config import Recipe
from prag.generate import Engine, TransformersEngine
from prag.knowledge_base import settings
from prag.knowledge_base.looking import Looker
from prag.knowledge_base.settings import Built
from prag.knowledge_base.shelf import Shelf, adapter_bytes
from prag.methods import Library, Shelved
from prag.model import BaseModel
from prag.prefixes import Prefix
from prag.quiet import shared_beginning
from prag.records import AdapterKey, Augmentation, Hit, Passage, PragError
from prag.replay import sites_of
from prag.retrieval import ReplacedError, Retriever, open_retriever
from prag.store import AdapterStore


class Reader(Looker):
    """A knowledge base as `ask` and `export` see it: what was last built."""

    _engine_of: Callable[[BaseModel], Engine] = TransformersEngine
    _looked: tuple[object, set[str] | None] | None = None  # what `_found` saw of which state

    def _built(self) -> Built:
        # Another process may have built since: what is on the disk counts.
        found = settings.load(self.folder)
        if found.built is None:
            raise PragError(f"{self.folder} is not built yet: `prag build {self.folder}` first")
        known = self.settings
        if (known.built, known.adapters) != (found.built, found.adapters):
            self.settings = found
            self._forget_open()
        return found.built

    def library(self, recipe: Recipe | None = None) -> Library:
        """What answering uses of this knowledge base, as it was last built.

        Raises:
            PragError: nothing is built.
        """
        built = self._built()
        prints = built.fingerprints
        if recipe is not None:
            prints = tuple(recipe.fingerprint(origin) for origin in self._augmentations.origins)

        def passages(ids: Sequence[str]) -> list[Passage]:
            with self._catalogue(readonly=True) as catalogue:
                return catalogue.get(ids)

        there = self._found(built)

        def search(
            questions: Sequence[str], k: int, allowed: Container[str] | None = None
        ) -> list[list[Hit]]:
            if there is not None:
                allowed = there if allowed is None else {i for i in there if i in allowed}
            try:
                return self._retriever.search(questions, k, allowed)
            except ReplacedError:  # a build is at its end: the new index is there, and not yet said
                self.__dict__.pop("_retriever", None)
                return self._retriever.search(questions, k, allowed)

        def adapter(passage_id: str) -> Shelved | None:
            return self.shelf.get(
                (passage_id, prints),
                lambda: self._find_adapter(self._reading_store, passage_id, prints),
            )

        known: dict[str, Augmentation] = {}

        def augmentation(passage_id: str) -> Augmentation | None:
            if not known:
                with self._catalogue(readonly=True) as catalogue:
                    known.update(self._augmentations.known(set(catalogue.ids())))
            return known.get(passage_id)

        notes = (
            ()
            if there is None
            else (
                "the corpus has changed since the last build: what was added is not searched yet "
                f"(`prag build {self.folder}`), what was withdrawn is passed over",
            )
        )
        return Library(
            base=self.base,
            recipe=recipe or built.recipe,
            engine=self._engine,
            search=search,
            passages=passages,
            adapter=adapter,
            augmentation=augmentation,
            beginning=self._beginning(recipe or built.recipe),
            notes=notes,
        )

    def _found(self, built: Built) -> set[str] | None:
        """The ids of the corpus where it is not the one that was built, else None.

        Reading them takes a second for a few million passages: it is done again after a change.
        """
        with self._catalogue(readonly=True) as catalogue:
            state, looked = (catalogue.state(), built.digest), self._looked
            if looked is None or looked[0] != state:
                same = catalogue.digest() == built.digest
                looked = self._looked = state, None if same else set(catalogue.ids())
            return looked[1]

    def _find_adapter(
        self, store: AdapterStore, passage_id: str, fingerprints: Sequence[str]
    ) -> Shelved | None:
        keys = [AdapterKey(passage_id, self.settings.base, f) for f in fingerprints]
        there = store.has(keys)
        for key in keys:
            if key in there:
                return self._shelved(store, key)
        known = self._augmentations.known({passage_id})
        if passage_id in known and not known[passage_id].pairs:
            return None
        return self._shelved(store, keys[0])  # raises, with what there is instead

    def _shelved(self, store: AdapterStore, key: AdapterKey) -> Shelved:
        adapter = store.read(key)
        return Shelved(str(key), adapter, store.stored_bytes([key])[key])

    def _beginning(self, recipe: Recipe) -> Prefix | None:
        if recipe not in self._beginnings:
            sites = sites_of(self.base, recipe.train)
            self._beginnings[recipe] = shared_beginning(self.base, sites, recipe)
        return self._beginnings[recipe]

    @cached_property
    def _beginnings(self) -> dict[Recipe, Prefix | None]:
        return {}

    @cached_property
    def _engine(self) -> Engine:
        return self._engine_of(self.base)

    @cached_property
    def _retriever(self) -> Retriever:
        return open_retriever(self.folder / "retrieval", self.settings.retriever)

    @cached_property
    def _reading_store(self) -> AdapterStore:
        return self._store(readonly=True)

    @cached_property
    def shelf(self) -> Shelf[tuple[str, tuple[str, ...]], Shelved | None]:
        """The adapters in memory."""
        return Shelf(lambda found: adapter_bytes(found.adapter) if found else 0)

    def _forget_open(self) -> None:
        for name in ("_retriever", "_reading_store", "shelf"):
            self.__dict__.pop(name, None)
