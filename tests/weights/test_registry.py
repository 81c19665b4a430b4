"""The registry: complete, consistent with itself and with the published tables."""

import pytest

from vaelens.errors import UsageError
from vaelens.weights.registry import embedded_paths, registry

NAMES = (
    "kl-f8 ft-ema ft-mse sdxl sdxl-fp16-fix sd3 flux1 taesd taesdxl taesd3 taef1 taef2 "
    "tiny-kl-f8 tiny-ft-ema tiny-ft-mse"
)


def test_all_the_named_vaes_are_there() -> None:
    assert list(registry().vaes) == NAMES.split()


@pytest.mark.parametrize("name", NAMES.split())
def test_each_entry_has_a_complete_spec(name: str) -> None:
    entry, spec = registry().find(name), registry().spec(name)
    assert spec.latent_space == entry.space
    assert spec.factor == 8
    assert entry.licence
    assert all(file.name.endswith(".safetensors") for file in entry.files)
    for file in (*entry.files, *entry.other_files):
        assert file.name.endswith((".safetensors", ".ckpt"))
        assert file.sha256 is None or len(file.sha256) == 64
    assert entry.training.resumed_from in {None, *registry().vaes}
    if entry.embedded:
        assert all(path.is_file() for path in embedded_paths(entry))


@pytest.mark.parametrize(
    ("name", "channels", "scale", "shift"),
    [("ft-mse", 4, 0.18215, 0.0), ("sdxl", 4, 0.13025, 0.0), ("sd3", 16, 1.5305, 0.0609),
     ("flux1", 16, 0.3611, 0.1159), ("taesd", 4, 1.0, 0.0), ("taef2", 32, 1.0, 0.0)],
)  # fmt: skip
def test_scale_and_shift(name: str, channels: int, scale: float, shift: float) -> None:
    spec = registry().spec(name)
    assert (spec.latent_channels, spec.scaling_factor, spec.shift_factor) == (channels, scale, shift)


def test_no_file_is_two_vaes() -> None:
    digests = [f.sha256 for e in registry().vaes.values() for f in (*e.files, *e.other_files) if f.sha256]
    assert len(digests) == len(set(digests))
    assert registry().by_sha256(registry().find("ft-mse").other_files[0].sha256 or "") == "ft-mse"


def test_numbers_lead_back_to_their_space() -> None:
    assert registry().space_of((4, 8, 0.18215, 0.0)) == "sd1"
    assert registry().space_of((16, 8, 0.3611, 0.1159)) == "flux1"
    assert registry().space_of((4, 8, 0.5, 0.0)) is None


def test_names_resolve_with_suggestions() -> None:
    assert registry().find("FT-MSE") is registry().vaes["ft-mse"]
    with pytest.raises(UsageError, match="Did you mean sdxl"):
        registry().find("sdxll")
    with pytest.raises(UsageError, match=r"Known: kl-f8, .*tiny-ft-mse"):
        registry().find("zzz")
    with pytest.raises(UsageError, match=r"no latent space is called 'flux3'.*flux2"):
        registry().check_space("flux3")
