"""da-rag: data-augmented RAG (Su et al. 2025, section 4.2), the augmentation in the prompt.

It tells what of a gain is the augmentation and what is putting it into the weights: the model
reads just what the adapters were trained on.
"""

from __future__ import annotations

from prag.augment import taught
from prag.methods.base import Desk, Steps, reply
from prag.prompts import ask_text
from prag.records import Passage


class DataAugmentedRAG:
    """Each passage is followed by its rewrites and its question-answer pairs."""

    name = "da-rag"
    given_passages = True
    searches = False
    uses_adapters = False

    def steps(self, desk: Desk) -> Steps:
        """Ask with the passages and their augmentations in the prompt."""
        passages = desk.fetch(desk.ask.hits, in_prompt=True)
        texts = [
            " ".join([text, *self._augmented(desk, passage)])
            for passage, text in zip(passages, desk.texts(passages), strict=True)
        ]
        return (yield from reply(desk, texts, None))

    def _augmented(self, desk: Desk, passage: Passage) -> list[str]:
        found = desk.library.augmentation(passage.id)
        if found is None:
            desk.notes.append(f"passage {passage.id} is not augmented: its text stands alone")
            return []
        used = taught(found, passage, desk.library.recipe)
        pairs = [f"Question: {ask_text(p.question)} Answer: {p.answer}" for p in used.pairs]
        return [*used.rewrites, *pairs]
