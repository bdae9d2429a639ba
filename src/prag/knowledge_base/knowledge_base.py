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
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from prag.augment import Augmenter, self_augmenter
from prag.batches import TOKENS_A_STEP
from prag.config import GenerateConfig, Recipe, default_recipe
from prag.corpus import Catalogue, PutReport, ReadReport, WithdrawReport, read
from prag.disk import explain
from prag.generate import Engine
from prag.knowledge_base import build, export, inspect, settings
from prag.knowledge_base.augmentations import ImportReport
from prag.knowledge_base.build import BuildReport
from prag.knowledge_base.reading import Reader
from prag.knowledge_base.settings import Built, Settings
from prag.methods import answer_all, find, method_named
from prag.model import BaseModel, load_model
from prag.progress import Tell, silent
from prag.prompts import style_named
from prag.records import Answer, Document, Passage, PragError
from prag.retrieval import build_retriever, checked_address
from prag.store import CODECS


class KnowledgeBase(Reader):
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
        if isinstance(model, str) and Path(model).is_dir():
            model = str(Path(model).resolve())  # to be found from another folder as well
        base = model if isinstance(model, BaseModel) else load_model(model)
        recipe = recipe or default_recipe(base.parameters)
        found = Settings(
            model=base.name,
            base=base.fingerprint,
            recipe=recipe,
            retriever=retriever,
            retriever_url=retriever_url,
            chunk_words=chunk_words,
            codec=codec or recipe.codec,
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
    ) -> KnowledgeBase:
        """The knowledge base in a folder. The model is loaded when it is first needed.

        Args:
            base: the base model, if it is loaded already.
            engine: makes what generates answers, for the base model; by default transformers, in
                this process. `lambda base: VllmEngine(base, url)` for a vLLM server.

        Raises:
            PragError: there is none, or it is damaged; or `base` is not its model.
        """
        kb = cls(Path(folder), settings.load(Path(folder)), base)
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
                ids = {p.id for p in catalogue.passages()}
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
            chosen = [p for p in catalogue.passages() if only is None or p.id in only]
            if augmenter is not None:
                self._prefer(augmenter.origin)
            return self._augment(chosen, progress or silent, augmenter)

    def build(
        self,
        progress: Tell | None = None,
        recipe: Recipe | None = None,
        only: Collection[str] | None = None,
        tokens_a_step: int | None = None,
    ) -> BuildReport:
        """Augment, encode and index what is missing; keep the rest. Can be killed and run again.

        Args:
            progress: called with a stage, how much is done, of how much.
            recipe: from now on use this one; adapters of another recipe are kept beside its own.
            only: ids of the passages to augment and encode, where not all are needed (an
                evaluation of a few questions); the whole corpus is indexed all the same.
            tokens_a_step: padded tokens of a training step, which its memory grows with; by default
                `TOKENS_A_STEP`. Adapters are the same up to rounding.

        Raises:
            PragError: the corpus is empty, another process is writing, the disk is full ...
        """
        if tokens_a_step is not None and tokens_a_step < 1:
            raise PragError("a training step has at least 1 token")
        tell = progress or silent
        clock = build.Clock()
        if recipe is not None:
            self.use_recipe(recipe)
        with self._writing(), self._catalogue() as catalogue, self._store() as store:
            passages = list(catalogue.passages())
            if not passages:
                raise PragError(
                    f"{self.folder} has no passages: `prag add {self.folder} FILE` first"
                )
            ids = {p.id for p in passages}
            store.sweep()
            there = store.keys()
            discarded = store.discard([key for key in there if key.passage not in ids])
            chosen = passages if only is None else [p for p in passages if p.id in only]
            augmented = self._augment(chosen, tell)
            used = self._augmentations.known({p.id for p in chosen})
            clock.lap("augment")

            plan = build.plan_lessons(self.base, self.settings.recipe, chosen, used)
            good, damaged = build.keep_good(store, plan, tell)
            encoded = build.encode_missing(
                self.base,
                self.settings.recipe,
                store,
                plan,
                good,
                tokens_a_step or TOKENS_A_STEP,
                self.settings.codec,
                tell,
            )
            clock.lap("encode")

            digest = catalogue.digest()
            notes: tuple[str, ...] = ()
            tell("index", 0, len(passages))
            if not inspect.index_fits(self.folder, self.settings, digest):
                made = build_retriever(
                    self.settings.retriever,
                    build.told(passages, tell),
                    self.folder / "retrieval",
                    digest,
                    self.settings.retriever_url,
                )
                notes = getattr(made, "notes", ())
            tell("index", len(passages), len(passages))
            clock.lap("index")

            origins = Counter(a.origin for a in used.values())
            prints = [
                self.settings.recipe.fingerprint(origin)
                for origin in self._augmentations.origins
                if origin in origins
            ]
            done = Built(self.settings.recipe, tuple(dict.fromkeys(prints)), digest, len(passages))
            self._save(replace(self.settings, built=done))
        self._forget_open()
        return BuildReport(
            passages=len(passages),
            augmented=augmented,
            encoded=encoded,
            kept=len(good),
            damaged=damaged,
            discarded=discarded,
            left_out=plan.left_out,
            rejects=sum(len(a.rejects) for a in used.values()),
            origins=dict(origins),
            dtype=build.dtype_of_training(self.base, self.settings.recipe),
            seconds=clock.laps,
            notes=notes,
        )

    # -- asking -----------------------------------------------------------------------------

    def ask(
        self,
        question: str,
        method: str = "parametric",
        top_k: int = 3,
        generate: GenerateConfig | None = None,
        recipe: Recipe | None = None,
    ) -> Answer:
        """Answer a question; see `ask_many`.

        Raises:
            PragError: it cannot be answered; the text says why.
        """
        (answer,) = self.ask_many([question], method, top_k, generate, recipe)
        if answer.error is not None:
            raise PragError(answer.error)
        return answer

    def ask_many(
        self,
        questions: Sequence[str],
        method: str = "parametric",
        top_k: int = 3,
        generate: GenerateConfig | None = None,
        recipe: Recipe | None = None,
    ) -> list[Answer]:
        """Answer questions in batches, each with its own adapters.

        Args:
            method: a name in `prag.methods.METHODS`.
            top_k: passages a question.
            generate: length and sampling of answers; greedy, 20 tokens by default.
            recipe: whose adapters to use; by default the recipe that was last built.

        Returns:
            An answer to each question, in order; one that could not be answered has its `error`.

        Raises:
            PragError: no such method, nothing is built, or a wrong base model.
        """
        chosen = method_named(method)
        if top_k < 1:
            raise PragError("top_k is at least 1")
        library = self.library(recipe)
        asks = find(library, chosen, questions, top_k)
        style = style_named("direct", library.recipe.wording)
        return answer_all(library, chosen, asks, style, generate or GenerateConfig())

    # -- taking along ------------------------------------------------------------------------

    def export(self, to: str | Path, ids: Sequence[str] = ()) -> list[Path]:
        """Write adapters as PEFT folders, one a passage, named by its id.

        Args:
            to: a folder; made if need be.
            ids: passages; by default all that have an adapter.

        Returns:
            The folders, in the order of the corpus.
        """
        built = self._built()
        with self._catalogue(readonly=True) as catalogue, self._store(readonly=True) as store:
            chosen = catalogue.get(ids) if ids else list(catalogue.passages())
            written = []
            for passage in chosen:
                shelved = self._find_adapter(store, passage.id, built.fingerprints)
                if shelved is not None:
                    folder = Path(to) / passage.id
                    export.write_peft(folder, self.settings.model, shelved.adapter, passage)
                    written.append(folder)
        return written

    # -- what the above share ---------------------------------------------------------------

    def _augment(
        self, passages: Sequence[Passage], tell: Tell, augmenter: Augmenter | None = None
    ) -> int:
        known = self._augmentations.known({p.id for p in passages})
        own = f"self:{self.settings.base}" if augmenter is not None else None
        missing = [p for p in passages if p.id not in known or known[p.id].origin == own]
        if not missing:
            return 0
        maker = augmenter or self_augmenter(self.base, self.settings.recipe.augment)
        return self._augmentations.make(maker, missing, tell)
