"""Directions that adapters do not read: where a prompt is like any other, they add nothing.

An adapter adds (alpha / r) B A x to what a site makes of its input x. Where A is orthogonal to x it
adds exactly nothing. Two kinds of inputs are the same whatever is asked, and carry nothing of a
passage; A is kept orthogonal to both:

- the beginning that all of a recipe's prompts share (chat template, instruction): a few dozen
  tokens. Since no adapter changes anything there, its keys and values are the base model's
  own, and are computed once for all passages;
- the leading directions of what the site is given by prose, and by everyday questions with their
  answers, which the package brings along, up to a share of the energy of each. Adapters are added
  up over several passages, and what two of them both read is where they disturb each other.

The corpus has no part in this, so an adapter does not depend on the passages beside it. Projecting
updates off the inputs that are to be preserved is from continual learning (OWM, Zeng et al. 2019)
and model editing (AlphaEdit, Fang et al. 2025).

Letters: N adapters, r rank, I inputs of a site, T tokens, m directions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prag.config import Recipe
from prag.everyday import everyday_pairs, everyday_prose
from prag.lora import Site
from prag.model import BaseModel
from prag.prefixes import Prefix, attends_to_all, common, read
from prag.prompts import assistant_turn, chat_ids, style_named, text_ids, user_turn

MOST = 0.5
"""The share of a site's inputs that may be kept quiet: an adapter must have something to read."""

TOKENS = 2048
"""Tokens of the everyday texts whose inputs are looked at, spread evenly over all."""

ROWS = 16
"""Everyday texts of one batch."""


@dataclass(frozen=True)
class Quiet:
    """What the adapters of a recipe do not read.

    Args:
        directions: for each site's name an orthonormal U [I, m]; A U = 0.
        beginning: what every prompt begins with, read once; None where it is not shared.
    """

    directions: Mapping[str, Tensor]
    beginning: Prefix | None

    def project(self, name: str, A: Tensor) -> Tensor:
        """A [..., r, I] of a site without its part in the quiet directions."""
        U = self.directions.get(name)
        return A if U is None else A - (A @ U) @ U.T


NOTHING = Quiet({}, None)
"""Of recipes that keep nothing quiet: A may read everything."""


def quiet_of(base: BaseModel, sites: Sequence[Site], recipe: Recipe) -> Quiet:
    """What adapters of this recipe on this base model are kept from reading.

    A site keeps at most half of its inputs quiet. In a very small model the beginning may be too
    long for that; then only its leading directions are quiet, and it is not shared.

    Raises:
        PragError: the packaged texts are missing.
    """
    if not recipe.train.quiet:
        return NOTHING
    begins = beginning(base, recipe)
    at_first = _inputs(base, sites, [begins], 0)
    chats, prose = everyday_texts(base, recipe)
    shares = (
        (recipe.train.quiet_prose, _inputs(base, sites, prose, 0)),
        (recipe.train.quiet_questions, _inputs(base, sites, chats, len(begins))),
    )
    directions: dict[str, Tensor] = {}
    whole = True
    for site in sites:
        most = int(MOST * site.inputs)
        whole = whole and len(begins) <= most
        U = _directions(at_first[site.name])[0]  # [I, m]
        for share, inputs in shares:
            X = _spread(inputs[site.name])  # [T, I]
            U = torch.cat([U, _leading(X - (X @ U) @ U.T, share)], dim=1)
        directions[site.name] = U[:, :most].to(base.dtype)
    shared = read(base, begins) if whole and attends_to_all(base) else None
    return Quiet(directions, shared)


def beginning(base: BaseModel, recipe: Recipe) -> tuple[int, ...]:
    """The tokens that every training sequence of a recipe begins with."""
    style = style_named(recipe.train.style, recipe.wording)
    texts: list[list[str]] = [[]]
    if recipe.train.sequences == "paper":
        texts.append(["A passage."])
    return common(
        [
            tuple(chat_ids(base.tokenizer, user_turn(q, t, recipe.wording, style.examples)))
            for q in ("Who?", "7 of them?")
            for t in texts
        ]
    )


def everyday_texts(
    base: BaseModel, recipe: Recipe
) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """The packaged texts: questions with their answers as they are trained on, and prose.

    Raises:
        PragError: the file is missing from the installed package.
    """
    tokenizer, wording = base.tokenizer, recipe.wording
    style = style_named(recipe.train.style, wording)
    chats = []
    for pair in everyday_pairs():
        asked = chat_ids(tokenizer, user_turn(pair.question, [], wording, style.examples))
        chats.append(tuple(asked + text_ids(tokenizer, assistant_turn(pair, style))))
    return chats, [tuple(text_ids(tokenizer, text)) for text in everyday_prose()]


def _inputs(
    base: BaseModel, sites: Sequence[Site], rows: Sequence[Sequence[int]], skip: int
) -> dict[str, Tensor]:
    """What each site is given [T, I] at all tokens of the rows but the first `skip` of each."""
    found: dict[str, list[Tensor]] = {site.name: [] for site in sites}
    ordered = sorted(rows, key=len)
    for at in range(0, len(ordered), ROWS):
        part = ordered[at : at + ROWS]
        T = max(map(len, part))
        ids = torch.full((len(part), T), base.tokenizer.pad_token_id)
        mask = torch.zeros(len(part), T, dtype=torch.long)
        for b, row in enumerate(part):
            ids[b, : len(row)] = torch.tensor(row)
            mask[b, : len(row)] = 1
        ids, mask = ids.to(base.device), mask.to(base.device)
        wanted = mask.bool()  # [B, T]
        wanted[:, :skip] = False
        with torch.no_grad(), _noted(base, found, wanted):
            base.model.get_decoder()(ids, attention_mask=mask, use_cache=False)
    return {name: torch.cat(parts) for name, parts in found.items()}


@contextmanager
def _noted(base: BaseModel, found: dict[str, list[Tensor]], wanted: Tensor) -> Iterator[None]:
    """Within the block, note what the sites are given where `wanted` [B, T]."""

    def note(name: str) -> Any:
        def add(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            kept = inputs[0][wanted]  # [tokens, I]
            found[name].append(kept if kept.dtype == torch.float64 else kept.float())

        return add

    handles = [base.modules[name].register_forward_pre_hook(note(name)) for name in found]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _spread(X: Tensor) -> Tensor:
    """At most `TOKENS` rows of X [T, I], evenly spread."""
    return X[:: -(-X.shape[0] // TOKENS)]


def _leading(X: Tensor, share: float) -> Tensor:
    """The fewest directions [I, m] that hold a share of the energy of the rows of X [T, I]."""
    if share == 0:
        return X.new_zeros(X.shape[1], 0)
    directions, sizes = _directions(X)
    energy = sizes.square().cumsum(0)
    return directions[:, : int((energy < share * energy[-1]).sum()) + 1]


def _directions(X: Tensor) -> tuple[Tensor, Tensor]:
    """Orthonormal directions [I, m] of the rows of X [T, I], the largest first, and their sizes."""
    _, sizes, V = torch.linalg.svd(X, full_matrices=False)
    return V.T, sizes
