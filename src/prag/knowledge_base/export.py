"""Adapters as PEFT folders, one a passage."""

from __future__ import annotations

from pathlib import Path

from prag.lora import Adapter
from prag.peft_folder import write_json, write_peft_folder
from prag.records import Passage


def write_peft(folder: Path, base_name: str, adapter: Adapter, passage: Passage) -> None:
    """Write one adapter as a PEFT folder; the passage it knows stands beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    shown = {"id": passage.id, "title": passage.title, "text": passage.text}
    write_json(folder / "passage.json", shown)
    write_peft_folder(folder, base_name, adapter)
