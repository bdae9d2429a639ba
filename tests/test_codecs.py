"""Codecs of stored adapters: what comes back, in how many bytes, and how far from what went in."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prag.records import PragError
from prag.store import CODECS
from prag.store.codecs import FLOATS, FRACTIONS, GROUP, LEVELS, decode, encode, length

pytestmark = pytest.mark.fast


def back(vector: torch.Tensor, codec: str) -> torch.Tensor:
    return decode(bytearray(encode(vector, codec)), codec, vector.numel(), torch.float32)


@settings(max_examples=60)
@given(
    codec=st.sampled_from(CODECS),
    size=st.integers(1, 3 * GROUP + 1),
    scale=st.sampled_from([0.0, 1e-30, 1e-3, 1.0, 3e3]),
    seed=st.integers(0, 2**31),
)
def test_what_comes_back_is_near_and_keeps_its_bits(codec, size, scale, seed) -> None:
    vector = scale * torch.randn(size, generator=torch.Generator().manual_seed(seed))
    data = encode(vector, codec)
    assert data.nbytes == length(codec, size)
    read = decode(bytearray(data), codec, size, torch.float32)
    assert torch.isfinite(read).all()
    if codec in LEVELS:
        steps = torch.frombuffer(bytearray(data), dtype=torch.bfloat16, count=-(-size // GROUP))
        step = steps.float().repeat_interleave(GROUP)[:size]
        reach = (LEVELS[codec] - 1) / 2 * step
        # No farther off than half a step, but where the number lies beyond the outermost level.
        bound = torch.maximum(0.501 * step, (vector.abs() - reach) * 1.001)
        assert ((read - vector).abs() <= bound).all()
    assert bytes(encode(read, "float32")) == bytes(encode(back(vector, codec), "float32"))


@pytest.mark.parametrize(
    ("codec", "most"), [("int8", 0.012), ("int4", 0.14), ("base6", 0.28), ("int2", 0.37)]
)
def test_the_error_of_normal_numbers(codec: str, most: float) -> None:
    """Not above the best evenly spaced levels of a known deviation (Max 1960, table II), by much.

    They have 0.107 (16 levels), 0.244 (6) and 0.345 (4); here the scale is each group's own.
    """
    vector = torch.randn(64 * 500, generator=torch.Generator().manual_seed(1))
    error = (back(vector, codec) - vector).norm() / vector.norm()
    assert error <= most


def test_more_levels_are_nearer_and_longer() -> None:
    vector = torch.randn(6400, generator=torch.Generator().manual_seed(2))
    names = sorted(LEVELS, key=LEVELS.__getitem__)
    errors = [float((back(vector, name) - vector).norm()) for name in names]
    assert errors == sorted(errors, reverse=True)
    assert [length(name, 6400) for name in names] == [1480, 1800, 2334, 3400, 6600]


def test_bytes_by_hand() -> None:
    """The worked example of docs/store-format.md."""
    vector = torch.tensor([2.5, -0.5, 0.5, -2.5])
    data = bytearray(encode(vector, "base6"))
    # One step, 1.0 as bfloat16; digits 5 2 3 0: 5 + 2 x 6 + 3 x 36 = 125, and 0.
    assert data == bytearray([0x80, 0x3F, 125, 0])
    assert torch.equal(decode(data, "base6", 4, torch.float64), vector.double())


def test_the_step_is_the_best_of_those_tried() -> None:
    """One far number does not push all others onto two levels."""
    vector = torch.cat([torch.full((63,), 0.1), torch.tensor([1.0])])
    outermost = 2 / 15 * vector.abs().max()
    widest = ((vector / outermost + 7.5).round().clamp(0, 15) - 7.5) * outermost
    assert (back(vector, "int4") - vector).norm() < (widest - vector).norm()
    assert FRACTIONS[0] == 1.0


@pytest.mark.parametrize("codec", sorted(LEVELS))
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused(codec: str, bad: float) -> None:
    with pytest.raises(PragError, match=f"not finite: {codec}"):
        encode(torch.tensor([1.0, bad]), codec)


def test_every_codec_is_either_floats_or_levels() -> None:
    assert set(CODECS) == set(FLOATS) | set(LEVELS)
