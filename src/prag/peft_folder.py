"""An adapter as a PEFT folder, for `PeftModel.from_pretrained` and for servers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch

from prag.lora import Adapter


def peft_config(base_name: str, adapter: Adapter) -> dict[str, Any]:
    """The `adapter_config.json` of an adapter.

    PEFT puts what it is told into every layer unless the layers are named.
    """
    layers = sorted({int(n) for name in adapter.factors for n in re.findall(r"\.(\d+)\.", name)})
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "inference_mode": True,
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "target_modules": sorted({name.rsplit(".", 1)[-1] for name in adapter.factors}),
        "layers_to_transform": layers if layers and layers[0] > 0 else None,
    }


def write_peft_folder(folder: Path, base_name: str, adapter: Adapter) -> None:
    """Write one adapter as a PEFT folder, made if need be.

    The configuration is written last: a folder that has one is whole.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, torch.Tensor] = {}
    for name, (A, B) in adapter.factors.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = A.contiguous().clone()
        tensors[f"base_model.model.{name}.lora_B.weight"] = B.contiguous().clone()
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    write_json(folder / "adapter_config.json", peft_config(base_name, adapter))


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write a file of JSON beside its place and move it there: it is whole or not there."""
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    fresh.replace(path)
