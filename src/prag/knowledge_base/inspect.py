"""Looking at a knowledge base without changing it: its status, and whether it is whole."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from prag.corpus import Catalogue
from prag.knowledge_base.augmentations import Augmentations, Entry, fingerprints
from prag.knowledge_base.settings import Settings, adapters_at
from prag.progress import Tell
from prag.records import AdapterKey, PragError
from prag.retrieval import index_info, open_retriever, verify_index
from prag.store import AdapterStore, StoreSize, is_address, mending


@dataclass(frozen=True)
class Status:
    """What a knowledge base holds, and what is missing to answer from all of it.

    Args:
        augmented: passages by the origin of the augmentation that is used for them.
        left_out: passages that are augmented but have no valid pair, and so no adapter.
        rejects: generated pairs and rewrites that were not used.
        adapters: the address where they are, None for the folder.
        up_to_date: whether the last build is of this very corpus and recipe.
    """

    folder: str
    model: str
    base: str
    recipe: str
    retriever: str
    documents: int
    passages: int
    augmented: dict[str, int]
    pairs: int
    rejects: int
    encoded: int
    left_out: tuple[str, ...]
    adapters: str | None
    store: StoreSize | None
    built: bool
    up_to_date: bool


@dataclass(frozen=True)
class VerifyReport:
    """`problems` is empty if all is well; `notes` are leftovers and gaps that do no harm."""

    passages: int
    adapters: int
    problems: tuple[str, ...]
    notes: tuple[str, ...]


def index_fits(folder: Path, settings: Settings, digest: str) -> bool:
    """Whether the index is there, whole, and of this very corpus. Reads all of it."""
    try:
        info = index_info(folder / "retrieval")
        right = info.digest == digest and info.settings.get("url") == settings.retriever_url
        if not right or verify_index(folder / "retrieval"):
            return False
        open_retriever(folder / "retrieval", settings.retriever)
    except PragError:
        return False
    return True


def status(
    folder: Path, settings: Settings, catalogue: Catalogue, augmentations: Augmentations
) -> Status:
    """What there is, counted."""
    ids = set(catalogue.ids())
    counts = catalogue.count()
    known = augmentations.entries(ids)
    expected = _expected(settings, known)
    encoded, size = 0, None
    place = adapters_at(folder, settings)
    if AdapterStore.exists(place):
        with AdapterStore.open(place, readonly=True) as store:
            encoded, size = len(store.has(expected)), store.size()
    built = settings.built
    return Status(
        folder=str(folder),
        model=settings.model,
        base=settings.base,
        recipe=settings.recipe.name,
        retriever=settings.retriever,
        documents=counts.documents,
        passages=counts.passages,
        augmented=dict(Counter(a.origin for a in known.values())),
        pairs=sum(a.pairs for a in known.values()),
        rejects=sum(a.rejects for a in known.values()),
        encoded=encoded,
        left_out=tuple(sorted(i for i, a in known.items() if not a.pairs)),
        adapters=settings.adapters,
        store=size,
        built=built is not None,
        up_to_date=built is not None
        and built.digest == catalogue.digest()
        and built.recipe == settings.recipe
        and encoded == len(expected) == len(ids) - sum(not a.pairs for a in known.values()),
    )


def verify(
    folder: Path,
    settings: Settings,
    catalogue: Catalogue,
    augmentations: Augmentations,
    progress: Tell,
) -> VerifyReport:
    """Read and check everything: each problem is a sentence that says how to mend it."""
    problems = [f"{p}; add the document again" for p in catalogue.integrity()]
    notes: list[str] = []
    ids = set(catalogue.ids())
    expected: set[AdapterKey] = set()
    try:
        known = augmentations.entries(ids)
        expected = _expected(settings, known)
        bare = len(ids) - len(known)
        if bare:
            notes.append(f"{bare} passages are not augmented yet: `prag build {folder}`")
    except PragError as error:
        problems.append(str(error))
    checked = 0
    place = adapters_at(folder, settings)
    try:
        if AdapterStore.exists(place):
            with AdapterStore.open(place, readonly=True) as store:
                report = store.verify(lambda done, total: progress("check", done, total))
                missing = len(expected - store.has(expected))
            checked = report.checked
            for damage in report.damaged:
                shown = ", ".join(key.passage for key in damage.keys[:10])
                more = f" and {len(damage.keys) - 10} more" if len(damage.keys) > 10 else ""
                problems.append(
                    f"shard {damage.shard}: {damage.reason}; it holds the adapters of "
                    f"{shown}{more}: `{mending(place, folder)}` makes them again"
                )
            if report.orphans:
                notes.append(
                    f"{len(report.orphans)} shards that nothing names: `prag gc {folder}` deletes "
                    "those that are old enough not to be another writer's"
                    if is_address(place)
                    else f"{len(report.orphans)} leftover files, which the next build deletes"
                )
            if missing:
                notes.append(f"{missing} passages are not encoded yet: `prag build {folder}`")
    except PragError as error:
        problems.append(str(error))
    if settings.built is not None:
        try:
            wrong = verify_index(folder / "retrieval")
            open_retriever(folder / "retrieval", settings.retriever)
        except PragError as error:
            wrong = [str(error)]
        problems += [f"retrieval index: {w}; `prag build {folder}` makes it again" for w in wrong]
    return VerifyReport(len(ids), checked, tuple(problems), tuple(notes))


def _expected(settings: Settings, known: dict[str, Entry]) -> set[AdapterKey]:
    """The keys of the adapters that passages with pairs have once they are built."""
    prints = fingerprints(settings.recipe, (a.origin for a in known.values()))
    return {AdapterKey(i, settings.base, prints[a.origin]) for i, a in known.items() if a.pairs}
