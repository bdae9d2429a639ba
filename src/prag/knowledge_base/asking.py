"""A knowledge base as one asks it, and takes its adapters along."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prag.config import GenerateConfig, Recipe
from prag.knowledge_base import export
from prag.knowledge_base.reading import Reader
from prag.methods import answer_all, find, method_named
from prag.prompts import style_named
from prag.records import Answer, PragError


class Asked(Reader):
    """Answers from what was last built."""

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
