"""The commands, typed: what they print and leave."""

from __future__ import annotations

import json

import pytest

from kb_helpers import write_corpus
from prag import KnowledgeBase, __version__

pytestmark = pytest.mark.fast

COMMANDS = ["init", "add", "augment", "build", "ask", "status", "verify", "withdraw", "export"]


@pytest.fixture
def printed(prag):
    """Runs a command with --json; gives what it printed, parsed."""

    def run(*words):
        code, said = prag(*words, "--json")
        assert code == 0, said
        return json.JSONDecoder().raw_decode(said)[0]  # progress, on stderr, comes behind it

    return run


def test_help_and_version(prag):
    for command in COMMANDS:
        code, said = prag(command, "--help")
        assert code == 0
        assert "KB" in said
    assert prag("--version") == (0, f"prag {__version__}")


def test_ask_all_shows_four_methods_and_their_sources(built_kb, prag):
    code, said = prag("ask", built_kb, "Who built Calver2?", "--method", "all", "--top-k", "1")
    assert code == 0
    for method in ("closed-book:", "in-context:", "parametric:", "combined:"):
        assert method in said
    assert said.count("Calver2 (adapter in the weights)") == 1
    assert said.count("Calver2 (text in the prompt)") == 1
    assert said.count("Calver2 (adapter in the weights, text in the prompt)") == 1


def test_json_has_what_the_api_has(built_kb, printed):
    answer = printed("ask", built_kb, "Who built Calver2?")
    same = KnowledgeBase.open(built_kb).ask("Who built Calver2?")
    assert (answer["text"], answer["raw"]) == (same.text, same.raw)
    assert answer["sources"][0]["adapter"] == same.sources[0].adapter
    assert set(answer["timings"]) == {"retrieve", "load", "generate"}
    everything = printed("ask", built_kb, "Who built Calver2?", "--method", "all")
    assert [a["method"] for a in everything] == [
        "closed-book",
        "in-context",
        "parametric",
        "combined",
    ]
    assert printed("status", built_kb)["up_to_date"] is True
    assert printed("verify", built_kb)["problems"] == []
    assert printed("build", built_kb)["kept"] == 3


def test_add_build_withdraw_as_a_user_types_it(built_kb, prag, tmp_path):
    corpus = write_corpus(tmp_path / "towers.jsonl", 4)
    code, said = prag("add", built_kb, corpus)
    assert "1 documents added, 0 replaced, 3 unchanged" in said
    code, said = prag("status", built_kb)
    assert "behind" in said
    assert f"run `prag build {built_kb}`" in said
    passage = next(iter(KnowledgeBase.open(built_kb)._catalogue().find("")))
    code, said = prag("withdraw", built_kb, passage[:8])
    assert (code, said) == (0, "1 documents and 1 passages withdrawn")


def test_import_and_export(built_kb, prag, tmp_path):
    passage = next(iter(KnowledgeBase.open(built_kb)._catalogue().passages()))
    pair = {"question": "Who was it?", "answer": "A mason", "full_answer": "A mason was it."}
    file = tmp_path / "made.jsonl"
    file.write_text(json.dumps({"id": passage.id, "rewrite": "", "qa": [pair]}) + "\n")
    code, said = prag("augment", built_kb, "--from", file)
    assert code == 0
    assert "1 passages have augmentations of file:made@" in said
    code, said = prag("build", built_kb)
    assert "1 encoded, 2 kept" in said
    code, said = prag("export", built_kb, "--to", tmp_path / "out", passage.id)
    assert "1 adapters written" in said
    assert (tmp_path / "out" / passage.id / "adapter_model.safetensors").exists()
    code, said = prag("augment", built_kb, "--endpoint", "http://127.0.0.1:1/v1")
    assert code == 1
    assert "go together" in said
