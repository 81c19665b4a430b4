"""Known files: by their whole sha256, by the short form that other tools show, and by name."""

import pytest

from vaelens.weights.known_files import SHORT, files_by_hash, files_by_name, known_files
from vaelens.weights.registry import registry


def test_no_sha256_and_no_short_form_is_two_files() -> None:
    digests = [file.sha256 for file in known_files()]
    assert len(digests) > 30
    assert all(len(digest) == 64 and int(digest, 16) for digest in digests)
    assert len({digest[:SHORT] for digest in digests}) == len(digests)


def test_listed_vaes_are_those_of_the_registry() -> None:
    for file in known_files():
        assert file.is_listed == (file.vae in registry().vaes)
        if file.is_listed:
            assert file.space == registry().vaes[file.vae].space


@pytest.mark.parametrize(
    ("digest", "vae"),
    [
        ("63aeecb90f", "sdxl"),
        ("DF3C506E51", "kl-f8-anime2"),
        ("235745af", "sdxl-fp16-fix"),
        ("c6a580b13a5bc05a5e16e4dbb80608ff2ec251a162311590c1f34c013d7f3dab", "ft-mse"),
    ],
)
def test_a_hash_leads_to_its_vae(digest: str, vae: str) -> None:
    assert [file.vae for file in files_by_hash(digest)] == [vae]


@pytest.mark.parametrize("digest", ["551eac7037", "63aeecb", "", "63aeecb90g", "sdxl", "63aeecb90f" * 7])
def test_other_hashes_are_nobodys(digest: str) -> None:
    assert files_by_hash(digest) == []


@pytest.mark.parametrize(
    ("name", "vaes"),
    [
        ("MoistMix.vae.pt", {"kl-f8-anime2"}),
        ("C:\\models\\VAE\\Pony-XL-v6-vae.safetensors", {"sdxl-fp16-fix"}),
        ("models/VAE/sdxl_vae.safetensors", {"sdxl", "sdxl-fp16-fix", "sdxl-0.9"}),
        ("mine.safetensors", set()),
    ],
)
def test_names_lead_to_the_vaes_that_are_passed_on_under_them(name: str, vaes: set[str]) -> None:
    assert {file.vae for file in files_by_name(name)} == vaes
