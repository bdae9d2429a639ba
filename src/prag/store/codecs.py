"""How the numbers of an adapter become bytes: floats as they are, or digits of a few levels.

A codec with L levels keeps, for every group of 64 numbers, one step s, and for every number a digit
d of 0 .. L - 1, which stands for (d - (L - 1) / 2) s: evenly spaced, as many levels above zero as
below. One byte holds as many digits as fit, since 256 >= L^n: the first digit counts 1, the second
L, the third L^2. So 6 levels take 8/3 bits a number and not 3.

Letters: P numbers, G groups, n digits a byte.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from prag.records import PragError

FLOATS: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
"""The codecs that keep each number by itself."""

LEVELS = {"int8": 256, "int4": 16, "base6": 6, "int2": 4, "base3": 3}
"""The codecs that keep a digit for each number, and how many levels it has."""

GROUP = 64
"""Numbers that share a step."""

FRACTIONS = tuple(f / 20 for f in range(20, 5, -1))
"""Of a group's largest number: where its outermost level may be. The one with the least squared
error is taken, since few levels are better spent where most numbers are."""

SAFETENSORS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"} | dict.fromkeys(LEVELS, "U8")
"""What a shard's header calls the elements of a payload."""


def width(codec: str) -> int:
    """Bytes of one element of a payload: of a number, or of a byte of digits."""
    return FLOATS[codec].itemsize if codec in FLOATS else 1


def length(codec: str, numbers: int) -> int:
    """Bytes of an adapter of that many numbers."""
    if codec in FLOATS:
        return numbers * FLOATS[codec].itemsize
    return 2 * -(-numbers // GROUP) + -(-numbers // _digits(codec))


def encode(vector: Tensor, codec: str) -> memoryview:
    """The bytes of a vector [P]: for codecs with levels the steps (bfloat16), then the digits.

    Raises:
        PragError: a number is too large for the codec, or is not finite where digits are kept.
    """
    if codec in FLOATS:
        stored = vector.to(FLOATS[codec]).contiguous()
        if bool((torch.isinf(stored) & ~torch.isinf(vector)).any()):
            raise PragError(
                f"a number of this adapter is too large for {codec} (the largest is "
                f"{vector.abs().max().item():.3g}): store it as float32 or bfloat16"
            )
        return stored.view(torch.uint8).numpy().data
    if not bool(torch.isfinite(vector).all()):
        raise PragError(f"a number of this adapter is not finite: {codec} cannot keep it")
    P, n, top = vector.numel(), _digits(codec), LEVELS[codec] - 1
    groups = _filled(vector.float(), GROUP)  # [G, 64]
    counts = _filled(torch.ones(P), GROUP)  # [G, 64], 0 where the last group is filled up
    largest = groups.abs().amax(dim=1, keepdim=True)  # [G, 1]
    least = torch.full_like(largest, torch.inf)
    step, digits = torch.zeros_like(largest), torch.zeros_like(groups)
    for fraction in FRACTIONS:
        tried = (2 * fraction / top * largest).bfloat16().float()  # [G, 1]
        at = (groups / tried + top / 2).nan_to_num(top / 2).round().clamp(0, top)  # [G, 64]
        off = ((at - top / 2) * tried - groups) * counts  # [G, 64]
        error = off.square().sum(dim=1, keepdim=True)  # [G, 1]
        better = error < least
        least = torch.where(better, error, least)
        step, digits = torch.where(better, tried, step), torch.where(better, at, digits)
    places = (top + 1) ** torch.arange(n)  # [n]
    packed = (_filled(digits.reshape(-1)[:P], n).long() * places).sum(dim=1)  # [bytes]
    steps = step.reshape(-1).bfloat16().view(torch.uint8)  # [2 G]
    return torch.cat([steps, packed.to(torch.uint8)]).numpy().data


def decode(data: bytearray, codec: str, numbers: int, dtype: torch.dtype) -> Tensor:
    """The vector [P] of `encode`'s bytes.

    Args:
        data: `length(codec, numbers)` bytes. A float codec's vector, asked for in its
            own dtype, is a view of them.
        numbers: P.
    """
    if codec in FLOATS:
        return torch.frombuffer(data, dtype=FLOATS[codec]).to(dtype)
    G = -(-numbers // GROUP)
    steps = torch.frombuffer(data, dtype=torch.bfloat16, count=G).float()  # [G]
    packed = torch.frombuffer(data, dtype=torch.uint8, offset=2 * G)  # [bytes]
    values = _values(codec).index_select(0, packed.int()).reshape(-1)[:numbers]  # [P]
    return _filled(values, GROUP).mul_(steps[:, None]).reshape(-1)[:numbers].to(dtype)


def _digits(codec: str) -> int:
    """n, the digits that fit into a byte."""
    n = 1
    while LEVELS[codec] ** (n + 1) <= 256:
        n += 1
    return n


@cache
def _values(codec: str) -> Tensor:
    """What each byte stands for, in steps: [256, n]. Kept, as every adapter read needs it."""
    levels, n = LEVELS[codec], _digits(codec)
    digits = torch.arange(256)[:, None] // levels ** torch.arange(n) % levels
    return digits - (levels - 1) / 2


def _filled(vector: Tensor, size: int) -> Tensor:
    """The vector in rows of `size`, the last one filled up with zeros; a view if it is full."""
    missing = -vector.numel() % size
    filled = torch.cat([vector, vector.new_zeros(missing)]) if missing else vector
    return filled.view(-1, size)
