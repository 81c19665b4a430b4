"""DINOv2's features for a Frechet distance, as Stein et al. 2023 (https://arxiv.org/abs/2306.04675) have them.

ViT-L/14 at 224x224, resized by Pillow's antialiased bicubic, normalised as ImageNet; the class token after the
last layer norm, 1,024 numbers. The model is facebook/dinov2-large (Apache-2.0, 1.2 GB), downloaded once.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from vaelens.adapters.libraries import quiet, transformers
from vaelens.download.hub import RemoteFile, fetch
from vaelens.errors import BadInputError
from vaelens.files import sha256_file
from vaelens.images.resizing import resize_and_crop
from vaelens.resources import preserved_random_state
from vaelens.runtime import DEFAULT, Runtime

REPOSITORY = "facebook/dinov2-large"
SIDE = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, as the model was trained with


@dataclass(frozen=True)
class DINOv2:
    """The network on its device; sha256 of its weights."""

    model: Any
    sha256: str

    @torch.no_grad()
    def features(self, pixels: Tensor) -> Tensor:
        """uint8 [b,3,h,w], square, to fp32 [b,1024]."""
        small = [resize_and_crop(p.permute(1, 2, 0).cpu().numpy(), SIDE, "pillow_bicubic") for p in pixels]
        device = self.model.device
        image = torch.as_tensor(np.stack(small)).permute(0, 3, 1, 2).to(device).float() / 255
        mean, std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (MEAN, STD))
        return self.model(pixel_values=(image - mean) / std).pooler_output


def load_dinov2(
    device: torch.device,
    *,
    repository: str = REPOSITORY,
    runtime: Runtime = DEFAULT,
) -> DINOv2:
    """The network in fp32. Raises BadInputError for damaged files, as `fetch` and as `check_torchvision`."""
    library = transformers()
    config, weights = (fetch(RemoteFile(repository, name), runtime) for name in ("config.json", "model.safetensors"))
    try:
        if config.parent != weights.parent:
            raise ValueError("config and weights are of two commits")
        with quiet(), preserved_random_state():  # it is made of random numbers before it is read
            model, found = library.Dinov2Model.from_pretrained(
                weights.parent, local_files_only=True, dtype=torch.float32, output_loading_info=True
            )
        if lacking := [*found["missing_keys"], *found["mismatched_keys"], *found["unexpected_keys"]]:
            raise ValueError(f"other tensors: {', '.join(map(str, lacking[:4]))}")
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = str(error).partition("\n")[0]
        raise BadInputError(f"{weights}: not the weights of DINOv2 ViT-L/14 ({reason}). Download it again.") from error
    return DINOv2(model.eval().requires_grad_(False).to(device), sha256_file(weights))
