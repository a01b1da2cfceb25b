"""Exact and approximate indexes over embeddings, planned by memory."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import faiss
import numpy as np

from synreal.errors import InputError
from synreal.retrieve.embeddings import Embeddings, What

TRAINING_ROUNDS = 10  # of k-means, for the lists and for the codes
CODEWORDS = 256  # per sub-vector: one byte
ID_BYTES = 8  # that FAISS stores beside a code


@dataclass(frozen=True)
class IvfPq:
    """Sizes of an inverted file with product quantisation (Jegou et al. 2011)."""

    lists: int  # coarse cells
    code_bytes: int  # of one item
    probes: int  # cells that a search visits
    training: int  # items that the cells and codes are learned from


def ivf_pq_shape(count: int, size: int) -> IvfPq:
    """The sizes used for `count` items of `size` dimensions.

    4 sqrt(N) lists with 64 training items each (FAISS's guidelines; at least 16,384 for the codes), one byte
    per four dimensions, and as many lists searched as the square root of their number, at least 8.
    """
    if size % 4:
        raise InputError(f"vectors of {size} dimensions: ivf-pq needs a multiple of 4; use kind flat")
    lists = max(1, min(round(4 * count**0.5), count // 39))  # k-means wants 39 items per centre
    probes = min(lists, max(8, round(lists**0.5)))
    return IvfPq(lists, size // 4, probes, min(count, max(64 * lists, 16_384)))


@dataclass(frozen=True)
class Rates:
    """What one core does, as `benchmarks/retrieval.py` measures it."""

    gflops: float  # 1e9 multiplications and additions a second, comparing vectors with centres or each other
    codes: float  # compressed items that a search looks at in a second
    encoder_gflops: float  # the same as gflops, in the image tower of a CLIP model


MEASURED = Rates(gflops=57.9, codes=9.4e6, encoder_gflops=63.0)  # one core of an AMD EPYC, float32
LAION_2B = 2_320_000_000  # pairs of image and English caption
VIT_L_14_SIZE, VIT_L_14_GFLOPS = 768, 162.0  # dimensions; per image of 224 x 224 pixels


@dataclass(frozen=True)
class Plan:
    """Needs of a corpus; bytes are of the whole corpus, hours are of the clock on all nodes together."""

    shape: IvfPq
    embedding_bytes: int  # float16, as embed_set stores them
    flat_bytes: int  # of an exact index
    index_bytes: int  # of the compressed one
    embed_hours: float
    train_hours: float
    add_hours: float
    search_hours: float


def plan(
    count: int, size: int, image_gflops: float, queries: int, rates: Rates, cores: int, nodes: int = 1
) -> Plan:
    """The needs of `count` images with embeddings of `size` dimensions.

    image_gflops: of embedding one image. queries: texts searched for. cores: of each of `nodes` equal
    machines that each hold an equal part. Work is assumed to spread over cores and machines without loss, but
    for the training of the lists, which one machine does.
    """
    shape = ivf_pq_shape(count, size)
    core_hour = 3600 * 1e9 * rates.gflops * cores
    train = 2 * size * shape.lists * shape.training * TRAINING_ROUNDS / core_hour
    add = 2 * size * (shape.lists + CODEWORDS) * count / core_hour / nodes
    looked_at = queries * count * shape.probes / shape.lists
    search = looked_at / (3600 * rates.codes * cores * nodes)
    return Plan(
        shape,
        embedding_bytes=2 * size * count,
        flat_bytes=4 * size * count,
        index_bytes=(shape.code_bytes + ID_BYTES) * count + 4 * size * shape.lists,
        embed_hours=image_gflops * count / (3600 * rates.encoder_gflops * cores * nodes),
        train_hours=train,
        add_hours=add,
        search_hours=search + 2 * size * shape.lists * queries / core_hour / nodes,
    )


def laion_plans() -> dict[str, Plan]:
    """Plans for LAION-2B and 10,000 texts, on machines with cores as in `MEASURED`."""
    machines = {"1 node, 2 cores": (2, 1), "1 node, 64 cores": (64, 1), "8 nodes, 64 cores each": (64, 8)}
    return {
        name: plan(LAION_2B, VIT_L_14_SIZE, VIT_L_14_GFLOPS, 10_000, MEASURED, cores, nodes)
        for name, (cores, nodes) in machines.items()
    }


def plan_table(plans: dict[str, Plan]) -> str:
    """Plans side by side as a Markdown table, one column each."""
    rows = {
        "embeddings, float16": [_bytes(p.embedding_bytes) for p in plans.values()],
        "exact index": [_bytes(p.flat_bytes) for p in plans.values()],
        "compressed index": [_bytes(p.index_bytes) for p in plans.values()],
        "lists, of which searched": [f"{p.shape.lists:,}, {p.shape.probes:,}" for p in plans.values()],
        "embedding the images": [_hours(p.embed_hours) for p in plans.values()],
        "training the lists": [_hours(p.train_hours) for p in plans.values()],
        "adding the items": [_hours(p.add_hours) for p in plans.values()],
        "searching": [_hours(p.search_hours) for p in plans.values()],
    }
    lines = [["", *plans], ["---"] * (len(plans) + 1), *([name, *cells] for name, cells in rows.items())]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _bytes(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def _hours(hours: float) -> str:
    if hours < 1 / 60:
        return f"{hours * 3600:.2g} s"
    if hours >= 100:
        return f"{float(f'{hours:.3g}'):,.0f} h"
    return f"{hours:.3g} h" if hours >= 1 else f"{hours * 60:.2g} min"


# Nearest neighbours of vectors by inner product: exact up to a million items, compressed above.


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
