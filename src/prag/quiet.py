"""What adapters read weakly: where a prompt is like any other, they add little or nothing.

An adapter adds (alpha / r) B A x to what a site makes of its input x. Two kinds of inputs come
whatever is asked, and carry nothing of a passage. A recipe with `train.quiet` above 0 trains
A = D P, where D is learnt and P is fixed for a base model and a recipe, so that A reads

- nothing of the beginning that all of a recipe's prompts share (chat template, instruction): a few
  dozen tokens. Since no adapter changes anything there, its keys and values are the base model's
  own, and are computed once for all passages;
- each direction the more weakly, the more energy the site's inputs have there in everyday
  questions with their answers and in prose, which the package brings along. Adapters are added up
  over several passages, and what two of them both read is where they disturb each other.

With C the second moments of those inputs off the beginning, scaled to a mean eigenvalue of 1,
P is (1 + quiet C)^(-1/2) off the beginning, times a number that makes its mean squared singular
value 1, so that a learning rate means the same for any `quiet`.

The corpus has no part in this, so an adapter does not depend on the passages beside it. To weigh a
change by the inverse second moments of the inputs that are to be preserved is how facts are
edited into a layer (ROME, Meng et al. 2022; AlphaEdit, Fang et al. 2025, projects); here it is how
an adapter is parametrised while it is trained.

Letters: N adapters, r rank, I inputs of a site, T tokens, m directions of the beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prag.config import Recipe
from prag.everyday import everyday_pairs, everyday_prose
from prag.lora import Site
from prag.model import BaseModel
from prag.precision import master
from prag.prefixes import Prefix, attends_to_all, common, read
from prag.progress import Tell, silent
from prag.prompts import assistant_turn, chat_ids, style_named, text_ids, user_turn
from prag.quiet_cache import kept_filters

MOST = 0.5
"""The share of a site's inputs that the beginning may take: an adapter must read something."""

ROWS = 16
"""Everyday texts of one batch."""


@dataclass(frozen=True)
class Quiet:
    """What the adapters of a recipe read weakly or not at all.

    Args:
        filters: for each site's name its P [I, I], symmetric.
        beginning: what every prompt begins with, read once; None where it is not shared.
    """

    filters: Mapping[str, Tensor]
    beginning: Prefix | None

    @property
    def read(self) -> int:
        """Tokens at the beginning of every sequence that are read once for all."""
        return 0 if self.beginning is None else len(self.beginning.ids)

    def filtered(self, name: str, D: Tensor) -> Tensor:
        """The A [..., r, I] of a site from what is learnt, D [..., r, I]."""
        P = self.filters.get(name)
        return D if P is None else D @ P

    def to(self, dtype: torch.dtype) -> Quiet:
        """For a model of another precision: the beginning in it, the filters as learnt A are."""
        beginning = None if self.beginning is None else self.beginning.to(dtype)
        filters = {name: P.to(master(dtype)) for name, P in self.filters.items()}
        return Quiet(filters, beginning)


NOTHING = Quiet({}, None)
"""Of recipes that are not quiet: A is what is learnt, and reads everything alike."""


def quiet_of(
    base: BaseModel, sites: Sequence[Site], recipe: Recipe, progress: Tell = silent
) -> Quiet:
    """How adapters of this recipe on this base model read.

    In a very small model the beginning may be too long for its directions to be spared; then only
    the leading ones are, as many as half of a site's inputs, and it is not shared.

    Raises:
        PragError: the packaged texts are missing.
    """
    if recipe.train.quiet == 0:
        return NOTHING
    begins = beginning(base, recipe)
    chats, prose = everyday_texts(base, recipe)
    first = _inputs(base, sites, begins)  # [T, I] each
    source = _same_inputs(first)
    U = {name: _spared(first[name]) for name in dict.fromkeys(source.values())}  # [I, m] each
    done = 0

    def tell(rows: int) -> None:
        nonlocal done
        done += rows
        progress("read", done, len(chats) + len(prose))

    def measured() -> dict[str, Tensor]:
        of_chats = _moments(base, U, chats, len(begins), tell)
        of_prose = _moments(base, U, prose, 0, tell)
        return {
            name: _filter(U[name], of_chats[name] + of_prose[name], recipe.train.quiet).to(
                master(base.dtype)
            )
            for name in U
        }

    made_from = {
        "base": base.fingerprint,
        "dtype": str(base.dtype),
        "sites": list(U),
        "quiet": recipe.train.quiet,
        "texts": [begins, chats, prose],
    }
    P = {name: p.to(base.device) for name, p in kept_filters(made_from, measured).items()}
    filters = {site.name: P[source[site.name]] for site in sites}
    return Quiet(filters, shared_beginning(base, sites, recipe))


def shared_beginning(base: BaseModel, sites: Sequence[Site], recipe: Recipe) -> Prefix | None:
    """The beginning of a recipe's prompts, read by the base model, if adapters add nothing to it.

    In training that holds by construction, so what comes after it learns to follow the base model's
    own keys and values. In answering they are the same whatever the adapters, and whatever a codec
    did to them.

    Returns:
        None for a recipe that is not quiet, and for a model that is too small for it or whose
        layers do not keep every position.
    """
    if recipe.train.quiet == 0 or not attends_to_all(base):
        return None
    begins = beginning(base, recipe)
    if any(len(begins) > MOST * site.inputs for site in sites):
        return None
    return read(base, begins)


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


def _same_inputs(inputs: Mapping[str, Tensor]) -> dict[str, str]:
    """For each site the first one that is given the same: a layer's gate and up are."""
    source: dict[str, str] = {}
    for name, X in inputs.items():
        alike = (n for n in dict.fromkeys(source.values()) if torch.equal(inputs[n], X))
        source[name] = next(alike, name)
    return source


def _spared(X: Tensor) -> Tensor:
    """Orthonormal directions [I, m] of the rows of X [T, I], the leading ones if there are many."""
    rows: Tensor = torch.linalg.svd(X.double(), full_matrices=False)[2]
    return rows[: int(MOST * X.shape[1])].T


def _filter(U: Tensor, C: Tensor, quiet: float) -> Tensor:
    """P [I, I]: 0 on U [I, m], off it (1 + quiet C)^(-1/2), C being [I, I] and 0 on U."""
    size, V = torch.linalg.eigh(C * (len(C) / C.trace()))
    weights = (1 + quiet * size.clamp(min=0)).rsqrt()  # [I]
    P: Tensor = (V * weights) @ V.T - U @ U.T  # V's weight is 1 on U
    P *= (len(P) / P.square().sum()).sqrt()
    return P


def _inputs(base: BaseModel, sites: Sequence[Site], row: Sequence[int]) -> dict[str, Tensor]:
    """What each site is given [T, I] by one text."""
    found: dict[str, Tensor] = {}
    _show(base, [site.name for site in sites], [row], 0, found.__setitem__, lambda _: None)
    return found


def _moments(
    base: BaseModel,
    U: Mapping[str, Tensor],
    rows: Sequence[Sequence[int]],
    skip: int,
    tell: Callable[[int], None],
) -> dict[str, Tensor]:
    """Second moments [I, I], of trace 1, of what sites are given off the directions U [I, m].

    Args:
        skip: tokens at the beginning of each text that do not count.
    """
    C = {name: u.new_zeros(len(u), len(u)) for name, u in U.items()}

    def add(name: str, X: Tensor) -> None:
        X = X.double() - (X.double() @ U[name]) @ U[name].T  # [T, I]
        C[name] += X.T @ X

    _show(base, list(U), rows, skip, add, tell)
    return {name: c / c.trace() for name, c in C.items()}


def _show(
    base: BaseModel,
    names: Sequence[str],
    rows: Sequence[Sequence[int]],
    skip: int,
    see: Callable[[str, Tensor], None],
    tell: Callable[[int], None],
) -> None:
    """Read texts, and show what the sites are given [T, I] at all tokens after the first `skip`.

    Args:
        tell: called after each batch with how many texts it had.
    """
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
        handles = [base.modules[n].register_forward_pre_hook(_seen(n, wanted, see)) for n in names]
        try:
            with torch.no_grad():
                base.model.get_decoder()(ids, attention_mask=mask, use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
        tell(len(part))


def _seen(name: str, wanted: Tensor, see: Callable[[str, Tensor], None]) -> Any:
    def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        see(name, inputs[0][wanted])

    return hook
