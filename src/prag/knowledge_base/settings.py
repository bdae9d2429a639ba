"""What a knowledge base is set up to be, and what was last built: `prag.json`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from prag.config import Recipe, recipe_from_dict, recipe_to_dict
from prag.disk import explain, replace_text
from prag.records import PragError
from prag.store import Codec

FORMAT = 1
FILE = "prag.json"


@dataclass(frozen=True)
class Built:
    """What the last finished build left: what `ask` answers from.

    `fingerprints` are those of the recipe with each origin of augmentations, the preferred first;
    `digest` is that of the corpus that was built.
    """

    recipe: Recipe
    fingerprints: tuple[str, ...]
    digest: str
    passages: int


@dataclass(frozen=True)
class Settings:
    """`origins` are those of augmentations not made by the base itself, the preferred first.

    `adapters` is the address of an object store that holds them; None for the folder itself.
    """

    model: str
    base: str  # fingerprint
    recipe: Recipe
    retriever: str = "bm25"
    retriever_url: str | None = None  # of a retriever that is a server
    chunk_words: int = 100
    codec: Codec = "float32"  # how adapters are stored
    origins: tuple[str, ...] = ()
    adapters: str | None = None
    built: Built | None = field(default=None)


def adapters_at(folder: Path, settings: Settings) -> Path | str:
    """Where the adapters are: a folder or an address."""
    return folder / "adapters" if settings.adapters is None else settings.adapters


def load(folder: Path) -> Settings:
    """The settings of the knowledge base in a folder.

    Raises:
        PragError: there is none, or the file is damaged, or of a newer format.
    """
    path = folder / FILE
    try:
        data = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise PragError(
            f"no knowledge base at {folder}: make one with `prag init {folder} --model smollm2`"
        ) from None
    except NotADirectoryError:
        raise PragError(f"{folder} is a file, not the folder of a knowledge base") from None
    except (OSError, ValueError) as error:
        raise PragError(f"{path} cannot be read: {error}") from error
    if data.get("format") != FORMAT:
        raise PragError(
            f"{path} has format {data.get('format')}, this version of prag reads {FORMAT}: "
            "use the version that wrote it"
        )
    try:
        return Settings(
            model=data["model"],
            base=data["base"],
            recipe=_recipe(data["recipe"]),
            retriever=data["retriever"],
            retriever_url=data.get("retriever_url"),
            chunk_words=data["chunk_words"],
            codec=data["codec"] if "codec" in data else data["adapter_dtype"],
            origins=tuple(data["origins"]),
            adapters=data.get("adapters"),
            built=_built(data["built"]),
        )
    except (KeyError, TypeError) as error:
        raise PragError(f"{path} is damaged: {error!r}") from error


def save(folder: Path, settings: Settings) -> None:
    """Write the settings so that a kill leaves either the old or the new file.

    Raises:
        PragError: the disk is full or the folder cannot be written; the old file stays.
    """
    data = {"format": FORMAT, **asdict(settings), "recipe": recipe_to_dict(settings.recipe)}
    if settings.built is not None:
        data["built"] = {**asdict(settings.built), "recipe": recipe_to_dict(settings.built.recipe)}
    try:
        replace_text(folder / FILE, json.dumps(data, indent=2, ensure_ascii=False) + "\n")
    except OSError as error:
        raise PragError(explain(error, folder, "writing the settings")) from error


def _recipe(data: dict[str, Any]) -> Recipe:
    return recipe_from_dict({**data, "base": "paper"})


def _built(data: dict[str, Any] | None) -> Built | None:
    if data is None:
        return None
    fingerprints = tuple(data["fingerprints"])
    return Built(_recipe(data["recipe"]), fingerprints, data["digest"], data["passages"])
