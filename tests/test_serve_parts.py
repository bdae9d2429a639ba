"""The parts of the service, each alone: streams, jobs on the disk, what is visible, follow-ups."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prag.records import Document, Passage, PragError
from prag.serve.asking import Call, Stream, Turn
from prag.serve.condense import condense, goes_on
from prag.serve.jobs import FINISHED, INBOX, Inbox
from prag.serve.settings import ServeSettings, read_keys
from prag.serve.visible import Filter, Visible

pytestmark = pytest.mark.fast
DOCUMENT = Document("a.txt", "test", (Passage("A", "A hut on a hill."),))
texts = st.text("ab .\n:\ufffd", max_size=30)


@given(st.lists(texts, max_size=8), st.lists(st.text("ab. ", min_size=1, max_size=3), max_size=3))
def test_the_pieces_of_a_stream_are_the_text_that_is_given(parts, stops):
    pieces = []
    call = Call(None, 60, stops, pieces.append)
    raw = ""
    for part in parts:
        raw += part
        call.stream.show(raw)
        if call._until(_Nothing())(raw):
            break
    raw = raw.rstrip("\ufffd")  # the end of a text is whole characters
    call.ended[raw] = True
    text, finish = call.finish(raw)
    assert "".join(pieces) == text
    assert finish == "stop"
    assert not any(stop in text for stop in stops)


@given(texts, st.lists(st.text("ab. ", min_size=1, max_size=3), max_size=3))
def test_nothing_is_told_that_is_taken_back(text, stops):
    told = []
    stream = Stream(told.append, stops)
    for n in range(len(text) + 1):
        stream.show(text[:n])
        assert not any(stop in "".join(told) for stop in stops)


def test_what_is_chosen_among_is_told_at_the_end():
    pieces = []
    call = Call(None, 60, (), pieces.append)
    call.hold()
    call._until(_Nothing())("one of two")
    assert pieces == []
    call.finish(" the other")
    assert pieces == ["the other"]


class _Nothing:
    until = None


def test_jobs_are_on_the_disk_when_they_are_taken(tmp_path):
    inbox = Inbox(tmp_path / INBOX)
    added = inbox.add([DOCUMENT])
    withdrawn = inbox.withdraw("b.txt")
    again = Inbox(tmp_path / INBOX)
    assert [j.id for j in again.open_jobs()] == [added.id, withdrawn.id]
    assert again.documents(added.id) == [DOCUMENT]
    assert again.hidden() == {"b.txt"}
    inbox.tell([added.id], state="running", stage="encode", done=3, total=9)
    assert (inbox.get(added.id).done, inbox.get(added.id).state) == (3, "running")
    assert Inbox(tmp_path / INBOX).get(added.id).state == "waiting"  # its process is no more
    inbox.finish(withdrawn.id)
    assert inbox.hidden() == frozenset()
    again.reread(withdrawn.id)
    assert again.hidden() == frozenset()
    inbox.finish(added.id, "the disk is full")
    assert Inbox(tmp_path / INBOX).get(added.id).error == "the disk is full"
    assert Inbox(tmp_path / INBOX).documents(added.id) == []  # they are not kept twice
    inbox.tell([added.id], state="running")
    assert inbox.get(added.id).state == "failed"  # what is over stays so


def test_a_withdrawal_that_failed_hides_and_waits_until_it_is_done(tmp_path):
    inbox = Inbox(tmp_path / INBOX)
    withdrawn = inbox.withdraw("a.txt")
    inbox.finish(withdrawn.id, "the disk is full")
    assert inbox.hidden() == {"a.txt"}
    again = Inbox(tmp_path / INBOX)
    assert again.hidden() == {"a.txt"}
    assert [j.id for j in again.open_jobs()] == [withdrawn.id]
    later = again.add([DOCUMENT])
    assert again.hidden() == {"a.txt"}
    again.finish(later.id)
    assert again.hidden() == frozenset()  # it is another one of that name


def test_ids_follow_each_other_whatever_the_clock_says(tmp_path, monkeypatch):
    inbox = Inbox(tmp_path / INBOX)
    first = inbox.add([DOCUMENT])
    monkeypatch.setattr("prag.serve.jobs.time.time_ns", lambda: 5)
    second = inbox.add([DOCUMENT])
    assert second.id > first.id
    assert [j.id for j in Inbox(tmp_path / INBOX).open_jobs()] == [first.id, second.id]


def test_few_of_the_jobs_that_are_over_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr("prag.serve.jobs.FINISHED", 3)
    inbox = Inbox(tmp_path / INBOX)
    for _ in range(6):
        inbox.finish(inbox.add([DOCUMENT]).id)
    assert len(inbox.jobs()) == len(list((tmp_path / INBOX).glob("*.json"))) == 3 < FINISHED


def test_a_damaged_job_is_named(tmp_path):
    inbox = Inbox(tmp_path / INBOX)
    path = tmp_path / INBOX / f"{inbox.add([DOCUMENT]).id}.json"
    path.write_text(path.read_text()[:-20])
    again = Inbox(tmp_path / INBOX)
    assert list(again.damaged()) == [path.name]
    assert path.name in again.damaged()[path.name]
    assert again.jobs() == []


names = st.frozensets(st.sampled_from("abcd"), max_size=3)


@given(names, names, names, names, st.booleans())
def test_a_passage_is_visible_by_a_document_that_is(held, hidden, only, without, left_out):
    def documents_of(_):
        if not held:
            raise PragError("no passage")
        return sorted(held)

    wanted = Filter(only, without, frozenset({"p"}) if left_out else frozenset())
    left = [d for d in held if d not in hidden and d not in without and (not only or d in only)]
    visible = Visible(documents_of, lambda: hidden, wanted)
    assert ("p" in visible) == (bool(left) and not left_out)


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("Who built Skarholm Lighthouse?", False),
        ("And how high is it?", True),
        ("When was she born?", True),
        ("Why?", True),
        ("What about the ferry of Vestby?", True),
    ],
)
def test_which_questions_lean_on_what_was_said(question, expected):
    assert goes_on(question) == expected


class _Says:
    """An engine that always says one text."""

    def __init__(self, text):
        self.text, self.asked = text, []

    def generate(self, requests, config):
        from prag.generate import Generated

        self.asked += requests
        return [Generated(self.text, (1,), 0.0)]


TALK = (
    Turn("user", "Who built Skarholm Lighthouse?"),
    Turn("assistant", "Oline Brekke."),
    Turn("user", "When was she born?"),
)


def test_a_question_of_the_model_is_believed_as_far_as_it_was_spoken_of(tiny):
    good = _Says(" When was Oline Brekke born?\n\nUser:")
    assert condense(tiny, good, TALK) == "When was Oline Brekke born?"
    assert "Oline Brekke." in tiny.tokenizer.decode(good.asked[0].ids)
    said = "Who built Skarholm Lighthouse? Oline Brekke. When was she born?"
    for made_up in (
        " When was Ingrid Solli born?",
        " Oline Brekke was born in 1860.",
        " When was she born in Skarholm?",
        " Why?",
        "",
    ):
        assert condense(tiny, _Says(made_up), TALK) == said


def test_a_question_that_stands_alone_asks_no_model(tiny):
    engine = _Says("")
    alone = (*TALK[:2], Turn("user", "Who is the captain of the ferry Marta?"))
    assert condense(tiny, engine, alone) == alone[-1].text
    assert condense(tiny, engine, TALK[-1:]) == TALK[-1].text
    assert engine.asked == []


def test_keys_are_a_line_each():
    assert read_keys("# ours\n\n a-key-of-some-length \nanother-key-of-length\n") == (
        "a-key-of-some-length",
        "another-key-of-length",
    )
    for text in ("", "# none\n", "short\n", "k\u00e9y-of-some-length\n"):
        with pytest.raises(PragError):
            read_keys(text)


@pytest.mark.parametrize("wrong", [{"rows": 0}, {"queue": -1}, {"timeout": 0.0}, {"files": 0}])
def test_settings_that_cannot_be_are_refused(wrong):
    with pytest.raises(PragError):
        ServeSettings(**wrong)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--host", "0.0.0.0"], "can be reached by others"),
        (["--api-key-file", "nothing.txt"], "cannot be read"),
        (["--rows", "0"], "rows is at least 1"),
        (["--timeout", "0"], "timeout is above 0"),
    ],
)
def test_the_command_refuses_what_it_should(prag, built_kb, words, said):
    code, printed = prag("serve", built_kb, *words)
    assert code == 1
    assert said in printed


def test_the_command_names_a_folder_that_is_none(prag, tmp_path):
    code, printed = prag("serve", tmp_path / "none")
    assert code == 1
    assert "no knowledge base" in printed
