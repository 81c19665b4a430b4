"""Fingerprints: by their definition, and what changes them."""

import hashlib
import struct
from pathlib import Path

import torch

from support.vaes import random_vae
from vaelens.families.kl import FAMILY
from vaelens.vae import VAE
from vaelens.weights.fingerprint import content, fingerprint
from vaelens.weights.reading import read_vae


def test_a_fingerprint_is_the_sha256_of_its_definition() -> None:
    """The definition, written out for one tensor of each half."""
    tensors = {"decoder.a": torch.tensor([1.0, 2.0]), "encoder.b": torch.tensor([[3.0]])}
    expected = hashlib.sha256(b"decoder.a|[2]|float32|" + struct.pack("<2f", 1, 2)).hexdigest()
    assert fingerprint(tensors, FAMILY).decoder.stored == expected


def test_fingerprints_include_the_quant_convs(vae: VAE) -> None:
    before = vae.fingerprint
    with torch.no_grad():
        vae.network.quant_conv.bias[0] += 1  # type: ignore[union-attr,index]
    after = vae.fingerprint
    assert (before.encoder.stored == after.encoder.stored, before.decoder == after.decoder) == (False, True)
    with torch.no_grad():
        vae.network.post_quant_conv.bias[0] += 1  # type: ignore[union-attr,index]
    assert vae.fingerprint.decoder.stored != after.decoder.stored


def test_fingerprints_depend_on_contents_and_know_casts(tmp_path: Path) -> None:
    vae = random_vae()
    stored = read_vae(vae.save(tmp_path / "a.safetensors")).fingerprint
    assert read_vae(vae.save(tmp_path / "b.safetensors", layout="ldm")).fingerprint == stored == vae.fingerprint
    half = random_vae()
    half.network.half()
    cast = read_vae(half.save(tmp_path / "c.safetensors")).fingerprint
    assert cast.decoder.stored == stored.decoder.fp16 != stored.decoder.stored
    other = random_vae()
    with torch.no_grad():
        other.network.decoder.conv_out.bias.view(-1)[0] += 1e-3
    changed = read_vae(other.save(tmp_path / "d.safetensors")).fingerprint
    assert changed.encoder == stored.encoder
    assert changed.decoder.stored != stored.decoder.stored


def test_a_copy_in_bfloat16_is_the_same_and_a_change_that_bfloat16_hides_is_not() -> None:
    tensors = dict(random_vae().network.state_dict()) | {"decoder.conv_out.bias": torch.ones(3)}
    ours = fingerprint(tensors, FAMILY).decoder
    assert ours.is_same(fingerprint({n: t.bfloat16() for n, t in tensors.items()}, FAMILY).decoder)
    between = torch.full((3,), 1 + 2**-9)  # a step of float16, a quarter of one of bfloat16
    changed = fingerprint({**tensors, "decoder.conv_out.bias": between}, FAMILY).decoder
    assert (changed.bf16 == ours.bf16, changed.is_same(ours)) == (True, False)


def test_contents_tell_values_from_how_they_are_stored() -> None:
    tensors = dict(random_vae().network.state_dict())
    ours = content(tensors, FAMILY)
    half = {name: tensor.half() for name, tensor in tensors.items()}
    stored, widened = content(half, FAMILY), content({name: t.float() for name, t in half.items()}, FAMILY)
    assert stored.decoder.values == widened.decoder.values != ours.decoder.values
    assert (ours.decoder.exact_in, stored.decoder.exact_in, widened.decoder.exact_in) == ((), *[("float16",)] * 2)
    assert widened.decoder.is_rounded(ours.decoder)
    assert not ours.decoder.is_rounded(widened.decoder)
    assert ours.fingerprint == fingerprint(tensors, FAMILY)
    changed = tensors["decoder.conv_out.bias"] * (1 + 2**-20)
    assert not content({**tensors, "decoder.conv_out.bias": changed}, FAMILY).decoder.same_as(ours.decoder)
