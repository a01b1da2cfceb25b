"""What retrieval from a corpus of any size needs: bytes and hours, from measured constants."""

from dataclasses import dataclass

from synreal.errors import InputError

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
