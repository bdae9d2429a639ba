"""Reading files: what becomes a document and under which name, what a problem, what is left out."""

from __future__ import annotations

import gzip
import io
import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prag.corpus import ReadReport, read
from prag.records import Passage, PragError, content_id

pytestmark = pytest.mark.fast


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder of each test, so that paths are short and relative."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name: str, content: str | bytes) -> str:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return name


def jsonl(*records: object) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def summary(report: ReadReport) -> list[tuple[str, str, str]]:
    return [(d.name, d.passages[0].title, d.passages[0].text) for d in report.documents]


def problem(name: str, content: str | bytes) -> str:
    """The one problem of a file that gives nothing else."""
    report = read([write(name, content)])
    assert report.documents == ()
    (only,) = report.problems
    return f"{only.text} {only.reason}"


# Records


def test_jsonl_of_both_forms() -> None:
    lines = jsonl(
        {"id": "a", "title": " T ", "text": " kept  as\tit is\n"},
        {"id": 7, "text": "no title"},
        {"title": None, "text": "no id"},
        {"id": "f", "contents": '"Flash RAG"\nfirst\nsecond'},
        {"id": "g", "contents": '"one line"\n'},
    )
    report = read([write("sub/corpus.jsonl", "\ufeff" + lines.replace("\n", "\r\n\n"))])
    assert summary(report) == [
        ("corpus.jsonl#a", "T", "kept  as\tit is"),
        ("corpus.jsonl#7", "", "no title"),
        (f"corpus.jsonl#{content_id('', 'no id')}", "", "no id"),
        ("corpus.jsonl#f", "Flash RAG", "first\nsecond"),
        ("corpus.jsonl#g", "", '"one line"'),
    ]
    assert [d.source for d in report.documents][:2] == [
        "sub/corpus.jsonl:1",
        "sub/corpus.jsonl:3",
    ]
    assert (report.problems, report.ignored) == ((), ())


@given(st.text(st.characters(exclude_categories=["Cs"])), st.text(min_size=1))
def test_the_id_of_a_record_is_that_of_its_own_text(title: str, text: str) -> None:
    title, text = title.strip(), text.encode("utf-8", "ignore").decode().strip() or "x"
    line = json.dumps({"title": title, "text": text})
    (document,) = read(["-"], stdin=io.BytesIO(line.encode())).documents
    assert document.passages == (Passage(title, text),)


def test_tsv_as_dpr_writes_it() -> None:
    rows = [
        "id\ttext\ttitle",
        '1\t"A ""quoted"" text, Café"\tAaron',
        '2\t"two\nlines"\t"""Weird Al"" Yankovic"',
        "3\tplain\t",
    ]
    report = read([write("psgs_w100.tsv", "\r\n".join(rows) + "\r\n")])
    assert summary(report) == [
        ("psgs_w100.tsv#1", "Aaron", 'A "quoted" text, Café'),
        ("psgs_w100.tsv#2", '"Weird Al" Yankovic', "two\nlines"),
        ("psgs_w100.tsv#3", "", "plain"),
    ]
    assert [d.source for d in report.documents][-1] == "psgs_w100.tsv:5"


def test_problems_of_tsv_are_told_by_line_and_reading_goes_on() -> None:
    rows = [
        b"id\ttext\ttitle",
        b"1\tno title",
        b"2\tbad \xff byte\tT",
        b'3\t"text"stray\tT',
        b'4\t"a row',
        b"with \xff inside",
        b'it"\tT',
        b"5\tgood\tT",
        b'6\t"never closed\tT',
    ]
    report = read([write("x.tsv", b"\n".join(rows))])
    assert [d.name for d in report.documents] == ["x.tsv#5"]
    found = {p.text: p.reason for p in report.problems}
    assert "2 columns where the header has 3" in found["x.tsv:2"]
    assert "not UTF-8 at byte 31 of the file (0xff)" in found["x.tsv:3"]
    assert "not TSV" in found["x.tsv:4"]
    assert "a line inside this row cannot be read" in found["x.tsv:5"]
    assert "not UTF-8" in found["x.tsv:6"]
    assert "not TSV: unexpected end of data" in found["x.tsv:9"]
    assert len(report.problems) == 6
    assert "y.tsv:1 the first line must be the header" in problem("y.tsv", "1\ta\tb\n2\tc\td\n")


def test_parquet_of_both_forms() -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    ids = list(range(3000))
    table = pyarrow.table({"id": ids, "text": [f"t{i}" for i in ids], "other": ids})
    parquet.write_table(table, "a.parquet")
    report = read(["a.parquet"])
    assert len(report.documents) == 3000
    assert summary(report)[2999] == ("a.parquet#2999", "", "t2999")
    assert report.documents[2999].source == "a.parquet:3000"
    bad = pyarrow.array([b"\xff", b"ok"], pyarrow.binary()).cast(pyarrow.string(), safe=False)
    table = pyarrow.table({"id": ["x", "y"], "contents": ['"T"\nbody', None]})
    parquet.write_table(table, "b.parquet")
    report = read(["b.parquet"])
    assert summary(report) == [("b.parquet#x", "T", "body")]
    assert [(p.text, p.reason[:11]) for p in report.problems] == [("b.parquet:2", "has no text")]
    parquet.write_table(pyarrow.table({"id": ["x", "y"], "text": bad}), "c.parquet")
    report = read(["c.parquet"])
    assert summary(report) == [("c.parquet#y", "", "ok")]
    assert "utf-8" in report.problems[0].reason
    parquet.write_table(pyarrow.table({"body": ["x"]}), "d.parquet")
    assert "no column text or contents but ['body']" in read(["d.parquet"]).problems[0].reason
    assert "a damaged Parquet file" in problem("e.parquet", "nothing")


def test_packed_files_make_the_same_documents() -> None:
    write("a.jsonl", jsonl({"id": 1, "text": "one"}))
    write("a.jsonl.gz", gzip.compress(Path("a.jsonl").read_bytes()))
    write("b.tsv.gz", gzip.compress(b"id\ttext\ttitle\n1\tx\ty\n"))
    report = read(["a.jsonl", "a.jsonl.gz", "b.tsv.gz"])
    assert [d.name for d in report.documents] == ["a.jsonl#1", "b.tsv#1"]
    assert [p.text for p in report.ignored] == ["a.jsonl.gz:1"]
    assert "damaged gzip data" in problem("c.jsonl.gz", Path("a.jsonl.gz").read_bytes()[:-9])
    assert "damaged gzip data" in problem("d.jsonl.gz", b"no gzip")


def test_problems_of_jsonl_are_told_by_line_and_reading_goes_on() -> None:
    lines: list[bytes] = [json.dumps({"id": i, "text": f"t{i}"}).encode() for i in range(1000)]
    lines[10] = b'"text"'
    lines[20] = b'{"id": 20, "text": "\xff"}'
    lines[30] = b'{"id": 30, "text": " "}'
    lines[40] = b'{"id": 40, "text": ["x"]}'
    lines[50] = b'{"id": 50, "body": "x"}'
    lines[60] = b'{"id": 60, "text": "\\ud800"}'
    lines[70] = json.dumps({"id": 70, "text": "word " * 2001}).encode()
    lines[80] = b'{"id": 80, "text": "' + b"x" * 2_500_000 + b'"}'
    lines[90] = b"[" * 100_000
    lines[100] = b'{"id": true, "text": "x"}'
    lines[999] = b'{"id": 999, "text": }'
    report = read([write("x.jsonl", b"\n".join(lines))])
    assert len(report.documents) == 989
    found = {p.text: p.reason for p in report.problems}
    assert len(found) == len(report.problems) == 11
    assert "a JSON str" in found["x.jsonl:11"]
    at = sum(len(line) + 1 for line in lines[:20]) + lines[20].index(b"\xff")
    assert f"not UTF-8 at byte {at} of the file (0xff)" in found["x.jsonl:21"]
    assert "has no text" in found["x.jsonl:31"]
    assert "'text' is of kind list" in found["x.jsonl:41"]
    assert "has neither 'text' nor 'contents' but 'id', 'body'" in found["x.jsonl:51"]
    assert "surrogate" in found["x.jsonl:61"]
    assert "2,001 words" in found["x.jsonl:71"]
    assert ".txt file" in found["x.jsonl:71"]
    assert "over 1,000,000 bytes" in found["x.jsonl:81"]
    assert "not JSON" in found["x.jsonl:91"]
    assert "'id' is of kind bool" in found["x.jsonl:101"]
    assert "not JSON: Expecting value: line 1 column 21" in found["x.jsonl:1000"]


def test_what_is_kept_of_the_problems_of_a_file_is_bounded() -> None:
    report = read([write("x.jsonl", "{\n" * 350), write("y.jsonl", "{\n")])
    assert len(report.problems) == 102
    assert report.problems[99].text == "x.jsonl:100"
    assert report.problems[100].text == "x.jsonl"
    assert report.problems[100].reason.startswith("250 more problems")
    assert report.problems[101].text == "y.jsonl:1"


def test_two_records_of_one_id() -> None:
    lines = jsonl(
        {"id": 1, "text": "one"}, {"id": 1, "text": "one"}, {"id": 1, "text": "two"}, {"text": "x"}
    )
    report = read([write("x.jsonl", lines + jsonl({"text": "x"}))])
    assert [text for _, _, text in summary(report)] == ["one", "x"]
    assert [(r.text, "x.jsonl:1" in r.reason) for r in report.problems] == [("x.jsonl:3", True)]
    assert [r.text for r in report.ignored] == ["x.jsonl:2", "x.jsonl:5"]


# Documents


def test_text_is_normalised_and_chunked() -> None:
    text = "\ufeffCafe\u0301  au\x00 lait.\r\nSame\u00a0line.\r\n\r\n" + "It goes on here. " * 60
    report = read([write("notes/a.txt", text)], chunk_words=40)
    (document,) = report.documents
    assert (document.name, document.source) == ("notes/a.txt", "notes/a.txt")
    assert len(document.passages) == 6
    assert {p.title for p in document.passages} == {"a"}
    assert document.passages[0].text.startswith("Café au lait. Same line. It goes on here. It")


def test_markdown() -> None:
    text = """---
title: front matter
---
Intro with *emphasis* and a [link](http://nowhere.invalid/x), `code_a`.

## Part
# The **Title** &amp; more #

- item ![a picture](p.png) <b>bold</b>

| a | b |
|---|---|
| c | d |

<div>block <!-- hidden --> text</div>

```python
x_1 = "*kept*"
```
"""
    (document,) = read([write("m.md", text)]).documents
    (passage,) = document.passages
    assert passage.title == "The Title & more"
    assert passage.text == (
        "Intro with emphasis and a link, code_a. Part item a picture bold "
        'a b c d block text x_1 = "*kept*"'
    )
    (document,) = read([write("plain.markdown", "just text")]).documents
    assert document.passages[0].title == "plain"
    (document,) = read([write("head.md", "# Only this\n\n# \n")]).documents
    assert document.passages[0].text == "Only this", "there is no other text"
    (document,) = read([write("two.md", "# One\n\nx\n\n# Two\n\ny")]).documents
    assert document.passages == (Passage("One", "x Two y"),)


def test_html() -> None:
    pytest.importorskip("bs4")
    text = """<html><head><title> A
    page </title><style>s{}</style></head><body><nav>menu</nav><h1>Head</h1><script>x()</script>
    <p>One<b>word</b> &eacute;.<br>Next<!-- hidden --></p><template>t</template><noscript>n
    </noscript><table><tr><td>a</td><td>b</td></tr></table><ul><li>c<li>d</ul></body></html>"""
    (document,) = read([write("p.html", text)]).documents
    assert document.passages == (Passage("A page", "Head Oneword é. Next a b c d"),)
    (document,) = read([write("q.htm", "<h1>Only <i>a</i> heading</h1><p>x")]).documents
    assert document.passages == (Passage("Only a heading", "x"),)
    (document,) = read(
        [write("r.html", "<p>one two\n\nthree four five</p>")], chunk_words=4
    ).documents
    assert [p.text for p in document.passages] == ["one two three four five"]
    (document,) = read([write("t.html", "<title>A b</title><h1>A  b</h1>")]).documents
    assert document.passages == (Passage("A b", "A b"),), "there is no other text"
    assert "holds no text" in problem("s.html", "<script>x</script>")


def pdf(*pages: str) -> bytes:
    """A PDF with a line of text on each page, written by hand."""
    kids = " ".join(f"{3 + 2 * i} 0 R" for i in range(len(pages)))
    font = "<< /Font << /F << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >>"
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
    ]
    for i, text in enumerate(pages):
        stream = f"BT /F 12 Tf 72 720 Td ({text}) Tj ET" if text else ""
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {4 + 2 * i} 0 R "
            f"/Resources {font} >>"
        )
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    data, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        offsets.append(len(data))
        data += f"{number} 0 obj\n{body}\nendobj\n".encode()
    table = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    end = f"xref\n0 {len(offsets) + 1}\n0000000000 65535 f \n{table}"
    end += f"trailer\n<< /Size {len(offsets) + 1} /Root 1 0 R >>\nstartxref\n{len(data)}\n%%EOF"
    return data + end.encode()


def test_pdf() -> None:
    pypdf = pytest.importorskip("pypdf")
    report = read([write("a.pdf", pdf("Hello from page one.", "", "And three."))])
    assert summary(report) == [("a.pdf", "a", "Hello from page one. And three.")]
    assert [(r.text, r.reason) for r in report.ignored] == [
        ("a.pdf", "1 pages without text (scans?): 2")
    ]
    assert "no text layer on its 2 pages" in problem("scan.pdf", pdf("", ""))
    assert "a damaged PDF" in problem("broken.pdf", b"%PDF-1.4\n garbage")

    def locked(password: str) -> bytes:
        writer = pypdf.PdfWriter(clone_from=io.BytesIO(pdf("Secret text.")))
        writer.encrypt(password, "owner", algorithm="RC4-128")
        out = io.BytesIO()
        writer.write(out)
        return out.getvalue()

    assert "encrypted; save it without" in problem("locked.pdf", locked("password"))
    assert summary(read([write("open.pdf", locked(""))])) == [("open.pdf", "open", "Secret text.")]


def test_text_that_cannot_be_chunked_is_a_problem() -> None:
    assert "no spaces between its words" in problem("a.txt", "東京は日本の首都です。" * 200)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.txt", b"", "a.txt empty"),
        ("a.jsonl", b"\n \n", "a.jsonl holds no records"),
        ("a.tsv", b"id\ttext\ttitle\n", "a.tsv holds no records"),
        ("a.md", b"\n \n\t", "a.md holds no text"),
        ("a.txt", b"caf\xe9", "a.txt not UTF-8 at byte 3 of the file (0xe9)"),
        ("a.txt", b"\xef\xbb\xbfcaf\xe9", "a.txt not UTF-8 at byte 6 of the file (0xe9)"),
        ("a.json", b"[]", "a.json JSON is read as JSONL"),
        ("a.docx", b"x", "a.docx no reader knows this ending; known are .jsonl, .tsv,"),
    ],
)
def test_files_that_give_nothing(name: str, content: bytes, reason: str) -> None:
    assert reason in problem(name, content)


# Paths


def test_a_folder_is_read_in_sorted_order() -> None:
    for name in ("d/b.txt", "d/a/z.TXT", "d/a.txt", "d/c.jsonl", "d/x.docx", "d/.hidden.txt"):
        write(name, jsonl({"id": 1, "text": "one"}) if name.endswith("jsonl") else name)
    write("d/.git/config.txt", "x")
    Path("d/link").symlink_to("a", target_is_directory=True)
    report = read(["./d"])
    names = ["d/a.txt", "d/b.txt", "c.jsonl#1", "d/a/z.TXT"]
    assert [d.name for d in report.documents] == names
    assert report.problems == ()
    assert {r.text for r in report.ignored} == {"d/x.docx", "d/.hidden.txt", "d/.git", "d/link"}
    again = read(["d", Path("d/a.txt")])
    assert [d.name for d in again.documents] == names
    assert len(again.ignored) == 5


def test_paths_that_cannot_be_read() -> None:
    Path("empty").mkdir()
    Path("gone.txt").symlink_to("nowhere")
    report = read(["none.txt", "empty", "gone.txt", write("a.txt", "fine")])
    assert [d.name for d in report.documents] == ["a.txt"]
    assert [(r.text, r.reason[:20]) for r in report.problems] == [
        ("none.txt", "cannot be read: No s"),
        ("empty", "holds no file that c"),
        ("gone.txt", "cannot be read: No s"),
    ]
    assert [d.name for d in read("a.txt").documents] == ["a.txt"]


def test_standard_input() -> None:
    records = jsonl({"id": 1, "text": "one"}, {"id": 2})
    report = read(["-"], stdin=io.BytesIO(b"\xef\xbb\xbf \n" + records.encode()))
    assert summary(report) == [("stdin#1", "", "one")]
    assert [r.text for r in report.problems] == ["stdin:3"]
    first = read(["-"], stdin=io.BytesIO(b"Some text."))
    assert [p.text for p in first.documents[0].passages] == ["Some text."]
    other = read(["-"], stdin=io.BytesIO(b"Other text."))
    assert first.documents[0].name.startswith("stdin#")
    assert first.documents[0].name != other.documents[0].name
    assert [r.reason[:13] for r in read(["-"], stdin=io.BytesIO()).problems] == ["holds no text"]


@pytest.mark.parametrize(
    ("name", "library"), [("a.html", "bs4"), ("a.pdf", "pypdf"), ("a.parquet", "pyarrow")]
)
def test_a_library_that_is_missing(
    name: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(PragError, match=r"pip install 'prag\[formats\]'"):
        read([write(name, "x")])


def test_chunks_of_no_words_are_refused() -> None:
    with pytest.raises(PragError, match="at least 1 word"):
        read([], chunk_words=0)
