"""What is exported: encoder and decoder by the names and ranges that pipelines of Stable Diffusion expect.

| graph | input | output |
|---|---|---|
| `vae_encoder` | `sample`: pixels [b,3,h,w] in [-1,1] | `latent_parameters`: moments [b,2c,h/f,w/f], means first |
| | | of a VAE without a posterior `latent_sample`: z [b,c,h/f,w/f] |
| `vae_decoder` | `latent_sample`: raw z [b,c,h,w] | `sample`: pixels [b,3,fh,fw], about [-1,1], not clamped |

Batch and sizes are free; h and w of pixels are multiples of the factor. The scale and shift of latents stay outside:
pipelines read them from the `config.json` beside each graph. Inputs and outputs are float32.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from vaelens.families.spec import VAESpec
from vaelens.networks.autoencoder_kl import DiagonalGaussian
from vaelens.vae import VAE

Run = Callable[[Tensor], Tensor]  # an input to its output, float32 on the CPU
ENCODER, DECODER = "vae_encoder", "vae_decoder"
# The files of a graph by format, the one that is opened first.
FILES: dict[str, tuple[str, ...]] = {"onnx": ("model.onnx",), "openvino": ("openvino_model.xml", "openvino_model.bin")}


@dataclass(frozen=True)
class Graph:
    """One direction of a VAE: the module that is traced, an input of its shape, and the names of input and output."""

    name: str
    module: nn.Module
    example: Tensor
    input: str
    output: str


class Format(Protocol):
    """A file format of graphs; FILES names their files."""

    def write(self, graph: Graph, folder: Path, *, half: bool, metadata: str) -> None:
        """Write a graph's files to a folder; with `half`, weights that float16 holds exactly are stored as such."""
        ...

    def open(self, folder: Path) -> Run:
        """What runs the graph in a folder, on the CPU and in float32."""
        ...


class _Encoder(nn.Module):
    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.network, self.spec = vae.network, vae.spec

    def forward(self, sample: Tensor) -> Tensor:
        low, high = self.spec.pixel_range
        pixels = sample if (low, high) == (-1, 1) else (sample + 1) * ((high - low) / 2) + low
        posterior = self.spec.family.encode(self.network, pixels)
        return posterior.mean if posterior.logvar is None else torch.cat([posterior.mean, posterior.logvar], dim=1)


class _Decoder(nn.Module):
    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.network, self.spec = vae.network, vae.spec

    def forward(self, latent_sample: Tensor) -> Tensor:
        low, high = self.spec.pixel_range
        pixels = self.spec.family.decode(self.network, latent_sample)
        return pixels if (low, high) == (-1, 1) else (pixels - low) * (2 / (high - low)) - 1


def graphs(vae: VAE) -> tuple[Graph, Graph]:
    """Encoder and decoder of a VAE in float32 on the CPU."""
    cells = 8, 12  # neither square nor of one: a tracer takes such sizes for constants
    pixels = torch.zeros(2, 3, *(side * vae.spec.factor for side in cells))
    z = torch.zeros(2, vae.spec.latent_channels, *cells)
    with torch.no_grad():
        has_spread = vae.encode(pixels).posterior.logvar is not None
    output = "latent_parameters" if has_spread else "latent_sample"
    return (
        Graph(ENCODER, _Encoder(vae).eval(), pixels, "sample", output),
        Graph(DECODER, _Decoder(vae).eval(), z, "latent_sample", "sample"),
    )


class ExportedNetwork(nn.Module):
    """Exported graphs as the network of a VAE, for `VAE` to call like the one that they were made from."""

    def __init__(self, spec: VAESpec, encoder: Run, decoder: Run) -> None:
        super().__init__()
        self.config, self.spec = spec.config, spec
        self.encoder, self.decoder = encoder, decoder
        self.where = nn.Parameter(torch.zeros(0), requires_grad=False)  # by which VAE knows device and dtype

    def posterior(self, pixels: Tensor) -> DiagonalGaussian:
        """Pixels [b,3,h,w] in the spec's range to q(z|x)."""
        low, high = self.spec.pixel_range
        found = self.encoder((pixels - low) * (2 / (high - low)) - 1)
        if found.shape[1] == self.spec.latent_channels:
            return DiagonalGaussian.deterministic(found)
        return DiagonalGaussian.from_moments(found)

    def decode(self, z: Tensor) -> Tensor:
        """Raw z to pixels [b,3,h,w] in the spec's range."""
        low, high = self.spec.pixel_range
        return (self.decoder(z) + 1) * ((high - low) / 2) + low
