"""Everyday questions with their answers, and prose, that the package brings along.

They are this project's own words, about invented people and places or about nothing in
particular, and belong to no question set. A recipe that keeps adapters quiet (`quiet`) measures on
them what a model is given whatever is asked.
"""

from __future__ import annotations

import json
from functools import cache
from hashlib import sha256
from importlib.resources import files

from prag.records import ID_LENGTH, PragError, QAPair


def everyday_pairs() -> list[QAPair]:
    """Questions of many kinds, each with a short answer.

    Raises:
        PragError: the file is missing from the installed package.
    """
    records = [json.loads(line) for line in _packaged().splitlines()]
    return [QAPair(r["question"], r["answer"], r["answer"]) for r in records if "question" in r]


def everyday_prose() -> list[str]:
    """Paragraphs of several kinds.

    Raises:
        PragError: the file is missing from the installed package.
    """
    records = [json.loads(line) for line in _packaged().splitlines()]
    return [r["text"] for r in records if "text" in r]


@cache
def everyday_digest() -> str:
    """16 hex digits of all of it: a part of the recipes that use it."""
    return sha256(_packaged().encode("utf-8")).hexdigest()[:ID_LENGTH]


def _packaged() -> str:
    try:
        return (files("prag") / "data" / "everyday.jsonl").read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise PragError(
            "the file data/everyday.jsonl is missing from the installed package: install prag again"
        ) from error
