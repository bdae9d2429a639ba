"""The catalogue: one transaction a change, shared passages stored once, errors in plain words."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import prag.records
from prag.corpus import Catalogue, Counts, DocumentRow
from prag.records import Document, Passage, PragError

pytestmark = pytest.mark.fast


def document(name: str, *texts: str) -> Document:
    return Document(name, f"{name}.txt", tuple(Passage("Title", text) for text in texts))


def id_of(text: str) -> str:
    return Passage("Title", text).id


def texts(catalogue: Catalogue) -> list[str]:
    return [passage.text for passage in catalogue.passages()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "catalogue.sqlite"


@pytest.fixture
def catalogue(path: Path) -> Iterator[Catalogue]:
    with Catalogue.open(path) as opened:
        yield opened


def test_put_adds_replaces_and_leaves_unchanged(catalogue: Catalogue) -> None:
    report = catalogue.put([document("a", "one", "two"), document("b", "two", "three")])
    assert (report.added, report.passages_added, report.duplicates) == (2, 3, 1)
    report = catalogue.put([document("a", "one", "four"), document("b", "two", "three")])
    assert (report.added, report.replaced, report.unchanged) == (0, 1, 1)
    assert (report.passages_added, report.passages_removed, report.duplicates) == (1, 0, 1)
    report = catalogue.put([document("b", "three")])
    assert (report.passages_removed, report.removed_ids) == (1, (id_of("two"),))
    assert texts(catalogue) == ["one", "three", "four"]
    assert catalogue.count() == Counts(documents=2, passages=3)
    assert list(catalogue.documents()) == [
        DocumentRow("a", "a.txt", 2),
        DocumentRow("b", "b.txt", 1),
    ]
    assert catalogue.integrity() == []


def test_a_passage_that_moves_between_documents_keeps_its_place(catalogue: Catalogue) -> None:
    catalogue.put([document("a", "one", "two"), document("b", "three")])
    report = catalogue.put([document("a", "two"), document("b", "three", "one")])
    assert (report.passages_added, report.passages_removed) == (0, 0)
    assert texts(catalogue) == ["one", "two", "three"]
    assert catalogue.documents_of(id_of("one")) == ["b"]


def test_a_passage_twice_in_a_document(catalogue: Catalogue) -> None:
    report = catalogue.put([document("a", "one", "two", "one")])
    assert (report.passages_added, report.duplicates) == (2, 1)
    assert list(catalogue.documents()) == [DocumentRow("a", "a.txt", 3)]
    assert catalogue.withdraw([id_of("one")]).passages == (id_of("one"),)
    assert list(catalogue.documents()) == [DocumentRow("a", "a.txt", 1)]
    assert catalogue.integrity() == []


def test_get_and_find(catalogue: Catalogue) -> None:
    names = [str(number) for number in range(1200)]
    catalogue.put([document("a", *names)])
    ids = [id_of(name) for name in reversed(names)]
    assert [passage.text for passage in catalogue.get([*ids, ids[0]])] == [*reversed(names), "1199"]
    assert texts(catalogue) == names
    assert catalogue.find(ids[0][:12].upper()) == [ids[0]]
    assert catalogue.find("ab") == sorted(id_ for id_ in ids if id_.startswith("ab"))
    assert catalogue.find("") == sorted(ids)
    assert catalogue.find("xyz%") == []
    with pytest.raises(PragError, match="no passage 'nothing'"):
        catalogue.get([ids[0], "nothing"])
    with pytest.raises(PragError, match="no passage 'nothing'"):
        catalogue.documents_of("nothing")


def test_the_digest_is_of_the_set_of_passages(tmp_path: Path, catalogue: Catalogue) -> None:
    empty = catalogue.digest()
    catalogue.put([document("a", "one", "two")])
    with Catalogue.open(tmp_path / "other") as other:
        other.put([document("x", "two"), document("y", "one")])
        assert other.digest() == catalogue.digest() != empty
        other.withdraw(["y"])
        assert other.digest() != catalogue.digest()
        other.withdraw(["x"])
        assert other.digest() == empty


def test_withdraw_a_document_keeps_what_others_share(catalogue: Catalogue, path: Path) -> None:
    catalogue.put([document("a", "one", "shared"), document("b", "shared", "the secret text")])
    report = catalogue.withdraw(["b", "b"])
    assert (report.documents, report.passages) == (("b",), (id_of("the secret text"),))
    assert texts(catalogue) == ["one", "shared"]
    assert b"the secret text" not in path.read_bytes()


def test_withdraw_a_passage_from_all_its_documents(catalogue: Catalogue) -> None:
    catalogue.put([document("a", "one", "shared"), document("b", "shared")])
    report = catalogue.withdraw([id_of("shared")[:8]])
    assert (report.documents, report.passages) == (("b",), (id_of("shared"),))
    assert list(catalogue.documents()) == [DocumentRow("a", "a.txt", 1)]
    assert catalogue.integrity() == []
    report2 = catalogue.put([document("a", "one", "shared")])
    assert (report2.replaced, report2.passages_added) == (1, 1)


def test_withdraw_names_every_wrong_id_and_does_nothing(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prag.records, "content_id", lambda *parts: "abcdef01" + parts[-1][:8])
    catalogue.put([document("a", "11111111", "22222222")])
    with pytest.raises(PragError) as caught:
        catalogue.withdraw(["a", "abcdef01", "abcdef0", "nobody"])
    message = str(caught.value)
    assert "'abcdef01' begins the ids of 2 passages" in message
    assert "'abcdef0' is neither" in message
    assert "'nobody' is neither" in message
    assert texts(catalogue) == ["11111111", "22222222"]


def test_a_collision_of_ids_is_an_error(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue.put([document("a", "one")])
    taken = id_of("one")
    monkeypatch.setattr(prag.records, "content_id", lambda *parts: taken)
    with pytest.raises(PragError, match=f"has the id {taken} of another passage"):
        catalogue.put([document("b", "two")])
    assert texts(catalogue) == ["one"]


def test_put_refuses_what_contradicts_itself(catalogue: Catalogue) -> None:
    with pytest.raises(PragError, match="has no passages"):
        catalogue.put([document("a", "one"), document("b")])
    with pytest.raises(PragError, match="'a' is also the name"):
        catalogue.put([document("a", "one"), document("a", "two")])
    with pytest.raises(PragError, match="surrogate"):
        catalogue.put([document("a", "one"), document("b", "\ud800")])
    assert catalogue.count() == Counts(0, 0)
    catalogue.put([document("a", "one"), document("a", "one")])
    with pytest.raises(PragError, match="'a' is also the name"):
        catalogue.put([document("a", "one"), document("a", "two")])


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_put_changes_nothing(
    catalogue: Catalogue, path: Path, stop: type[BaseException]
) -> None:
    catalogue.put([document("a", "one"), document("b", "two")])
    before = path.read_bytes()

    def documents() -> Iterator[Document]:
        yield document("a", "changed")
        yield document("c", "new")
        raise stop

    with pytest.raises(stop):
        catalogue.put(documents())
    assert path.read_bytes() == before
    assert texts(catalogue) == ["one", "two"]
    assert catalogue.put([document("c", "new")]).added == 1


def test_a_process_killed_in_put_leaves_the_old_content(path: Path) -> None:
    with Catalogue.open(path) as catalogue:
        catalogue.put([document("a", "one")])
    # Large enough that SQLite has to write into the file before the end of the transaction.
    script = """
        import os, sys
        from prag.corpus import Catalogue
        from prag.records import Document, Passage

        def documents():
            yield Document("a", "a.txt", (Passage("", "changed"),))
            for number in range(600):
                yield Document(str(number), "x", (Passage("", f"{number} " * 4000),))
            os._exit(9)

        Catalogue.open(sys.argv[1]).put(documents())
    """
    code = textwrap.dedent(script)
    source = str(Path(prag.records.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": source}
    done = subprocess.run([sys.executable, "-c", code, str(path)], env=environment, check=False)
    assert done.returncode == 9
    assert path.with_name(f"{path.name}-journal").exists()
    with Catalogue.open(path, readonly=True) as catalogue:
        assert texts(catalogue) == ["one"]
        assert catalogue.integrity() == []


def test_a_full_disk_is_an_error_and_changes_nothing(catalogue: Catalogue) -> None:
    catalogue.put([document("a", "one")])
    database = catalogue._database
    pages = database.value("PRAGMA page_count")
    database.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(PragError, match=r"catalogue\.sqlite: .*full: .*free some space"):
        catalogue.put([document("a", "changed"), document("b", "long " * 10_000)])
    assert texts(catalogue) == ["one"]
    database.execute(f"PRAGMA max_page_count = {pages + 100}")
    assert catalogue.put([document("b", "long " * 10_000)]).added == 1


def test_read_only(catalogue: Catalogue, path: Path) -> None:
    catalogue.put([document("a", "one")])
    catalogue.close()
    with Catalogue.open(path, readonly=True) as opened:
        assert texts(opened) == ["one"]
        with pytest.raises(PragError, match="readonly database: nothing was changed"):
            opened.put([document("b", "two")])
        with pytest.raises(PragError, match="readonly database: nothing was changed"):
            opened.withdraw(["a"])
    assert list(path.parent.iterdir()) == [path]


def test_a_reader_that_stops_midway_blocks_no_writer(catalogue: Catalogue, path: Path) -> None:
    catalogue.put([document("a", *map(str, range(1500)))])
    with Catalogue.open(path, readonly=True) as other:
        reading = other.passages()
        next(reading)
        assert catalogue.withdraw(["a"]).documents == ("a",)


def test_files_that_are_no_catalogue(tmp_path: Path) -> None:
    with pytest.raises(PragError, match="no such catalogue"):
        Catalogue.open(tmp_path / "none", readonly=True)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(PragError, match="see that its folder exists"):
        Catalogue.open(tmp_path / "no folder" / "catalogue")
    text = tmp_path / "text"
    text.write_text("no database " * 100)
    with pytest.raises(PragError, match="no catalogue of prag"):
        Catalogue.open(text)
    (tmp_path / "empty").touch()
    with pytest.raises(PragError, match="no catalogue of prag"):
        Catalogue.open(tmp_path / "empty", readonly=True)
    with sqlite3.connect(tmp_path / "foreign") as foreign:
        foreign.execute("CREATE TABLE things (name TEXT)")
    foreign.close()
    with pytest.raises(PragError, match="no catalogue of prag"):
        Catalogue.open(tmp_path / "foreign")


def test_a_newer_schema_is_refused(catalogue: Catalogue, path: Path) -> None:
    catalogue._database.execute("PRAGMA user_version = 2")
    catalogue.close()
    with pytest.raises(PragError, match="schema 2, this one knows 1"):
        Catalogue.open(path)


def test_integrity_names_what_is_damaged(catalogue: Catalogue) -> None:
    catalogue.put([document("a", "one", "two"), document("b", "three")])
    database = catalogue._database
    database.execute("UPDATE passages SET text = CAST(X'FF' AS TEXT) WHERE text = 'one'")
    database.execute("UPDATE documents SET digest = 'x' WHERE name = 'b'")
    database.execute("DELETE FROM parts WHERE passage = 3")
    found = catalogue.integrity()
    assert f"passage {id_of('one')}: its text is not what was stored" in found
    assert f"passage {id_of('three')}: it belongs to no document" in found
    assert "document 'b': its passages are not those stored with it" in found
    assert len(found) == 3


def test_integrity_of_a_damaged_file_says_so(catalogue: Catalogue, path: Path) -> None:
    catalogue.put([document("a", *(f"{number} " * 300 for number in range(200)))])
    catalogue.close()
    data = bytearray(path.read_bytes())
    data[8192:65536] = bytes(65536 - 8192)
    path.write_bytes(data)
    with Catalogue.open(path, readonly=True) as opened:
        found = opened.integrity()
    assert found
    assert all("catalogue.sqlite" in one or one.startswith("passage") for one in found)


_STATES = st.lists(
    st.dictionaries(
        st.sampled_from("abc"), st.lists(st.sampled_from("12345"), min_size=1), min_size=1
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=15)
@given(_STATES)
def test_any_sequence_of_puts_leaves_what_the_last_versions_hold(
    tmp_path_factory: pytest.TempPathFactory, states: list[dict[str, list[str]]]
) -> None:
    latest: dict[str, list[str]] = {}
    with Catalogue.open(tmp_path_factory.mktemp("catalogue") / "file") as catalogue:
        held: set[str] = set()
        for state in states:
            before, digest = catalogue.state(), catalogue.digest()
            report = catalogue.put(document(name, *parts) for name, parts in state.items())
            latest.update(state)
            now = {text for parts in latest.values() for text in parts}
            assert set(texts(catalogue)) == now
            assert report.passages_added == len(now - held)
            assert set(report.removed_ids) == {id_of(text) for text in held - now}
            held = now
            assert catalogue.state() != before or catalogue.digest() == digest
        assert {row.name: row.passages for row in catalogue.documents()} == {
            name: len(parts) for name, parts in latest.items()
        }
        assert catalogue.integrity() == []


@settings(max_examples=15)
@given(st.text(st.characters(exclude_categories=["Cs"])), st.text(st.characters(codec="utf-8")))
def test_texts_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, title: str, text: str
) -> None:
    path = tmp_path_factory.mktemp("catalogue") / "file"
    with Catalogue.open(path) as catalogue:
        catalogue.put([Document("a", "a", (Passage(title, text),))])
        assert list(catalogue.passages()) == [Passage(title, text)]
        assert catalogue.integrity() == []
