"""Could the adapters of a corpus share their bytes? Error of the delta over bytes a passage.

    python scripts/shared_parts.py KB --out results/ablations/shared-parts.json

Reads the adapters that are built in a knowledge base of codec float32 and measures what can be left
out of them, or be kept once for all: each codec; A as the common start and a change in fewer bits;
fewer ranks; dictionaries, of whole adapters, of sites, and of the columns of B. The error is of the
delta, by Frobenius norm over all sites, relative: the median over passages. A dictionary is fitted
on half of the passages and tried on the other half, both ways round; its own bytes are shared by
100 and by 1,000 passages.

Letters: N passages, S sites, r rank, I inputs, O outputs, D atoms of a dictionary.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prag import KnowledgeBase
from prag.encode import initial_factors
from prag.provenance import made_by
from prag.quiet import quiet_of
from prag.replay import sites_of
from prag.store import CODECS
from prag.store.codecs import decode, encode, length

Pair = tuple[Tensor, Tensor]  # A [N, S, r, I] and B [N, S, O, r], or without N
FLOAT16 = 2
SHARED_BY = (100, 1000)


def main() -> None:
    """Measure everything; print a table and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kb", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    kb = KnowledgeBase.open(args.kb)
    A, B, start = read(kb)
    N, S, r, inputs = A.shape
    outputs = B.shape[2]
    rows: list[dict[str, Any]] = []

    def row(method: str, each: float, shared: float, errors: Tensor) -> None:
        size = {f"bytes_at_{n}": round(each + shared / n) for n in SHARED_BY}
        rows.append({"method": method, **size, "error": errors.median().item()})
        print(json.dumps(rows[-1]), flush=True)

    n_A, n_B = S * r * inputs, S * outputs * r
    for codec in CODECS:
        found = through(A, codec), through(B, codec)
        row(codec, length(codec, n_A + n_B), 0, error((A, B), found))
    begun = start.expand_as(A)
    row(
        "A of the start, B base6",
        length("base6", n_B),
        n_A * 4,
        error((A, B), (begun, through(B, "base6"))),
    )
    for of_A, of_B in (("int2", "base6"), ("base3", "base6"), ("base3", "int2"), ("base6", "int4")):
        found = begun + through(A - begun, of_A), through(B, of_B)
        size = length(of_A, n_A) + length(of_B, n_B)
        row(f"change of A {of_A}, B {of_B}", size, n_A * 4, error((A, B), found))
        found = through(A, of_A), through(B, of_B)
        row(f"A {of_A}, B {of_B}", size, 0, error((A, B), found))
    for rank in range(r, 0, -1):
        fewer = truncated(A, B, rank)
        row(f"rank {rank}, float32", 4 * (n_A + n_B) * rank / r, 0, error((A, B), fewer))
        for codec in ("int4", "base6"):
            found = through(fewer[0], codec), through(fewer[1], codec)
            size = length(codec, round((n_A + n_B) * rank / r))
            row(f"rank {rank}, {codec}", size, 0, error((A, B), found))
    for D in sorted({4, 16, N // 4, N // 2}):
        for name, atoms_of in (("whole adapters", 1), ("each site", S)):
            made = halves(partial(dictionary, D=D, by_site=atoms_of == S), A - start, B)
            row(
                f"{D} atoms of {name}",
                FLOAT16 * D * atoms_of,
                D * length("base6", n_A + n_B),
                error((A, B), (made[0] + start, made[1])),
            )
    for D in (16, 64, N * r // 2):
        made = halves(partial(columns, D=D), A, B)
        row(
            f"B's columns of {D} directions a site, change of A base3",
            length("base3", n_A) + length("base6", S * r * D),
            n_A * 4 + length("base6", S * outputs * D),
            error((A, B), (begun + through(A - begun, "base3"), made[1])),
        )
    result = {
        "rows": rows,
        "alike": alike(A, B, start),
        "passages": N,
        "recipe": kb.settings.recipe.name,
        "made_by": made_by(f"python scripts/shared_parts.py {args.kb.name} --out {args.out}"),
    }
    print(json.dumps(result["alike"], indent=1))
    args.out.write_text(json.dumps(result, indent=1) + "\n", "utf-8")


def read(kb: KnowledgeBase) -> tuple[Tensor, Tensor, Tensor]:
    """A [N, S, r, I], B [N, S, O, r] of what is built, and the A [S, r, I] that all start from."""
    train = kb.settings.recipe.train
    sites = sites_of(kb.base, train)
    quiet = quiet_of(kb.base, sites, kb.settings.recipe)
    with kb._store(readonly=True) as store:
        adapters = [store.read(key) for key in sorted(store.keys(), key=str)]
    names = [site.name for site in sites]
    A = torch.stack([torch.stack([a.factors[n][0] for n in names]) for a in adapters])
    B = torch.stack([torch.stack([a.factors[n][1] for n in names]) for a in adapters])
    first = initial_factors(sites, train, torch.float32)
    return A, B, torch.stack([quiet.filtered(n, first[n][0]) for n in names])


def through(factors: Tensor, codec: str) -> Tensor:
    """Factors [N, ...] as a codec gives them back, those of each passage by themselves."""
    flat = factors.flatten(1)
    size = flat.shape[1]
    back = [decode(bytearray(encode(v, codec)), codec, size, v.dtype) for v in flat]
    return torch.stack(back).view_as(factors)


def inner(A: Tensor, B: Tensor, A2: Tensor, B2: Tensor) -> Tensor:
    """The inner products of B A and B2 A2 [...], summed over the sites (the last dimension)."""
    left = A.double() @ A2.double().mT  # [..., S, r, r]
    right = B.double().mT @ B2.double()
    return (left * right).sum(dim=(-3, -2, -1))


def error(true: Pair, found: Pair) -> Tensor:
    """The relative error of each passage's delta [N]."""
    off = torch.cat([true[0], found[0]], dim=-2), torch.cat([true[1], -found[1]], dim=-1)
    return (inner(*off, *off).clamp(min=0) / inner(*true, *true)).sqrt()


def truncated(A: Tensor, B: Tensor, rank: int) -> Pair:
    """The nearest factors of a smaller rank, both of the same size (SVD of B A by QR)."""
    Q, R = torch.linalg.qr(B)  # [.., O, r], [.., r, r]
    Q2, R2 = torch.linalg.qr(A.mT)
    U, s, V = torch.linalg.svd(R @ R2.mT)
    root = s[..., :rank].sqrt()
    return (root[..., None] * (V[..., :rank, :] @ Q2.mT), Q @ (U[..., :rank] * root[..., None, :]))


def halves(made: Callable[[Pair, Pair], Pair], A: Tensor, B: Tensor) -> Pair:
    """What `made` gives for every second passage, fitted on the others, and vice versa."""
    found = torch.empty_like(A), torch.empty_like(B)
    for at in (0, 1):
        got = made((A[1 - at :: 2], B[1 - at :: 2]), (A[at::2], B[at::2]))
        for whole, part in zip(found, got, strict=True):
            whole[at::2] = part
    return found


def dictionary(fit: Pair, see: Pair, D: int, by_site: bool) -> Pair:
    """Each adapter as the nearest combination of D atoms: principal directions of the others."""
    S, n_A = see[0].shape[1], see[0][0, 0].numel()

    def flat(pair: Pair) -> Tensor:  # [groups, N, numbers]
        both = torch.cat([pair[0].flatten(2), pair[1].flatten(2)], dim=2)  # [N, S, P]
        return both.transpose(0, 1) if by_site else both.flatten(1)[None]

    atoms = directions(flat(fit), D)  # [groups, D, numbers]
    made = (flat(see) @ atoms.mT) @ atoms
    both = made.transpose(0, 1) if by_site else made[0].view(len(see[0]), S, -1)
    return both[..., :n_A].reshape_as(see[0]), both[..., n_A:].reshape_as(see[1])


def columns(fit: Pair, see: Pair, D: int) -> Pair:
    """B with its columns in D directions a site, those of the others, coefficients by base6."""
    atoms = directions(fit[1].permute(1, 0, 3, 2).flatten(1, 2), D)  # [S, D, O]
    held = through(atoms @ see[1], "base6")  # [N, S, D, r]
    return see[0], atoms.mT @ held


def directions(rows: Tensor, D: int) -> Tensor:
    """The D orthonormal directions [G, D, P] that hold the most of rows [G, M, P]."""
    size, V = torch.linalg.eigh(rows @ rows.mT)  # M is small beside P
    V, size = V[..., -D:], size[..., -D:].clamp(min=1e-12)
    return (V / size.sqrt()[:, None, :]).mT @ rows


def alike(A: Tensor, B: Tensor, start: Tensor) -> dict[str, float]:
    """How like the adapters of different passages are, and how far A has moved."""

    def cosine(X: Tensor) -> float:
        unit = torch.nn.functional.normalize(X.flatten(1), dim=1)
        return apart(unit @ unit.T)

    def apart(table: Tensor) -> float:
        return table[~torch.eye(len(table), dtype=torch.bool)].median().item()

    moved = A - start
    norms = inner(A, B, A, B).sqrt()
    products = torch.stack([inner(A, B, a[None], b[None]) for a, b in zip(A, B, strict=True)])
    held = error((A, B), (start.expand_as(A), B))
    return {
        "cosine_A": cosine(A),
        "cosine_change_of_A": cosine(moved),
        "cosine_B": cosine(B),
        "cosine_delta": apart(products / norms[:, None] / norms),
        "change_of_A_over_A": (moved.flatten(1).norm(dim=1) / A.flatten(1).norm(dim=1))
        .median()
        .item(),
        "delta_lost_with_A_of_the_start": held.median().item(),
    }


if __name__ == "__main__":
    main()
