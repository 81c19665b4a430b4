"""The metric libraries that others wrote, to compare with: torch-fidelity, pytorch-fid, lpips, without downloads.

They import torchvision, of which there is no CPU build beside torch's (torchvision_operators.py). What these
packages deprecate isn't ours to mend, so their warnings are silent.
"""

import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from support import torchvision_operators  # noqa: F401


@contextmanager
def silence() -> Generator[None]:
    """No warning inside is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


with silence():
    import lpips
    import pytorch_fid.inception
    import torch_fidelity  # noqa: F401 - for other tests to find it importable
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x


def torch_fidelity_inception(weights: Path) -> nn.Module:
    """uint8 [b,3,h,w] to a tuple with one [b,2048]."""
    return FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=str(weights)).eval()


def torch_fidelity_resize(images: Tensor) -> Tensor:
    """Float [b,3,h,w] to [b,3,299,299], as TensorFlow 1 resizes."""
    return interpolate_bilinear_2d_like_tensorflow1x(images, size=(299, 299), align_corners=False)


def pytorch_fid_inception(weights: Path) -> nn.Module:
    """Float [b,3,h,w] in [0,1] to a list with one [b,2048,1,1]."""
    before = pytorch_fid.inception.load_state_dict_from_url
    pytorch_fid.inception.load_state_dict_from_url = lambda *_, **__: torch.load(weights, weights_only=True)
    try:
        with silence():
            return pytorch_fid.inception.InceptionV3().eval()
    finally:
        pytorch_fid.inception.load_state_dict_from_url = before


def lpips_model(net: Literal["vgg", "alex"], trunk: dict[str, Tensor], heads: dict[str, Tensor] | None) -> nn.Module:
    """Images [b,3,h,w] in [-1,1], two of them, to [b,1,1,1]; without heads, its baseline that averages channels."""
    with silence(), torch.device("meta"):  # torchvision's random start takes seconds
        model = lpips.LPIPS(net=net, lpips=heads is not None, pretrained=False, pnet_rand=True, verbose=False)
    slices = {f"net.slice{i}.{layer}." for i in range(1, 6) for layer in getattr(model.net, f"slice{i}")._modules}
    state = {slice_ + k.split(".")[2]: v for k, v in trunk.items() for slice_ in slices if _layer(slice_) == _layer(k)}
    for i, weight in enumerate((heads or {}).values()):  # under the two names that lpips has for each
        state |= {f"lin{i}.model.1.weight": weight, f"lins.{i}.model.1.weight": weight}
    model.scaling_layer = lpips.ScalingLayer()
    state |= {f"scaling_layer.{k}": v for k, v in model.scaling_layer.state_dict().items()}
    model.load_state_dict(state, assign=True)
    return model.eval()


def _layer(name: str) -> str:
    return name.split(".")[-2]
