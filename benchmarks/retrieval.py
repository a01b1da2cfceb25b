"""Retrieval: exact search beside FAISS itself and torch, the compressed index, and embedding.

    python benchmarks/retrieval.py [ITEMS]

ITEMS (1,000,000) unit vectors of 512 dimensions take 1 GB on disk and 2 GB in memory each as array and as
index. Ratios to FAISS are measured on a tenth of them. Vectors scatter around 2,000 centres, since neighbours
among vectors without any structure cannot be compressed. Seconds are of the processor, of all cores together,
so that a busy machine measures the same. Set OMP_NUM_THREADS=1 to measure the constants of
`synreal.retrieve.index`, which are of one core.
"""

import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from datasets import Dataset

from synreal.data.scenes import scene_set
from synreal.models.card import load_card
from synreal.models.load import load_module
from synreal.retrieve.embed import Encoder, embed_set
from synreal.retrieve.embeddings import Embeddings
from synreal.retrieve.index import CODEWORDS, Index, exact_search, ivf_pq_shape, share_found

SIZE, QUERIES, K, SHARD = 512, 1000, 10, 100_000
CHECKPOINT, IMAGES = "CLIP-Real-24k", 1000


def make_vectors(count: int, folder: Path) -> Embeddings:
    """Vectors in shards on disk, as a corpus that was embedded."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((2000, SIZE), dtype=np.float32)
    shards = []
    for start in range(0, count, SHARD):
        rows = min(SHARD, count - start)
        made = centres[rng.integers(len(centres), size=rows)]
        made += 1.7 * rng.random((rows, SIZE), dtype=np.float32) - 0.85
        np.save(folder / f"{start}.npy", made.astype(np.float16))
        shards.append(np.load(folder / f"{start}.npy", mmap_mode="r"))
    return Embeddings("image", "made", "made", f"{count}", [f"{row:09d}" for row in range(count)], shards)


def seconds(work: Callable[[], object], repeats: int = 1) -> float:
    """Seconds of the processor, the best of some runs."""
    found = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        found.append(time.process_time() - start)
    return min(found)


def part(items: Embeddings, count: int) -> Embeddings:
    return Embeddings("image", "made", "made", f"{count}", items.ids[:count], [items.shards[0][:count]])


def beside_faiss(items: Embeddings, queries: np.ndarray, folder: Path) -> None:
    vectors = np.concatenate(list(items.blocks()))
    raw = faiss.IndexFlatIP(SIZE)
    raw.add(vectors)
    index = Index.open(items, folder)
    ours, theirs = index.search(queries, K)[1], raw.search(queries, K)[0]
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)
    base = seconds(lambda: raw.search(queries, K), 2)
    for name, work in (
        ("Index, memory-mapped", lambda: index.search(queries, K)),
        ("exact_search, from shards", lambda: exact_search(items, queries, K)),
    ):
        took = seconds(work, 2)
        print(f"{name}: {took:.2f} s, {took / base:.2f} times FAISS itself ({base:.2f} s)", flush=True)


def beside_torch(items: Embeddings, queries: np.ndarray, folder: Path) -> None:
    building = seconds(lambda: Index.open(items, folder))
    index, clock = Index.open(items, folder), time.perf_counter()
    took = seconds(lambda: index.search(queries, K))
    clock = time.perf_counter() - clock
    print(f"Index of {len(items):,}: built in {building:.0f} s; ", end="")
    print(f"{len(queries)} queries in {took:.1f} s ({clock:.1f} s of the clock)", flush=True)
    truth = index.search(queries[:100], K)[1]
    every = torch.from_numpy(np.concatenate(list(items.blocks())))

    def brute() -> torch.Tensor:
        parts = torch.from_numpy(queries).split(100)  # 100 x 1M scores are 400 MB
        return torch.cat([(part @ every.T).topk(K).values for part in parts])

    clock, used = time.perf_counter(), time.process_time()
    scores = brute()
    clock, used = time.perf_counter() - clock, time.process_time() - used
    print(f"torch, all scores and topk: {used:.1f} s ({clock:.1f} s of the clock)", flush=True)
    np.testing.assert_allclose(scores[:100], truth, rtol=1e-4)


def compressed(items: Embeddings, queries: np.ndarray) -> None:
    shape, start = ivf_pq_shape(len(items), SIZE), time.process_time()
    index = Index.build(items, "ivf-pq")
    print(f"ivf-pq of {len(items):,}: {shape}, built in {time.process_time() - start:.0f} s", flush=True)
    truth = exact_search(items, queries, K)[0]
    ids = np.asarray(items.ids, dtype=object)
    for probes in (shape.probes, 4 * shape.probes):
        index._index.nprobe = probes
        by_codes, compared = ids[index._index.search(queries, K)[1]], index.search(queries, K)[0]
        print(f"{probes} lists searched, recall@{K}: ", end="")
        print(f"{share_found(truth, by_codes):.3f} by the codes, ", end="")
        print(f"{share_found(truth, compared):.3f} compared again by vectors; ", end="")
        print(f"the nearest is found: {share_found(truth[:, :1], compared):.3f}", flush=True)
    index._index.nprobe = shape.probes
    raw = seconds(lambda: index._index.search(queries, K), 2)
    whole = seconds(lambda: index.search(queries, K), 2)
    codes = len(queries) * len(items) * shape.probes / shape.lists / raw
    block = next(items.blocks(20_000))
    adding = seconds(lambda: index._index.add(block))  # once more, after everything that counts
    gflops = 2 * SIZE * (shape.lists + CODEWORDS) * len(block) / adding / 1e9
    print(f"{len(queries)} queries in {whole:.2f} s, {raw:.2f} of them in the codes; ", end="")
    print(f"constants of the plan: gflops {gflops:.1f}, codes {codes:.3g}", flush=True)


def embedding(images: Dataset, folder: Path) -> None:
    encoder = Encoder(CHECKPOINT)
    card = load_card(CHECKPOINT)
    module = load_module(card)
    to_pixels = open_clip.image_transform(card.image_size, is_train=False, mean=card.mean, std=card.std)

    @torch.inference_mode()
    def plain() -> None:
        for start in range(0, len(images), 256):
            pixels = torch.stack([to_pixels(image) for image in images[start : start + 256]["image"]])
            F.normalize(module.encode_image(pixels), dim=-1)

    plain()
    base = seconds(plain, 2)
    took = min(seconds(lambda run=run: embed_set(images, encoder, folder / f"{run}")) for run in range(2))
    again = seconds(lambda: embed_set(images, encoder, folder / "0"))
    rate, plain_rate = len(images) / took, len(images) / base
    print(f"embed_set: {rate:,.0f} images per second; a plain open_clip loop: {plain_rate:,.0f}; ", end="")
    print(f"a second call of embed_set takes {again:.2f} s", flush=True)


def encoder_rate() -> None:
    """GFLOP/s of the image tower of ViT-B/16 (17.6e9 multiplications and as many additions per image)."""
    module = open_clip.create_model("ViT-B-16").eval()
    pixels = torch.zeros(4, 3, 224, 224)
    with torch.inference_mode():
        module.encode_image(pixels)
        took = seconds(lambda: module.encode_image(pixels), 3)
    print(f"constants of the plan: encoder_gflops {35.2 * len(pixels) / took:.1f} (ViT-B/16)", flush=True)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        embedding(scene_set("val", IMAGES), folder)
        encoder_rate()
        items = make_vectors(count, folder)
        queries = items.take(items.ids[:: count // QUERIES][:QUERIES])
        small = part(items, min(count // 10, SHARD))
        beside_faiss(small, queries, folder / "small")
        beside_torch(items, queries, folder / "large")
        for some in (small, items):
            compressed(some, queries)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak memory {peak:.1f} GiB; {os.cpu_count()} cores, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
