"""Opening what the chapter 03a_mixed learns from and is tested on."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from synreal.data.imageset import class_names
from synreal.data.published import drawn_digits, transfer_set
from synreal.data.worlds import Pool, open_world
from synreal.errors import InputError
from synreal.generate.rerender import Defects, rerendered_set
from synreal.train.recipes import PAPER, TINY, Network


def networks(scale: str, names: Sequence[str], pretrain_steps: int, tune_steps: int) -> dict[str, Network]:
    """The networks of a scale, "tiny" or "paper", by name.

    pretrain_steps, tune_steps: in place of those of the recipes, where above 0; the former hold for DINO, the
    latter for transfer too. Raises InputError for an unknown scale or name.
    """
    known = {"tiny": TINY, "paper": PAPER}
    if scale not in known or not names or not set(names) <= set(known[scale]):
        raise InputError(
            f"scale {scale!r}, networks {list(names)}: expected tiny or paper, and names of {', '.join(TINY)}"
        )
    steps = {"pretrain": pretrain_steps, "dino": pretrain_steps}
    steps |= {"tune": tune_steps, "transfer": tune_steps}
    return {name: _with_steps(known[scale][name], steps) for name in names}


def _with_steps(network: Network, steps: Mapping[str, int]) -> Network:
    recipes = {
        part: replace(getattr(network, part), steps=count, warmup_steps=count // 10)
        for part, count in steps.items()
        if count
    }
    return replace(network, **recipes)


def shifted_pool(
    source: str, count: int, doses: Mapping[str, float], like: Pool, seed: int, size: int
) -> Pool:
    """Real images of another kind, in ImageNet-V2's role: a set as it is, or scenes re-rendered with `doses`.

    Raises InputError when doses are given for what is no split of scenes, or its classes differ.
    """
    kind, _, split = source.partition("/")
    if doses and kind != "scenes":
        raise InputError(f"shifted_set: {source} cannot be rendered again; leave shift empty")
    images = (
        rerendered_set(split, count, Defects(**doses), seed)
        if doses
        else open_world(source, count, seed).images
    )
    if class_names(images) != list(like.class_names):
        raise InputError(f"shifted_set: {source} has other classes than {like.name}; take a set of the same")
    return Pool.of(f"re-rendered {source}" if doses else source, images, None, size)


def transfer_pools(source: str, synthetic: str, size: int, seed: int) -> tuple[Pool, Pool]:
    """What is tuned on, real and synthetic, and what is tested on, of a data set outside the world.

    synthetic: "drawn" for digits in stroke fonts, a folder of synthetic images of its classes, or nothing.
    """
    train, test = (transfer_set(source, split, size) for split in ("train", "test"))
    drawn = drawn_digits(len(train), seed, size) if synthetic == "drawn" else None
    if synthetic not in ("", "drawn"):
        drawn = open_world(synthetic, hierarchy="none").images
    name = source.partition(":")[0]
    return Pool.of(name, train, drawn, size), Pool.of(name, test, None, size)
