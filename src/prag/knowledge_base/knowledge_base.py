"""`KnowledgeBase`: one folder that holds a corpus, its adapters and what finds them.

prag.json            model, recipe, what was last built (`settings`)
corpus.sqlite        documents and passages (`corpus.catalogue`)
augmentations/       rewrites and question-answer pairs, JSON lines (`augment.files`)
adapters/            the adapter store (`store`)
retrieval/           the index of the retriever (`retrieval`)
.lock                one writer at a time
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from prag.augment import Augmenter, self_augmenter
from prag.batches import TOKENS_A_STEP
from prag.config import Recipe, default_recipe
from prag.corpus import Catalogue, PutReport, ReadReport, WithdrawReport, read
from prag.crew import Crew, Workers
from prag.disk import explain
from prag.generate import Engine
from prag.knowledge_base import build, inspect, settings
from prag.knowledge_base.augmentations import ImportReport, slices
from prag.knowledge_base.build import BuildReport
from prag.knowledge_base.housing import Housing, checked_place
from prag.knowledge_base.settings import Built, Settings
from prag.model import BaseModel, device_named, load_model
from prag.progress import Tell, silent
from prag.records import Document, PragError
from prag.retrieval import build_retriever, checked_address
from prag.store import CODECS, AdapterStore


class KnowledgeBase(Housing):
    """A library that a model has read. Make one with `create`, come back to it with `open`."""

    @classmethod
    def create(
        cls,
        folder: str | Path,
        model: str | BaseModel = "smollm2",
        recipe: Recipe | None = None,
        *,
        retriever: str = "bm25",
        retriever_url: str | None = None,
        chunk_words: int = 100,
        codec: str | None = None,
        adapters: str | None = None,
        device: str = "cpu",
    ) -> KnowledgeBase:
        """A new, empty knowledge base.

        Args:
            folder: must not exist, or be empty.
            model: Hugging Face id or folder of a causal language model, `smollm2` for the packaged
                one, or a loaded `BaseModel`.
            recipe: how passages are encoded; by default `small` for a model under 1 B
                parameters, else `paper`.
            retriever: one of `prag.retrieval.KINDS`.
            retriever_url: the address of the server, for `elasticsearch` and `opensearch`.
            chunk_words: the length of the passages that documents are cut into.
            codec: how adapters are stored, one of `prag.store.CODECS`; by default as the recipe
                says. They are trained and used in the model's own precision.
            adapters: the address of an object store to keep them in (`s3://bucket/path`); by
                default they are in the folder.
            device: where the model is loaded, if `model` is not loaded already: `cpu`, `cuda`,
                `cuda:1` ... or `auto`. It is not kept: each `open` says its own.

        Raises:
            PragError: the folder is in use or cannot be written, or the model will not do.
        """
        folder = Path(folder)
        if (folder / settings.FILE).exists():
            raise PragError(f"there is a knowledge base at {folder} already; use another folder")
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise PragError(f"{folder} exists and is not an empty folder; use another one")
        if chunk_words < 1:
            raise PragError("a passage has at least 1 word")
        if codec is not None and codec not in CODECS:
            raise PragError(f"no codec {codec!r}: use one of {', '.join(CODECS)}")
        retriever_url = checked_address(retriever, retriever_url)
        if adapters is not None:
            AdapterStore.open(checked_place(adapters) or "").close()  # it will do
        if isinstance(model, str) and Path(model).is_dir():
            model = str(Path(model).resolve())  # to be found from another folder as well
        base = model if isinstance(model, BaseModel) else load_model(model, device=device)
        recipe = recipe or default_recipe(base.parameters)
        found = Settings(
            model=base.name,
            base=base.fingerprint,
            recipe=recipe,
            retriever=retriever,
            retriever_url=retriever_url,
            chunk_words=chunk_words,
            codec=codec or recipe.codec,
            adapters=adapters,
        )
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PragError(explain(error, folder, "making the folder")) from error
        Catalogue.open(folder / "corpus.sqlite").close()
        settings.save(folder, found)
        return cls(folder, found, base)

    @classmethod
    def open(
        cls,
        folder: str | Path,
        base: BaseModel | None = None,
        engine: Callable[[BaseModel], Engine] | None = None,
        device: str = "cpu",
    ) -> KnowledgeBase:
        """The knowledge base in a folder. The model is loaded when it is first needed.

        Args:
            base: the base model, if it is loaded already.
            engine: makes what generates answers, for the base model; by default transformers, in
                this process. `lambda base: VllmEngine(base, url)` for a vLLM server.
            device: where the model is loaded, if `base` is not given: `cpu`, `cuda`, `cuda:1` ...
                or `auto` (the first GPU, else the processor).

        Raises:
            PragError: there is none, or it is damaged; `base` is not its model; no such device.
        """
        where = str(device_named(device))
        kb = cls(Path(folder), settings.load(Path(folder)), base, where)
        if engine is not None:
            kb._engine_of = engine
        if base is not None:
            kb._check_base(base)
        return kb

    # -- adding and taking away -------------------------------------------------------------

    def add(
        self,
        paths: Sequence[str | Path] | str | Path,
        *,
        skip_bad: bool = False,
        stdin: BinaryIO | None = None,
    ) -> tuple[PutReport, ReadReport]:
        """Add files and folders (`-` is standard input). A changed document replaces its passages.

        Args:
            skip_bad: add what can be read and leave out the rest, which the report names.

        Raises:
            PragError: something cannot be read (every problem is named, nothing is added), or the
                folder cannot be written.
        """
        paths = [paths] if isinstance(paths, (str, Path)) else paths
        report = read(paths, chunk_words=self.settings.chunk_words, stdin=stdin)
        if report.problems and not skip_bad:
            shown = "\n".join(f"  {p.text}: {p.reason}" for p in report.problems)
            raise PragError(f"nothing was added to {self.folder}:\n{shown}")
        if not report.documents:
            raise PragError(f"nothing to add in {', '.join(map(str, paths))}")
        return self.add_documents(report.documents), report

    def add_documents(self, documents: Sequence[Document]) -> PutReport:
        """Add documents that the caller has made, all of them or none."""
        with self._writing(), self._catalogue() as catalogue:
            return catalogue.put(documents)

    def withdraw(self, ids: Sequence[str]) -> WithdrawReport:
        """Take documents or passages out: by document name, passage id, or a prefix of one.

        From the moment this returns no answer rests on them; their adapters and augmentations
        are deleted. The index of the retriever forgets them at the next build; until then they
        are passed over.

        Raises:
            PragError: an id names nothing, or more than one passage; nothing is withdrawn.
        """
        with self._writing():
            with self._catalogue() as catalogue:
                report = catalogue.withdraw(ids)
            self._forget(set(report.passages))
        return report

    def augment_from(self, path: str | Path, label: str | None = None) -> ImportReport:
        """Take augmentations made elsewhere; they are used before any that are there.

        Their origin, `file:<label>@<hash of the file>`, is part of the fingerprint of every
        adapter trained on them.

        Args:
            path: JSON lines `{"id", "rewrite", "qa": [{"question", "answer", "full_answer"}]}`;
                an id may be the first 12 digits of the passage's.
            label: what to call them; by default the file's name.

        Raises:
            PragError: a line is damaged; nothing is imported.
        """
        with self._writing():
            with self._catalogue() as catalogue:
                ids = set(catalogue.ids())
            report = self._augmentations.take(Path(path), label, ids)
            if report.imported:
                self._prefer(report.origin)
        return report

    # -- building ---------------------------------------------------------------------------

    def use_recipe(self, recipe: Recipe) -> None:
        """From now on use this recipe; adapters of another are kept beside its own."""
        if recipe != self.settings.recipe:
            with self._writing():
                self._save(replace(self.settings, recipe=recipe))

    def augment(
        self,
        progress: Tell | None = None,
        augmenter: Augmenter | None = None,
        only: Collection[str] | None = None,
    ) -> int:
        """Augment the passages that have no augmentation yet, and go no further.

        Args:
            only: ids of the passages that count; by default all.
            augmenter: who does it; its work is then used before what the base model made, and
                only passages that have nothing but that count as not augmented. By default the
                base model itself.

        Returns:
            How many passages were augmented.
        """
        with self._writing(), self._catalogue() as catalogue:
            if augmenter is not None:
                self._prefer(augmenter.origin)
            return self._augment(catalogue, only, progress or silent, augmenter)

    def build(
        self,
        progress: Tell | None = None,
        recipe: Recipe | None = None,
        only: Collection[str] | None = None,
        tokens_a_step: int | None = None,
        check: bool = False,
        workers: Workers | None = None,
    ) -> BuildReport:
        """Augment, encode and index what is missing; keep the rest. Can be killed and run again.

        Args:
            progress: called with a stage, how much is done, of how much.
            recipe: from now on use this one; adapters of another recipe are kept beside its own.
            only: ids of the passages to augment and encode, where not all are needed (an
                evaluation of a few questions); the whole corpus is indexed all the same.
            tokens_a_step: padded tokens of a training step, which its memory grows with; by default
                `TOKENS_A_STEP`. Adapters are the same up to rounding.
            check: read every stored adapter first. In the folder that is always done; of a store at
                an address it is otherwise only looked whether every shard is there in its size.
            workers: processes that augment and encode, on this machine or a Ray cluster; by default
                this one does. Adapters are the same, bit for bit where the machines compute alike.

        Raises:
            PragError: the corpus is empty, another process is writing, the disk is full ...
        """
        if tokens_a_step is not None and tokens_a_step < 1:
            raise PragError("a training step has at least 1 token")
        tell = progress or silent
        clock = build.Clock()
        if recipe is not None:
            self.use_recipe(recipe)
        with (
            self._writing(),
            self._catalogue() as catalogue,
            self._store() as store,
            self._hired(workers) as crew,
        ):
            ids = set(catalogue.ids())
            if not ids:
                raise PragError(
                    f"{self.folder} has no passages: `prag add {self.folder} FILE` first"
                )
            discarded = 0
            if not store.far:  # there others may write too: `collect` is what cleans up
                store.sweep()
                gone = [key for key in store.keys() if key.passage not in ids]  # noqa: SIM118
                discarded = store.discard(gone)
            augmented = self._augment(catalogue, only, tell, crew=crew)
            used = self._augmentations.entries(ids if only is None else ids & set(only))
            clock.lap("augment")

            damaged = build.discard_damaged(store, check, tell)
            trained = build.encode_missing(
                self.base,
                self.settings.recipe,
                store,
                build.plan_corpus(
                    self.base,
                    self.settings.recipe,
                    (p for p in catalogue.passages() if p.id in used),
                    self._augmentations,
                    used,
                ),
                len(used),
                tokens_a_step or TOKENS_A_STEP,
                self.settings.codec,
                tell,
                crew,
            )
            clock.lap("encode")

            digest = catalogue.digest()
            notes: tuple[str, ...] = ()
            tell("index", 0, len(ids))
            if not inspect.index_fits(self.folder, self.settings, digest):
                made = build_retriever(
                    self.settings.retriever,
                    build.told(catalogue.passages(), len(ids), tell),
                    self.folder / "retrieval",
                    digest,
                    self.settings.retriever_url,
                )
                notes = getattr(made, "notes", ())
            tell("index", len(ids), len(ids))
            clock.lap("index")

            origins = Counter(a.origin for a in used.values())
            prints = [
                self.settings.recipe.fingerprint(origin)
                for origin in self._augmentations.origins
                if origin in origins
            ]
            done = Built(self.settings.recipe, tuple(dict.fromkeys(prints)), digest, len(ids))
            self._save(replace(self.settings, built=done))
            retried, lost = store.retried, 0 if crew is None else crew.deaths
        self._forget_open()
        return BuildReport(
            passages=len(ids),
            augmented=augmented,
            encoded=trained.encoded,
            kept=trained.kept,
            damaged=damaged,
            discarded=discarded,
            left_out=trained.left_out,
            rejects=sum(a.rejects for a in used.values()),
            origins=dict(origins),
            dtype=build.dtype_of_training(self.base, self.settings.recipe),
            retried=retried,
            workers_lost=lost,
            seconds=clock.laps,
            notes=notes,
        )

    # -- what the above share ---------------------------------------------------------------

    def _hired(self, workers: Workers | None) -> AbstractContextManager[Crew | None]:
        if workers is None:
            return nullcontext()
        return Crew(self.base, self.settings.recipe, workers)

    def _augment(
        self,
        catalogue: Catalogue,
        only: Collection[str] | None,
        tell: Tell,
        augmenter: Augmenter | None = None,
        crew: Crew | None = None,
    ) -> int:
        ids = {i for i in catalogue.ids() if only is None or i in only}
        known = self._augmentations.entries(ids)
        own = f"self:{self.settings.base}" if augmenter is not None else None
        missing = {i for i in ids if i not in known or known[i].origin == own}
        if not missing:
            return 0
        maker = augmenter or self_augmenter(self.base, self.settings.recipe.augment)
        # Slices of the corpus and not of what is missing: those that an undisturbed build has.
        chosen = slices(p for p in catalogue.passages() if p.id in ids)
        batches = ([p for p in some if p.id in missing] for some in chosen)
        return self._augmentations.make(maker, batches, len(missing), tell, crew)
