"""Training of the world's generator: the autoencoder, then the text-conditional denoiser."""

from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline
from torch import Tensor, nn
from torch.nn import functional as F

from synreal.generate.autoencoder import PatchAutoencoder
from synreal.generate.tokenizer import MAX_LENGTH
from synreal.train.loop import Recipe, device_of, fit

AUTOENCODER = Recipe(steps=1400, batch_size=64, learning_rate=2e-3, weight_decay=0.0)
DENOISER = Recipe(
    steps=2600, batch_size=128, learning_rate=2e-3, weight_decay=0.01, warmup_steps=200, ema_decay=0.999
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
) -> None:
    """Train the pipeline's text encoder and denoiser in place on captioned images (uint8 [N, 32, 32, 3])."""
    torch.manual_seed(recipe.seed)
    noise = DDPMScheduler.from_config(pipeline.scheduler.config)
    latents, tokens = _latents(pipeline.vae, images), _tokens(pipeline, captions)
    empty = _tokens(pipeline, [""])
    pipeline.unet.to(memory_format=torch.channels_last)

    def loss(model: Any, rows: Tensor, generator: torch.Generator) -> Tensor:
        clean, text = latents[rows], tokens[rows]
        text = torch.where(torch.rand(len(rows), 1, generator=generator) < DROPPED_CAPTIONS, empty, text)
        steps = torch.randint(noise.config.num_train_timesteps, (len(rows),), generator=generator)
        added = torch.randn(clean.shape, generator=generator)
        noisy, target = noise.add_noise(clean, added, steps), noise.get_velocity(clean, added, steps)
        device = device_of(model)
        return F.mse_loss(model(noisy.to(device), steps.to(device), text.to(device)), target.to(device))

    fit(_TextConditional(pipeline), loss, len(images), recipe, folder, "denoiser")


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
