"""The largest activations by layer, and those that float16 can't hold."""

import math

import pytest
import torch

from support.health import lively, noise, quick, result, verdict
from vaelens.health import examination
from vaelens.health.activations import HALF_LIMIT, block_of, recorded, worst_by_block


def test_the_largest_activations_of_layers_and_sums() -> None:
    vae = lively()
    (image,) = noise(1)
    with recorded(vae.network, vae.spec.family.residual_blocks) as maxima:
        vae.reconstruct(image)
        vae.reconstruct(image / 2)
    found = maxima.largest()
    pixels = image * 2 - 1
    with torch.no_grad():
        first = vae.network.encoder.conv_in(pixels)
        both = max(float(first.abs().max()), float(vae.network.encoder.conv_in(image - 1).abs().max()))
        block = vae.network.encoder.down_blocks[0].resnets[0](first)
    assert found["encoder.conv_in"] == pytest.approx(both)
    assert found["encoder.down_blocks.0.resnets.0"] >= float(block.abs().max())
    assert {"quant_conv", "post_quant_conv", "decoder.mid_block.attentions.0", "decoder.conv_out"} <= set(found)
    assert not any(module._forward_hooks for module in vae.network.modules())


def test_a_layer_beyond_float16_is_named_and_does_fail_in_float16(monkeypatch: pytest.MonkeyPatch) -> None:
    vae = lively()
    assert verdict(quick(vae), "float16 range") == "fine"
    with torch.no_grad():
        vae.network.decoder.mid_block.resnets[0].conv1.weight *= 1e7
    health = quick(vae)
    layer, top = worst_by_block(health.measured.activations)[0]
    assert layer == "decoder.mid_block.resnets.0.conv1"
    assert top > HALF_LIMIT
    assert verdict(health, "float16 range") == "bad"
    assert "decoder.mid_block" in result(health, "float16 range")
    assert health.finite
    monkeypatch.setattr(examination, "COLOURS", ())  # a CPU is slow in float16
    vae.network.half()
    failed = quick(vae, noise(1, 16))
    assert not failed.finite
    assert failed.measured.activations["decoder.mid_block.resnets.0.conv1"] == math.inf


def test_blocks_of_layers() -> None:
    assert block_of("decoder.up_blocks.1.resnets.0.conv1") == "decoder.up_blocks.1"
    assert block_of("encoder.mid_block.attentions.0.to_q") == "encoder.mid_block"
    assert block_of("decoder.layers.12.conv.4") == "decoder.layers.12"
    assert block_of("quant_conv") == "quant_conv"
    found = worst_by_block({"a": 1.0, "decoder.layers.1.conv": 5.0, "decoder.layers.1": 7.0, "b": 6.0})
    assert found == [("decoder.layers.1", 7.0), ("b", 6.0), ("a", 1.0)]
