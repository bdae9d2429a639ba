"""A passage becomes its augmentation: rewrites and question-answer pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from prag.augment.asking import Endpoint, SelfJson
from prag.augment.cloze import Cloze
from prag.augment.files import AugmentationFile, read_foreign
from prag.augment.self_spans import SelfSpans
from prag.augment.taught import taught
from prag.config import AugmentConfig
from prag.model import BaseModel
from prag.records import Augmentation, Passage


class Augmenter(Protocol):
    """Anything that augments passages. `origin` says who does it."""

    origin: str

    def augment(self, passages: Sequence[Passage]) -> list[Augmentation]:
        """The augmentation of each passage, in order."""


def self_augmenter(base: BaseModel, config: AugmentConfig) -> Augmenter:
    """What augments without help from outside, in the style that the config asks for."""
    makers: dict[str, Callable[[BaseModel, AugmentConfig], Augmenter]] = {
        "json": SelfJson,
        "spans": SelfSpans,
        "cloze": Cloze,
    }
    return makers[config.style](base, config)


__all__ = [
    "AugmentationFile",
    "Augmenter",
    "Cloze",
    "Endpoint",
    "SelfJson",
    "SelfSpans",
    "read_foreign",
    "self_augmenter",
    "taught",
]
