"""Stable Diffusion pipelines of any origin: tiny random ones, saved in the layout of the real ones."""

import shutil

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerAncestralDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel

from synreal.errors import InputError
from synreal.generate.backends import StableDiffusion, check_base, in_batches, load_pipeline, resized
from synreal.generate.pipeline import learn_tokenizer

PROMPTS, SEEDS = ["a red bag", "a coat", "a small shirt"], [7, 8, 9]
# The noise levels of SD v1.5 and SD v2.
LEVELS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
SD15 = PNDMScheduler(**LEVELS, skip_prk_steps=True, set_alpha_to_one=False)
SD2 = DDIMScheduler(**LEVELS, prediction_type="v_prediction", clip_sample=False, set_alpha_to_one=False)


def save_tiny(folder, scheduler, seed=0, **saving):
    """A pipeline with the parts of SD v1.5, of 16x16 pixels, its contrast raised."""
    torch.manual_seed(seed)
    tokenizer = learn_tokenizer(["a red bag", "a coat"], 540)
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=32,
        eos_token_id=tokenizer.eos_token_id, bos_token_id=tokenizer.bos_token_id,
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), attention_head_dim=2,
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=16,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 8), norm_num_groups=4, sample_size=16,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    with torch.no_grad():
        vae.decoder.conv_out.weight.mul_(3)
        unet.conv_out.weight.mul_(3)
    pipeline = StableDiffusionPipeline(
        vae=vae, text_encoder=CLIPTextModel(text), tokenizer=tokenizer, unet=unet, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.save_pretrained(folder, **saving)
    return folder


@pytest.fixture(scope="module")
def sd15(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("models") / "sd15", SD15)


def test_as_p1_draws_from_sd15(sd15):
    generator = StableDiffusion(folder=sd15, scheduler="ddim", size=8)
    assert generator.name == "sd15"
    scheduler = generator.pipeline().scheduler
    assert isinstance(scheduler, DDIMScheduler) and scheduler.config.prediction_type == "epsilon"
    assert (scheduler.config.clip_sample, scheduler.config.set_alpha_to_one) == (False, False)
    scheduler.set_timesteps(50)
    assert scheduler.timesteps[:2].tolist() == [981, 961] and scheduler.timesteps[-1] == 1
    assert scheduler.alphas_cumprod[-1] == pytest.approx(0.00466, abs=1e-5)  # noise never hides all
    images = generator.load()(PROMPTS, SEEDS, 2.0, 2)
    assert images.shape == (3, 8, 8, 3) and images.dtype == np.uint8 and images.std() > 5


def test_sd2_keeps_its_velocity_under_ddim(tmp_path):
    pipeline = StableDiffusion(folder=save_tiny(tmp_path / "sd2", SD2), scheduler="ddim").pipeline()
    assert pipeline.scheduler.config.prediction_type == "v_prediction"


def test_a_scheduler_that_adds_noise_does_not_mix_images(tmp_path):
    folder = save_tiny(tmp_path, EulerAncestralDiscreteScheduler(**LEVELS))
    together = StableDiffusion(folder=folder).load()(PROMPTS, SEEDS, 3.0, 3)
    alone = StableDiffusion(folder=folder, batch_size=1).load()(PROMPTS, SEEDS, 3.0, 3)
    assert together.std() > 5 and abs(together.astype(int) - alone).max() <= 1


def test_missing_weights_say_what_to_put_where(tmp_path):
    with pytest.raises(InputError, match=f"{tmp_path}: no model_index.json; .*StableDiffusionPipeline, with"):
        StableDiffusion(folder=tmp_path).load()
    with pytest.raises(InputError, match=f"{tmp_path}: holds no weights"):
        StableDiffusion(folder=tmp_path).fingerprint()
    save_tiny(tmp_path, SD15)
    next((tmp_path / "unet").glob("*.safetensors")).unlink()
    with pytest.raises(InputError, match=f"{tmp_path}: not a complete StableDiffusionPipeline"):
        StableDiffusion(folder=tmp_path).load()


def test_pickled_weights_are_refused(tmp_path):
    save_tiny(tmp_path, SD15, safe_serialization=False)
    with pytest.raises(InputError, match="not a complete StableDiffusionPipeline.*safetensors"):
        load_pipeline(tmp_path)


def test_half_precision_files_alone_will_do(tmp_path):
    pipeline = load_pipeline(save_tiny(tmp_path, SD15, variant="fp16"))
    assert (tmp_path / "unet" / "diffusion_pytorch_model.fp16.safetensors").exists()
    assert torch.cuda.is_available() or pipeline.unet.dtype == torch.float32


def test_a_fingerprint_follows_weights_and_settings_and_nothing_else(sd15, tmp_path):
    def of(folder, **settings):
        return StableDiffusion(folder=folder, **settings).fingerprint()

    moved = shutil.copytree(sd15, tmp_path / "moved")
    (moved / "README.md").write_text("words")
    assert of(sd15) == of(moved) == of(moved, batch_size=2)
    assert len({of(sd15), of(sd15, scheduler="ddim"), of(sd15, size=8)}) == 3
    save_tiny(moved, SD15, seed=1)
    assert of(moved) != of(sd15)
    retrained = StableDiffusion(folder=moved)
    check_base(sd15, retrained, of(moved))
    check_base(sd15, retrained, None)
    with pytest.raises(InputError, match=f"{sd15}: was trained for other weights than {moved} holds"):
        check_base(sd15, retrained, of(sd15))


def test_resizing_averages():
    image = np.zeros((1, 8, 8, 3), np.uint8)
    image[:, :, ::2] = 200
    assert resized(image, None) is image
    small = resized(image, 2)
    assert small.shape == (1, 2, 2, 3) and abs(small.astype(int) - 100).max() <= 10


def test_batches_put_every_image_in_its_place():
    def draw(prompts, noise, guidance_scale, steps):
        return np.stack([np.full((1, 1, 3), n.initial_seed() / 255) for n in noise])

    drawn = in_batches(draw, ["a"] * 5, [3, 1, 4, 1, 5], 2.0, 1, 2)
    assert drawn[:, 0, 0, 0].tolist() == [3, 1, 4, 1, 5]
