"""The generator's parts, and sampling that depends on prompt, seed and guidance and on nothing else."""

import json
import os
import shutil
from dataclasses import replace

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPTokenizer

from synreal.data.decode import to_arrays
from synreal.data.factors import captions, draw_factors
from synreal.data.imageset import check_image_set, class_names
from synreal.errors import InputError
from synreal.generate import sample
from synreal.generate.autoencoder import PatchAutoencoder
from synreal.generate.backends import StableDiffusion, load_pipeline, sample_images
from synreal.generate.pipeline import (
    MAX_LENGTH,
    RELEARNT,
    epsilon_pipeline,
    learn_tokenizer,
    new_pipeline,
    save_epsilon,
)
from synreal.generate.sample import Sampling, open_generator, sample_set
from synreal.train.generator import train_denoiser
from synreal.train.recipes import Recipe

TEXTS = captions([draw_factors(index, "upstream") for index in range(300)], "upstream")
PROMPTS = ["bag, a red bag", "coat, my new coat", "dress, a dress", "shirt, a small shirt", "bag, a bag"]
LABELS, NAMES = [0, 1, 2, 3, 0], ("bag", "coat", "dress", "shirt")
FAST = Sampling(guidance_scale=3.0, steps=2, seed=5)


def autoencoder(seed=0):
    torch.manual_seed(seed)
    return PatchAutoencoder(latent_channels=4, width=16, encoder_blocks=1, decoder_blocks=1).eval()


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    """An untrained pipeline on disk, its contrast raised so that differences survive rounding to bytes."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    pipeline = new_pipeline(learn_tokenizer(TEXTS, 600), autoencoder())
    with torch.no_grad():
        pipeline.vae.decoder[-2].weight.mul_(8)
        pipeline.unet.conv_out.weight.mul_(8)
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pipeline(generator):
    return load_pipeline(generator)


def drawn(pipeline, prompts=PROMPTS, seeds=range(5), **changes):
    return sample_images(pipeline, prompts, list(seeds), **({"guidance_scale": 3.0, "steps": 2} | changes))


@torch.no_grad()
def test_autoencoder_shapes_and_standardised_latents():
    model = autoencoder()
    images = torch.rand(64, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    assert model.encode(images).latent_dist.mode().mean((0, 2, 3)).abs().max() > 1e-3
    model.standardise(images)
    posterior = model.encode(images).latent_dist
    latents = posterior.mode()
    assert latents.shape == (64, 4, 8, 8)
    assert torch.allclose(latents.mean((0, 2, 3)), torch.zeros(4), atol=1e-5)
    assert torch.allclose(latents.std((0, 2, 3)), torch.ones(4), atol=1e-5)
    raw = model.posterior(images)
    assert torch.allclose(posterior.std * model.latent_std, raw.std, rtol=1e-4)
    decoded = model.decode(latents).sample
    assert decoded.shape == images.shape
    assert torch.allclose(decoded, model(images), atol=1e-5)  # standardising cancels out
    assert torch.equal(model.decode(latents, return_dict=False)[0], decoded)


def test_a_saved_autoencoder_is_the_same(tmp_path):
    model = autoencoder()
    model.standardise(torch.rand(8, 3, 32, 32))
    model.save_pretrained(tmp_path)
    loaded = PatchAutoencoder.from_pretrained(tmp_path)
    states = [part.state_dict() for part in (model, loaded)]
    assert states[0].keys() == states[1].keys() and "latent_std" in states[0]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert dict(loaded.config)["width"] == 16


def test_the_tokenizer_survives_saving_and_is_the_one_open_clip_reads(tmp_path):
    learnt = learn_tokenizer(TEXTS, 600)
    learnt.save_pretrained(tmp_path)
    loaded = CLIPTokenizer.from_pretrained(tmp_path, local_files_only=True)
    texts = [*TEXTS[:20], "An unseen WORD: naïve 42!"]
    padded = {"padding": "max_length", "truncation": True, "max_length": 24, "return_tensors": "pt"}
    ids = learnt(texts, **padded).input_ids
    assert torch.equal(ids, loaded(texts, **padded).input_ids)
    theirs = open_clip.tokenizer.HFTokenizer(str(tmp_path), 24, clean="lower", local_files_only=True)
    assert torch.equal(ids, theirs(texts))
    assert (ids[:, 0] == learnt.bos_token_id).all() and (ids == learnt.eos_token_id).any(1).all()
    assert learnt.decode(ids[-1], skip_special_tokens=True).strip() == "an unseen word : naïve 4 2 !"


def test_the_tokenizer_learns_the_words_of_its_captions():
    learnt = learn_tokenizer(TEXTS)
    assert 512 < len(learnt) <= 1024 and learnt.model_max_length == MAX_LENGTH
    assert learnt.tokenize("a sneaker") == ["a</w>", "sneaker</w>"]
    assert len(learnt.tokenize("zeppelin")) > 1  # unseen: in pieces
    assert len(learnt) == len(set(learnt.get_vocab().values()))
    assert learn_tokenizer(TEXTS).get_vocab() == learnt.get_vocab()


def test_an_image_does_not_depend_on_its_batch(pipeline):
    together = drawn(pipeline)
    assert together.shape == (5, 32, 32, 3) and together.dtype == np.uint8
    assert together.std() > 10  # something to compare
    for batch_size in (1, 2):
        assert abs(drawn(pipeline, batch_size=batch_size).astype(int) - together).max() <= 1
    order = [3, 0, 4, 2, 1]
    mixed = drawn(pipeline, [PROMPTS[i] for i in order], order)
    assert abs(mixed.astype(int) - together[order]).max() <= 1


def test_seed_prompt_and_guidance_matter(pipeline):
    one = {"prompts": ["a bag"] * 2, "seeds": [1, 2]}
    first, second = drawn(pipeline, **one).astype(int)
    assert abs(first - second).mean() > 3
    assert abs(drawn(pipeline, ["a coat"], [1]) - first).max() > 2
    assert abs(drawn(pipeline, ["a bag"], [1], guidance_scale=1.0) - first).max() > 2
    assert abs(drawn(pipeline, ["a bag"], [1], steps=3) - first).max() > 2
    assert abs(drawn(pipeline, ["a bag"], [1]) - first).max() <= 1


def test_every_prompt_needs_a_seed(pipeline):
    with pytest.raises(InputError, match="seeds: found 2 for 3 prompts"):
        sample_images(pipeline, PROMPTS[:3], [1, 2])


def test_a_folder_without_a_pipeline_is_refused(tmp_path):
    with pytest.raises(InputError, match="no model_index.json; expected a folder saved by a diffusers"):
        load_pipeline(tmp_path)


@pytest.fixture(scope="module")
def made(generator, tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    return folder, sample_set(folder, generator, PROMPTS, LABELS, NAMES, FAST, shard=2)


def test_a_generated_set_says_where_it_comes_from(made, pipeline):
    folder, ds = made
    check_image_set(ds, "generated")
    assert class_names(ds) == list(NAMES) and ds["label"][:] == LABELS
    seeds = [(5 << 32) + i for i in range(5)]
    assert ds["prompt"][:] == PROMPTS and ds["seed"][:] == seeds
    assert set(ds["source"]) == {"synthetic"} and set(ds["generator"]) == {"tiny"}
    assert set(ds["guidance_scale"]) == {3.0} and ds["id"][1] == f"tiny-{seeds[1]}"
    assert abs(to_arrays(ds)[0].astype(int) - drawn(pipeline, seeds=seeds)).max() <= 1
    assert sorted(path.name for path in folder.glob("*.parquet")) == [
        "0000000.parquet",
        "0000002.parquet",
        "0000004.parquet",
    ]
    settings = json.loads((folder / "settings.json").read_text())
    assert settings["generator"] == "tiny" and len(settings["weights"]) == 64


def test_a_deleted_shard_alone_is_drawn_again(made, generator, monkeypatch):
    folder, ds = made
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.glob("*.parquet")}
    (folder / "0000002.parquet").unlink()
    drawn_seeds, load = [], StableDiffusion.load
    monkeypatch.setattr(
        StableDiffusion, "load", lambda self: lambda *ask: drawn_seeds.append(ask[1]) or load(self)(*ask)
    )
    again = sample_set(folder, generator, PROMPTS, LABELS, NAMES, FAST, shard=2)
    assert drawn_seeds == [[(5 << 32) + 2, (5 << 32) + 3]]
    assert (folder / "0000002.parquet").read_bytes() == before["0000002.parquet"][0]
    for name in ("0000000.parquet", "0000004.parquet"):
        assert (folder / name).stat().st_mtime_ns == before[name][1]
    assert np.array_equal(to_arrays(again)[0], to_arrays(ds)[0])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"sampling": replace(FAST, guidance_scale=2.0)}, "other guidance_scale"),
        ({"sampling": replace(FAST, seed=1, steps=3)}, "other steps, seed"),
        ({"prompts": ["a hat", *PROMPTS[1:]]}, "other prompts"),
        ({"shard": 3}, "another shard size"),
    ],
)
def test_a_folder_of_other_images_is_refused(made, generator, monkeypatch, change, named):
    folder, _ = made
    monkeypatch.setattr(sample, "_draw_shard", lambda *given: None)
    settings = {"prompts": PROMPTS, "sampling": FAST, "shard": 2} | change
    with pytest.raises(InputError, match=f"{folder}.*: .*{named}"):
        sample_set(folder, generator, labels=LABELS, class_names=NAMES, **settings)
    assert sample_set(folder, generator, PROMPTS, LABELS, NAMES, FAST, shard=2).num_rows == 5


def test_a_retrained_generator_is_another_generator(made, generator, tmp_path):
    folder, _ = made
    retrained = tmp_path / "tiny"
    new_pipeline(learn_tokenizer(TEXTS, 600), autoencoder(seed=1)).save_pretrained(retrained)
    with pytest.raises(InputError, match=f"{folder}: holds images drawn with other weights;"):
        sample_set(folder, retrained, PROMPTS, LABELS, NAMES, FAST, shard=2)


class Grey:
    """The smallest generator: an image as bright as its seed."""

    name = "grey"

    def fingerprint(self):
        return "0" * 64

    def load(self):
        return lambda prompts, seeds, guidance_scale, steps: np.stack(
            [np.full((4, 4, 3), seed % 256, np.uint8) for seed in seeds]
        )


def test_any_generator_draws_a_set(tmp_path):
    ds = sample_set(tmp_path, Grey(), PROMPTS, LABELS, NAMES, shard=2)
    assert to_arrays(ds)[0][:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert set(ds["generator"]) == {"grey"} and ds["id"][4] == "grey-4"


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ("kind: gan", "kind: .*'gan'"),
        ("steps: 5", "stable-diffusion.steps: Extra inputs"),
        ("kind: singdiffusion", "singdiffusion.base: Field required"),
        ("- a list", "expected settings such as"),
    ],
)
def test_settings_that_mean_nothing_are_refused(tmp_path, settings, named):
    (tmp_path / "generator.yaml").write_text(settings)
    with pytest.raises(InputError, match=f"{tmp_path}/generator.yaml: .*{named}"):
        open_generator(tmp_path)


@pytest.fixture(scope="module")
def epsilon(generator, tmp_path_factory):
    """A few steps of an epsilon variant: its folder, its losses, and the pipeline that was trained."""
    images = torch.randint(
        256, (16, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    variant = epsilon_pipeline(load_pipeline(generator, "cpu"))
    recipe = Recipe(steps=12, batch_size=8, learning_rate=1e-3, warmup_steps=1)
    losses = train_denoiser(variant, images, TEXTS[:16], recipe)
    folder = tmp_path_factory.mktemp("variants") / "tiny-epsilon"
    folder.mkdir()
    save_epsilon(variant, folder, os.path.relpath(generator, folder))
    return folder, losses, variant


def test_an_epsilon_model_learns_from_the_velocity_model(epsilon, pipeline):
    _, losses, variant = epsilon
    assert np.mean(losses[-4:]) < np.mean(losses[:4])
    old, new = pipeline.unet.state_dict(), variant.unet.state_dict()
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert changed == {name for name in old if name.startswith(RELEARNT)}
    weights = [part.text_encoder.state_dict().values() for part in (pipeline, variant)]
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_an_epsilon_model_samples_as_sd15_does(epsilon):
    scheduler = epsilon[2].scheduler
    scheduler.set_timesteps(10)
    assert scheduler.config.prediction_type == "epsilon" and scheduler.timesteps[0] == 901
    assert scheduler.alphas_cumprod[-1] == pytest.approx(0.00466, abs=1e-5)


def test_a_variant_holds_what_differs_and_needs_its_base(epsilon, generator, tmp_path):
    folder, _, variant = epsilon
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 2 * 2**20
    opened = open_generator(folder)
    assert opened.name == "tiny-epsilon" and opened.fingerprint() != open_generator(generator).fingerprint()
    variant.unet.half().float()  # as it was saved
    variant.set_progress_bar_config(disable=True)
    expected = drawn(variant)
    assert abs(opened.load()(PROMPTS, range(5), 3.0, 2).astype(int) - expected).max() <= 1
    other = new_pipeline(learn_tokenizer(TEXTS, 600), autoencoder(seed=1))
    other.save_pretrained(tmp_path / "other")
    moved = StableDiffusion(**dict(opened) | {"base": tmp_path / "other"})
    with pytest.raises(InputError, match=f"{folder}: was trained for other weights than .*other holds"):
        moved.load()
    foreign = shutil.copytree(folder, tmp_path / "foreign")
    save_file({"conv_up.weight": torch.zeros(1)}, foreign / "unet.safetensors")
    with pytest.raises(InputError, match="foreign/unet.safetensors: the base has no conv_up.weight"):
        StableDiffusion(folder=foreign, base=generator).load()
