"""HotpotQA (Yang et al. 2018), distractor setting: a question with ten paragraphs.

Two shapes are read: the official JSON list, where a context is `[[title, [sentences]], ...]`
and supporting facts are `[[title, sentence number], ...]`, and the one that a conversion to
columns gives, `{"title": [...], "sentences": [[...], ...]}` and `{"title": [...], ...}`.
2WikiMultihopQA has the same shapes; its reader builds on this one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from prag.datasets.questions import Gathering, QuestionSet
from prag.datasets.rows import Row, read_json_rows

Paragraph = tuple[str, list[str]]  # title, sentences


def read_hotpotqa(path: Path, limit: int | None) -> QuestionSet:
    """The questions of a HotpotQA file; a type is bridge or comparison.

    Raises:
        PragError: a row is malformed.
    """
    gathering = Gathering("hotpotqa", limit)
    gather(read_json_rows(path), gathering, lambda row: [])
    return gathering.finish()


def gather(rows: Sequence[Row], gathering: Gathering, aliases: Callable[[Row], list[str]]) -> None:
    """Gather rows of this shape.

    Args:
        rows: all of the file.
        gathering: what they are added to.
        aliases: further golden answers of a row.
    """
    contexts = [_context(row) for row in rows]
    joint = _joint(contexts)
    for row, context in zip(rows, contexts, strict=True):
        id_ = gathering.once(row, row.text("_id" if "_id" in row.data else "id"))
        supporting = _supporting(row)
        gold: list[str] = []
        for title, sentences in context:
            passage = gathering.passage(title, joint.join(s for s in sentences if s))
            if title in supporting and passage is not None:
                gold.append(passage)
        absent = supporting - {title for title, _ in context}
        gathering.count("supporting titles that are not in their question's context", len(absent))
        answer = row.text("answer")
        gathering.question(row, id_, [answer, *aliases(row)], row.text("type"), gold)


def _joint(contexts: Sequence[Sequence[Paragraph]]) -> str:
    """What to put between sentences: nothing if they carry their own spaces, else a space.

    The sentences of HotpotQA begin with the space that stood before them, those of
    2WikiMultihopQA do not. Most decide for all: where HotpotQA has none, its text had none.
    """
    later = [s for context in contexts for _, sentences in context for s in sentences[1:] if s]
    spaced = sum(sentence[0].isspace() for sentence in later)
    return "" if 2 * spaced > len(later) else " "


def _context(row: Row) -> list[Paragraph]:
    value = row.get("context")
    if isinstance(value, dict):
        columns = row.as_object(value, "'context'")
        titles, texts = (
            columns.texts("title"),
            columns.as_list(columns.get("sentences"), "'sentences'"),
        )
        if len(titles) != len(texts):
            raise row.error(
                f"'context' has {len(titles)} titles and {len(texts)} lists of sentences; "
                "each title has one"
            )
        pairs: list[tuple[object, object]] = list(zip(titles, texts, strict=True))
    else:
        pairs = [_pair(row, item, f"'context'[{at}]") for at, item in _items(row, value, "context")]
    return [
        (row.as_text(title, f"the title of 'context'[{at}]"), row.as_texts(sentences, "sentences"))
        for at, (title, sentences) in enumerate(pairs)
    ]


def _supporting(row: Row) -> set[str]:
    """The titles that the supporting facts name."""
    value = row.get("supporting_facts")
    if isinstance(value, dict):
        return set(row.as_object(value, "'supporting_facts'").texts("title"))
    pairs = [
        _pair(row, item, f"'supporting_facts'[{at}]")
        for at, item in _items(row, value, "supporting_facts")
    ]
    return {row.as_text(title, "a title of 'supporting_facts'") for title, _ in pairs}


def _items(row: Row, value: object, key: str) -> list[tuple[int, object]]:
    return list(enumerate(row.as_list(value, repr(key))))


def _pair(row: Row, item: object, what: str) -> tuple[object, object]:
    values = row.as_list(item, what)
    if len(values) != 2:
        raise row.error(f"{what} has {len(values)} members; it is a title and what belongs to it")
    return values[0], values[1]
