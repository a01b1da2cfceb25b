"""Nearest neighbours of vectors by inner product: exact up to a million items, compressed above."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import faiss
import numpy as np

from synreal.errors import InputError
from synreal.retrieve.embed import Embeddings, What

Kind = Literal["auto", "flat", "ivf-pq"]
EXACT_UP_TO = 1_000_000  # items
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

    def __init__(self, index: faiss.Index, ids: Sequence[str], origin: Origin) -> None:
        self._index, self._ids, self.origin = index, np.asarray(ids, dtype=object), origin

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def exact(self) -> bool:
        """Whether the nearest are found for certain."""
        return self.origin.kind == "flat"

    @classmethod
    def build(cls, embeddings: Embeddings, kind: Kind = "auto") -> "Index":
        """An index of the embeddings in memory. flat: exact, 4 bytes per dimension and item. ivf-pq: lists of
        compressed vectors (Jegou et al. 2011), about a quarter byte per dimension. auto: flat up to a million.
        """
        if kind not in ("auto", "flat", "ivf-pq"):
            raise InputError(f"kind: found {kind!r}, expected auto, flat or ivf-pq")
        if kind == "auto":
            kind = "flat" if len(embeddings) <= EXACT_UP_TO else "ivf-pq"
        index = faiss.IndexFlatIP(embeddings.size) if kind == "flat" else _trained(embeddings)
        for block in embeddings.blocks():
            index.add(block)
        return cls(index, embeddings.ids, _origin(embeddings, kind))

    @classmethod
    def open(cls, embeddings: Embeddings, folder: str | Path, kind: Kind = "auto") -> "Index":
        """The index saved in `folder`, or when there is none a new one, built and saved there.

        It is memory-mapped: what a search does not touch is not read.
        Raises InputError when the folder holds an index of another model or of other items.
        """
        folder = Path(folder)
        if not (folder / MANIFEST).is_file():
            cls.build(embeddings, kind).save(folder)
        found = Origin(**json.loads((folder / MANIFEST).read_text()))
        wanted = _origin(embeddings, found.kind if kind == "auto" else kind)
        if found != wanted:
            old, new = asdict(found), asdict(wanted)
            told = "; ".join(f"{key} {old[key]}, expected {new[key]}" for key in old if old[key] != new[key])
            raise InputError(
                f"{folder}: the index was built from other embeddings ({told}); delete the folder"
            )
        return cls(faiss.read_index(str(folder / INDEX_FILE), faiss.IO_FLAG_MMAP_IFC), embeddings.ids, found)

    def save(self, folder: str | Path) -> None:
        """Writes the index, and last `index.json`, which says whose it is."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
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
        scores, rows = self._index.search(queries, min(k, len(self)))
        found = rows >= 0
        return np.where(found, self._ids[rows], ""), np.where(found, scores, -np.inf)

    def recall(self, exact: "Index", queries: np.ndarray, k: int = 10) -> float:
        """Share of the `k` nearest items (found by an exact index) that this one finds, over the queries."""
        if not exact.exact or len(exact) != len(self):
            raise InputError("recall: expected an exact index (kind flat) of the same items to compare with")
        truth, found = exact.search(queries, k)[0], self.search(queries, k)[0]
        return float(np.mean([np.isin(a, b).mean() for a, b in zip(truth, found, strict=True)]))


def _origin(embeddings: Embeddings, kind: Kind) -> Origin:
    return Origin(embeddings.what, embeddings.model, embeddings.fingerprint, embeddings.content, kind)


def _trained(embeddings: Embeddings) -> faiss.Index:
    from synreal.retrieve.plan import ivf_pq_shape

    shape = ivf_pq_shape(len(embeddings), embeddings.size)
    # "np": without polysemous training, a slow optimisation of codes that this search does not use.
    name = f"IVF{shape.lists},PQ{shape.code_bytes}np"
    index = faiss.index_factory(embeddings.size, name, faiss.METRIC_INNER_PRODUCT)
    generator = np.random.default_rng(0)
    chosen = np.sort(generator.choice(len(embeddings), shape.training, replace=False))
    index.train(embeddings.take([embeddings.ids[row] for row in chosen]))
    index.nprobe = shape.probes
    return index
