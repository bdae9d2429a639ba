"""In which precision the base model computes while adapters are trained.

Recipe `paper` trains in float32, as the paper does. With `train.precision = "mixed"` a copy of the
base model in bfloat16 does the forward and backward passes where the machine multiplies bfloat16
natively; A, B, the optimizer's state and the loss stay in float32 (mixed precision, Micikevicius et
al. 2018). What the adapters are for is the model as it was loaded, and answers come from that one.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import torch

from prag.config import Precision
from prag.model import BaseModel, find_gated_layers

_NATIVE = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
"""What torch says of x86 processors that multiply bfloat16; others convert, and gain nothing."""


def native_bfloat16(device: torch.device) -> bool:
    """Whether matrix products in bfloat16 are quicker there than in float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        return any(getattr(torch.cpu, name, bool)() for name in _NATIVE)
    return False


def computed_in(base: BaseModel, precision: Precision) -> torch.dtype:
    """The dtype that training with this precision computes in, for this base on its device.

    A base that was not loaded in float32 is taken as it is, and so is every base where bfloat16 is
    not native.
    """
    mixed = precision == "mixed" and base.dtype == torch.float32
    return torch.bfloat16 if mixed and native_bfloat16(base.device) else base.dtype


def learner(base: BaseModel, precision: Precision) -> BaseModel:
    """The model that adapters are trained on: the base itself, or a copy of it in bfloat16.

    Returns:
        A `BaseModel` with the sites, tokenizer and fingerprint of `base`, whose weights are left
        alone. A copy takes half the memory of the base on top.
    """
    dtype = computed_in(base, precision)
    if dtype == base.dtype:
        return base
    model = copy.deepcopy(base.model).to(dtype)
    if base.device.type == "cpu":
        # torch's fused attention is slow there in bfloat16: its backward pass took five times as
        # long as in float32, a third of a training step.
        model.set_attn_implementation("eager")
    return replace(base, model=model, modules=find_gated_layers(model))


def master(dtype: torch.dtype) -> torch.dtype:
    """In which dtype what is learnt is kept: never in one of 16 bits."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype
