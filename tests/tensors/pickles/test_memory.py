"""The memory that a VAE of a large pickled checkpoint takes: a full-size VAE, 1 GB beside it, a fresh process."""

from pathlib import Path

import pytest
import torch

from support.checkpoints import stored_vae
from support.fresh_process import needs_linux, peaks
from vaelens.families.discovery import build_network
from vaelens.vae import VAE
from vaelens.weights.registry import registry


@pytest.mark.slow
@needs_linux
@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_a_checkpoint_costs_its_vaes_size(form: str, tmp_path: Path) -> None:
    spec = registry().space_spec("sd1")
    tensors = stored_vae(VAE(build_network(spec.config), spec, "full"), "ldm", torch.float32)
    size = sum(tensor.nbytes for tensor in tensors.values())
    tensors = {f"first_stage_model.{name}": tensor for name, tensor in tensors.items()}
    tensors |= {f"model.diffusion_model.{n}": torch.full((50_000_000,), float(n)) for n in range(5)}
    path = tmp_path / "model.ckpt"
    torch.save({"state_dict": tensors, "epoch": 3}, path, _use_new_zipfile_serialization=form == "zip")
    del tensors
    start, peak = peaks(f"vl.load({str(path)!r}, device='cpu', space='sd1')")
    print(f"{form}: VAE {size / 1e6:.0f} MB of {path.stat().st_size / 1e6:.0f}: {(peak - start) / 1e6:.0f} MB more")
    assert peak - start < size + 50e6
