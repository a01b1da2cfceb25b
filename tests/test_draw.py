"""The synthetic sets of the studies: drawn once, by prompt, guidance and generator."""

import pytest

from synreal import paths
from synreal.data.scenes import scene_set
from synreal.errors import InputError
from synreal.generate.autoencoder import PatchAutoencoder
from synreal.generate.pipeline import learn_tokenizer, new_pipeline
from synreal.generate.sample import Sampling, draw_world

TWO_STEPS = Sampling(guidance_scale=2.0, steps=2, seed=0)


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    """An untrained pipeline, saved as the zoo's are."""
    folder = tmp_path_factory.mktemp("drawn") / "tiny"
    texts = ["a photo of a bag", "a large coat", "a dark shirt with a person"]
    new_pipeline(
        learn_tokenizer(texts), PatchAutoencoder(width=16, encoder_blocks=1, decoder_blocks=1)
    ).save_pretrained(folder)
    return folder


@pytest.fixture
def captioned(tmp_path, monkeypatch):
    monkeypatch.setenv("SYNREAL_CACHE", str(tmp_path / "cache"))
    return scene_set("train", 6)


def test_a_set_is_drawn_once_and_says_how(generator, captioned, monkeypatch):
    world = draw_world("CFG 2", generator, captioned, "caption", TWO_STEPS)
    assert world.name == "CFG 2" and world.images["label"][:] == captioned["label"][:]
    names = captioned.features["label"].names
    assert world.images["prompt"][0] == f"{names[captioned['label'][0]]}, {captioned['caption'][0]}"
    monkeypatch.setattr("synreal.generate.sample._draw_shard", None)
    again = draw_world("another name", generator, captioned, "caption", TWO_STEPS, workers=2)
    assert again.images["id"][:] == world.images["id"][:]


@pytest.mark.parametrize(
    "change", [{"style": "class"}, {"sampling": Sampling(guidance_scale=4.0, steps=2)}], ids=str
)
def test_what_differs_is_drawn_anew(generator, captioned, change, tmp_path):
    given = {"style": "caption", "sampling": TWO_STEPS}
    for settings in (given, given | change):
        draw_world("set", generator, captioned, **settings)
    assert len(list((tmp_path / "cache" / "drawn").iterdir())) == 2


def test_prompts_need_captions(generator, captioned):
    with pytest.raises(InputError, match="mine: the prompts need a column caption"):
        draw_world("mine", generator, captioned.remove_columns("caption"), "caption", TWO_STEPS)


def test_a_generator_is_found_from_any_folder(generator, captioned, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "repository_root", lambda: generator.parent)
    monkeypatch.chdir(tmp_path)
    first = draw_world("set", generator.name, captioned, "caption", TWO_STEPS)
    monkeypatch.setenv("MY_GENERATORS", str(generator.parent))
    again = draw_world("set", f"$MY_GENERATORS/{generator.name}", captioned, "caption", TWO_STEPS)
    assert first.images["id"][:] == again.images["id"][:]
    with pytest.raises(InputError, match="set the environment variable NOT_SET"):
        draw_world("set", "$NOT_SET/tiny", captioned, "caption", TWO_STEPS)
