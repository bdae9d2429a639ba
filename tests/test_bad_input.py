"""Bad input, through the command: a message with what and where, status 1, nothing lost."""

from __future__ import annotations

import gc
import json
import subprocess
import sys

import pytest

from conftest import byte_tokenizer
from kb_helpers import WrittenAugmenter, write_corpus
from prag import KnowledgeBase

pytestmark = pytest.mark.fast


@pytest.fixture
def kb(built_kb):
    """A built knowledge base of three passages."""
    return built_kb


def held(kb):
    """What a knowledge base holds, for before and after."""
    status = KnowledgeBase.open(kb).status()
    return (status.documents, status.passages, status.encoded, status.up_to_date)


def a_pdf_without_text(path):
    from pypdf import PdfWriter

    writer = PdfWriter()
    writer.add_blank_page(width=200, height=200)
    writer.write(path)


def records(path, lines):
    path.write_text("".join(line + "\n" for line in lines))


GOOD = [
    json.dumps({"id": str(i), "title": f"T{i}", "text": f"Text {i} here."}) for i in range(1200)
]
BAD_FILES = {
    "empty": ("empty.txt", lambda p: p.write_bytes(b""), ["empty.txt", "empty"]),
    "not UTF-8": ("latin.txt", lambda p: p.write_bytes(b"caf\xe9 au lait"), ["latin.txt", "UTF-8"]),
    "a 5 MB line": (
        "long.jsonl",
        lambda p: p.write_text(json.dumps({"id": "1", "text": "word " * 1_050_000}) + "\n"),
        ["long.jsonl:1"],
    ),
    "duplicate ids": (
        "twice.jsonl",
        lambda p: records(p, [*GOOD[:5], GOOD[2].replace("Text 2", "Other")]),
        ["twice.jsonl:6", "twice.jsonl:3"],
    ),
    "a broken line 1,000": (
        "broken.jsonl",
        lambda p: records(p, [*GOOD[:999], '{"id": "x", "text": ', *GOOD[1000:]]),
        ["broken.jsonl:1000"],
    ),
    "a PDF without text": ("scan.pdf", a_pdf_without_text, ["scan.pdf", "OCR"]),
    "an unknown ending": ("data.xyz", lambda p: p.write_text("hello"), ["data.xyz", ".jsonl"]),
    "no such file": ("none.txt", lambda p: None, ["none.txt"]),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files_are_named_and_nothing_is_added(kb, prag, tmp_path, case):
    name, write, expected = BAD_FILES[case]
    write(tmp_path / name)
    before = held(kb)
    good = tmp_path / "good.txt"
    good.write_text("A good document about Zorn.")
    code, said = prag("add", kb, good, tmp_path / name)
    assert code == 1
    assert all(part in said for part in expected), said
    assert held(kb) == before
    assert prag("ask", kb, "Who built Calver2?")[0] == 0


def test_skip_bad_adds_the_rest_and_still_says_so(kb, prag, tmp_path):
    records(tmp_path / "broken.jsonl", [*GOOD[:9], "{", *GOOD[10:20]])
    code, said = prag("add", "--skip-bad", kb, tmp_path / "broken.jsonl")
    assert code == 1
    assert "19 documents added" in said
    assert "broken.jsonl:10" in said
    assert held(kb)[:2] == (22, 22)


def test_question_without_hits(kb, prag):
    code, said = prag("ask", kb, "zyzzyva?")
    assert code == 1
    assert "no passage fits the question" in said
    assert "closed-book" in said
    code, said = prag("ask", kb, "zyzzyva?", "--method", "all")
    assert code == 1
    assert said.startswith("closed-book:"), "what can be answered is"


def test_empty_knowledge_base(prag, model_folder, tmp_path):
    folder = tmp_path / "kb"
    prag("init", folder, "--model", model_folder)
    for command in (["build", folder], ["ask", folder, "Who?"], ["export", folder, "--to", "x"]):
        code, said = prag(*command)
        assert code == 1
        assert "prag add" in said or "prag build" in said
    assert prag("status", folder)[0] == 0
    assert prag("verify", folder)[0] == 0


def test_no_knowledge_base(prag, tmp_path):
    for command in ("build", "status", "verify"):
        code, said = prag(command, tmp_path / "none")
        assert code == 1
        assert "no knowledge base" in said
        assert "prag init" in said


def test_model_without_gated_layers(prag, tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=258, n_embd=32, n_layer=2, n_head=2, n_positions=64)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    byte_tokenizer().save_pretrained(tmp_path / "gpt2")
    code, said = prag("init", tmp_path / "kb", "--model", tmp_path / "gpt2")
    assert code == 1
    assert "no gated feed-forward layers" in said
    assert not (tmp_path / "kb").exists()


def test_model_that_is_not_there(prag, tmp_path):
    code, said = prag("init", tmp_path / "kb", "--model", tmp_path / "nowhere")
    assert code == 1
    assert "cannot load the model" in said
    assert not (tmp_path / "kb").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--method", "telepathic"], "no method 'telepathic'"),
        (["--top-k", "0"], "at least 1"),
        (["--recipe", "nouvelle"], "no recipe 'nouvelle'"),
        (["--recipe", "paper"], "another recipe"),
        (["--max-new-tokens", "100000"], "context"),
    ],
)
def test_bad_options(kb, prag, words, expected):
    code, said = prag("ask", kb, "Who built Calver2?", *words)
    assert code == 1
    assert expected in said


def test_withdrawing_what_is_not_there(kb, prag):
    before = held(kb)
    code, said = prag("withdraw", kb, "towers.jsonl#1", "towers.jsonl#77")
    assert code == 1
    assert "towers.jsonl#77" in said
    assert held(kb) == before


def test_damage_is_named_and_mended(kb, prag):
    shard = next((kb / "adapters" / "shards").glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-100])
    code, said = prag("verify", kb)
    assert code == 1
    assert shard.stem in said
    assert "prag build" in said
    questions = [f"Who built {name}?" for name in ("Aldern0", "Brixo1", "Calver2")]
    asked = [prag("ask", kb, question, "--top-k", "1") for question in questions]
    (said,) = [said for code, said in asked if code]  # the cut is in one adapter of the three
    assert "prag build" in said
    assert prag("build", kb)[0] == 0
    assert prag("verify", kb)[0] == 0
    assert [prag("ask", kb, question, "--top-k", "1")[0] for question in questions] == [0, 0, 0]


def test_damaged_settings_and_augmentations(kb, prag):
    (file,) = (kb / "augmentations").glob("*.jsonl")
    whole = file.read_text()
    file.write_text("{not json\n" + whole)
    code, said = prag("build", kb)
    assert code == 1
    assert f"{file.name}:1" in said
    file.write_text(whole)
    assert prag("build", kb)[0] == 0
    settings = (kb / "prag.json").read_text()
    (kb / "prag.json").write_text(settings[: len(settings) // 2])
    code, said = prag("status", kb)
    assert code == 1
    assert "prag.json" in said


def test_two_builds_at_once(kb, prag):
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, filelock\n"
            "with filelock.FileLock(sys.argv[1]):\n"
            "    print('held', flush=True); sys.stdin.read()",
            str(kb / ".lock"),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout.readline() == b"held\n"
        before = held(kb)
        code, said = prag("build", kb)
        assert code == 1
        assert "another process is writing" in said
        assert held(kb) == before
        assert prag("ask", kb, "Who built Calver2?")[0] == 0
    finally:
        holder.communicate()
    assert prag("build", kb)[0] == 0


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MB of its own, and a function that makes it read-only."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("this machine has no `mount`")
    if done.returncode:
        pytest.skip("mounting a tmpfs is not allowed here (needs root)")
    try:
        yield folder
    finally:
        gc.collect()  # what a command had open is closed when it is collected
        subprocess.run(["umount", str(folder)], check=True)


def test_no_space_left(small_disk, prag, model_folder, tmp_path):
    folder = small_disk / "kb"
    assert prag("init", folder, "--model", model_folder)[0] == 0
    assert prag("add", folder, write_corpus(tmp_path / "towers.jsonl", 3))[0] == 0
    KnowledgeBase.open(folder).augment(augmenter=WrittenAugmenter())
    assert prag("build", folder)[0] == 0
    before = held(folder)

    records(tmp_path / "big.jsonl", GOOD)
    big = tmp_path / "bigger.txt"
    big.write_text("\n\n".join(f"Paragraph {i}. " + "many words here " * 30 for i in range(3000)))
    code, said = prag("add", folder, big)
    assert code == 1
    assert "space" in said or "full" in said
    assert held(folder) == before

    ballast = small_disk / "ballast"
    with pytest.raises(OSError, match="space"):
        ballast.write_bytes(bytes(2_000_000))
    code, said = prag("build", folder, "--recipe", "paper")
    assert code == 1
    assert "space" in said or "full" in said
    ballast.unlink()
    assert held(folder)[:3] == before[:3]
    assert prag("verify", folder)[0] == 0
    assert prag("ask", folder, "Who built Calver2?")[0] == 0
    assert prag("build", folder, "--recipe", "paper")[0] == 0


def test_read_only_folder(small_disk, prag, model_folder, tmp_path):
    folder = small_disk / "kb"
    prag("init", folder, "--model", model_folder)
    prag("add", folder, write_corpus(tmp_path / "towers.jsonl", 3))
    KnowledgeBase.open(folder).augment(augmenter=WrittenAugmenter())
    prag("build", folder)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for command in (
        ["build", folder],
        ["add", folder, tmp_path / "towers.jsonl"],
        ["withdraw", folder, "towers.jsonl#1"],
        ["init", small_disk / "other", "--model", model_folder],
    ):
        code, said = prag(*command)
        assert code == 1, command
        assert "written" in said or "read-only" in said.lower(), said
    assert prag("ask", folder, "Who built Calver2?")[0] == 0
    assert prag("status", folder)[0] == 0
    assert prag("verify", folder)[0] == 0
