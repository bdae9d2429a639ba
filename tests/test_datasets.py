"""Question sets: small files of each official shape, and what is wrong with a row."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prag.datasets import Question, QuestionSet, load_set
from prag.records import Passage, PragError

pytestmark = pytest.mark.fast

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def hotpot(id_="5a7e", answer="Basel", kind="bridge", **other):
    return {
        "_id": id_,
        "question": f"Which city is on the river of {id_}?",
        "answer": answer,
        "type": kind,
        "level": "hard",
        "supporting_facts": [["Rhine", 0], ["Basel", 1], ["Rhine", 1]],
        "context": [
            ["Aare", ["The Aare is a river.", " It is long."]],
            ["Rhine", ["The Rhine is a river.", " It passes U.S.", "-like towns."]],
            ["Basel", ["Basel is a city.", " It has a port."]],
        ],
        **other,
    }


def columns(row):
    """A HotpotQA row in the shape that a conversion to columns gives."""
    context, facts = row["context"], row["supporting_facts"]
    return {
        "id": row["_id"],
        **{key: row[key] for key in ("question", "answer", "type", "level")},
        "context": {"title": [t for t, _ in context], "sentences": [s for _, s in context]},
        "supporting_facts": {"title": [t for t, _ in facts], "sent_id": [n for _, n in facts]},
    }


def twowiki(id_="8813", answer="Xawery", answer_id="Q1", kind="compositional", **other):
    return {
        "_id": id_,
        "type": kind,
        "question": f"Who directed {id_}?",
        "context": [["Film", ["A film.", "Xawery made it."]], ["Other", ["Another film."]]],
        "supporting_facts": [["Film", 1]],
        "evidences": [["Film", "director", "Xawery"]],
        "answer": answer,
        "evidences_id": [["Q2", "P57", "Q1"]],
        "answer_id": answer_id,
        **other,
    }


def complexweb(id_="WebQTest-1_a", answers=None, **other):
    given = [{"answer": "Brazil", "answer_id": "m.01", "aliases": ["Brasil", "Brazil"]}]
    return {
        "ID": id_,
        "webqsp_ID": "WebQTest-1",
        "question": f"Which country is that of {id_}?",
        "compositionality_type": "conjunction",
        "answers": given if answers is None else answers,
        **other,
    }


def musique(id_="2hop__1_2", answerable=True, **other):
    return {
        "id": id_,
        "paragraphs": [
            {"idx": 0, "title": "A", "paragraph_text": "Text a.", "is_supporting": True},
            {"idx": 1, "title": "B", "paragraph_text": f"Of {id_}.", "is_supporting": False},
        ],
        "question": f"Who is {id_}?",
        "question_decomposition": [],
        "answer": "Anna",
        "answer_aliases": ["Ann"],
        "answerable": answerable,
        **other,
    }


def popqa(id_="4222362", **other):
    return {
        "id": id_,
        "subj": "George",
        "prop": "occupation",
        "obj": "politician",
        "question": "What is George's occupation?",
        "possible_answers": json.dumps(["politician", 'a "pol"']),
        **other,
    }


def own(id_="q1", **other):
    return {
        "id": id_,
        "question": f"What of {id_}?",
        "golden_answers": ["one", "1"],
        "type": "number",
        "gold_passages": [],
        **other,
    }


def write_list(folder, rows, name="dev.json"):
    path = folder / name
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def write_lines(folder, rows, name="dev.jsonl"):
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_tsv(folder, rows, name="popQA.tsv"):
    path = folder / name
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", quoting=csv.QUOTE_ALL)
        writer.writerow(list(popqa()))
        writer.writerows([list(row.values()) for row in rows])
    return path


def short_id(title, text):
    return hashlib.sha256(f"{title}\n{text}".encode()).hexdigest()[:12]


def error_of(path, limit=None):
    with pytest.raises(PragError) as caught:
        load_set(path, limit)
    return str(caught.value)


# Each set, from its official shape.


@pytest.mark.parametrize("shape", ["list", "columns"])
def test_hotpotqa(tmp_path, shape):
    rows = [hotpot("a"), hotpot("b", answer="yes", kind="comparison")]
    if shape == "list":
        path = write_list(tmp_path, rows, "hotpot_dev_distractor_v1.json")
    else:
        path = write_lines(tmp_path, [columns(row) for row in rows])
    loaded = load_set(path)
    rhine = Passage("Rhine", "The Rhine is a river. It passes U.S.-like towns.")
    basel = Passage("Basel", "Basel is a city. It has a port.")
    assert loaded.name == "hotpotqa"
    assert loaded.passages == (Passage("Aare", "The Aare is a river. It is long."), rhine, basel)
    question = "Which city is on the river of a?"
    assert loaded.questions[0] == Question(
        "a", question, ("Basel",), "bridge", (rhine.id, basel.id)
    )
    assert loaded.questions[1].kind == "comparison"
    assert loaded.notes == ("further occurrences of a passage, which is kept once: 3",)


def test_hotpotqa_titles_that_are_not_in_the_context_and_empty_paragraphs_are_counted(tmp_path):
    context = [["Rhine", ["The Rhine."]], ["Basel", []]]
    loaded = load_set(write_list(tmp_path, [hotpot(supporting_facts=[["X", 0]], context=context)]))
    assert loaded.questions[0].gold_passages == ()
    assert loaded.passages == (Passage("Rhine", "The Rhine."),)
    assert set(loaded.notes) == {
        "passages without a text, left out: 1",
        "supporting titles that are not in their question's context: 1",
    }


def test_2wikimultihopqa(tmp_path):
    rows = [
        twowiki("a"),
        twowiki("b", answer="yes", answer_id=None, kind="comparison"),
        twowiki("c", answer_id="Q404", kind="bridge_comparison"),
    ]
    del rows[1]["answer_id"]
    aliases = [{"Q_id": "Q1", "aliases": ["X. Z.", "Xawery"], "demonyms": ["Pole"]}]
    write_lines(tmp_path, aliases, "id_aliases.json")
    loaded = load_set(write_list(tmp_path, rows))
    assert loaded.name == "2wikimultihopqa"
    assert [q.golds for q in loaded.questions] == [("Xawery", "X. Z."), ("yes",), ("Xawery",)]
    assert [q.kind for q in loaded.questions] == [
        "compositional",
        "comparison",
        "bridge_comparison",
    ]
    film = Passage("Film", "A film. Xawery made it.")  # its sentences carry no spaces
    assert loaded.passages == (film, Passage("Other", "Another film."))
    assert loaded.questions[0].gold_passages == (film.id,)
    assert "questions whose answer_id is not in id_aliases.json: 1" in loaded.notes


def test_2wikimultihopqa_without_its_aliases_says_so(tmp_path):
    loaded = load_set(write_list(tmp_path, [twowiki()]))
    assert loaded.questions[0].golds == ("Xawery",)
    assert loaded.notes[0].startswith("no id_aliases.json beside dev.json")
    write_lines(tmp_path, [], "id_aliases.json")
    loaded = load_set(write_list(tmp_path, [twowiki(answer_id=None)]))
    assert loaded.notes[0].startswith("no question has an answer_id")


def test_2wikimultihopqa_is_known_by_its_types_too(tmp_path):
    row = twowiki(kind="inference", level="")
    for key in ("answer_id", "evidences", "evidences_id"):
        del row[key]
    assert load_set(write_list(tmp_path, [row])).name == "2wikimultihopqa"


def test_2wikimultihopqa_of_comparisons_alone_is_known_by_its_fields(tmp_path):
    path = write_list(tmp_path, [twowiki(kind="comparison", answer_id=None)])
    assert load_set(path).name == "2wikimultihopqa"


def test_a_malformed_alias_names_its_line(tmp_path):
    write_lines(tmp_path, [{"Q_id": "Q1", "aliases": []}, {"Q_id": "Q2"}], "id_aliases.json")
    said = error_of(write_list(tmp_path, [twowiki()]))
    assert f"{tmp_path / 'id_aliases.json'}:2 (id 'Q2'): the field 'aliases' is missing" in said


def test_popqa(tmp_path):
    loaded = load_set(write_tsv(tmp_path, [popqa(), popqa("2", prop="place of birth")]))
    question = "What is George's occupation?"
    golds = ("politician", 'a "pol"')
    assert loaded.name == "popqa"
    assert loaded.questions[0] == Question("4222362", question, golds, "occupation", ())
    assert loaded.questions[1].kind == "place of birth"
    assert loaded.passages == ()
    assert "no passages" in loaded.notes[0]


def test_popqa_rows_over_several_lines_are_named_by_their_first(tmp_path):
    rows = [popqa("1", question="In\nthree\nlines?"), popqa("2", question=" ")]
    said = error_of(write_tsv(tmp_path, rows))
    assert "popQA.tsv:5 (id '2'): the field 'question' is empty" in said


def test_complexwebquestions(tmp_path):
    several = [
        {"answer": None, "answer_id": "m.1", "aliases": []},
        {"answer": " Chile ", "answer_id": "m.2", "aliases": ["Republic of Chile", ""]},
        {"answer": 1830, "answer_id": "m.3", "aliases": []},
    ]
    empty = [{"answer": None, "answer_id": "m.1", "aliases": []}]
    rows = [complexweb("a"), complexweb("b", several), complexweb("c", []), complexweb("d", empty)]
    loaded = load_set(write_list(tmp_path, rows))
    assert loaded.name == "complexwebquestions"
    assert [q.golds for q in loaded.questions] == [
        ("Brazil", "Brasil"),
        ("Chile", "Republic of Chile", "1830"),
    ]
    assert {q.kind for q in loaded.questions} == {"conjunction"}
    assert "questions without an answer, left out: 2" in loaded.notes
    assert "golden answers that are blank, left out: 1" in loaded.notes


def test_musique(tmp_path):
    ids = ["2hop__1_2", "3hop1__1_2_3", "4hop3__1_2_3_4"]
    rows = [*map(musique, ids), musique("2hop__9_9", answerable=False)]
    loaded = load_set(write_lines(tmp_path, rows))
    supporting = Passage("A", "Text a.")
    assert loaded.name == "musique"
    assert [q.kind for q in loaded.questions] == ["2hop", "3hop", "4hop"]
    assert loaded.questions[0].golds == ("Anna", "Ann")
    assert loaded.questions[2].gold_passages == (supporting.id,)
    assert len(loaded.passages) == 5  # one is shared by all; that of the fourth is kept
    assert "questions that are not answerable, left out: 1" in loaded.notes


def write_folder(folder, questions, corpus):
    write_lines(folder, corpus, "corpus.jsonl")
    return write_lines(folder, questions, "questions.jsonl")


CORPUS = [
    {"id": short_id("T", "Text."), "title": "T", "text": "Text."},
    {"id": "mine", "title": "U", "text": " Other text. "},
]


def test_own_folder(tmp_path):
    passages = (Passage("T", "Text."), Passage("U", "Other text."))
    named = [CORPUS[0]["id"], "mine", passages[1].id[:12], passages[0].id]
    write_folder(tmp_path, [own(gold_passages=named)], CORPUS)
    loaded = load_set(tmp_path)
    ids = (passages[0].id, passages[1].id)
    question = Question("q1", "What of q1?", ("one", "1"), "number", ids)
    assert loaded == QuestionSet(tmp_path.name, (question,), passages, ())
    assert loaded == load_set(tmp_path / "questions.jsonl")


def test_a_gold_passage_that_the_corpus_lacks_names_file_line_and_id(tmp_path):
    path = write_folder(tmp_path, [own(), own("q2", gold_passages=["beef"])], CORPUS)
    said = error_of(tmp_path)
    assert said.startswith(f"{path}:2 (id 'q2'): the gold passage 'beef' is not in ")
    assert str(tmp_path / "corpus.jsonl") in said


def test_own_questions_without_corpus_types_or_gold_passages(tmp_path):
    row = {"id": 7, "question": "What?", "golden_answers": ["one"]}
    loaded = load_set(write_lines(tmp_path, [row, own("q2", gold_passages=["beef"])], "mine.jsonl"))
    assert loaded.questions[0] == Question("7", "What?", ("one",), "", ())
    assert loaded.questions[1].gold_passages == ()
    assert loaded.passages == ()
    assert loaded.notes == (
        "no corpus.jsonl beside mine.jsonl: the set brings no passages",
        "questions without a type: 1",
        "questions that name no gold passage: 1",
        "questions whose gold passages are unknown without corpus.jsonl: 1",
    )


def test_two_passages_of_one_id_in_a_corpus(tmp_path):
    write_folder(tmp_path, [own()], [*CORPUS, {"id": "mine", "title": "V", "text": "Third."}])
    assert "corpus.jsonl:3 (id 'mine'): another passage of this id" in error_of(tmp_path)


# Telling sets apart, limits.


def test_what_is_not_known_lists_what_is_read(tmp_path):
    squad = {"id": "1", "title": "T", "context": "C", "question": "Q", "answers": {"text": ["a"]}}
    said = error_of(write_lines(tmp_path, [squad]))
    for name in ("HotpotQA", "2WikiMultihopQA", "PopQA", "ComplexWebQuestions", "MuSiQue"):
        assert name in said
    (tmp_path / "notes.txt").write_text("plain text")
    assert "not a question set" in error_of(tmp_path / "notes.txt")
    assert "none of its 2 files" in error_of(tmp_path)
    assert "no such file" in error_of(tmp_path / "absent.json")


def test_the_name_of_a_file_does_not_count(tmp_path):
    assert load_set(write_list(tmp_path, [complexweb()], "popQA.tsv")).name == "complexwebquestions"


def test_a_folder_of_one_set_and_of_two(tmp_path):
    write_list(tmp_path, [twowiki()])
    write_lines(tmp_path, [{"Q_id": "Q1", "aliases": ["X"]}], "id_aliases.json")
    assert load_set(tmp_path).questions[0].golds == ("Xawery", "X")
    write_list(tmp_path, [twowiki()], "train.json")
    assert "holds 2 question sets, dev.json, train.json" in error_of(tmp_path)


def test_limit_keeps_the_first_questions_and_all_passages(tmp_path):
    rows = [musique("2hop__1_1", answerable=False), *(musique(f"2hop__{i}_2") for i in range(4))]
    rows.append(musique("2hop__9_9", answerable=False))
    path = write_lines(tmp_path, rows)
    loaded = load_set(path, 2)
    assert [q.id for q in loaded.questions] == ["2hop__0_2", "2hop__1_2"]
    assert loaded.passages == load_set(path).passages
    assert "the first 2 of 4 questions" in loaded.notes
    assert "questions that are not answerable, left out: 1" in loaded.notes
    assert load_set(path, 4).questions == load_set(path).questions
    assert load_set(path, 9) == load_set(path)
    assert not any("the first" in note for note in load_set(path, 4).notes)
    assert "limit = 0" in error_of(path, 0)


def test_no_question_that_can_be_scored(tmp_path):
    said = error_of(write_list(tmp_path, [complexweb(answers=[])]))
    assert "no question that can be scored" in said
    assert "without an answer, left out: 1" in said


# Malformed rows.

SETS = {
    "hotpotqa": (hotpot, write_list, ["_id", "question", "answer", "type", "context"]),
    "2wikimultihopqa": (twowiki, write_list, ["_id", "question", "answer", "type", "context"]),
    "complexwebquestions": (
        complexweb,
        write_list,
        ["ID", "question", "compositionality_type", "answers"],
    ),
    "musique": (
        musique,
        write_lines,
        ["id", "question", "answer", "answer_aliases", "answerable", "paragraphs"],
    ),
    "own": (own, write_lines, ["id", "question", "golden_answers"]),
}
for _name in ("hotpotqa", "2wikimultihopqa"):
    SETS[_name][2].append("supporting_facts")


def ids_of(name, number):
    return [f"2hop__{i}_0" if name == "musique" else f"id {i}" for i in range(number)]


@settings(max_examples=60)
@given(st.data())
def test_a_field_that_is_deleted_or_of_a_wrong_type_names_the_row(data):
    name = data.draw(st.sampled_from(sorted(SETS)))
    make, write, required = SETS[name]
    rows = [make(id_) for id_ in ids_of(name, data.draw(st.integers(1, 4)))]
    at = data.draw(st.integers(0, len(rows) - 1))
    field = data.draw(st.sampled_from(required))
    id_ = next(iter(rows[at][key] for key in ("_id", "ID", "id") if key in rows[at]))
    if data.draw(st.booleans()):
        del rows[at][field]
    else:
        rows[at][field] = data.draw(st.sampled_from([1.5, None, [3], {"a": 1}]))
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), rows)
        said = error_of(path)
    place = f"{path}, row {at + 1}" if write is write_list else f"{path}:{at + 1}"
    assert said.startswith(place)
    assert re.match(r"[ ,:]", said[len(place) :])
    assert field.removeprefix("_") in said
    if not field.lower().endswith("id"):
        assert f"(id {id_!r})" in said


@settings(max_examples=30)
@given(st.data())
def test_a_blank_cell_or_a_lost_one_in_popqa_names_the_row(data):
    rows = [popqa(str(i)) for i in range(data.draw(st.integers(1, 4)))]
    at = data.draw(st.integers(0, len(rows) - 1))
    field = data.draw(st.sampled_from(["id", "question", "prop", "possible_answers"]))
    if data.draw(st.booleans()):
        rows[at][field] = data.draw(st.sampled_from(["", "  "]))
    else:
        del rows[at][field]
    with tempfile.TemporaryDirectory() as folder:
        path = write_tsv(Path(folder), rows)
        said = error_of(path)
    assert said.startswith(f"{path}:{at + 2}")


BAD = {
    "empty question": (own("x", question="  "), "'question' is empty"),
    "no golden answer": (own("x", golden_answers=[" "]), "no golden answer"),
    "no golden answers": (own("x", golden_answers=[]), "no golden answer"),
    "duplicate id": (own("q1"), "a second question of this id"),
    "wrong type inside": (own("x", golden_answers=["a", 3]), "'golden_answers'[1] is a number"),
    "surrogate": (own("x", question="a\ud800"), "surrogate"),
    "a list": (["x"], "a list; a row is an object"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_with_a_row_is_said(tmp_path, name):
    row, expected = BAD[name]
    path = write_lines(tmp_path, [own("q1"), own("q2"), row])
    said = error_of(path)
    assert said.startswith(f"{path}:3")
    assert expected in said
    if name != "a list":
        assert f"(id {row['id']!r})" in said
    if name == "duplicate id":
        assert f"{path}:1" in said


def test_a_line_separator_inside_a_text_ends_no_line(tmp_path):
    path = tmp_path / "questions.jsonl"
    row = json.dumps(own(question="One\u2028two?"), ensure_ascii=False)
    path.write_text(f"{row}\r\n{row}\r\n", encoding="utf-8", newline="")
    assert error_of(path).startswith(f"{path}:2 (id 'q1'): a second question")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'{"golden_answers": ["a"], "id": "1", "question": "Q"}\n\n{"id": ', ":3: not JSON"),
        (b'[{"golden_answers": ["a"], "id": "1", "question": "Q"},', ": not JSON"),
        (b'{"golden_answers": ["\xff"]}', ": not UTF-8 at byte 21"),
        (b'subj\tprop\tobj\n"a\tb\tc\n', ":2: not TSV"),
        (b"subj\tprop\tobj\na\tb\n", ":2: 2 columns where the header has 3"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, content, expected):
    path = tmp_path / "dev"
    path.write_bytes(content)
    assert error_of(path).startswith(f"{path}{expected}")


def test_what_is_wrong_inside_a_row_names_the_row_and_the_place_in_it(tmp_path):
    row = musique()
    row["paragraphs"][1]["is_supporting"] = "no"
    said = error_of(write_lines(tmp_path, [row]))
    assert ":1 (id '2hop__1_2'), 'paragraphs'[1]: 'is_supporting' is a text" in said
    said = error_of(write_list(tmp_path, [hotpot(context=[["T", ["S."]], ["U"]])]))
    assert "row 1 (id '5a7e'): 'context'[1] has 1 members" in said
    uneven = columns(hotpot())
    uneven["context"]["title"].pop()
    assert "2 titles and 3 lists of sentences" in error_of(write_lines(tmp_path, [uneven]))
    said = error_of(write_tsv(tmp_path, [popqa(possible_answers="['a']")]))
    assert ":2 (id '4222362'): 'possible_answers' is not a JSON list" in said
    assert "begin with 2hop" in error_of(write_lines(tmp_path, [musique("5hop__1")]))


# What is written is read.

texts = (
    st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=20)
    .map(lambda text: text.strip())
    .filter(bool)
)


@settings(max_examples=60)
@given(st.lists(st.tuples(texts, st.lists(texts, min_size=1, max_size=4)), min_size=1, max_size=5))
def test_questions_and_golds_are_what_was_written(items):
    asked = [(text, tuple(dict.fromkeys(golds))) for text, golds in items]
    ids = ids_of("musique", len(asked))

    def row(id_, text, golds):
        yield write_lines, own(id_, question=text, golden_answers=list(golds))
        aliases = [{"answer": g, "answer_id": "", "aliases": []} for g in golds]
        yield write_list, complexweb(id_, aliases, question=text)
        yield (
            write_lines,
            musique(id_, question=text, answer=golds[0], answer_aliases=list(golds[1:])),
        )
        yield write_list, hotpot(id_, golds[0], question=text)
        yield write_tsv, popqa(id_, question=text, possible_answers=json.dumps(golds))

    by_set = zip(*(row(i, *item) for i, item in zip(ids, asked, strict=True)), strict=True)
    for written in by_set:
        with tempfile.TemporaryDirectory() as folder:
            path = written[0][0](Path(folder), [row for _, row in written])
            loaded = load_set(path)
        assert [q.id for q in loaded.questions] == ids
        assert [q.text for q in loaded.questions] == [text for text, _ in asked]
        if loaded.name == "hotpotqa":
            assert [q.golds for q in loaded.questions] == [golds[:1] for _, golds in asked]
        else:
            assert [q.golds for q in loaded.questions] == [golds for _, golds in asked]


@pytest.mark.parametrize(
    ("name", "questions", "passages"),
    [
        ("popqa", 200, 998),
        ("hotpotqa", 100, 994),
        ("2wikimultihopqa", 94, 731),
        ("musique", 100, 1890),
    ],
)
def test_the_shared_folders(name, questions, passages):
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip("the shared question sets are not beside this checkout")
    loaded = load_set(folder)
    assert loaded.name == name
    assert (len(loaded.questions), len(loaded.passages)) == (questions, passages)
    assert loaded.notes == ()
    known = {passage.id for passage in loaded.passages}
    assert all(q.golds and q.kind and q.gold_passages for q in loaded.questions)
    assert all(set(q.gold_passages) <= known for q in loaded.questions)
    assert load_set(folder, 60).questions == loaded.questions[:60]
