"""The answering methods: what each gives the model, and when the active ones retrieve.

The active methods are tested on scripted models: what is written next depends on what the prompt
holds, and at each token it is known how sure the model is and what it attends to, so the tokens
at which FLARE and DRAGIN must retrieve, and their queries, are known.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from conftest import tiny_model
from kb_helpers import WrittenAugmenter, write_corpus
from prag import KnowledgeBase
from prag.config import PAPER, GenerateConfig
from prag.generate import Generated, Request, TransformersEngine
from prag.lora import Merged
from prag.methods import CORE, METHODS, Ask, Library, answer_all, method_named
from prag.methods.base import reasoned, sentence_end
from prag.methods.combined import likelihood
from prag.methods.dragin import rind, words_of
from prag.methods.flare import looked_ahead
from prag.prefixes import Prefix
from prag.prompts import Style, style_named
from prag.records import Augmentation, Hit, Passage, PragError, QAPair
from prag.trace import Trace, last_attention

pytestmark = pytest.mark.fast

QUESTION = "Which river does the town of Velan stand on?"
TOWN = Passage("Velan", "Velan is a town on the river Ossa.")
RIVER = Passage("Ossa", "The Ossa is a river of Moria and 80 km long.")
DIRECT = style_named("direct", PAPER.wording)
REASONING = style_named("hotpotqa", PAPER.wording)
SHORT = Style("Answer:", "Question: Who?\nAnswer: So the answer is Ada.\n\n")


class Script:
    """An engine that writes by rules: (text the prompt must hold, what is written next).

    The first rule whose text stands in the prompt, and whose own words are not said yet, is
    followed. A token is a word with its space; `unsure` gives some words a low probability and
    a high entropy; `attended` the words that later words attend to.
    """

    def __init__(self, tokenizer, rules, unsure=None, attends=None):
        self.tokenizer, self.rules = tokenizer, rules
        self.unsure, self.attends = unsure or {}, attends or {}
        self.begun = 0
        self.end = 0.95
        self.prompts: list[str] = []
        self.limits: list[int | None] = []
        self.adapters: list[Merged | None] = []
        self.beginnings: list[Prefix | None] = []

    def begin(self):
        self.begun += 1

    def check(self, request, config):
        pass

    def generate(self, requests, config):
        return [self._one(r, config) for r in requests]

    def _one(self, request: Request, config: GenerateConfig) -> Generated:
        prompt = self.tokenizer.decode(request.ids)
        self.prompts.append(prompt)
        self.limits.append(request.max_new_tokens)
        self.adapters.append(request.adapters)
        self.beginnings.append(request.beginning)
        whole = next(text for holds, text in self.rules if holds in prompt)
        words = [f" {w}" for w in whole.split()]
        made, text, ended = [], "", True
        for word in words:
            if len(made) == (request.max_new_tokens or config.max_new_tokens):
                ended = False
                break
            made.append(word)
            text += word
            if request.until is not None and request.until(text):
                ended = False
                break
        trace = None
        if request.watch != "nothing":
            trace = self._trace(request, prompt, made, with_attention=request.watch == "attention")
        return Generated(text, tuple(range(len(made))), 0.5, 0.25, ended, trace, tuple(made))

    def _trace(self, request, prompt, made, with_attention):
        p = tuple(self.unsure.get(w.strip(), 0.95) for w in made)
        entropies = tuple(0.1 if x > 0.9 else 2.0 for x in p)
        attention = None
        if with_attention:
            T, n = len(request.ids), len(made)
            attention = torch.full((n, T + n), 0.01)
            attention[:, T:] = torch.tril(attention[:, T:])
            for i, word in enumerate(made):
                for name in self.attends.get(word.strip(), ()):
                    at = prompt.rfind(name)
                    if at >= 0:
                        # One byte is one token, but the template's two marks are longer.
                        first = len(self.tokenizer(prompt[:at], add_special_tokens=False).input_ids)
                        attention[i, first : first + len(name)] = 1.0
        return Trace(p, entropies, attention, () if " ..." in made else (self.end,))


@pytest.fixture(scope="module")
def base():
    return tiny_model("llama", dtype=torch.float32)


class Shelf:
    """A library over two passages that records its searches."""

    def __init__(self, base, script, recipe=PAPER):
        self.base, self.script, self.recipe, self.queries = base, script, recipe, []
        self.found = {"Ossa": [RIVER], "Velan": [TOWN]}

    def library(self) -> Library:
        by_id = {p.id: p for p in (TOWN, RIVER)}
        return Library(
            base=self.base,
            recipe=self.recipe,
            engine=self.script,
            search=self._search,
            passages=lambda ids: [by_id[i] for i in ids],
            adapter=lambda _: None,
            augmentation=self._augmentation,
        )

    def _search(self, questions, k, allowed=None):
        self.queries += questions
        return [
            [Hit(p.id, 1.0, 0) for word, ps in self.found.items() if word in q for p in ps][:k]
            for q in questions
        ]

    def _augmentation(self, passage_id):
        if passage_id != TOWN.id:
            return None
        pairs = tuple(QAPair(f"q{i}", f"a{i}", f"f{i}") for i in range(5))
        return Augmentation(passage_id, ("A town is Velan.", "Not used."), pairs, "test")


def answered(base, name, script, hits=(TOWN,), style=DIRECT, config=None, k=3, recipe=PAPER):
    shelf = Shelf(base, script, recipe)
    ask = Ask(QUESTION, tuple(Hit(p.id, 2.0, i) for i, p in enumerate(hits)), k)
    config = config or GenerateConfig()
    (answer,) = answer_all(shelf.library(), method_named(name), [ask], style, config)
    return answer, shelf


# -- what each method gives the model ---------------------------------------------------------


def test_da_rag_reads_what_the_adapters_were_trained_on(base):
    script = Script(base.tokenizer, [("", "Ossa .")])
    answer, _ = answered(base, "da-rag", script, hits=(TOWN, RIVER))
    (prompt,) = script.prompts
    assert f"Passage 1: {TOWN.text} A town is Velan. Question: q0? Answer: a0" in prompt
    assert "q2?" in prompt
    assert "q3?" not in prompt, "the recipe takes three pairs and one rewrite"
    assert "Not used" not in prompt
    assert f"Passage 2: {RIVER.text}\n" in prompt
    assert any("not augmented" in note for note in answer.notes)
    assert script.adapters == [None]


def test_in_context_and_closed_book_differ_by_the_passages_alone(base):
    said = {}
    for name in ("closed-book", "in-context", "combined", "parametric"):
        script = Script(base.tokenizer, [("", "Ossa .")])
        answered(base, name, script)
        said[name] = script.prompts
    (without,), (within,) = said["closed-book"], said["in-context"]
    assert within.replace(f"Passage 1: {TOWN.text}\n", "") == without
    assert said["combined"] == said["in-context"]
    assert said["parametric"] == said["closed-book"]


def test_reasoning_that_comes_to_no_answer_is_asked_for_one(base):
    rules = [("So the answer is", "Ossa ."), ("", "Velan is a town . It stands on the Ossa .")]
    script = Script(base.tokenizer, rules[1:])
    script.rules = [("Ossa . So the answer is", "Ossa ."), ("", rules[1][1])]
    answer, _ = answered(base, "closed-book", script, style=REASONING)
    assert answer.raw == " Velan is a town . It stands on the Ossa . So the answer is Ossa ."
    assert answer.text == "Ossa"
    assert script.limits == [128, 20]
    assert answer.prompt_tokens == sum(
        len(base.tokenizer(p, add_special_tokens=False).input_ids) for p in script.prompts
    )


def test_reasoning_ends_with_its_answer(base):
    script = Script(
        base.tokenizer, [("", "It is on the Ossa. So the answer is Ossa. Question: Who was he?")]
    )
    answer, _ = answered(base, "closed-book", script, style=REASONING)
    assert answer.raw.strip().startswith("It is on the Ossa. So the answer is Ossa.")
    assert answer.text == "Ossa"
    assert len(script.prompts) == 1
    assert answer.generated_tokens < 12


# -- combined: the surer of two answers -------------------------------------------------------

SURER = replace(PAPER, combine="surer")


@pytest.mark.parametrize(
    ("unsure", "answer"),
    [
        ({"Tiber": 0.5}, "Ossa"),
        ({"Ossa": 0.5}, "Tiber"),
        ({"Ossa": 0.7, "Tiber": 0.8, "flows": 0.8}, "Ossa"),  # 0.7 x 0.95 against 0.8^2 x 0.95
        ({}, "Ossa"),  # the shorter
    ],
)
def test_combined_takes_the_answer_that_the_model_is_surer_of(base, unsure, answer):
    rules = [(TOWN.text, "Tiber flows"), ("", "Ossa")]
    script = Script(base.tokenizer, rules, unsure)
    found, _ = answered(base, "combined", script, recipe=SURER)
    assert found.raw.split()[0] == answer
    assert any("was the likelier" in note for note in found.notes) == (answer == "Ossa")
    assert [TOWN.text in prompt for prompt in script.prompts] == [True, False]
    within, without = script.prompts
    assert within.replace(f"Passage 1: {TOWN.text}\n", "") == without
    assert found.sources[0].in_prompt


def test_combined_counts_the_end_and_keeps_the_text_where_both_are_as_likely(base):
    rules = [(TOWN.text, "Tiber"), ("", "Ossa ...")]
    script = Script(base.tokenizer, rules, {"Ossa": 0.95, "...": 0.95})
    script.end = 0.8
    found, _ = answered(base, "combined", script, recipe=SURER)
    assert found.raw == " Ossa ...", "the model did not end it: 0.95^2 against 0.95 x 0.8"
    script = Script(base.tokenizer, [(TOWN.text, "Tiber"), ("", "Ossa")])
    assert answered(base, "combined", script, recipe=SURER)[0].raw == " Tiber"


@pytest.mark.parametrize(("within", "without"), [("", "Ossa flows by"), ("Ossa flows by", "")])
def test_combined_does_not_take_an_answer_that_says_nothing(base, within, without):
    script = Script(base.tokenizer, [(TOWN.text, within), ("", without)], {"by": 0.1})
    assert answered(base, "combined", script, recipe=SURER)[0].raw == " Ossa flows by"


@pytest.mark.parametrize(("recipe", "style"), [(PAPER, DIRECT), (SURER, REASONING)])
def test_combined_asks_once_where_nothing_is_compared(base, recipe, style):
    said = "It is on the Tiber. So the answer is Tiber."
    script = Script(base.tokenizer, [(TOWN.text, said)], {"Tiber.": 0.01})
    answered(base, "combined", script, style=style, recipe=recipe)
    assert len(script.prompts) == 1


def test_what_was_not_watched_has_no_likelihood():
    with pytest.raises(ValueError, match="watched"):
        likelihood(Generated(" a", (1,), 0))
    impossible = Trace((0.0,), (0.0,))
    assert likelihood(Generated(" a", (1,), 0, trace=impossible)) == -math.inf


# -- FLARE ------------------------------------------------------------------------------------


def test_flare_keeps_what_it_is_sure_of(base):
    script = Script(base.tokenizer, [("", "the Ossa.")])
    answer, shelf = answered(base, "flare", script)
    assert (answer.raw, answer.searches, shelf.queries) == (" the Ossa.", 0, [])
    assert len(script.prompts) == 1


def test_flare_looks_up_the_doubtful_sentence_without_its_least_likely_words(base):
    script = Script(
        base.tokenizer,
        [(RIVER.text, "the Ossa river."), ("", "the Ossa Tiber perhaps.")],
        unsure={"Tiber": 0.1, "perhaps.": 0.6},
    )
    answer, shelf = answered(base, "flare", script)
    assert shelf.queries == ["the Ossa perhaps."], "Tiber is below beta, perhaps only below theta"
    assert answer.raw == " the Ossa river."
    assert answer.searches == 1
    assert RIVER.text in script.prompts[1]
    assert TOWN.text not in script.prompts[1], "each search replaces the passages"
    assert [s.title for s in answer.sources] == ["Velan", "Ossa"]


def test_flare_looks_ahead_one_sentence_at_a_time(base):
    first, second = "Velan stands on the Ossa.", "So the answer is Ossa river."
    script = Script(
        base.tokenizer,
        [(f"{first}", second), ("", f"{first} It is wrong.")],
        unsure={"wrong.": 0.1},
    )
    answer, shelf = answered(base, "flare", script, style=REASONING)
    assert answer.raw == f" {first} {second}"
    assert shelf.queries == [], "the doubtful word stands behind the sentence that was looked at"
    assert script.prompts[1].endswith(f"Answer: {first}")


def test_flare_keeps_the_sentence_when_nothing_is_found(base):
    script = Script(base.tokenizer, [("", "the Tiber.")], unsure={"Tiber.": 0.5})
    answer, shelf = answered(base, "flare", script)
    assert shelf.queries == ["the Tiber."]
    assert answer.raw == " the Tiber."
    assert any("nothing was found" in note for note in answer.notes)


@pytest.mark.parametrize(("p", "sure"), [(0.8, True), (0.79, False)])
def test_flare_threshold(p, sure):
    made = Generated(" a b.", (1, 2), 0, trace=Trace((0.9, p), (0, 0)), pieces=(" a", " b."))
    assert looked_ahead(made)[1] is sure


# -- DRAGIN -----------------------------------------------------------------------------------


def test_dragin_starts_without_passages_and_stays_so_when_it_is_sure(base):
    script = Script(base.tokenizer, [("", "the Ossa.")])
    answer, shelf = answered(base, "dragin", script, hits=())
    assert (answer.raw, answer.searches, answer.sources) == (" the Ossa.", 0, ())
    assert shelf.queries == []


def test_dragin_retrieves_at_the_unsure_word_with_what_it_attends_to(base):
    script = Script(
        base.tokenizer,
        [(RIVER.text, "Ossa river."), ("", "the river Tiber indeed flows.")],
        unsure={"Tiber": 0.2},
        attends={"Tiber": ("river", "Velan")},
    )
    shelf_found = {"Velan": [RIVER]}
    shelf = Shelf(base, script)
    shelf.found = shelf_found
    (answer,) = answer_all(
        shelf.library(), METHODS["dragin"], [Ask(QUESTION, ())], DIRECT, GenerateConfig()
    )
    assert len(shelf.queries) == 1
    query = shelf.queries[0].split()
    # Words of the question and of what was written, in order, no stop words, none of the prompt.
    assert query == ["river", "town", "Velan", "stand", "river"]
    assert script.prompts[1].endswith("The answer is the river"), "cut before the unsure word"
    assert RIVER.text in script.prompts[1]
    assert answer.raw == " the river Ossa river."
    assert answer.searches == 1


def test_dragin_query_keeps_the_words_attended_to_most(base, monkeypatch):
    monkeypatch.setattr("prag.methods.dragin.QUERY_WORDS", 2)
    script = Script(
        base.tokenizer,
        [(RIVER.text, "Ossa."), ("", "the Tiber indeed flows.")],
        unsure={"Tiber": 0.2},
        attends={"Tiber": ("town", "Velan")},
    )
    shelf = Shelf(base, script)
    shelf.found = {"Velan": [RIVER]}
    answer_all(shelf.library(), METHODS["dragin"], [Ask(QUESTION, ())], DIRECT, GenerateConfig())
    assert shelf.queries == ["town Velan"]


def test_dragin_does_not_retrieve_for_stop_words_or_for_what_nothing_attends_to(base):
    script = Script(base.tokenizer, [("", "the which Tiber")], unsure={"which": 0.1, "Tiber": 0.1})
    answer, _ = answered(base, "dragin", script, hits=())
    assert answer.searches == 0, "which is a stop word; nothing comes after Tiber to attend to it"


def test_rind_is_entropy_times_attention_by_sentence():
    attention = torch.tensor(
        [
            [0.0, 0.9, 0.0, 0.0, 0.0],
            [0.0, 0.6, 0.3, 0.0, 0.0],
            [0.0, 0.2, 0.4, 0.3, 0.0],
            [0.0, 0.5, 0.1, 0.2, 0.1],
        ]
    )
    pieces = (" Rome", " Paris", " Os", "lo")
    made = Generated(
        "".join(pieces), (1, 2, 3, 4), 0, trace=Trace((1,) * 4, (1.0, 2.0, 4.0, 2.0), attention),
        pieces=pieces,
    )  # fmt: skip
    # The most that later tokens pay: Rome 0.6, Paris 0.4, Os 0.2, lo 0; Oslo 0.2; their mean 0.4.
    scores = {word.text: score for word, score in rind(made)}
    assert scores == pytest.approx({"Rome": 1.0 * 0.6 / 0.4, "Paris": 2.0, "Oslo": 3.0 * 0.2 / 0.4})


def test_words_of_tokens():
    words = words_of((" Ve", "lan", " is", "\n", "old", "."))
    assert [(w.text, w.at, w.first, w.last) for w in words] == [
        ("Velan", 1, 0, 2),
        ("is", 7, 2, 3),
        ("old.", 10, 4, 6),
    ]


# -- IRCoT ------------------------------------------------------------------------------------


def test_ircot_searches_with_each_sentence_and_adds_what_it_finds(base):
    script = Script(
        base.tokenizer,
        [
            (f"Passage 2: {RIVER.text}", "So the answer is Ossa."),
            ("", "Velan stands on the Ossa. It is."),
        ],
    )
    answer, shelf = answered(base, "ircot", script)
    assert shelf.queries == [" Velan stands on the Ossa."]
    assert f"Passage 1: {TOWN.text}\nPassage 2: {RIVER.text}" in script.prompts[1]
    assert answer.text == "Ossa"
    assert answer.searches == 1


def test_ircot_comes_to_an_end(base):
    script = Script(base.tokenizer, [("So the answer is", "Ossa."), ("", "Velan again. And.")])
    script.rules[0] = ("again. So the answer is", "Ossa.")
    answer, shelf = answered(base, "ircot", script)
    assert len(shelf.queries) == 3
    assert answer.text == "Ossa"


# -- side by side, errors ---------------------------------------------------------------------


def test_one_question_that_fails_spares_the_others(base):
    script = Script(base.tokenizer, [("", "Ossa.")])
    shelf = Shelf(base, script)
    asks = [
        Ask(QUESTION, (Hit(TOWN.id, 1.0, 0),)),
        Ask(" ?", (Hit(TOWN.id, 1.0, 0),)),
        Ask("Q", ()),
    ]
    good, empty, none = answer_all(
        shelf.library(), METHODS["in-context"], asks, DIRECT, GenerateConfig()
    )
    assert script.begun == 1, "nothing that was read before is used"
    assert good.error is None
    assert "empty" in str(empty.error)
    assert "no passage fits" in str(none.error)
    with pytest.raises(PragError, match="closed-book, in-context, da-rag, flare"):
        method_named("magic")


@pytest.fixture(scope="module")
def kb(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("methods")
    kb = KnowledgeBase.create(folder / "kb", base, PAPER)
    kb.add(write_corpus(folder / "towers.jsonl", 6))
    kb.augment(augmenter=WrittenAugmenter())
    kb.build()
    return kb


@pytest.mark.parametrize("name", list(METHODS))
@pytest.mark.parametrize("style", [DIRECT, SHORT])
def test_side_by_side_equals_one_by_one(kb, name, style):
    """On a real, tiny model: batches change no answer, no count, no source."""
    library = kb.library()
    config = GenerateConfig(max_new_tokens=6, reasoning_tokens=16)
    questions = ["Who built Calver2?", "Which tower has 24 metres?", "When was Brixo1 built?"]
    hits = library.search(questions, 2)
    asks = [Ask(q, tuple(h), 2) for q, h in zip(questions, hits, strict=True)]
    together = answer_all(library, METHODS[name], asks, style, config)
    assert all(a.error is None for a in together)
    for ask, answer in zip(asks, together, strict=True):
        (alone,) = answer_all(library, METHODS[name], [ask], style, replace(config, rows=1))
        for what in ("raw", "sources", "prompt_hash", "prompt_tokens", "searches", "notes"):
            assert getattr(alone, what) == getattr(answer, what), what
    assert bool(together[0].adapter_bytes) == METHODS[name].uses_adapters


def test_core_methods_are_among_all():
    assert set(CORE) <= set(METHODS)


# -- what the engine sees ---------------------------------------------------------------------


def test_trace_is_what_one_plain_forward_pass_says(base):
    """Probabilities, entropies and attention of a padded batch, against a pass over the whole."""
    engine = TransformersEngine(base)
    prompts = [base.tokenizer(t).input_ids for t in ("A tower of stone", "Who built it in 1888")]
    made = engine.generate(
        [Request(tuple(p), watch="attention", max_new_tokens=5) for p in prompts], GenerateConfig()
    )
    base.model.set_attn_implementation("eager")
    try:
        for prompt, g in zip(prompts, made, strict=True):
            ids = torch.tensor([[*prompt, *g.ids]])
            out = base.model(ids, output_attentions=True)
            T, n = len(prompt), len(g.ids)
            logs = torch.log_softmax(out.logits[0, T - 1 : T - 1 + n].float(), -1)
            p = logs.exp()[torch.arange(n), torch.tensor(g.ids)]
            assert g.trace.probabilities == pytest.approx(p.tolist(), abs=1e-5)
            assert g.trace.entropies == pytest.approx(
                (-(logs.exp() * logs).sum(-1)).tolist(), abs=1e-5
            )
            rows = out.attentions[-1][0].mean(0)[T:]  # [n, T + n]
            torch.testing.assert_close(
                g.trace.attention[: n - 1], rows[: n - 1].float(), atol=1e-5, rtol=0
            )
            assert g.trace.attention[n - 1].sum() == 0
    finally:
        base.model.set_attn_implementation("sdpa")


def test_trace_holds_the_probability_of_the_end(base, monkeypatch):
    """Beside a row that ends sooner, one that goes on to its limit."""
    engine = TransformersEngine(base)
    prompts = [tuple(base.tokenizer(t).input_ids) for t in ("A tower of stone", "Who built it")]
    limits = GenerateConfig(max_new_tokens=4)
    rows = [g.ids for g in engine.generate([Request(p) for p in prompts], limits)]
    end = next(t for t in rows[0][1:] if t not in rows[1] and t != rows[0][0])
    n = rows[0].index(end)
    monkeypatch.setattr("prag.generate.end_ids", lambda _: {end})
    made = engine.generate([Request(p, watch="confidence") for p in prompts], limits)
    assert [(g.ids, g.ended) for g in made] == [(rows[0][:n], True), (rows[1], False)]
    ids = torch.tensor([[*prompts[0], *rows[0][:n]]])
    p = base.model(ids).logits[0, -1].float().softmax(-1)[end].item()
    assert made[0].trace.end == pytest.approx((p,), abs=1e-5)
    assert len(made[0].trace.probabilities) == len(made[0].trace.entropies) == n
    assert made[1].trace.end == ()


def test_watching_changes_nothing_and_is_undone(base):
    engine = TransformersEngine(base)
    prompt = tuple(base.tokenizer("A tower of stone").input_ids)
    usual = base.model.config._attn_implementation
    plain, watched = (
        engine.generate([Request(prompt, watch=w)], GenerateConfig())[0]
        for w in ("nothing", "attention")
    )
    assert (plain.ids, plain.text) == (watched.ids, watched.text)
    assert "".join(watched.pieces) == watched.text
    assert base.model.config._attn_implementation == usual
    with pytest.raises(RuntimeError), last_attention(base):
        raise RuntimeError
    assert base.model.config._attn_implementation == usual


def test_until_ends_a_row_and_no_other(base):
    engine = TransformersEngine(base)
    prompt = tuple(base.tokenizer("A tower of stone").input_ids)
    whole, cut = engine.generate(
        [Request(prompt), Request(prompt, until=lambda text: len(text) >= 3)], GenerateConfig()
    )
    assert len(whole.ids) > len(cut.ids)
    assert whole.ids[: len(cut.ids)] == cut.ids
    assert not cut.ended


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (" It is old. It", " It is old."),
        (" It is old.", None),
        (" J. K. Rowling wrote it. And", " J. K. Rowling wrote it."),
        ("\nOne\nTwo", "\nOne"),
        (":\nOne. Two", ":\nOne."),
        (": ", None),
        ("", None),
        ("\n\n", None),
    ],
)
def test_a_sentence_has_ended_when_the_next_has_begun(text, sentence):
    end = sentence_end(text)
    assert (text[:end] if end is not None else None) == sentence


def test_reasoning_is_over_after_its_answer():
    assert not reasoned("He was born in Rome. So the answer is Rome.")
    assert reasoned("So the answer is Rome. He")
    assert reasoned("He was\n\nQuestion: Who?")
    assert not reasoned("He was born in Rome. She was")


@pytest.mark.parametrize("name", ["closed-book", "in-context", "parametric", "combined", "flare"])
def test_what_prompts_begin_with_goes_with_every_request(base, name):
    begun = Prefix((1, 2), ())
    script = Script(base.tokenizer, [("", " Velan.")])
    library = replace(Shelf(base, script).library(), beginning=begun)
    ask = Ask(QUESTION, (Hit(TOWN.id, 2.0, 0),), 3)
    answer_all(library, method_named(name), [ask], DIRECT, GenerateConfig())
    assert script.beginnings
    assert all(given is begun for given in script.beginnings)
