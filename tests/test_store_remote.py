"""The adapter store in an object store: a real S3 API on loopback, and what can go wrong."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import threading
import uuid
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from faulty_s3 import FAULTS
from kb_helpers import WrittenAugmenter, adapters_of, write_corpus
from prag import KnowledgeBase
from prag.lora import Adapter, Site, flatten, numbers, unflatten
from prag.records import AdapterKey, PragError
from prag.store import AdapterStore, DamagedAdapter, MissingAdapter, StoredItem
from prag.store import replica as replica_module
from prag.store.log import Change, Log
from prag.store.objects import Objects
from prag.store.ranges import RangeCache
from prag.store.shards import checksum

pytestmark = pytest.mark.fast

SITES = (Site("up", 6, 10), Site("down", 10, 6))


def key(i: int) -> AdapterKey:
    return AdapterKey(f"{i:016x}", "b" * 16, "c" * 16)


def adapter(i: int) -> Adapter:
    return unflatten(torch.arange(numbers(SITES, 2)) + 1000.0 * i, SITES, 2, 32.0)


def items(*which: int) -> list[StoredItem]:
    return [StoredItem(key(i), adapter(i), f"examples-{i}") for i in which]


def assert_whole(store: AdapterStore, expected: set[int]) -> None:
    """Just these adapters are there, each once and with its own numbers."""
    assert store.keys() == [key(i) for i in sorted(expected)]
    for i in expected:
        assert torch.equal(flatten(store.read(key(i)), SITES), flatten(adapter(i), SITES))
    assert store.verify().damaged == ()


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Opens a store as another machine would: with a cache of its own."""

    def on(name: str, address: str, readonly: bool = False) -> AdapterStore:
        monkeypatch.setenv("PRAG_CACHE", str(tmp_path / name))
        return AdapterStore.open(address, readonly)

    return on


# Round trips


@pytest.mark.parametrize("codec", ["float32", "base6"])
def test_another_machine_reads_what_was_stored(s3, address, machine, codec) -> None:
    with machine("writer", address) as store:
        store.commit(items(1, 2, 3), SITES, codec)
        kept = store.read_many([key(i) for i in (1, 2, 3)])
    assert AdapterStore.exists(address)
    with machine("reader", address, readonly=True) as store:
        assert store.keys() == [key(i) for i in (1, 2, 3)]
        for k, read in store.read_many(store.keys()).items():
            assert torch.equal(flatten(read, SITES), flatten(kept[k], SITES))
        assert store.examples([key(2)]) == {key(2): "examples-2"}
        assert store.size().adapters == 3
        with pytest.raises(PragError, match="for reading only"):
            store.commit(items(4), SITES)


def test_it_is_the_store_of_a_folder(s3, address, machine, tmp_path) -> None:
    """The same calls leave the same adapters at an address and in a folder."""

    def work(store: AdapterStore) -> None:
        store.commit(items(1, 2, 3), SITES)
        store.commit(items(4, 5), SITES, "int8")
        store.commit([StoredItem(key(2), adapter(7), "again")], SITES)
        assert store.discard([key(4), key(9)]) == 1
        store.compact()

    with AdapterStore.open(tmp_path / "folder") as near, machine("one", address) as far:
        work(near)
        work(far)
        assert near.keys() == far.keys()
        assert near.examples(near.keys()) == far.examples(far.keys())
        for k in near.keys():  # noqa: SIM118
            assert torch.equal(flatten(near.read(k), SITES), flatten(far.read(k), SITES))
        assert (near.size().bytes_live, len(near)) == (far.size().bytes_live, len(far))


def test_there_is_no_store(s3, address, machine) -> None:
    assert not AdapterStore.exists(address)
    with pytest.raises(PragError, match="no adapter store yet"):
        machine("reader", address, readonly=True)
    with machine("reader", address) as store, pytest.raises(MissingAdapter, match="prag build"):
        store.read(key(1))


def test_single_adapters_are_read_by_range_and_kept(s3, address, machine) -> None:
    with machine("writer", address) as store:
        store.commit(items(*range(50)), SITES)
    with machine("reader", address, readonly=True) as store:
        s3.seen.clear()
        store.read_many([key(3), key(4)])
        shards = [path for _, path in s3.seen if "/shards/" in path]
        assert len(shards) == 2
        s3.seen.clear()
        s3.fault = lambda method, path: "500"
        store.read(key(3))  # with no request at all
        assert s3.seen == []
    s3.fault = lambda method, path: None
    with machine("reader", address, readonly=True) as store:
        s3.seen.clear()
        store.read(key(4))  # nor in another process
        assert s3.seen == []


# Several writers


def test_a_reader_sees_what_others_write(s3, address, machine, monkeypatch) -> None:
    monkeypatch.setattr("prag.store.adapters.RECENT", 0.0)
    with machine("a", address) as writer, machine("b", address, readonly=True) as reader:
        assert reader.has([key(1)]) == set()
        writer.commit(items(1), SITES)
        assert reader.has([key(1)]) == {key(1)}
        writer.commit(items(2), SITES)
        assert torch.equal(flatten(reader.read(key(2)), SITES), flatten(adapter(2), SITES))
        reader.read(key(1))
        writer.compact()  # the bytes move, the old shards go
        with machine("c", address, readonly=True) as third:
            assert_whole(third, {1, 2})
        reader.shards._ranges.folder.rename(reader.shards._ranges.folder.with_name("gone"))
        assert_whole(reader, {1, 2})
        writer.discard([key(1)])
        reader.index.refresh()
        with pytest.raises(MissingAdapter):
            reader.read(key(1))


@pytest.mark.parametrize("shared", [True, False], ids=["one machine", "three machines"])
def test_writers_at_once_lose_nothing(s3, address, machine, shared) -> None:
    """Each change has a number of its own, and every writer's adapters are there."""
    writers = [machine("all" if shared else str(n), address) for n in range(3)]
    errors: list[BaseException] = []

    def write(n: int) -> None:
        try:
            for batch in range(4):
                writers[n].commit(items(*(100 * n + 2 * batch + j for j in range(2))), SITES)
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    expected = {100 * n + i for n in range(3) for i in range(8)}
    assert len(Objects(address).listed("log")) == 12
    for store in writers:
        store.index.refresh()
        assert_whole(store, expected)
        store.close()
    with machine("afterwards", address) as store:
        assert_whole(store, expected)
        assert store.verify().orphans == ()


ACTIONS = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.sampled_from(["commit", "commit", "discard", "compact", "refresh"]),
        st.sets(st.integers(0, 7), min_size=1, max_size=4),
    ),
    max_size=8,
)


@settings(
    max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(actions=ACTIONS)
def test_any_order_of_writers_gives_one_store(actions, tmp_path_factory, monkeypatch) -> None:
    """Three machines in turn, none of which asks for news but when it writes."""
    place = f"memory://{uuid.uuid4().hex}"
    root = tmp_path_factory.mktemp("machines")
    stores = []
    for n in range(3):
        monkeypatch.setenv("PRAG_CACHE", str(root / str(n)))
        stores.append(AdapterStore.open(place))
    expected: set[int] = set()
    for n, action, which in actions:
        if action == "commit":
            stores[n].commit(items(*which), SITES)
            expected |= which
        elif action == "discard":
            stores[n].discard([key(i) for i in which])
            expected -= which
        elif action == "compact":
            assert stores[n].compact().damaged == ()
        else:
            stores[n].index.refresh()
    for store in stores:
        store.index.refresh()
        assert_whole(store, expected)
        store.close()


# Faults


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_pass(s3, address, machine, fault) -> None:
    """A third of all requests go wrong in one way: what is written and read is the same."""
    draw = random.Random(f"{fault}-20261127")
    with machine("before", address) as store:
        s3.fault = lambda method, path: fault if draw.random() < 0.3 else None
        for batch in range(3):
            store.commit(items(2 * batch, 2 * batch + 1), SITES)
        store.discard([key(0)])
        store.compact()
        assert_whole(store, set(range(1, 6)))
        assert (store.retried > 0) == (fault != "slow")
    with machine("after", address) as store:
        assert_whole(store, set(range(1, 6)))
    s3.fault = lambda method, path: None
    # 3 commits, 1 discard, 1 compaction: none is there twice, whatever answers were lost.
    assert len(Objects(address).listed("log")) == 5


def test_all_faults_with_two_writers(s3, address, machine) -> None:
    draw = random.Random(20261127)
    a, b = machine("a", address), machine("b", address)
    s3.fault = lambda method, path: draw.choice(FAULTS) if draw.random() < 0.25 else None
    errors: list[BaseException] = []

    def write(store: AdapterStore, start: int) -> None:
        try:
            for batch in range(5):
                store.commit(items(start + batch), SITES)
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=write, args=args) for args in ((a, 0), (b, 100))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    s3.fault = lambda method, path: None
    a.index.refresh()
    assert_whole(a, {*range(5), *range(100, 105)})
    a.close()
    b.close()


def test_bytes_that_change_on_the_way_are_asked_for_again(s3, address, machine) -> None:
    with machine("writer", address) as store:
        store.commit(items(1), SITES)
    flips = iter(["flipped", "flipped"])
    with machine("reader", address, readonly=True) as store:
        s3.fault = lambda method, path: next(flips, None) if "/shards/" in path else None
        assert torch.equal(flatten(store.read(key(1)), SITES), flatten(adapter(1), SITES))
    with machine("another", address, readonly=True) as store:
        s3.fault = lambda method, path: "flipped" if "/shards/" in path else None
        with pytest.raises(DamagedAdapter, match="checksum does not match") as caught:
            store.read(key(1))
        assert caught.value.shard.startswith(f"{address}/shards/")
        assert not list(store.shards._ranges.folder.glob("*/*")), "nothing wrong is kept"


def test_a_server_that_stays_away_is_one_message(s3, address, machine) -> None:
    with machine("a", address) as store:
        store.commit(items(1), SITES)
        s3.fault = lambda method, path: "503"
        with pytest.raises(PragError, match=r"failed 8 times .*SlowDown.*run it again"):
            store.commit(items(2), SITES)
        s3.fault = lambda method, path: None
        assert_whole(store, {1})
        store.commit(items(2), SITES)
        assert_whole(store, {1, 2})
        s3.fault = lambda method, path: "403"
        with pytest.raises(PragError, match=r"not allowed .*credentials"):
            store.commit(items(3), SITES)


def test_a_server_without_conditions_is_refused(s3, address, machine) -> None:
    s3.fault = lambda method, path: "blind"
    with pytest.raises(PragError, match="two writers would lose"):
        machine("a", address)
    s3.fault = lambda method, path: None
    assert Objects(address).listed("") == [], "and nothing of the trial stays"


def test_addresses_that_will_not_do(machine, monkeypatch) -> None:
    with pytest.raises(PragError, match="not an address of an object store"):
        AdapterStore.open("sss://bucket/x")
    with pytest.raises(PragError, match=r"prag\[gs\]"):
        AdapterStore.open("gs://bucket/x")
    monkeypatch.setenv("PRAG_STORE_CACHE_BYTES", "plenty")
    with pytest.raises(PragError, match="a number of bytes"):
        AdapterStore.open("memory://somewhere")


def test_no_such_bucket(prag, s3, model_folder, tmp_path) -> None:
    code, said = prag(
        "init", tmp_path / "kb", "--model", model_folder, "--adapters", "s3://nowhere/at-all"
    )
    assert code == 1
    assert "there is no such bucket" in said
    assert not (tmp_path / "kb").exists()


def test_another_thing_at_the_address(s3, address, machine) -> None:
    Objects(address).write("store.json", b'{"kind": "photos"}')
    with pytest.raises(PragError, match="not that of an adapter store"):
        machine("a", address)


# Damage and loss


def test_a_lost_change_is_told(s3, address, machine) -> None:
    with machine("a", address) as store:
        for i in range(5):
            store.commit(items(i), SITES)
    Objects(address).remove("log/00000000000000000003.gz")
    with pytest.raises(PragError, match=r"00000003.gz: this change of the index is lost"):
        machine("b", address)


def test_a_damaged_change_is_told(s3, address, machine) -> None:
    with machine("a", address) as store:
        store.commit(items(1), SITES)
    Objects(address).write("log/00000000000000000001.gz", b"nothing")
    with pytest.raises(PragError, match="this change of the index is damaged"):
        machine("b", address)


@pytest.mark.parametrize("harm", ["missing", "short", "other"])
def test_a_damaged_shard_names_its_adapters(s3, address, machine, harm) -> None:
    with machine("a", address) as store:
        store.commit(items(1, 2), SITES)
        store.commit(items(3), SITES)
        shard = store.index.rows([key(1)])[key(1)].shard
        name = f"shards/{shard}.safetensors"
        there = Objects(address)
        data = there.read(name)
        assert data is not None
        if harm == "missing":
            there.remove(name)
        else:
            there.write(name, data[:-600] if harm == "short" else data[:-1] + b"?")
        surveyed = {k for d in store.survey().damaged for k in d.keys}
        assert surveyed == (set() if harm == "other" else {key(1), key(2)})
        verified = {k for d in store.verify().damaged for k in d.keys}
        assert verified == ({key(2)} if harm == "other" else {key(1), key(2)})
        with pytest.raises(DamagedAdapter, match="adapter of passage"):
            store.read(key(2))
        store.discard([key(1), key(2)])
        store.commit(items(1, 2), SITES)
        assert_whole(store, {1, 2, 3})


def test_a_damaged_replica_is_made_again(s3, address, machine, tmp_path) -> None:
    with machine("a", address) as store:
        store.commit(items(1, 2), SITES)
        path = store.index.path
    path.write_bytes(b"not a database, but long enough to be looked at" * 40)
    with machine("a", address) as store:
        assert_whole(store, {1, 2})


def killed_writer(address: str, cache: str, at: str) -> None:
    """Commits one batch, and is killed in the middle of the second."""
    os.environ["PRAG_CACHE"] = cache
    store = AdapterStore.open(address)
    store.commit(items(1, 2), SITES)

    def kill(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if at == "named":
        store.index._apply = kill
    elif at == "uploaded":
        store.index._log.append = kill
    else:
        store._objects._files.put_file = kill
    store.commit(items(3, 4), SITES)


@pytest.mark.parametrize("at", ["written", "uploaded", "named"])
def test_a_writer_killed_in_the_middle(s3, address, machine, tmp_path, at) -> None:
    """Before its change is in the log nothing is stored, afterwards all of it."""
    child = multiprocessing.get_context("spawn").Process(
        target=killed_writer, args=(address, str(tmp_path / "killed"), at)
    )
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    there = {1, 2, 3, 4} if at == "named" else {1, 2}
    with machine("another", address) as store:
        assert_whole(store, there)
        orphans = store.verify().orphans
        assert len(orphans) == (at == "uploaded")
        assert store.sweep().shards == 0, "it may be that of a writer that is about to name it"
    with machine("killed", address) as store:  # its own replica did not see the last change
        assert_whole(store, there)
        assert store.sweep(alive=0.0).shards == len(orphans)
        assert store.verify().orphans == ()
        assert_whole(store, there)


# Checkpoints, the cache


def test_a_new_machine_starts_from_a_checkpoint(s3, address, machine, monkeypatch) -> None:
    monkeypatch.setattr(replica_module, "CHECKPOINT_AFTER", 8)
    with machine("a", address) as store:
        for i in range(12):
            store.commit(items(2 * i, 2 * i + 1), SITES)
        store.discard([key(0)])
    expected = set(range(1, 24))
    kept = [x.name for x in Objects(address).listed("checkpoints")]
    assert len(kept) > 2
    s3.seen.clear()
    with machine("b", address) as store:
        read = [path for method, path in s3.seen if "/log/" in path and method == "GET"]
        assert len(read) < 8, "the checkpoint spares it the changes before"
        assert_whole(store, expected)
        assert Log(Objects(address)).drop_old_checkpoints() == len(kept) - 3
    newest = kept[-2]
    Objects(address).write(f"checkpoints/{newest}", b"torn")
    with machine("c", address) as store:
        assert_whole(store, expected)
    Objects(address).write("checkpoints/latest.json", b'{"version": 10, "changes": 20}')
    with machine("d", address) as store:  # one that was dropped
        assert_whole(store, expected)


def test_the_cache_keeps_to_its_bytes(tmp_path) -> None:
    cache = RangeCache(tmp_path / "ranges", 1000)
    data = {checksum(bytes([i]) * 90): bytes([i]) * 90 for i in range(30)}
    for digest, each in data.items():
        cache.put(digest, each)
        cache.get(next(iter(data)))  # used all the time, so it stays
    held = sum(path.stat().st_size for path in cache.folder.glob("*/*"))
    assert held <= 1000
    assert cache.get(next(iter(data))) is not None
    assert cache.get(list(data)[1]) is None
    last = list(data)[-1]
    next(cache.folder.glob(f"*/{last}")).write_bytes(b"?")
    assert cache.get(last) is None, "what has changed is not given"
    RangeCache(tmp_path / "none", 0).put(last, data[last])
    assert not (tmp_path / "none").exists()
    assert cache.get("../x") is None


@given(
    deleted=st.lists(st.builds(key, st.integers(0, 99)), max_size=3),
    layout=st.text(max_size=5),
)
def test_a_change_is_read_as_it_was_kept(deleted, layout) -> None:
    change = Change(layout=layout, deleted=tuple(deleted), moves=(("s", 1, "a", "b", "c", "t", 2),))
    assert Change.from_bytes(change.to_bytes()) == change


@given(data=st.binary(max_size=60))
def test_bytes_that_are_no_change_are_an_error(data) -> None:
    with pytest.raises(ValueError, match="does not parse"):
        Change.from_bytes(data)


def test_a_folder_of_many_machines(tmp_path, machine) -> None:
    """`file://`: a file system that is shared, with several writers."""
    address = f"file://{tmp_path / 'shared'}"
    with machine("a", address) as a, machine("b", address) as b:
        a.commit(items(1, 2), SITES)
        b.commit(items(3), SITES)
        a.commit(items(4), SITES)
        b.index.refresh()
        assert_whole(b, {1, 2, 3, 4})
    assert not list(Path(tmp_path / "shared").rglob("*.tmp"))


# A knowledge base whose adapters are there


@pytest.fixture
def towers(prag, s3, address, model_folder, few_everyday, tmp_path):
    folder = tmp_path / "kb"
    code, said = prag("init", folder, "--model", model_folder, "--adapters", address)
    assert code == 0, said
    assert prag("add", folder, write_corpus(tmp_path / "towers.jsonl", 4))[0] == 0
    KnowledgeBase.open(folder).augment(augmenter=WrittenAugmenter())
    return folder


def test_a_knowledge_base_with_its_adapters_at_an_address(prag, s3, towers, address) -> None:
    code, said = prag("build", towers)
    assert code == 0
    assert "4 encoded" in said
    assert not (towers / "adapters").exists()
    code, said = prag("status", towers)
    assert f"at {address}" in said
    assert "built up to date" in said
    code, said = prag("ask", towers, "How tall is Brixo1?")
    assert code == 0
    assert "adapter in the weights" in said
    code, said = prag("verify", towers)
    assert code == 0
    assert "4 passages and 4 adapters checked all is well" in said
    code, said = prag("build", towers)
    assert "0 encoded, 4 kept" in said
    assert "store were made again" not in said
    ids = [p.id for p in KnowledgeBase.open(towers).passages()]
    assert prag("withdraw", towers, ids[0])[0] == 0
    assert prag("build", towers)[0] == 0
    assert "3 passages and 3 adapters checked" in prag("verify", towers)[1]


def test_retries_are_shown(prag, s3, towers) -> None:
    draw = random.Random(3)
    s3.fault = lambda method, path: "503" if draw.random() < 0.3 else None
    code, said = prag("build", towers)
    assert code == 0
    assert "requests to the adapter store were made again" in said


def test_a_store_that_is_away_loses_nothing(prag, s3, towers) -> None:
    s3.fault = lambda method, path: "500" if "/log/" in path and method == "PUT" else None
    code, said = prag("build", towers)
    assert code == 1
    assert "failed 8 times" in said
    s3.fault = lambda method, path: None
    assert prag("build", towers)[0] == 0
    assert prag("verify", towers)[0] == 0
    code, said = prag("gc", towers)
    assert "0 shards and 0 temporary files" in said
    code, said = prag("gc", towers, "--older-than", 0)
    assert code == 0
    assert "1 shards" in said, "the one that was uploaded and not named"
    assert "4 passages and 4 adapters checked all is well" in prag("verify", towers)[1]


def test_damage_at_the_address_is_mended_with_check(prag, s3, towers, address) -> None:
    assert prag("build", towers)[0] == 0
    there = Objects(address)
    (shard, *_) = there.listed("shards")
    data = there.read(f"shards/{shard.name}")
    there.write(f"shards/{shard.name}", data[:-1] + bytes([data[-1] ^ 1]))
    code, said = prag("verify", towers)
    assert code == 1
    assert f"`prag build {towers} --check` makes them again" in said
    assert "0 encoded" in prag("build", towers)[1]
    code, said = prag("build", towers, "--check")
    assert "1 damaged adapters made again" in said
    assert prag("verify", towers)[0] == 0


def test_two_knowledge_bases_at_one_address(prag, s3, towers, address, model_folder, tmp_path):
    assert prag("build", towers)[0] == 0
    other = tmp_path / "other"
    assert prag("init", other, "--model", model_folder, "--adapters", address)[0] == 0
    assert prag("add", other, write_corpus(tmp_path / "more.jsonl", 2, start=3))[0] == 0
    KnowledgeBase.open(other).augment(augmenter=WrittenAugmenter())
    _, said = prag("build", other)
    assert "1 encoded, 1 kept" in said, "one passage is in both"
    assert "4 passages and 5 adapters checked" in prag("verify", towers)[1]
    _, said = prag("gc", other, "--foreign", "--compact")
    assert "3 adapters of passages that are not in the corpus deleted" in said
    assert "4 encoded" not in prag("build", towers)[1]
    assert "4 passages and 5 adapters checked" in prag("verify", towers)[1]


def test_adapters_move_to_an_address_and_back(prag, s3, few_everyday, built_kb, address) -> None:
    answer = KnowledgeBase.open(built_kb).ask("How tall is Brixo1?").text
    before = adapters_of(KnowledgeBase.open(built_kb))
    code, said = prag("relocate", built_kb, address)
    assert code == 0
    assert f"3 adapters copied to {address}, 0 were there" in said
    shutil.rmtree(built_kb / "adapters")
    assert same_adapters(before, adapters_of(KnowledgeBase.open(built_kb)))
    assert KnowledgeBase.open(built_kb).ask("How tall is Brixo1?").text == answer
    assert "0 encoded, 3 kept" in prag("build", built_kb)[1]
    code, said = prag("relocate", built_kb, address)
    assert code == 1
    assert "already" in said
    assert prag("relocate", built_kb, "folder")[0] == 0
    assert same_adapters(before, adapters_of(KnowledgeBase.open(built_kb)))
    code, said = prag("relocate", built_kb, "elsewhere")
    assert code == 1
    assert "is no address" in said


def same_adapters(one, other) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(x, y)
        for k in one
        for name in one[k].factors
        for x, y in zip(one[k].factors[name], other[k].factors[name], strict=True)
    )
