"""The memory that baking takes: a full-size VAE, a checkpoint of 2 GB, a fresh process."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from support.checkpoints import write_checkpoint
from support.fresh_process import needs_linux, peaks
from vaelens.families.discovery import build_network
from vaelens.vae import VAE
from vaelens.weights.registry import registry


@pytest.mark.slow
@needs_linux
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_peak_memory_is_the_vaes_whatever_the_checkpoints_size(dtype: torch.dtype, tmp_path: Path) -> None:
    """A full-size VAE and a checkpoint of 2 GB: below 1.5 times the VAE and 200 MB.

    Python and PyTorch are included, which alone may take more than the 200 MB.
    """
    spec = registry().space_spec("sd1")
    vae = VAE(build_network(spec.config), spec, "full")
    save_file({n: t.to(dtype) for n, t in vae.network.state_dict().items()}, tmp_path / "vae.safetensors")
    others = {f"model.diffusion_model.{n}": torch.full((50_000_000,), float(n)) for n in range(8)}
    others["cond_stage_model.x"] = torch.ones(3)
    write_checkpoint(tmp_path / "in.safetensors", vae, others=others, dtype=dtype)
    del others, vae
    size, whole = ((tmp_path / name).stat().st_size for name in ("vae.safetensors", "in.safetensors"))
    assert whole > 1.7e9
    paths = [str(tmp_path / name) for name in ("vae.safetensors", "in.safetensors", "out.safetensors")]
    start, peak = peaks(f"vl.bake(*{paths!r}, space='sd1')")
    print(
        f"VAE {size / 1e6:.0f} MB, checkpoint {whole / 1e6:.0f} MB: peak {peak / 1e6:.0f} MB, {start / 1e6:.0f} before"
    )
    assert peak < 1.5 * size + max(200e6, start)
