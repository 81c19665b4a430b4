"""Fingerprints: by their definition, and what changes them."""

import hashlib
import struct
from pathlib import Path

import torch

from support.vaes import random_vae
from vaelens.families.kl import FAMILY
from vaelens.vae import VAE
from vaelens.weights.fingerprint import fingerprint
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
