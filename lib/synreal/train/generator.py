"""Training of the world's generators: autoencoder, denoisers of latents, initial step, pixel cascade."""

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    DDPMScheduler,
    IFPipeline,
    IFSuperResolutionPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from torch import Tensor, nn
from torch.nn import functional as F

from synreal.generate.autoencoder import PatchAutoencoder
from synreal.generate.cascade import NOISE_LEVEL
from synreal.generate.pipeline import MAX_LENGTH
from synreal.generate.singdiffusion import average_latents
from synreal.train.loop import device_of, fit
from synreal.train.recipes import Recipe

AUTOENCODER = Recipe(steps=1400, batch_size=64, learning_rate=2e-3, weight_decay=0.0)
DENOISER = Recipe(
    steps=2600, batch_size=128, learning_rate=2e-3, weight_decay=0.01, warmup_steps=200, ema_decay=0.999
)
# From the weights of the denoiser: SD v2 became a v-prediction model in the same way, the other way round.
EPSILON = Recipe(
    steps=600, batch_size=128, learning_rate=1e-3, weight_decay=0.01, warmup_steps=50, ema_decay=0.995
)
INITIAL_STEP = Recipe(
    steps=600, batch_size=128, learning_rate=2e-3, weight_decay=0.01, warmup_steps=50, ema_decay=0.995
)
PIXELS = Recipe(
    steps=5000, batch_size=64, learning_rate=2e-3, weight_decay=0.01, warmup_steps=200, ema_decay=0.999
)
UPSCALER = Recipe(
    steps=1000, batch_size=64, learning_rate=2e-3, weight_decay=0.01, warmup_steps=100, ema_decay=0.995
)
KL_WEIGHT = 2e-3  # per latent element
DROPPED_CAPTIONS = 0.1  # trained without text, for classifier-free guidance


def to_signed(images: Tensor) -> Tensor:
    """uint8 [N, H, W, 3] to float [N, 3, H, W] in -1..1."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def train_autoencoder(
    images: Tensor, recipe: Recipe = AUTOENCODER, folder: Path | None = None
) -> PatchAutoencoder:
    """An autoencoder of `images` (uint8 [N, 32, 32, 3]): L1 reconstruction with a light KL term."""
    torch.manual_seed(recipe.seed)
    model = PatchAutoencoder().to(memory_format=torch.channels_last)

    shape = (model.config.latent_channels, images.shape[1] // 4, images.shape[2] // 4)

    def loss(model: Any, rows: Tensor, generator: torch.Generator) -> Tensor:
        x, noise = to_signed(images[rows]), torch.randn(len(rows), *shape, generator=generator)
        x, noise = x.to(device_of(model)), noise.to(device_of(model))
        reconstruction, kl = model(x, noise)
        return F.l1_loss(reconstruction, x) + KL_WEIGHT * kl.mean() / noise[0].numel()

    fit(_Reconstruction(model), loss, len(images), recipe, folder, "autoencoder")
    model.standardise(to_signed(images[:5000]))
    return model


class _Reconstruction(nn.Module):
    """The autoencoder as it is trained: a noisy latent, its image, and the KL term of each image."""

    def __init__(self, autoencoder: PatchAutoencoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        posterior = self.autoencoder.posterior(x)
        return self.autoencoder.decoder(posterior.mean + posterior.std * noise), posterior.kl()


class _TextConditional(nn.Module):
    """Text encoder and denoiser as one module, so that one optimiser trains both."""

    def __init__(self, pipeline: StableDiffusionPipeline) -> None:
        super().__init__()
        self.text_encoder, self.unet = pipeline.text_encoder, pipeline.unet

    def forward(self, noisy: Tensor, steps: Tensor, tokens: Tensor) -> Tensor:
        return self.unet(noisy, steps, self.text_encoder(tokens)[0]).sample


def train_denoiser(
    pipeline: StableDiffusionPipeline,
    images: Tensor,
    captions: list[str],
    recipe: Recipe = DENOISER,
    folder: Path | None = None,
) -> list[float]:
    """Train the pipeline's text encoder and denoiser in place on captioned images (uint8 [N, 32, 32, 3]).

    What is predicted, velocity or noise, is what the pipeline's scheduler expects; weights that require no
    gradient stay as they are: an `epsilon_pipeline` is trained so, with `recipe=EPSILON`. Returns the losses.
    """
    torch.manual_seed(recipe.seed)
    noise = DDPMScheduler.from_config(pipeline.scheduler.config)
    latents, tokens = _latents(pipeline.vae, images), _tokens(pipeline, captions)
    empty = _tokens(pipeline, [""])
    pipeline.unet.to(memory_format=torch.channels_last)

    def loss(model: Any, rows: Tensor, generator: torch.Generator) -> Tensor:
        text = _with_dropped(tokens[rows], empty, generator)
        noisy, steps, target = _noised(latents[rows], noise, generator)
        device = device_of(model)
        return F.mse_loss(model(noisy.to(device), steps.to(device), text.to(device)), target.to(device))

    return fit(_TextConditional(pipeline), loss, len(images), recipe, folder, "denoiser")


class _InitialStep(nn.Module):
    """The initial step behind a text encoder that is not trained, so that the pipeline stays as it is."""

    def __init__(self, initial: UNet2DConditionModel, pipeline: StableDiffusionPipeline) -> None:
        super().__init__()
        self.unet, self.text_encoder = initial, pipeline.text_encoder.requires_grad_(False)

    def forward(self, noise: Tensor, tokens: Tensor) -> Tensor:
        return average_latents(self.unet, noise, self.text_encoder(tokens)[0])


def train_initial_step(
    initial: UNet2DConditionModel,
    pipeline: StableDiffusionPipeline,
    images: Tensor,
    captions: list[str],
    recipe: Recipe = INITIAL_STEP,
    folder: Path | None = None,
) -> list[float]:
    """Train SingDiffusion's module in place on captioned images (uint8 [N, 32, 32, 3]); returns the losses.

    It sees pure noise and a caption and has to say the latents: the least squares leave it their average.
    """
    torch.manual_seed(recipe.seed)
    latents, tokens = _latents(pipeline.vae, images), _tokens(pipeline, captions)
    empty = _tokens(pipeline, [""])
    initial.to(memory_format=torch.channels_last)

    def loss(model: Any, rows: Tensor, generator: torch.Generator) -> Tensor:
        text = _with_dropped(tokens[rows], empty, generator)
        noise = torch.randn(latents[rows].shape, generator=generator)
        device = device_of(model)
        return F.mse_loss(model(noise.to(device), text.to(device)), latents[rows].to(device))

    return fit(_InitialStep(initial, pipeline), loss, len(images), recipe, folder, "initial step")


class _PixelConditional(nn.Module):
    """A stage of the cascade behind its T5 encoder; `text` [N, 2, length] holds tokens and their mask."""

    def __init__(self, text_encoder: nn.Module, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.text_encoder, self.unet = text_encoder, unet

    def forward(self, noisy: Tensor, steps: Tensor, text: Tensor, level: Tensor | None = None) -> Tensor:
        tokens, mask = text.unbind(1)
        hidden = self.text_encoder(tokens, attention_mask=mask)[0]
        predicted = self.unet(noisy, steps, hidden, class_labels=level).sample
        return predicted[:, :3]  # the rest is a variance that the world's sampler does not use


def train_pixels(
    base: IFPipeline,
    images: Tensor,
    captions: list[str],
    recipe: Recipe = PIXELS,
    folder: Path | None = None,
) -> list[float]:
    """Train the cascade's text encoder and first stage in place on captioned images (uint8 [N, 32, 32, 3]).

    Returns the losses.
    """
    torch.manual_seed(recipe.seed)
    noise = DDPMScheduler.from_config(base.scheduler.config)
    text, empty = _masked_tokens(base, captions), _masked_tokens(base, [""])
    base.unet.to(memory_format=torch.channels_last)

    def loss(model: Any, rows: Tensor, generator: torch.Generator) -> Tensor:
        asked = _with_dropped(text[rows], empty, generator)
        noisy, steps, target = _noised(_halved(to_signed(images[rows])), noise, generator)
        device = device_of(model)
        return F.mse_loss(model(noisy.to(device), steps.to(device), asked.to(device)), target.to(device))

    return fit(_PixelConditional(base.text_encoder, base.unet), loss, len(images), recipe, folder, "pixels")


def train_upscaler(
    upscaler: IFSuperResolutionPipeline,
    base: IFPipeline,
    images: Tensor,
    captions: list[str],
    recipe: Recipe = UPSCALER,
    folder: Path | None = None,
) -> list[float]:
    """Train the cascade's second stage in place, behind the trained text encoder of `base`, which is frozen.

    It sees the halved image, enlarged again and with noise of a random level, so that it forgives the base's
    faults. Returns the losses.
    """
    torch.manual_seed(recipe.seed)
    noise, disturb = DDPMScheduler.from_config(upscaler.scheduler.config), upscaler.image_noising_scheduler
    text, empty = _masked_tokens(base, captions), _masked_tokens(base, [""])
    upscaler.unet.to(memory_format=torch.channels_last)

    def loss(model: Any, rows: Tensor, generator: torch.Generator) -> Tensor:
        asked, clean = _with_dropped(text[rows], empty, generator), to_signed(images[rows])
        noisy, steps, target = _noised(clean, noise, generator)
        level = torch.randint(2 * NOISE_LEVEL, (len(rows),), generator=generator)
        enlarged = F.interpolate(_halved(clean), clean.shape[2:], mode="bilinear", align_corners=True)
        enlarged = disturb.add_noise(enlarged, torch.randn(clean.shape, generator=generator), level)
        seen, device = torch.cat([noisy, enlarged], dim=1), device_of(model)
        predicted = model(seen.to(device), steps.to(device), asked.to(device), level.to(device))
        return F.mse_loss(predicted, target.to(device))

    stage = _PixelConditional(base.text_encoder.requires_grad_(False), upscaler.unet)
    return fit(stage, loss, len(images), recipe, folder, "upscaler")


def _with_dropped(text: Tensor, empty: Tensor, generator: torch.Generator) -> Tensor:
    """The captions [N, ...], some of them replaced by the empty one."""
    dropped = torch.rand(len(text), 1, generator=generator) < DROPPED_CAPTIONS
    return torch.where(dropped.view(-1, *[1] * (text.ndim - 1)), empty, text)


def _noised(clean: Tensor, noise: DDPMScheduler, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy inputs at random steps, the steps, and what a model is to predict there."""
    steps = torch.randint(noise.config.num_train_timesteps, (len(clean),), generator=generator)
    added = torch.randn(clean.shape, generator=generator)
    velocity = noise.config.prediction_type == "v_prediction"
    target = noise.get_velocity(clean, added, steps) if velocity else added
    return noise.add_noise(clean, added, steps), steps, target


def _halved(images: Tensor) -> Tensor:
    """Images [N, 3, H, W] at half the size: the base stage's."""
    return F.avg_pool2d(images, 2)


def _masked_tokens(base: IFPipeline, captions: list[str]) -> Tensor:
    """Tokens and mask [N, 2, 77], cut and padded as IFPipeline does."""
    padded = base.tokenizer(
        captions, padding="max_length", truncation=True, max_length=77, return_tensors="pt"
    )
    return torch.stack([padded.input_ids, padded.attention_mask], dim=1)


@torch.no_grad()
def _latents(autoencoder: PatchAutoencoder, images: Tensor) -> Tensor:
    """Posterior means: their noise is far below what the denoiser can resolve."""
    return torch.cat([autoencoder.encode(to_signed(batch)).latent_dist.mode() for batch in images.split(512)])


def _tokens(pipeline: StableDiffusionPipeline, captions: list[str]) -> Tensor:
    return pipeline.tokenizer(
        captions,
        padding="max_length",
        truncation=True,
        max_length=MAX_LENGTH,
        return_tensors="pt",
    ).input_ids
