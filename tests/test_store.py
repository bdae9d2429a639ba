"""The adapter store: round trips, damage, misses, upkeep, full and read-only disks."""

from __future__ import annotations

import errno
import json
import os
import re
import sqlite3
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from prag.lora import Adapter, Site, flatten, numbers, unflatten
from prag.records import AdapterKey, PragError
from prag.store import CODECS, AdapterStore, DamagedAdapter, MissingAdapter, StoredItem, codecs
from prag.store import shards as shards_module
from prag.store.index import Index

pytestmark = pytest.mark.fast

SITES = (Site("layers.0.up", 6, 10), Site("layers.0.down", 10, 6))
BASE, RECIPE = "b" * 16, "c" * 16


def key(i: int, base: str = BASE, recipe: str = RECIPE) -> AdapterKey:
    return AdapterKey(f"{i:016x}", base, recipe)


def adapter(seed: int, sites=SITES, rank: int = 2, alpha: float = 32.0) -> Adapter:
    draw = torch.Generator().manual_seed(seed)
    return unflatten(torch.randn(numbers(sites, rank), generator=draw), sites, rank, alpha)


def items(*numbers_: int) -> list[StoredItem]:
    return [StoredItem(key(i), adapter(i), f"examples-{i}") for i in numbers_]


def same(a: Adapter, b: Adapter, sites=SITES) -> bool:
    bits = [flatten(x, sites).view(torch.int32) for x in (a, b)]
    return torch.equal(*bits) and (a.rank, a.alpha) == (b.rank, b.alpha)


def shard_of(store: AdapterStore, i: int) -> Path:
    return store.shards.file(store.index.rows([key(i)])[key(i)].shard)


def entry_of(store: AdapterStore, i: int) -> tuple[int, int]:
    row = store.index.rows([key(i)])[key(i)]
    return row.offset, row.length


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 0x40]))


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "shards").iterdir())


@pytest.fixture
def store(tmp_path: Path) -> Iterator[AdapterStore]:
    with AdapterStore.open(tmp_path / "store") as opened:
        yield opened


# Round trips


def site_lists() -> st.SearchStrategy[tuple[Site, ...]]:
    width = st.integers(1, 9)
    return st.lists(st.tuples(width, width), min_size=1, max_size=4).map(
        lambda sizes: tuple(Site(f"m.{i}", *size) for i, size in enumerate(sizes))
    )


@settings(max_examples=25)
@given(
    sites=site_lists(),
    rank=st.integers(1, 4),
    alpha=st.floats(0.125, 64.0),
    kind=st.sampled_from(CODECS),
    count=st.integers(1, 5),
    seed=st.integers(0, 2**31),
)
def test_what_is_read_is_what_was_stored(sites, rank, alpha, kind, count, seed) -> None:
    batch = [
        StoredItem(key(i), adapter(seed + i, sites, rank, alpha), f"e{i}") for i in range(count)
    ]
    with tempfile.TemporaryDirectory() as folder:
        with AdapterStore.open(folder) as store:
            store.commit(batch, sites, kind)
        with AdapterStore.open(folder, readonly=True) as store:
            read = store.read_many([item.key for item in batch])
            assert list(read) == [item.key for item in batch]
            for item in batch:
                vector = flatten(item.adapter, sites)
                data = bytearray(codecs.encode(vector, kind))
                exact = codecs.FLOATS.get(kind, torch.float32)
                stored = codecs.decode(data, kind, vector.numel(), exact)
                got = read[item.key]
                assert (got.rank, got.alpha) == (rank, alpha)
                assert list(got.factors) == [site.name for site in sites]
                assert torch.equal(flatten(got, sites), stored.float())
                raw = flatten(store.read(item.key, exact), sites)
                assert torch.equal(raw.view(torch.uint8), stored.view(torch.uint8))
            assert store.verify().damaged == ()


def test_float32_keeps_every_bit(store: AdapterStore) -> None:
    """Also those of NaNs, infinities, subnormals and the negative zero."""
    special = torch.tensor([0x7FC00001, 0x7F800000, 1, -(2**31), -0x800000], dtype=torch.int32)
    vector = flatten(adapter(0), SITES)
    vector[: len(special)] = special.view(torch.float32)
    stored = unflatten(vector, SITES, 2, 32.0)
    store.commit([StoredItem(key(0), stored, "e")], SITES)
    assert same(store.read(key(0)), stored)


def test_safetensors_reads_the_shards(store: AdapterStore) -> None:
    store.commit(items(1, 2, 3), SITES, "bfloat16")
    with safe_open(shard_of(store, 1), framework="pt") as file:
        assert set(file.keys()) == {str(key(i)) for i in (1, 2, 3)}
        meta = file.metadata()
        assert meta["dtype"] == "bfloat16"
        assert (int(meta["rank"]), float(meta["alpha"])) == (2, 32.0)
        assert [Site(**site) for site in json.loads(meta["sites"])] == list(SITES)
        for i in (1, 2, 3):
            expected = flatten(store.read(key(i), torch.bfloat16), SITES)
            assert torch.equal(file.get_tensor(str(key(i))), expected)


def test_the_example_of_the_documentation_runs(store: AdapterStore, tmp_path: Path) -> None:
    store.commit(items(1, 2), SITES)
    page = Path(__file__).parent.parent / "docs" / "store-format.md"
    code = re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL)[0]
    names = {"folder": str(store.place), "passage": key(2).passage}
    names |= {"base": BASE, "recipe": RECIPE}
    exec(code, names)
    read, expected = names["factors"], adapter(2).factors
    assert set(read) == set(expected)
    for name, (A, B) in expected.items():
        assert torch.equal(read[name][0], A)
        assert torch.equal(read[name][1], B)
    assert names["scale"] == 16.0


@pytest.mark.parametrize("codec", sorted(codecs.LEVELS))
def test_the_digits_of_the_documentation(store: AdapterStore, codec: str) -> None:
    store.commit(items(1, 2), SITES, codec)
    page = Path(__file__).parent.parent / "docs" / "store-format.md"
    code = re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL)[1]
    with safe_open(shard_of(store, 2), framework="pt") as file:
        vector = file.get_tensor(str(key(2)))
    expected = flatten(store.read(key(2)), SITES)
    names = {"vector": vector, "levels": codecs.LEVELS[codec], "P": expected.numel()}
    exec(code, names)
    assert torch.equal(torch.from_numpy(names["numbers"]).float(), expected)


def test_keys_examples_and_length(store: AdapterStore) -> None:
    store.commit(items(*range(1200)), SITES)
    store.commit([StoredItem(key(5, base="d"), adapter(7), "other")], SITES)
    asked = [key(i) for i in range(1100, 1300)] + [key(5, recipe="x")]
    assert store.has(asked) == {key(i) for i in range(1100, 1200)}
    many = store.examples(key(i) for i in range(2000))
    assert many == {key(i): f"examples-{i}" for i in range(1200)}
    assert len(store) == 1201
    assert store.keys(base="d") == [key(5, base="d")]
    assert len(store.keys(BASE)) == len(store.keys(BASE, RECIPE)) == 1200
    assert store.keys(recipe="x") == []
    assert len(store.keys()) == 1201


def test_a_key_committed_again_has_the_new_adapter(store: AdapterStore) -> None:
    store.commit(items(1, 2), SITES)
    store.commit([StoredItem(key(1), adapter(99), "new")], SITES)
    assert same(store.read(key(1)), adapter(99))
    assert store.examples([key(1)]) == {key(1): "new"}
    assert same(store.read(key(2)), adapter(2))
    assert len(store) == 2


def test_batches_that_are_none_are_refused(store: AdapterStore) -> None:
    store.commit([], SITES)
    wrong: list[tuple[list[StoredItem], tuple[Site, ...]]] = [
        (items(1, 1), SITES),
        ([*items(1), StoredItem(key(2), adapter(2, rank=3), "e")], SITES),
        (items(1), SITES[:1]),
        (items(1), (*SITES, Site("more", 2, 2))),
        (items(1), (SITES[0], Site("layers.0.down", 6, 10))),
        (items(1), (*SITES, SITES[0])),
        (items(1), ()),
    ]
    for batch, sites in wrong:
        with pytest.raises(ValueError):  # noqa: PT011 - each has its own text
            store.commit(batch, sites)
    assert len(store) == 0
    assert files(store.place) == []


def test_a_number_too_large_for_float16_is_refused(store: AdapterStore) -> None:
    vector = flatten(adapter(0), SITES)
    vector[3] = 1e6
    item = StoredItem(key(0), unflatten(vector, SITES, 2, 32.0), "e")
    with pytest.raises(PragError, match=r"1e\+06.*bfloat16"):
        store.commit([item], SITES, "float16")
    assert files(store.place) == []
    store.commit([item], SITES, "bfloat16")


def test_few_maps_stay_open(tmp_path: Path) -> None:
    with AdapterStore.open(tmp_path) as store:
        store.shards._open_maps = 2
        for i in range(5):
            store.commit(items(i), SITES)
        held = [store.read(key(i)) for i in (0, 1, 2, 3, 4, 0)]
        assert len(store.shards._maps) == 2
    assert all(same(a, adapter(i)) for a, i in zip(held, (0, 1, 2, 3, 4, 0), strict=True))


def test_reading_gives_no_warning_and_writable_tensors(store: AdapterStore) -> None:
    store.commit(items(1), SITES)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read = store.read(key(1))
    read.factors["layers.0.up"][0].zero_()
    assert same(store.read(key(1)), adapter(1))


# Misses


def test_what_is_missing_is_told_apart(store: AdapterStore) -> None:
    store.commit(items(1), SITES)
    with pytest.raises(MissingAdapter, match=r"no adapter for passage .* at all.*prag build"):
        store.read(key(2))
    with pytest.raises(MissingAdapter, match=f"another base model {BASE}, not other") as error:
        store.read(key(1, base="other"))
    assert error.value.others == (key(1),)
    with pytest.raises(MissingAdapter, match=f"another recipe {RECIPE}, not other"):
        store.read(key(1, recipe="other"))
    with pytest.raises(MissingAdapter, match="another base model"):
        store.read(key(1, "other", "other"))


# Damage


def test_a_flipped_byte_is_found_wherever_it_is(store: AdapterStore) -> None:
    store.commit(items(*range(14)), SITES)
    path = shard_of(store, 3)
    offset, length = entry_of(store, 3)
    for at in range(offset, offset + length, 7):
        flip(path, at)
        with pytest.raises(DamagedAdapter) as error:
            store.read(key(3))
        flip(path, at)
    assert path.name in str(error.value)
    assert key(3).passage in str(error.value)
    assert "and 4 more" in str(error.value)
    assert "prag build" in str(error.value)
    assert set(error.value.keys) == {key(i) for i in range(14)}
    assert same(store.read(key(3)), adapter(3))


@pytest.mark.parametrize("harm", ["flipped", "truncated", "emptied", "deleted", "a folder"])
@pytest.mark.parametrize("warm", [True, False])
def test_damage_is_named_contained_and_mended(store: AdapterStore, harm: str, warm: bool) -> None:
    store.commit(items(1, 2), SITES)
    store.commit(items(3), SITES)
    path, (offset, length) = shard_of(store, 2), entry_of(store, 2)
    if warm:  # the shard is mapped when it is harmed
        store.read_many([key(1), key(2), key(3)])
    if harm == "flipped":
        flip(path, offset)
    elif harm == "truncated":
        os.truncate(path, offset + length - 1)
    elif harm == "emptied":
        os.truncate(path, 0)
    else:
        path.unlink()
        if harm == "a folder":
            path.mkdir()
    with pytest.raises(DamagedAdapter, match=path.name):
        store.read(key(2))
    assert same(store.read(key(3)), adapter(3))
    if harm in ("flipped", "truncated"):
        assert same(store.read(key(1)), adapter(1))
    with AdapterStore.open(store.place, readonly=True) as again:
        report = again.verify()
    assert report.checked == 3
    assert {d.shard for d in report.damaged} == {path.name.removesuffix(".safetensors")}
    bad = [k for d in report.damaged for k in d.keys]
    assert key(2) in bad
    assert key(3) not in bad
    assert store.discard(bad) == len(bad)
    assert store.has([key(1), key(2)]).isdisjoint(bad)
    store.commit(items(1, 2), SITES)
    assert same(store.read(key(2)), adapter(2))
    assert store.verify().damaged == ()


@pytest.mark.parametrize(
    ("column", "value"),
    [("rank", 1), ("alpha", 16.0), ("dtype", "float16"), ("offset", 8), ("layout", "gone")],
)
def test_verify_finds_a_row_that_contradicts_its_shard(
    store: AdapterStore, column: str, value: object
) -> None:
    store.commit(items(1, 2), SITES)
    other = sqlite3.connect(store.index.path)
    with other:
        other.execute(
            f"UPDATE adapters SET {column} = ? WHERE passage = ?", (value, key(1).passage)
        )
    other.close()
    assert [d.keys for d in store.verify().damaged] == [(key(1),)]
    if column != "alpha":
        with pytest.raises(DamagedAdapter):
            store.read(key(1))


def test_verify_finds_a_damaged_header_and_compact_mends_it(store: AdapterStore) -> None:
    store.commit(items(1, 2), SITES)
    flip(shard_of(store, 1), 9)
    assert len(store.verify().damaged[0].keys) == 2
    assert store.compact().moved == 2
    assert store.verify().damaged == ()
    assert same(store.read(key(1)), adapter(1))


def test_verify_counts_and_names_orphans(store: AdapterStore) -> None:
    store.commit(items(1, 2), SITES)
    store.commit(items(3), SITES)
    (store.place / "shards" / "x.safetensors.tmp").write_bytes(b"half")
    (store.place / "shards" / "aa.safetensors").write_bytes(b"never named")
    (store.place / "shards" / "notes.txt").write_text("the user's own")
    seen: list[tuple[int, int]] = []
    report = store.verify(lambda done, total: seen.append((done, total)))
    assert (report.checked, report.damaged) == (3, ())
    assert report.orphans == ("aa.safetensors", "x.safetensors.tmp")
    assert seen[-1] == (3, 3)
    swept = store.sweep()
    assert (swept.temporaries, swept.shards, swept.freed) == (1, 1, 15)
    assert store.verify().orphans == ()
    assert "notes.txt" in files(store.place)


def test_a_missing_shard_does_not_stop_the_store_from_opening(store: AdapterStore) -> None:
    store.commit(items(1), SITES)
    shard_of(store, 1).unlink()
    with AdapterStore.open(store.place) as again:
        assert len(again) == 1
        assert again.size().shards == 0
        again.sweep()
        report = again.compact()
        assert report.damaged[0].reason == "the file is missing"


def test_opening_touches_no_shard_and_counts_no_row(
    store: AdapterStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.commit(items(1), SITES)
    statements: list[str] = []

    def forbidden(*_: object) -> None:
        raise AssertionError("a shard was touched")

    connect = sqlite3.connect

    def traced(*args: object, **options: object) -> sqlite3.Connection:
        connection = connect(*args, **options)
        connection.set_trace_callback(statements.append)
        return connection

    monkeypatch.setattr(shards_module.ShardFolder, "_mapped", forbidden)
    monkeypatch.setattr(shards_module.ShardFolder, "_files", forbidden)
    monkeypatch.setattr(shards_module.ShardFolder, "reading", forbidden)
    monkeypatch.setattr(sqlite3, "connect", traced)
    AdapterStore.open(store.place).close()
    AdapterStore.open(store.place, readonly=True).close()
    assert statements
    assert not any("adapters" in statement for statement in statements)


# Upkeep


def test_discard_deletes_emptied_shards(store: AdapterStore) -> None:
    store.commit(items(1, 2), SITES)
    store.commit(items(3), SITES)
    assert store.discard([key(1), key(3), key(3), key(9)]) == 2
    assert len(files(store.place)) == 1
    assert store.keys() == [key(2)]
    assert store.discard([key(9)]) == 0


def test_compact_makes_few_shards_of_many(store: AdapterStore) -> None:
    for i in range(20):
        store.commit(items(i), SITES)
    store.commit([StoredItem(key(50 + i), adapter(50 + i, rank=3), "e") for i in range(2)], SITES)
    store.commit(items(3), SITES)  # one shard is all garbage now
    store.discard([key(50)])
    before = store.size()
    report = store.compact()
    assert (report.moved, report.shards_before, report.shards_after) == (21, 22, 2)
    assert report.damaged == ()
    after = store.size()
    assert (report.bytes_before, report.bytes_after) > (report.bytes_after, after.bytes_live)
    assert (after.adapters, after.bytes_live) == (before.adapters, before.bytes_live)
    assert after.bytes_on_disk < before.bytes_on_disk
    assert all(same(store.read(key(i)), adapter(i)) for i in range(20))
    assert same(store.read(key(51)), adapter(51, rank=3))
    assert store.examples([key(4)]) == {key(4): "examples-4"}
    assert store.verify() == store.verify().__class__(21, (), ())
    kept = files(store.place)
    assert store.compact().moved == 0
    assert files(store.place) == kept


@settings(max_examples=15)
@given(
    batches=st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=4, unique=True), max_size=8),
    gone=st.sets(st.integers(0, 12)),
    target=st.integers(1, 4000),
)
def test_compact_changes_no_adapter_and_comes_to_rest(batches, gone, target) -> None:
    with tempfile.TemporaryDirectory() as folder, AdapterStore.open(folder) as store:
        for batch in batches:
            store.commit(items(*batch), SITES)
        store.discard([key(i) for i in gone])
        stored = {key(i) for batch in batches for i in batch if i not in gone}
        report = store.compact(target)
        assert report.shards_after <= max(report.shards_before, len(stored))
        assert set(store.keys()) == stored
        for k, read in store.read_many(stored).items():
            assert same(read, adapter(int(k.passage, 16)))
        verified = store.verify()
        assert (verified.damaged, verified.orphans) == ((), ())
        assert store.compact(target).moved == 0


def test_compact_leaves_damage_where_it_is(store: AdapterStore) -> None:
    for batch in ((1, 2), (3,), (4,)):
        store.commit(items(*batch), SITES)
    hurt = shard_of(store, 2)
    flip(hurt, entry_of(store, 2)[0])
    report = store.compact()
    assert report.moved == 3
    assert [d.keys for d in report.damaged] == [(key(2),)]
    assert hurt.is_file()
    assert shard_of(store, 2) == hurt
    assert all(same(store.read(key(i)), adapter(i)) for i in (1, 3, 4))
    again = store.compact()
    assert again.moved == 0
    assert again.damaged == report.damaged
    store.discard([key(2)])
    assert not hurt.exists()


def test_a_row_that_compaction_moved_is_found_again(
    store: AdapterStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader looks the row up, then the shard is gone: it looks again."""
    store.commit(items(1), SITES)
    store.commit(items(2), SITES)
    with AdapterStore.open(store.place, readonly=True) as reader:
        stale = reader.index.rows([key(1)])[key(1)]
        store.compact()
        assert same(reader._read(key(1), stale, torch.float32), adapter(1))
        store.discard([key(1)])
        with pytest.raises(MissingAdapter):
            reader._read(key(1), stale, torch.float32)


# Readers beside a writer


def test_two_readers_while_one_writes(store: AdapterStore) -> None:
    done: list[int] = [0]
    store.commit(items(0), SITES)
    stop = threading.Event()
    problems: list[BaseException] = []
    reads = [0]

    def reading(shared: AdapterStore | None) -> None:
        try:
            mine = shared or AdapterStore.open(store.place, readonly=True)
            while not stop.is_set():
                for i in tuple(done):
                    assert same(mine.read(key(i)), adapter(i))
                    reads[0] += 1
            if shared is None:
                mine.close()
        except BaseException as error:  # noqa: BLE001 - told to the test's own thread
            problems.append(error)

    threads = [threading.Thread(target=reading, args=(s,)) for s in (None, None, store)]
    for thread in threads:
        thread.start()
    try:
        for i in range(1, 25):
            store.commit(items(i), SITES)
            done.append(i)
            if i % 8 == 0:
                store.compact(900)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert problems == []
    assert reads[0] > 20


# Windows of a crash, and disks that refuse


class Crash(BaseException):
    """Stands for whatever may end a process."""


@pytest.mark.parametrize("error", [Crash(), OSError(errno.ENOSPC, "no space left")])
@pytest.mark.parametrize("window", ["write", "fsync", "rename", "after rename", "index"])
@pytest.mark.parametrize("work", ["commit", "compact"])
def test_a_failure_in_any_window_loses_nothing_and_leaves_nothing(
    store: AdapterStore,
    monkeypatch: pytest.MonkeyPatch,
    window: str,
    work: str,
    error: BaseException,
) -> None:
    store.commit(items(1, 2), SITES)
    store.commit(items(3), SITES)
    before = files(store.place)

    def fail(*_: object, **__: object) -> None:
        raise error

    class Full:
        def __init__(self, path: Path) -> None:
            self.file = path.open("xb")

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def write(self, data: bytes) -> None:
            self.file.write(data[: len(data) // 2])
            raise error

    with monkeypatch.context() as patch:
        if window == "write":
            patch.setattr(shards_module, "open_new", Full)
        elif window == "fsync":
            patch.setattr(os, "fsync", fail)
        elif window == "rename":
            patch.setattr(Path, "replace", fail)
        elif window == "after rename":
            patch.setattr(shards_module, "sync", fail)
        else:
            patch.setattr(Index, "add", fail)
            patch.setattr(Index, "move", fail)
        expected: type[BaseException] = type(error)
        if expected is OSError and window != "index":
            expected = PragError
        doing = {"commit": lambda: store.commit(items(1, 4), SITES), "compact": store.compact}
        with pytest.raises(expected) as caught:
            doing[work]()
    if expected is PragError:
        assert "disk is full" in str(caught.value)
        assert str(store.place) in str(caught.value)
    assert set(store.keys()) == {key(1), key(2), key(3)}
    report = store.verify()
    assert report.damaged == ()
    if not (window == "index" and work == "compact"):
        assert files(store.place) == before
    store.sweep()
    assert files(store.place) == before
    store.commit(items(1, 4), SITES)
    store.compact()
    assert all(same(store.read(key(i)), adapter(i)) for i in (1, 2, 3, 4))


def test_an_error_after_the_index_was_written_keeps_the_shard(
    store: AdapterStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = Index.add

    def late(self: Index, *args: object) -> None:
        add(self, *args)
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(Index, "add", late)
        with pytest.raises(Crash):
            store.commit(items(1), SITES)
    assert same(store.read(key(1)), adapter(1))


def test_a_full_disk_under_the_index(store: AdapterStore) -> None:
    store.commit(items(1), SITES)
    connection = store.index._connection
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(PragError, match=r"index\.sqlite.*disk is full.*free some space"):
        store.commit(items(*range(200)), SITES)
    assert len(store) == 1
    assert len(files(store.place)) == 1
    connection.execute("PRAGMA max_page_count = 1000000")
    store.commit(items(*range(200)), SITES)
    assert len(store) == 200


@contextmanager
def unprivileged() -> Iterator[None]:
    """As a user whom the rights of a file bind."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.mark.skipif(os.name == "nt", reason="rights of POSIX")
def test_a_read_only_folder_reads_and_does_not_write() -> None:
    with tempfile.TemporaryDirectory() as top:
        folder = Path(top) / "a store?#%20"
        with AdapterStore.open(folder) as store:
            store.commit(items(1), SITES)
        places = (Path(top), folder, folder / "shards")
        for place, mode in zip(places, (0o755, 0o555, 0o555), strict=True):
            place.chmod(mode)
        for path in (folder / "index.sqlite", *(folder / "shards").iterdir()):
            path.chmod(0o444)
        try:
            with unprivileged():
                with AdapterStore.open(folder, readonly=True) as store:
                    assert same(store.read(key(1)), adapter(1))
                    assert store.verify().checked == 1
                    with pytest.raises(PragError, match="opened for reading only"):
                        store.commit(items(2), SITES)
                with (
                    AdapterStore.open(folder) as store,
                    pytest.raises(PragError, match="cannot be written"),
                ):
                    store.commit(items(2), SITES)
                with (
                    AdapterStore.open(folder) as store,
                    pytest.raises(PragError, match=r"index\.sqlite: cannot be written"),
                ):
                    store.discard([key(1)])
                with pytest.raises(PragError, match="cannot be written"):
                    AdapterStore.open(folder / "new")
        finally:
            for place in places:
                place.chmod(0o755)


def test_a_store_for_reading_refuses_all_writing(store: AdapterStore) -> None:
    store.commit(items(1), SITES)
    with AdapterStore.open(store.place, readonly=True) as reader:
        for work in (reader.sweep, reader.compact, lambda: reader.discard([key(1)])):
            with pytest.raises(PragError, match="for reading only"):
                work()
        with pytest.raises(PragError, match="cannot be written"):
            reader.index.delete([key(1)])


def test_indexes_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(PragError, match=r"no adapter store yet.*prag build"):
        AdapterStore.open(tmp_path / "nowhere", readonly=True)
    assert not (tmp_path / "nowhere").exists()

    text = tmp_path / "text"
    text.mkdir()
    (text / "index.sqlite").write_text("this is no database at all " * 50)
    for readonly in (True, False):
        with pytest.raises(PragError, match=r"cannot be read.*restore"):
            AdapterStore.open(text, readonly)

    alien = tmp_path / "alien"
    alien.mkdir()
    connection = sqlite3.connect(alien / "index.sqlite")
    connection.execute("CREATE TABLE recipes (cake TEXT)")
    connection.close()
    with pytest.raises(PragError, match="another program"):
        AdapterStore.open(alien)

    newer = tmp_path / "newer"
    with AdapterStore.open(newer) as store:
        store.index._connection.execute("PRAGMA user_version = 2")
    for readonly in (True, False):
        with pytest.raises(PragError, match=r"format 2.*newer prag"):
            AdapterStore.open(newer, readonly)

    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "index.sqlite").touch()
    with pytest.raises(PragError, match="prag build"):
        AdapterStore.open(empty, readonly=True)
    AdapterStore.open(empty).close()  # a kill before the first transaction


def test_a_lost_index_is_not_taken_for_an_empty_store(store: AdapterStore) -> None:
    """Else the sweep after opening would delete every shard."""
    store.commit(items(1), SITES)
    store.close()
    store.index.path.unlink()
    for readonly in (True, False):
        with pytest.raises(PragError, match="is missing, 1 shards are there"):
            AdapterStore.open(store.place, readonly)
    assert len(files(store.place)) == 1


def test_a_torn_index_is_told(store: AdapterStore) -> None:
    store.commit(items(*range(400)), SITES)
    store.close()
    path = store.index.path
    data = bytearray(path.read_bytes())
    page = int.from_bytes(data[16:18], "big")
    data[2 * page :] = b"\xff" * (len(data) - 2 * page)
    path.write_bytes(data)
    with AdapterStore.open(store.place) as torn, pytest.raises(PragError, match=r"restore"):
        torn.verify()
