"""DeepFloyd IF: a tiny random cascade in its real layout, and the world's own."""

import shutil

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, IFPipeline, IFSuperResolutionPipeline, UNet2DConditionModel
from transformers import T5Config, T5EncoderModel, T5Tokenizer

from synreal.data.factors import captions, draw_factors
from synreal.data.scenes import scene_arrays
from synreal.errors import InputError
from synreal.generate import cascade
from synreal.generate.cascade import Cascade, new_cascade, save_cascade
from synreal.generate.pipeline import learn_tokenizer
from synreal.generate.sample import open_generator
from synreal.train.generator import train_pixels, train_upscaler
from synreal.train.recipes import Recipe

PROMPTS, SEEDS = ["a red bag", "a coat", "a dark shirt"], [7, 8, 9]
FEW = Recipe(steps=8, batch_size=8, learning_rate=2e-3, warmup_steps=1)


def deepfloyd_unet(**differences):
    """The blocks of IF's U-Nets, in small."""
    return UNet2DConditionModel(
        block_out_channels=(32, 32), layers_per_block=1, norm_num_groups=4, attention_head_dim=4,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        cross_attention_dim=32, encoder_hid_dim=24, encoder_hid_dim_type="text_proj",
        addition_embed_type="text", addition_embed_type_num_heads=2, cross_attention_norm="group_norm",
        resnet_time_scale_shift="scale_shift", time_embedding_act_fn="gelu", act_fn="gelu",
        out_channels=6, **differences,
    )  # fmt: skip


def t5():
    pieces = [
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", -9.0),
        *((f"▁{w}", -2.0) for w in ["a", "red", "bag", "coat"]),
    ]
    config = T5Config(vocab_size=200, d_model=24, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    return {"tokenizer": T5Tokenizer(vocab=pieces), "text_encoder": T5EncoderModel(config)}


@pytest.fixture(scope="module")
def deepfloyd(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "if"
    torch.manual_seed(0)
    # IF's noise: learned variance, dynamic thresholding, and a draw at every step.
    scheduler = DDPMScheduler(
        beta_schedule="squaredcos_cap_v2", variance_type="learned_range", thresholding=True,
        dynamic_thresholding_ratio=0.95, sample_max_value=1.5,
    )  # fmt: skip
    common = dict.fromkeys(["safety_checker", "feature_extractor", "watermarker"])
    common |= {"scheduler": scheduler, "requires_safety_checker": False}
    base = IFPipeline(unet=deepfloyd_unet(sample_size=8, in_channels=3), **t5(), **common)
    base.save_pretrained(folder / "IF-I")
    upscaler = IFSuperResolutionPipeline(
        unet=deepfloyd_unet(sample_size=16, in_channels=6, class_embed_type="timestep"),
        image_noising_scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        **t5(),
        **common,
    )
    upscaler.save_pretrained(folder / "IF-II")
    (folder / "generator.yaml").write_text("kind: cascade\nbase: IF-I\nupscaler: IF-II\nbatch_size: 3\n")
    return folder


def test_deepfloyd_draws_every_image_by_itself(deepfloyd):
    found = open_generator(deepfloyd)
    assert isinstance(found, Cascade) and (found.noise_level, found.upscaler_guidance) == (250, 4.0)
    together = found.load()(PROMPTS, SEEDS, 7.0, 3)
    assert together.shape == (3, 16, 16, 3) and together.dtype == np.uint8 and together.std() > 5
    alone = Cascade(**dict(found) | {"batch_size": 2}).load()(PROMPTS[::-1], SEEDS[::-1], 7.0, 3)
    assert abs(together.astype(int) - alone[::-1]).max() <= 1


def test_a_missing_stage_is_named(deepfloyd):
    broken = Cascade(folder=deepfloyd, base="IF-I", upscaler="IF-III")
    with pytest.raises(InputError, match="IF-III: no model_index.json.*IFSuperResolutionPipeline, with"):
        broken.load()
    with pytest.raises(InputError, match="IF-III: holds no weights"):
        broken.fingerprint()


def test_a_sentencepiece_model_needs_its_library(deepfloyd, tmp_path, monkeypatch):
    copied = shutil.copytree(deepfloyd, tmp_path / "if")
    model = copied / "IF-I" / "tokenizer" / "spiece.model"
    (model.parent / "tokenizer.json").rename(model)
    monkeypatch.setattr(cascade, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=f"{model}: reading it needs the package sentencepiece and google"):
        open_generator(copied).load()


def test_the_worlds_cascade_learns_saves_and_draws(tmp_path):
    images = torch.from_numpy(scene_arrays("upstream", 32)[0])
    texts = captions([draw_factors(index, "upstream") for index in range(32)], "upstream")
    torch.manual_seed(0)
    base, upscaler = new_cascade(learn_tokenizer(texts, 600))
    losses = train_pixels(base, images, texts, FEW)
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    text_encoder = {name: w.clone() for name, w in base.text_encoder.state_dict().items()}
    losses = train_upscaler(upscaler, base, images, texts, FEW)
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    assert all(torch.equal(text_encoder[name], w) for name, w in base.text_encoder.state_dict().items())

    save_cascade(base, upscaler, tmp_path)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors")) < 4 * 2**20
    together = open_generator(tmp_path).load()(PROMPTS, SEEDS, 3.0, 2)
    assert together.shape == (3, 32, 32, 3)
    alone = Cascade(**dict(open_generator(tmp_path)) | {"batch_size": 1}).load()(PROMPTS, SEEDS, 3.0, 2)
    assert abs(together.astype(int) - alone).max() <= 1
