"""Nearest neighbours of vectors by inner product: exact up to a million items, compressed above."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import faiss
import numpy as np

from synreal.errors import InputError
from synreal.retrieve.embeddings import Embeddings, What
from synreal.retrieve.plan import TRAINING_ROUNDS, ivf_pq_shape

Kind = Literal["auto", "flat", "ivf-pq"]
EXACT_UP_TO = 1_000_000  # items
RERANKED = 10  # times as many items as asked for, found by their codes, are compared by their vectors
INDEX_FILE, MANIFEST = "index.faiss", "index.json"


@dataclass(frozen=True)
class Origin:
    """Whose vectors an index holds."""

    what: What
    model: str
    fingerprint: str
    content: str
    kind: Kind


class Index:
    """Ids by nearness to a vector."""

    def __init__(self, index: faiss.Index, embeddings: Embeddings, kind: Kind) -> None:
        self._index, self.embeddings, self.origin = index, embeddings, _origin(embeddings, kind)
        self._ids = np.asarray(embeddings.ids, dtype=object)

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def exact(self) -> bool:
        """Whether the nearest are found for certain."""
        return self.origin.kind == "flat"

    @classmethod
    def build(cls, embeddings: Embeddings, kind: Kind = "auto") -> "Index":
        """An index of the embeddings, in memory.

        flat: exact, 4 bytes per dimension and item. ivf-pq: compressed vectors in lists of which some are
        searched, a quarter byte per dimension (Jegou et al. 2011); of what they find, ten times as much as
        asked for is compared again by the embeddings on disk. auto: flat up to a million items.
        """
        kind = _chosen(kind, len(embeddings))
        index = faiss.IndexFlatIP(embeddings.size) if kind == "flat" else _trained(embeddings)
        for block in embeddings.blocks():
            index.add(block)
        return cls(index, embeddings, kind)

    @classmethod
    def open(cls, embeddings: Embeddings, folder: str | Path, kind: Kind = "auto") -> "Index":
        """The index saved in `folder`; when there is none, or one of other items, it is built and saved.

        It is memory-mapped: what a search does not touch is not read.
        Raises InputError when the folder holds an index of another model.
        """
        folder, wanted = Path(folder), _origin(embeddings, _chosen(kind, len(embeddings)))
        found = _read_origin(folder)
        if found is not None and (found.what, found.fingerprint) != (wanted.what, wanted.fingerprint):
            raise InputError(
                f"{folder}: holds an index of {found.what}s by {found.model} ({found.fingerprint}); "
                f"expected {wanted.what}s by {wanted.model} ({wanted.fingerprint}); name another folder"
            )
        if found != wanted:
            cls.build(embeddings, kind).save(folder)
        mapped = faiss.read_index(str(folder / INDEX_FILE), faiss.IO_FLAG_MMAP_IFC)
        return cls(mapped, embeddings, wanted.kind)

    def save(self, folder: str | Path) -> None:
        """Writes the index, and last `index.json`, which says whose it is."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MANIFEST).unlink(missing_ok=True)  # it may tell of the index that is about to be replaced
        partial = folder / f"{INDEX_FILE}.partial"
        faiss.write_index(self._index, str(partial))
        partial.replace(folder / INDEX_FILE)
        (folder / f"{MANIFEST}.partial").write_text(json.dumps(asdict(self.origin), indent=1))
        (folder / f"{MANIFEST}.partial").replace(folder / MANIFEST)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """(ids, inner products) of the `k` nearest items of each query, nearest first: [Q, k] each.

        Fewer than k columns when the index holds fewer items. An inexact index may find fewer still; the
        places left over have the id "" and the score -inf.
        """
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        if queries.ndim != 2 or queries.shape[1] != self._index.d or not np.isfinite(queries).all():
            raise InputError(
                f"queries: found shape {queries.shape}; expected finite numbers [Q, {self._index.d}], the "
                f"vectors of {self.origin.model}"
            )
        if k < 1:
            raise InputError(f"k: found {k}, expected 1 or more")
        k = min(k, len(self))
        scores, rows = self._index.search(queries, k) if self.exact else self._reranked(queries, k)
        found = rows >= 0
        return np.where(found, self._ids[rows], ""), np.where(found, scores, -np.inf)

    def _reranked(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Scores and rows [Q, k]: the best, by their vectors, of what the codes find; row -1 for none."""
        found = self._index.search(queries, min(RERANKED * k, len(self)))[1]
        scores = np.full(found.shape, -np.inf, np.float32)
        for query, rows, products in zip(queries, found, scores, strict=True):
            products[rows >= 0] = self.embeddings.rows(rows[rows >= 0]) @ query
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(scores, best, axis=1), np.take_along_axis(found, best, axis=1)

    def recall(self, queries: np.ndarray, k: int = 10) -> float:
        """Share of the `k` items truly nearest to each query that this index finds; 1 when it is exact.

        The truth is found by comparing with all vectors, block by block.
        """
        if self.exact:
            return 1.0
        return share_found(exact_search(self.embeddings, queries, k)[0], self.search(queries, k)[0])


def share_found(truth: np.ndarray, found: np.ndarray) -> float:
    """Share of the true neighbours [Q, K] that are among those found [Q, L]."""
    return float(np.mean([np.isin(a, b).mean() for a, b in zip(truth, found, strict=True)]))


def exact_search(embeddings: Embeddings, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """As `Index.search`, exactly and without an index: vectors are read from disk, block by block."""
    best = faiss.ResultHeap(len(queries), min(k, len(embeddings)), keep_max=True)
    first = 0
    for block in embeddings.blocks():
        scores, rows = faiss.knn(queries, block, min(best.k, len(block)), metric=faiss.METRIC_INNER_PRODUCT)
        best.add_result(scores, rows + first)
        first += len(block)
    best.finalize()
    return np.asarray(embeddings.ids, dtype=object)[best.I], best.D


def _chosen(kind: Kind, count: int) -> Kind:
    if kind not in get_args(Kind):
        raise InputError(f"kind: found {kind!r}, expected one of {', '.join(get_args(Kind))}")
    if kind == "auto":
        return "flat" if count <= EXACT_UP_TO else "ivf-pq"
    return kind


def _read_origin(folder: Path) -> Origin | None:
    file = folder / MANIFEST
    return Origin(**json.loads(file.read_text())) if file.is_file() else None


def _origin(embeddings: Embeddings, kind: Kind) -> Origin:
    return Origin(embeddings.what, embeddings.model, embeddings.fingerprint, embeddings.content, kind)


def _trained(embeddings: Embeddings) -> faiss.Index:
    shape = ivf_pq_shape(len(embeddings), embeddings.size)
    # "np": without polysemous training, a slow optimisation of codes that this search does not use.
    name = f"IVF{shape.lists},PQ{shape.code_bytes}np"
    index: Any = faiss.index_factory(embeddings.size, name, faiss.METRIC_INNER_PRODUCT)
    index.pq.cp.niter = TRAINING_ROUNDS
    generator = np.random.default_rng(0)
    chosen = np.sort(generator.choice(len(embeddings), shape.training, replace=False))
    index.train(embeddings.take([embeddings.ids[row] for row in chosen]))
    index.nprobe = shape.probes
    return index
