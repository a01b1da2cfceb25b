"""SingDiffusion: a first step that knows no time, before a pipeline that predicts noise."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler

from synreal.data.factors import captions, draw_factors
from synreal.errors import InputError
from synreal.generate.autoencoder import PatchAutoencoder
from synreal.generate.pipeline import epsilon_pipeline, learn_tokenizer, new_pipeline, save_epsilon
from synreal.generate.sample import open_generator
from synreal.generate.singdiffusion import (
    SingDiffusion,
    initial_latents,
    load_initial_step,
    new_initial_step,
    save_initial_step,
)
from synreal.train.generator import train_initial_step
from synreal.train.recipes import Recipe

TEXTS = captions([draw_factors(index, "upstream") for index in range(64)], "upstream")
PROMPTS, SEEDS = ["a red bag", "a coat", "a dark shirt"], [7, 8, 9]


@pytest.fixture(scope="module")
def pipeline():
    torch.manual_seed(0)
    autoencoder = PatchAutoencoder(latent_channels=4, width=16, encoder_blocks=1, decoder_blocks=1).eval()
    pipeline = epsilon_pipeline(new_pipeline(learn_tokenizer(TEXTS, 600), autoencoder))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def zoo(pipeline, tmp_path_factory):
    """A pipeline, its epsilon variant and an initial step, side by side, as they ship; with some contrast."""
    folder = tmp_path_factory.mktemp("zoo")
    with torch.no_grad():
        pipeline.vae.decoder[-2].weight.mul_(8)
    pipeline.save_pretrained(folder / "generator")
    (folder / "epsilon").mkdir()
    save_epsilon(pipeline, folder / "epsilon", "../generator")
    torch.manual_seed(1)
    save_initial_step(new_initial_step(pipeline), folder / "sing", "../epsilon")
    return folder


def noise():
    return [torch.Generator().manual_seed(seed) for seed in SEEDS]


@torch.no_grad()
def test_the_initial_step_knows_no_time(pipeline):
    unet = new_initial_step(pipeline).eval()
    x, text = torch.randn(2, 4, 8, 8), torch.randn(2, 32, 128)
    assert torch.equal(unet(x, 0, text).sample, unet(x, 999, text).sample)
    assert not [name for name in unet.state_dict() if "time_emb_proj" in name]


def test_a_saved_initial_step_is_the_same_from_either_file(zoo, tmp_path):
    unet = load_initial_step(zoo / "sing")
    assert not unet.training and unet.dtype == torch.float32
    unet.save_config(tmp_path)
    torch.save(unet.state_dict(), tmp_path / "diffusion_pytorch_model.bin")  # as published
    state, published = unet.state_dict(), load_initial_step(tmp_path).state_dict()
    assert state.keys() == published.keys() and all(torch.equal(state[k], published[k]) for k in state)


class Constant(torch.nn.Module):
    """Says 2 for a prompt and 1 without one."""

    def forward(self, noise, time, text):
        self.calls = getattr(self, "calls", 0) + 1
        average = torch.full_like(noise, 3.0 - self.calls)
        return type("Output", (), {"sample": average})


@pytest.mark.parametrize(("guidance", "average"), [(1.0, 2.0), (2.0, (1 + 2 * (2 - 1)) / 2), (4.0, 5 / 4)])
@pytest.mark.parametrize("scheduler", [None, DDIMScheduler, EulerDiscreteScheduler])
def test_sampling_starts_from_the_noised_average(pipeline, monkeypatch, guidance, average, scheduler):
    if scheduler:
        monkeypatch.setattr(pipeline, "scheduler", scheduler.from_config(pipeline.scheduler.config))
    latents = initial_latents(Constant(), pipeline, PROMPTS, noise(), guidance, 5)
    start = torch.stack([torch.randn(4, 8, 8, generator=g) for g in noise()])
    steps = pipeline.scheduler
    kept = steps.alphas_cumprod[int(steps.timesteps[0])]
    assert 0.003 < kept < 0.2  # below the last noise level, above none
    expected = kept.sqrt() * average + (1 - kept).sqrt() * start
    if scheduler is EulerDiscreteScheduler:  # works on another scale, where nothing is damped
        expected = expected / kept.sqrt() / steps.init_noise_sigma
    assert torch.allclose(latents, expected, atol=1e-4)


def test_drawing_goes_through_both_models_image_by_image(zoo):
    sing = open_generator(zoo / "sing")
    assert isinstance(sing, SingDiffusion) and sing.name == "sing"
    together = sing.load()(PROMPTS, SEEDS, 3.0, 2).astype(int)
    assert together.shape == (3, 32, 32, 3) and together.std() > 5
    alone = SingDiffusion(**dict(sing) | {"batch_size": 2}).load()(PROMPTS, SEEDS, 3.0, 2)
    assert abs(together - alone).max() <= 1
    without = open_generator(zoo / "epsilon").load()(PROMPTS, SEEDS, 3.0, 2)
    assert abs(together - without).mean() > 1


def test_the_base_is_part_of_the_fingerprint(zoo):
    sing = open_generator(zoo / "sing")
    before = sing.fingerprint()
    scheduler = zoo / "epsilon" / "scheduler" / "scheduler_config.json"
    text = scheduler.read_text()
    scheduler.write_text(text.replace("leading", "trailing"))
    changed = sing.fingerprint()
    with pytest.raises(InputError, match="sing: was trained for other weights"):
        sing.load()
    scheduler.write_text(text)
    assert changed != before == sing.fingerprint()


def test_missing_and_foreign_weights_are_refused(pipeline, tmp_path):
    with pytest.raises(InputError, match=f"{tmp_path}: no initial step; put there config.json and"):
        load_initial_step(tmp_path)
    pipeline.unet.save_pretrained(tmp_path)  # knows time
    with pytest.raises(InputError, match="does not fit config.json as a U-Net without time: .*\n.*time_emb"):
        load_initial_step(tmp_path)


def test_training_learns_averages_and_leaves_the_pipeline_alone(pipeline):
    torch.manual_seed(0)
    initial = new_initial_step(pipeline)
    before = {name: w.clone() for name, w in pipeline.text_encoder.state_dict().items()}
    images = torch.full((64, 32, 32, 3), 30, dtype=torch.uint8)
    images[::2] = 220
    texts = ["a dark bag", "a bright bag"] * 32
    pipeline.vae.standardise(images.permute(0, 3, 1, 2).float() / 127.5 - 1 + torch.randn(64, 3, 32, 32) / 10)
    recipe = Recipe(steps=12, batch_size=8, learning_rate=2e-3, warmup_steps=1)
    losses = train_initial_step(initial, pipeline, images, texts, recipe)
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])
    assert all(torch.equal(before[name], w) for name, w in pipeline.text_encoder.state_dict().items())
