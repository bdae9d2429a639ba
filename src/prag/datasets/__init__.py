"""Question sets: readers of the official files, which are told apart by their content.

The fields that stand in the first part of a file say which set it is; its name does not count.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from prag.datasets.complexwebquestions import read_complexwebquestions
from prag.datasets.folder import read_folder
from prag.datasets.hotpotqa import read_hotpotqa
from prag.datasets.musique import read_musique
from prag.datasets.popqa import read_popqa
from prag.datasets.questions import Question, QuestionSet
from prag.datasets.rows import read_bytes
from prag.datasets.twowiki import read_2wikimultihopqa
from prag.records import PragError

__all__ = ["Question", "QuestionSet", "load_set"]

_HEAD = 1 << 20  # bytes of a file that are looked at to tell what it is
_KEY = re.compile(r'"(\w+)"\s*:')  # a quote inside a JSON text is escaped: only keys match


@dataclass(frozen=True)
class _Format:
    """A set that can be read.

    It is recognised by `least` of its marks, not all: a file whose first row lacks a field is
    still to be told what it lacks.
    """

    read: Callable[[Path, int | None], QuestionSet]
    what: str  # for the message that lists what is read
    marks: frozenset[str]
    least: int
    tsv: bool = False


# In this order: copies of other sets in the own format hold fields of theirs as well, and
# 2WikiMultihopQA is HotpotQA and more.
_FORMATS = (
    _Format(
        read_folder,
        "questions in JSON lines: id, question, golden_answers",
        frozenset({"golden_answers", "gold_passages"}),
        1,
    ),
    _Format(
        read_musique,
        "MuSiQue: musique_ans_v1.0_dev.jsonl",
        frozenset({"answerable", "paragraphs", "answer_aliases", "question_decomposition"}),
        2,
    ),
    _Format(
        read_complexwebquestions,
        "ComplexWebQuestions: ComplexWebQuestions_dev.json",
        frozenset({"ID", "compositionality_type", "answers", "webqsp_ID", "machine_question"}),
        2,
    ),
    _Format(
        read_hotpotqa,
        "HotpotQA: hotpot_dev_distractor_v1.json",
        frozenset({"supporting_facts", "context", "level", "evidences", "answer_id"}),
        2,
    ),
    _Format(
        read_popqa,
        "PopQA: popQA.tsv",
        frozenset({"subj", "prop", "obj", "possible_answers"}),
        2,
        tsv=True,
    ),
)
_TWOWIKI = _Format(
    read_2wikimultihopqa,
    "2WikiMultihopQA: dev.json, with id_aliases.json beside it",
    frozenset({"evidences", "evidences_id", "answer_id", "entity_ids"}),
    1,
)
_TWOWIKI_TYPE = re.compile(r'"type"\s*:\s*"(compositional|inference|bridge_comparison)"')
_READ = "; ".join(format_.what for format_ in (*_FORMATS, _TWOWIKI))


def load_set(path: Path, limit: int | None = None) -> QuestionSet:
    """Read a question set.

    Args:
        path: a file, or a folder that holds one file that is recognised.
        limit: keep the first so many questions of those that can be scored, in the order of
            the file; None keeps all. The passages are those of the whole file either way, and
            the whole file is checked.

    Raises:
        PragError: there is no such file, it is not recognised, or a row of it is malformed;
            the message names the file, the row and its id.
    """
    if limit is not None and limit < 1:
        raise PragError(f"limit = {limit}: it is at least 1; leave it out for all questions")
    if path.is_dir():
        path, format_ = _only(path)
    elif (recognised := _recognise(path)) is not None:
        format_ = recognised
    else:
        raise PragError(f"{path}: not a question set that is known; what is read is {_READ}")
    questions = format_.read(path, limit)
    if not questions.questions:
        said = "; ".join(questions.notes)
        raise PragError(f"{path}: no question that can be scored ({said}); take another file")
    return questions


def _only(folder: Path) -> tuple[Path, _Format]:
    """The one file of a folder that is recognised, and as what."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    found = [(path, format_) for path in files if (format_ := _recognise(path)) is not None]
    if not found:
        raise PragError(
            f"{folder}: none of its {len(files)} files is a question set that is known; "
            f"what is read is {_READ}"
        )
    if len(found) > 1:
        names = ", ".join(path.name for path, _ in found)
        raise PragError(f"{folder}: holds {len(found)} question sets, {names}; name one of them")
    return found[0]


def _recognise(path: Path) -> _Format | None:
    head = read_bytes(path, _HEAD).decode("utf-8", errors="replace").lstrip("\ufeff \t\r\n")
    tsv = head[:1] not in ("[", "{")
    header = head.partition("\n")[0].rstrip("\r").split("\t")
    keys = {cell.strip('"') for cell in header} if tsv else set(_KEY.findall(head))
    for format_ in _FORMATS:
        if format_.tsv == tsv and len(format_.marks & keys) >= format_.least:
            wiki = format_.read is read_hotpotqa and (
                _TWOWIKI.marks & keys or _TWOWIKI_TYPE.search(head)
            )
            return _TWOWIKI if wiki else format_
    return None
