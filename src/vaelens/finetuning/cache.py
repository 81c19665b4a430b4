"""Posteriors kept from the first look at an image on: the encoder is frozen, and an image always the same crop.

Each is computed by itself, so that what is kept doesn't depend on its company, nor on where a run was stopped.
"""

import torch

from vaelens.finetuning.images import Batch
from vaelens.finetuning.step import Setting
from vaelens.networks.autoencoder_kl import AutoencoderKL, DiagonalGaussian


class PosteriorCache:
    """Moments of images by id and content, on the CPU: 32 KB an image of 256x256 for an f8c4 VAE."""

    def __init__(self, network: AutoencoderKL, setting: Setting) -> None:
        self._network = network
        self._setting = setting
        self._moments: dict[tuple[str, str], torch.Tensor] = {}

    @torch.no_grad()
    def posterior(self, batch: Batch) -> DiagonalGaussian:
        """Of a batch, on the network's device."""
        weight = next(self._network.parameters())
        for number, sample in enumerate(batch.samples):
            key = (sample.id, sample.sha256)
            if key not in self._moments:
                pixels = batch.image[number : number + 1].to(weight) * 2 - 1
                with self._setting.networks(weight.device):
                    self._moments[key] = self._network.moments(pixels).cpu()
        found = torch.cat([self._moments[sample.id, sample.sha256] for sample in batch.samples])
        return DiagonalGaussian.from_moments(found.to(weight))
