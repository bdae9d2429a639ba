"""The shape of a base model: what its passes cost, without its weights.

A model is built from its configuration with tensors that have a shape and no numbers (torch's meta
device), so that its sites and its parameters are found by the very code that finds those of a
loaded one, and a model of 8 B parameters is planned for on a machine that could not hold it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prag.config import Recipe
from prag.lora import Site, numbers
from prag.model import PACKAGED, BaseModel, find_gated_layers, packaged_folder
from prag.records import PragError
from prag.replay import first_layer, layers_of, sites_of

PUBLISHED: Mapping[str, Mapping[str, Any]] = {
    "llama-3.2-1b": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "vocab_size": 128_256,
        "max_position_embeddings": 131_072,
        "tie_word_embeddings": True,
    },
    "llama-3-8b": {
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 128_256,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": False,
    },
}
"""Llama models by the numbers of their published `config.json`; both have the shape of their
Instruct version. With these 1,235,814,400 and 8,030,261,248 parameters are counted."""


@dataclass(frozen=True)
class Shape:
    """What of a model decides the cost of a pass.

    Args:
        attention: inputs and outputs of the linear maps of one layer beside the feed-forward ones.
        feed_forward: the same of its gated feed-forward block.
        context: the longest sequence, in tokens.
    """

    name: str
    parameters: int
    layers: int
    hidden: int
    vocabulary: int
    heads: int
    kv_heads: int
    head_dim: int
    context: int
    attention: tuple[tuple[int, int], ...]
    feed_forward: tuple[tuple[int, int], ...]

    @property
    def linear(self) -> int:
        """Multiply-adds of the linear maps of one layer, a token."""
        return sum(i * o for i, o in (*self.attention, *self.feed_forward))

    def kv_bytes(self, width: float) -> float:
        """Bytes that keys and values of one token take, with so many bytes a number."""
        return 2 * self.layers * self.kv_heads * self.head_dim * width


@dataclass(frozen=True)
class Adapted:
    """What a recipe trains of a model.

    Args:
        sites: all of them, as `prag.replay.sites_of` gives them.
        first: the lowest adapted layer.
        maps: inputs and outputs of the sites of one layer.
        quiet: whether A is learnt through a fixed filter.
    """

    sites: tuple[Site, ...]
    first: int
    maps: tuple[tuple[int, int], ...]
    rank: int
    quiet: bool

    @property
    def numbers(self) -> int:
        """P, the numbers of one adapter."""
        return numbers(self.sites, self.rank)


def skeleton(name: str) -> BaseModel:
    """A model without weights: `smollm2`, a folder or id of a configuration, or a built-in shape.

    Its tokenizer is the model's own, or for a built-in shape that of `smollm2`, which splits a text
    into more tokens than one of 128,256 words does: what is planned with it is too much.

    Raises:
        PragError: there is no such configuration, or the model has no gated feed-forward layers.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaConfig

    try:
        if name in PUBLISHED:
            config: Any = LlamaConfig(**PUBLISHED[name])
            tokenizer = AutoTokenizer.from_pretrained(str(packaged_folder()))
        else:
            source = str(packaged_folder()) if name == PACKAGED else name
            config = AutoConfig.from_pretrained(source)
            tokenizer = AutoTokenizer.from_pretrained(source)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        where = Path(name) / "config.json"
        raise PragError(
            f"no shape of the model {name!r}: {reason}\nGive {PACKAGED}, "
            f"{', '.join(PUBLISHED)}, or the id or folder of a causal language model"
            + (f" ({where} is what is read of it)" if Path(name).is_dir() else "")
        ) from error
    modules = find_gated_layers(model)
    if not modules:
        raise PragError(f"the model {name!r} has no gated feed-forward layers, where adapters are")
    sites = tuple(Site(n, m.in_features, m.out_features) for n, m in modules.items())
    return BaseModel(name, model, tokenizer, sites, modules, fingerprint="")


def own_tokens(name: str) -> bool:
    """Whether `skeleton` has the tokenizer of the model itself."""
    return name not in PUBLISHED


def shape_of(base: BaseModel) -> Shape:
    """The shape of a loaded model, or of a skeleton.

    Raises:
        PragError: its layers are not alike, so that one does not stand for all.
    """
    config = base.model.config
    gated = set(base.modules.values())
    kinds = {_maps(layer, gated) for layer in layers_of(base)}
    if len(kinds) != 1:
        raise PragError(f"the layers of {base.name!r} are not alike: one does not stand for all")
    ((attention, feed_forward),) = kinds
    heads = config.num_attention_heads
    return Shape(
        name=base.name,
        parameters=base.parameters,
        layers=len(layers_of(base)),
        hidden=config.hidden_size,
        vocabulary=base.model.get_output_embeddings().weight.shape[0],
        heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        context=base.context,
        attention=attention,
        feed_forward=feed_forward,
    )


def adapted_of(base: BaseModel, recipe: Recipe) -> Adapted:
    """What a recipe trains of a loaded model, or of a skeleton."""
    train = recipe.train
    sites = sites_of(base, train)
    first = first_layer(base, train.layers)
    each = len(sites) // (len(layers_of(base)) - first)
    return Adapted(
        sites=sites,
        first=first,
        maps=tuple((site.inputs, site.outputs) for site in sites[:each]),
        rank=train.rank,
        quiet=train.quiet > 0,
    )


_Maps = tuple[tuple[int, int], ...]


def _maps(layer: nn.Module, gated: set[nn.Linear]) -> tuple[_Maps, _Maps]:
    found = [m for m in layer.modules() if isinstance(m, nn.Linear)]
    beside = tuple((m.in_features, m.out_features) for m in found if m not in gated)
    return beside, tuple((m.in_features, m.out_features) for m in found if m in gated)
