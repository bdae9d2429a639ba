"""The parts of the service, each alone: streams, jobs on the disk, what is visible, follow-ups."""

from __future__ import annotations

import json
import os
import tempfile
import threading
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prag.records import Document, Passage, PragError
from prag.serve.asking import Call, Stream, Turn
from prag.serve.builder import _enter
from prag.serve.condense import condense, goes_on
from prag.serve.job_files import Job
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


# -- several replicas over one inbox -----------------------------------------------------------


def test_two_that_take_at_the_same_tick_lose_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("prag.serve.jobs.time.time_ns", lambda: 5)
    inboxes = [Inbox(tmp_path / INBOX) for _ in range(4)]
    start, taken = threading.Barrier(8), []

    def take(n):
        start.wait()
        for i in range(10):
            name = f"{n}-{i}.txt"
            job = inboxes[n % 4].add([Document(name, "test", DOCUMENT.passages)])
            taken.append((job.id, name))

    threads = [threading.Thread(target=take, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len({job_id for job_id, _ in taken}) == len(taken) == 80
    for inbox in inboxes:
        assert {(j.id, j.documents[0]) for j in inbox.jobs()} == set(taken)
        assert all(inbox.documents(job_id)[0].name == name for job_id, name in taken)
    assert not any(p.suffix != ".json" for p in (tmp_path / INBOX).iterdir())


steps = st.lists(
    st.tuples(
        st.sampled_from(["add", "withdraw", "done", "failed"]),
        st.integers(0, 2),  # through which replica
        st.sampled_from("ab"),
    ),
    max_size=12,
)


@settings(max_examples=50)
@given(steps)
def test_each_sees_what_any_has_taken(steps):
    """Against a model: jobs in the order in which they came; each look knows all of them."""
    with tempfile.TemporaryDirectory() as folder:
        inboxes = [Inbox(Path(folder)) for _ in range(3)]
        model = []  # [kind, name, state], in order
        for what, which, name in steps:
            inbox = inboxes[which]
            if what == "add":
                inbox.add([Document(name, "test", DOCUMENT.passages)])
                model.append(["add", name, "waiting"])
            elif what == "withdraw":
                inbox.withdraw(name)
                model.append(["withdraw", name, "waiting"])
            elif waiting := inbox.open_jobs():
                inbox.finish(waiting[0].id, None if what == "done" else "the disk is full")
                next(row for row in model if row[2] == "waiting")[2] = what
            hidden = set()
            for kind, about, state in model:
                if kind == "withdraw" and state != "done":
                    hidden.add(about)
                elif kind == "add" and state == "done":
                    hidden.discard(about)
            for other in inboxes:
                other.look()
                assert other.hidden() == hidden
                shown = [[j.kind, j.documents[0], j.state] for j in reversed(other.jobs())]
                assert shown == model


def test_how_far_a_job_is_others_see_until_another_one_leads(tmp_path):
    first, second = (Inbox(tmp_path / INBOX) for _ in "ab")
    first.lead()
    job = second.add([DOCUMENT])
    first.look()
    first.tell([job.id], state="running", stage="encode", done=3, total=9)
    assert second.get(job.id).state == "waiting"
    first._shared = 0.0  # a while ago
    first.share()
    assert (second.get(job.id).stage, second.get(job.id).done) == ("encode", 3)
    first.tell([job.id], done=4)
    first.share()  # a moment ago: nothing is written
    assert second.get(job.id).done == 3
    second.lead()
    assert first.get(job.id).state == second.get(job.id).state == "waiting"
    (tmp_path / INBOX / "progress").write_text("{")
    assert second.get(job.id).state == "waiting"
    second.finish(job.id)
    assert first.get(job.id).state == "done"


def test_two_that_forget_what_is_over_do_not_fail(tmp_path, monkeypatch):
    monkeypatch.setattr("prag.serve.jobs.FINISHED", 2)
    inboxes = [Inbox(tmp_path / INBOX) for _ in "ab"]
    jobs = [inboxes[i % 2].add([DOCUMENT]) for i in range(8)]
    for inbox in inboxes:
        inbox.look()
    for i, job in enumerate(jobs):
        inboxes[i % 2].finish(job.id)
    assert [j.id for j in inboxes[0].jobs()] == [jobs[7].id, jobs[6].id]
    inboxes[1].finish(jobs[0].id)  # it is gone


def test_what_came_after_a_job_that_waits_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr("prag.serve.jobs.FINISHED", 1)
    inbox = Inbox(tmp_path / INBOX)
    first = inbox.add([DOCUMENT])
    gone = [inbox.withdraw("a.txt") for _ in range(3)]
    for job in gone:
        inbox.finish(job.id)
    assert len(inbox.later(first, "a.txt")) == 3
    inbox.finish(first.id)
    assert [j.id for j in inbox.jobs()] == [gone[-1].id]


def test_jobs_of_the_format_before_are_read(tmp_path):
    inbox = Inbox(tmp_path / INBOX)
    rows = [{"name": "a.txt", "source": "test", "passages": [["A", "A hut on a hill."]]}]
    job = asdict(Job("18" + 14 * "0", "add", ("a.txt",), 0.0))
    old = tmp_path / INBOX / f"{job['id']}.json"
    old.write_text(json.dumps({"job": job, "documents": rows}))
    assert [j.id for j in inbox.open_jobs()] == [job["id"]]
    assert inbox.documents(job["id"]) == [DOCUMENT]
    inbox.finish(job["id"])
    assert Inbox(tmp_path / INBOX).get(job["id"]).state == "done"


def test_a_withdrawal_whose_file_is_damaged_hides_on(tmp_path):
    inbox = Inbox(tmp_path / INBOX)
    path = tmp_path / INBOX / f"{inbox.withdraw('a.txt').id}.json"
    whole = path.read_text()
    path.write_text(whole[:9])
    inbox.look()
    assert inbox.hidden() == {"a.txt"}
    assert list(inbox.damaged()) == [path.name]
    path.write_text(whole)
    inbox.look()
    assert inbox.damaged() == {}


def test_drafts_of_the_killed_are_swept(tmp_path):
    folder = tmp_path / INBOX
    folder.mkdir()
    old, new = folder / "1.taken", folder / "2.json.ab.new"
    for draft in (old, new):
        draft.write_text("half")
    os.utime(old, (0, 0))
    Inbox(folder)
    assert [p.name for p in folder.iterdir()] == [new.name]


class _Corpus:
    """The names of the documents of a knowledge base."""

    def __init__(self):
        self.names = set()

    def add_documents(self, given):
        self.names |= {d.name for d in given}

    def document(self, name):
        return name if name in self.names else None

    def withdraw(self, names):
        self.names -= set(names)


def test_done_once_more_after_a_kill_nothing_comes_back_and_nothing_goes(tmp_path):
    inbox, corpus = Inbox(tmp_path / INBOX), _Corpus()
    added, withdrawn = inbox.add([DOCUMENT]), inbox.withdraw("a.txt")
    _enter(corpus, inbox, withdrawn)
    inbox.finish(withdrawn.id)
    _enter(corpus, inbox, added)  # its process was killed before it was over
    assert corpus.names == set()
    again = inbox.add([DOCUMENT])
    _enter(corpus, inbox, again)
    inbox.finish(again.id)
    _enter(corpus, inbox, withdrawn)  # as of a replica that had seen it fail
    assert corpus.names == {"a.txt"}


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


def test_what_is_taken_out_while_it_is_looked_at_is_not_visible():
    hidden = {"a.txt"}

    def documents_of(_):
        try:
            return ["a.txt"]
        finally:
            hidden.clear()  # right after: it is taken out, and its withdrawal is over

    assert "p" not in Visible(documents_of, lambda: frozenset(hidden))


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
