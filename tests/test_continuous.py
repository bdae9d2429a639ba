"""Rows that come and go: what each becomes is what it becomes alone."""

from __future__ import annotations

import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import FAMILIES, tiny_model
from prag.config import GenerateConfig
from prag.continuous import ContinuousEngine, Row, Rows
from prag.generate import Request, TransformersEngine
from prag.lora import merge
from prag.prefixes import read
from prag.records import PragError
from test_inject_identity import random_adapter

pytestmark = pytest.mark.fast
LONG = GenerateConfig(max_new_tokens=14)
SAMPLED = GenerateConfig(max_new_tokens=14, temperature=0.8, top_k=20, top_p=0.9, seed=5)


def drawn_requests(base, n, seed=0):
    """Prompts of different lengths and limits, some with adapters, some with what was read."""
    generator = torch.Generator().manual_seed(seed)
    beginning = read(base, tuple(range(2, 40)))
    requests = []
    for i in range(n):
        length = int(torch.randint(1, 60, (), generator=generator))
        ids = tuple(torch.randint(2, 258, (length,), generator=generator).tolist())
        begun = i % 3 == 0
        adapters = merge([random_adapter(base, s, rank=1 + s % 3) for s in range(i % 4)])
        requests.append(
            Request(
                beginning.ids + ids if begun else ids,
                adapters if i % 4 else None,
                max_new_tokens=1 + i % 14,
                beginning=beginning if begun and not i % 4 else None,
                watch="confidence" if i % 5 == 0 else "nothing",
            )
        )
    return requests


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("config", [LONG, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("prefix_bytes", [0, 1 << 20], ids=["read anew", "read on"])
def test_rows_that_come_and_go_equal_one_by_one(family, config, prefix_bytes):
    base = tiny_model(family)
    base.model.generation_config.eos_token_id = list(range(12))  # so that some answers end
    requests = drawn_requests(base, 24)
    alone = [TransformersEngine(base, 0).generate([r], config)[0] for r in requests]
    rows = [Row(r, config) for r in requests]
    under_way, waiting, sizes = Rows(base, prefix_bytes), list(rows), set()
    while waiting or under_way.rows:
        if waiting:  # two come before every step, whatever is under way
            under_way.enter([waiting.pop(0) for _ in range(min(2, len(waiting)))])
        if under_way.rows:
            sizes.add(len(under_way.rows))
            under_way.step()
    assert len(sizes) > 3  # rows did come and go
    for row, expected in zip(rows, alone, strict=True):
        made = row.made.result()
        assert made.ids == expected.ids
        assert (made.text, made.ended, made.pieces) == (
            expected.text,
            expected.ended,
            expected.pieces,
        )
        if expected.trace is not None:
            assert made.trace.probabilities == pytest.approx(expected.trace.probabilities, abs=1e-6)
            assert made.trace.end == pytest.approx(expected.trace.end, abs=1e-6)
    assert any(made.ended for made in alone)
    assert any(not made.ended for made in alone)


@settings(max_examples=25)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(0, 9))
def test_any_order_of_coming_gives_the_same(tiny, arrivals, seed):
    requests = drawn_requests(tiny, 8, seed)
    expected = [TransformersEngine(tiny, 0).generate([r], LONG)[0].ids for r in requests]
    rows = [Row(r, LONG) for r in requests]
    under_way, waiting = Rows(tiny), list(rows)
    for n in [*arrivals, *[8] * 30]:
        coming, waiting = waiting[:n], waiting[n:]
        if coming:
            under_way.enter(coming)
        if under_way.rows:
            under_way.step()
    assert [row.made.result().ids for row in rows] == expected
    assert under_way.rows == []


def test_positions_that_only_a_row_that_left_had_are_dropped(tiny):
    under_way = Rows(tiny)
    long = Row(Request(tuple(range(2, 202)), max_new_tokens=2), LONG)
    short = Row(Request(tuple(range(2, 12)), max_new_tokens=9), LONG)
    under_way.enter([long])
    under_way.enter([short])
    under_way.step()
    assert long.made.done()
    assert not short.made.done()
    assert under_way._cache.layers[0].keys.shape[2] == 11
    under_way.step()
    assert under_way._cache.layers[0].keys.shape[2] == 12


def test_threads_share_passes_and_each_gets_its_own(tiny):
    requests = drawn_requests(tiny, 20, seed=3)
    expected = [TransformersEngine(tiny, 0).generate([r], LONG)[0].ids for r in requests]
    sizes = []
    engine = ContinuousEngine(tiny, rows=6, seen=sizes.append)
    got = {}

    def ask(i):
        (made,) = engine.generate([requests[i]], LONG)
        got[i] = made.ids

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(requests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    engine.close()
    assert [got[i] for i in range(len(requests))] == expected
    assert max(sizes) <= 6
    assert max(sizes) > 1


def test_a_prompt_that_begins_as_one_that_was_read_is_read_on(tiny):
    passages = tuple(range(2, 102))
    requests = [Request((*passages, 105 + i, 106), max_new_tokens=6) for i in range(3)]
    expected = [TransformersEngine(tiny, 0).generate([r], LONG)[0].ids for r in requests]
    under_way = Rows(tiny, 1 << 24)
    rows = [Row(r, LONG) for r in requests]
    for row in rows:
        under_way.enter([row])
    assert len(under_way.begun(requests[0]).ids) == 101  # all but the last token
    assert len(under_way.begun(Request((*passages, 200, 201))).ids) == 100
    adapted = Request(requests[0].ids, merge([random_adapter(tiny, 1)]))
    assert under_way.begun(adapted) is None  # with adapters in the weights it is another reading
    while under_way.rows:
        under_way.step()
    assert [row.made.result().ids for row in rows] == expected


def test_a_list_of_requests_comes_back_in_its_order(tiny):
    requests = drawn_requests(tiny, 9)
    expected = [TransformersEngine(tiny, 0).generate([r], LONG)[0].ids for r in requests]
    engine = ContinuousEngine(tiny, rows=4)
    made = engine.generate(requests, LONG)
    engine.close()
    assert [m.ids for m in made] == expected


def test_until_hears_every_token_and_ends_the_row(tiny):
    heard = []

    def until(text):
        heard.append(text)
        return len(heard) == 5  # the empty text, and four more

    engine = ContinuousEngine(tiny)
    (made,) = engine.generate([Request((5, 6, 7), max_new_tokens=14, until=until)], LONG)
    (whole,) = engine.generate([Request((5, 6, 7), max_new_tokens=14)], LONG)
    engine.close()
    assert heard[0] == ""
    assert made.ids == whole.ids[:4]
    assert heard[-1] == made.text
    assert not made.ended


def test_a_request_whose_asker_has_gone_is_not_begun(tiny):
    passes = []
    engine = ContinuousEngine(tiny, seen=passes.append)
    (made,) = engine.generate([Request((5, 6), until=lambda _: True)], LONG)
    engine.close()
    assert made.ids == ()
    assert passes == []


def test_an_error_of_one_is_not_the_end_of_the_others(tiny):
    def until(text):
        if text:
            raise ZeroDivisionError("the asker's own fault")
        return False

    engine = ContinuousEngine(tiny)
    with pytest.raises(ZeroDivisionError):
        engine.generate([Request((5, 6, 7), until=until)], LONG)
    assert engine.generate([Request((5, 6, 7))], LONG)[0].ids
    engine.close()


def test_what_is_done_between_passes_sees_no_adapters(tiny):
    adapted = Request((5, 6, 7), merge([random_adapter(tiny, 1)]), max_new_tokens=200)
    plain = read(tiny, tuple(range(2, 50)))
    engine = ContinuousEngine(tiny)
    asking = threading.Thread(target=engine.generate, args=([adapted], LONG))
    asking.start()
    while not engine.under_way:
        pass
    for _ in range(20):
        found = engine.between(lambda: read(tiny, tuple(range(2, 50))))
        for (key, value), (k, v) in zip(found.layers, plain.layers, strict=True):
            assert torch.equal(key, k)
            assert torch.equal(value, v)
    with pytest.raises(ZeroDivisionError):
        engine.between(lambda: 1 // 0)
    asking.join(60)
    engine.close()
    with pytest.raises(PragError, match="closed"):
        engine.between(lambda: 1)


def test_what_does_not_fit_is_refused(tiny):
    engine = ContinuousEngine(tiny)
    with pytest.raises(PragError, match="do not fit"):
        engine.generate([Request((5,) * 4090)], LONG)
    with pytest.raises(PragError, match="without tokens"):
        engine.generate([Request(())], LONG)
    with pytest.raises(PragError, match="attention"):
        engine.generate([Request((5,), watch="attention")], LONG)
    engine.close()
    with pytest.raises(PragError, match="closed"):
        engine.generate([Request((5, 6, 7))], LONG)


def test_a_model_that_forgets_positions_has_one_row_at_a_time(tiny, monkeypatch):
    monkeypatch.setattr(tiny.model.config, "sliding_window", 8, raising=False)
    monkeypatch.setattr(tiny.model.config, "layer_types", ["sliding_attention"] * 3, raising=False)
    sizes = []
    engine = ContinuousEngine(tiny, seen=sizes.append)
    assert engine.most == 1
    engine.close()
