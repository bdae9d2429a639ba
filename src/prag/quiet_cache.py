"""Filters that were measured are kept in the user's cache: to measure them takes up to a minute.

What is kept can be deleted at any time. It depends on the base model, the recipe and the packaged
texts, never on a corpus.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from prag.disk import cache_folder
from prag.records import ID_LENGTH

VERSION = 1
"""Of how the filters are measured; another one, another file."""


def kept_filters(
    made_from: Mapping[str, Any], make: Callable[[], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """The filters P [I, I] of one model and recipe, from the cache or made and put there.

    A damaged file is made again; where the cache cannot be written, they are made each time.

    Args:
        made_from: all that decides them, as JSON can write it.
    """
    text = json.dumps({"version": VERSION, **made_from}, sort_keys=True)
    name = hashlib.sha256(text.encode()).hexdigest()[:ID_LENGTH]
    path = cache_folder() / f"quiet-{name}.safetensors"
    found = _read(path)
    if found is None:
        found = make()
        _write(path, found)
    return found


def _read(path: Path) -> dict[str, Tensor] | None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        found: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError):
        return None
    whole = all(_whole(P) for P in found.values())
    return found if whole else None


def _whole(P: Tensor) -> bool:
    """What holds of every filter: it is square, and its mean squared singular value is 1."""
    return P.shape == (len(P), len(P)) and abs(float(P.double().square().sum()) / len(P) - 1) < 0.01


def _write(path: Path, filters: dict[str, Tensor]) -> None:
    from safetensors.torch import save_file

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            draft = Path(folder) / "made"
            save_file({name: P.cpu().contiguous() for name, P in filters.items()}, draft)
            draft.replace(path)
    except OSError:
        return  # a cache without room costs time, and nothing else
