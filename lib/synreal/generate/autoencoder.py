"""A small autoencoder that StableDiffusionPipeline can use in place of `AutoencoderKL`.

Space-to-depth comes first, so that every convolution runs at latent resolution: on two CPU cores this
reconstructs four times better, for the same training time, than convolutions from full resolution down.
Saved pipelines name this module in `model_index.json`.
"""

from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with group norm before each."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class PatchAutoencoder(ModelMixin, ConfigMixin):
    """Images [N, 3, H, W] in -1..1 to standardised latents [N, latent_channels, H / 4, W / 4] and back.

    `latent_mean` and `latent_std` are measured after training (`standardise`), so that the pipeline's scaling
    factor is 1 and each latent channel has mean 0 and variance 1.
    """

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 8,
        width: int = 128,
        encoder_blocks: int = 3,
        decoder_blocks: int = 4,
        block_out_channels: tuple[int, ...] = (
            128,
            128,
            128,
        ),  # the pipeline reads the factor 4 = 2**2 off it
        scaling_factor: float = 1.0,
        force_upcast: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(4), nn.Conv2d(48, width, 3, padding=1),
            *(ResidualBlock(width) for _ in range(encoder_blocks)),
            nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, 2 * latent_channels, 1),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Conv2d(latent_channels, width, 3, padding=1),
            *(ResidualBlock(width) for _ in range(decoder_blocks)),
            nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, 48, 3, padding=1), nn.PixelShuffle(4),
        )  # fmt: skip
        self.register_buffer("latent_mean", torch.zeros(1, latent_channels, 1, 1))
        self.register_buffer("latent_std", torch.ones(1, latent_channels, 1, 1))

    def posterior(self, x: Tensor) -> DiagonalGaussianDistribution:
        """The raw posterior, before standardisation: what training sees."""
        return DiagonalGaussianDistribution(self.encoder(x))

    def encode(self, x: Tensor, return_dict: bool = True) -> Any:
        """Posterior over standardised latents, in diffusers' own output type."""
        mean, logvar = self.encoder(x).chunk(2, dim=1)
        moments = [(mean - self.latent_mean) / self.latent_std, logvar - 2 * self.latent_std.log()]
        posterior = DiagonalGaussianDistribution(torch.cat(moments, dim=1))
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    def decode(self, z: Tensor, return_dict: bool = True, generator: torch.Generator | None = None) -> Any:
        """Images from standardised latents; `generator` is part of diffusers' signature and not needed."""
        image = self.decoder(z * self.latent_std + self.latent_mean)
        return DecoderOutput(sample=image) if return_dict else (image,)

    def standardise(self, images: Tensor) -> None:
        """Set the latents' mean and deviation from `images` [N, 3, H, W]."""
        with torch.no_grad():
            latents = torch.cat([self.posterior(batch).mode() for batch in images.split(512)])
        self.latent_mean.copy_(latents.mean((0, 2, 3), keepdim=True))
        self.latent_std.copy_(latents.std((0, 2, 3), keepdim=True))

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.posterior(x).mode())
