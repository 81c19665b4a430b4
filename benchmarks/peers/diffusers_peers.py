"""diffusers' AutoencoderKL: plain, channels-last, in bfloat16, tiled; in double precision it is the reference."""

import torch
from diffusers import AutoencoderKL
from resident_memory import read_pages
from torch import Tensor, nn

from peers.job import Job, Loaded


class Half(nn.Module):
    """The raw half that a task needs, as one module: what the other peers convert."""

    def __init__(self, vae: AutoencoderKL, task: str) -> None:
        super().__init__()
        decode = task == "decode"
        self.task = task
        self.network = vae.decoder if decode else vae.encoder
        self.projection = vae.post_quant_conv if decode else vae.quant_conv

    def forward(self, x: Tensor) -> Tensor:
        """Raw z to raw pixels, or raw pixels to moments."""
        return self.network(self.projection(x)) if self.task == "decode" else self.projection(self.network(x))


def read_half(job: Job, dtype: torch.dtype = torch.float32) -> Half:
    """The half of the VAE in the work folder; the other half isn't kept."""
    vae = AutoencoderKL.from_pretrained(job.folder / "vae", torch_dtype=dtype).eval()
    half = Half(vae, job.task)
    read_pages(half)
    return half


def load(job: Job, dtype: torch.dtype = torch.float32, channels_last: bool = False) -> Loaded:
    """The input's layout is the weights'; both conversions are inside the clock."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    half = read_half(job, dtype).to(memory_format=layout)
    kept = torch.float64 if dtype == torch.float64 else torch.float32
    return Loaded(lambda x: half(x.to(dtype, memory_format=layout)).to(kept).contiguous())


def load_tiled(job: Job) -> Loaded:
    """Tiles of 512x512 pixels: another function, with seams. Its error says how far it is off."""
    vae = AutoencoderKL.from_pretrained(job.folder / "vae").eval().to(memory_format=torch.channels_last)
    vae.enable_tiling()
    read_pages(vae)
    if job.task == "decode":
        return Loaded(lambda z: vae.decode(z).sample.contiguous())
    return Loaded(lambda x: vae.encode(x).latent_dist.parameters.contiguous())
