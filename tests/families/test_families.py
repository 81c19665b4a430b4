"""The families: what each must declare, and the layouts of the full VAEs."""

import pytest
import torch

from support.vaes import NARROW, TINY, random_vae, same_bytes
from vaelens.families.discovery import families, family_of, family_of_class, recognise
from vaelens.families.kl import from_ldm, to_ldm
from vaelens.vae import VAE

SMALL = {"kl": NARROW, "tiny": TINY}


def shapes_of(tensors: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def test_each_module_with_a_family_is_found() -> None:
    assert SMALL.keys() <= families().keys()
    for name, family in families().items():
        assert family.name == name
        assert all(family_of_class(one) is family for one in family.diffusers_classes)
    assert family_of_class("UNet2DConditionModel") is None


@pytest.mark.parametrize("name", SMALL)
def test_a_network_is_recognised_in_each_layout_and_its_config_read_from_shapes(name: str) -> None:
    config, family = SMALL[name], families()[name]
    assert family_of(config) is family
    tensors = dict(random_vae(config).network.state_dict())
    values = family.shape_values(shapes_of(tensors))
    assert values == {field: getattr(config, field) for field in values}
    assert {name.partition(".")[0] for name in tensors} <= family.encoder_parts | family.decoder_parts
    for layout in family.layouts:
        if layout.from_diffusers is not None:
            stored = layout.from_diffusers(tensors)
            for prefix in ("", "vae."):
                assert recognise(shapes_of({prefix + n: t for n, t in stored.items()})) == [(prefix, family, layout)]
            assert same_bytes(layout.to_diffusers(stored), tensors)
    with pytest.raises(ValueError, match="missing or misshapen"):
        family.shape_values({})


def test_ldm_to_diffusers_to_ldm_gives_the_same_bytes(vae: VAE) -> None:
    ldm = to_ldm(vae.network.state_dict())
    assert len(ldm) == 248
    assert same_bytes(to_ldm(from_ldm(ldm)), ldm)
    assert same_bytes(from_ldm(ldm), dict(vae.network.state_dict()))


def test_ldm_names_are_those_of_the_original_code(vae: VAE) -> None:
    """Names and shapes as CompVis' checkpoints have them, written down by hand."""
    ldm = to_ldm(vae.network.state_dict())
    network = vae.network.state_dict()
    for name, diffusers_name in {
        "encoder.down.1.block.0.nin_shortcut.weight": "encoder.down_blocks.1.resnets.0.conv_shortcut.weight",
        "encoder.down.2.downsample.conv.bias": "encoder.down_blocks.2.downsamplers.0.conv.bias",
        "decoder.up.3.block.2.conv1.weight": "decoder.up_blocks.0.resnets.2.conv1.weight",
        "decoder.up.1.upsample.conv.weight": "decoder.up_blocks.2.upsamplers.0.conv.weight",
        "decoder.mid.block_2.norm2.bias": "decoder.mid_block.resnets.1.norm2.bias",
        "encoder.norm_out.weight": "encoder.conv_norm_out.weight",
        "quant_conv.weight": "quant_conv.weight",
    }.items():
        assert torch.equal(ldm[name], network[diffusers_name]), name
    assert ldm["encoder.mid.attn_1.proj_out.weight"].shape == (16, 16, 1, 1)
    assert ldm["encoder.mid.attn_1.q.bias"].shape == (16,)
