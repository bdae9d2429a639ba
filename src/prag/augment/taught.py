"""What of an augmentation a recipe trains on, and the definition that it may add by rule."""

from __future__ import annotations

import re
from dataclasses import replace

from prag.augment.checks import keep_new
from prag.augment.spans import answer_spans, begins_with
from prag.config import Recipe
from prag.metrics import normalise
from prag.records import Augmentation, Passage, QAPair

_PARTICIPLE = re.compile(r"(?<=\w)(?: first)? [a-z]+ed\Z")  # "novel published": its clause is cut
_SPANS = 20  # looked through for one that stands after "is" or "was"


def taught(augmentation: Augmentation, passage: Passage, recipe: Recipe) -> Augmentation:
    """As many rewrites and pairs as a recipe uses, the first ones, after a definition if it asks.

    A passage without any pair gets no definition either: it stays without an adapter, and is
    counted so.
    """
    rewrites = augmentation.rewrites[: recipe.augment.rewrites]
    pairs = augmentation.pairs[: recipe.augment.pairs]
    defined = definition(passage) if recipe.train.define and pairs else None
    if defined and all(normalise(p.question) != normalise(defined.question) for p in pairs):
        pairs = (defined, *pairs)
    return replace(augmentation, rewrites=rewrites, pairs=pairs)


def definition(passage: Passage) -> QAPair | None:
    """What the passage's first sentence says its subject is ("an Italian politician"), or None.

    Generated pairs ask for details, and take for granted what the subject is. The subject is
    the passage's title.
    """
    for span in answer_spans(passage, _SPANS):
        if span.kind == "what" and passage.title.strip() and begins_with(passage, span):
            pair = QAPair(f"{span.starter}?", _PARTICIPLE.sub("", span.text), span.sentence)
            return pair if keep_new(pair, passage, (), grounded=True) is None else None
    return None
