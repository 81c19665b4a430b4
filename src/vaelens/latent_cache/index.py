"""What a cache says of itself in `cache.json`: whose encoder made it, by which size rule, of which images.

| file                     | holds                                                                                    |
|--------------------------|------------------------------------------------------------------------------------------|
| cache.json               | this, written last: a cache without it isn't finished                                    |
| plan.json                | what the bytes of the shards depend on; `encode` resumes only with the same plan         |
| shards/NUMBER.safetensors | a fixed number of consecutive images each; see `shards.py`                              |

A cache belongs to an encoder, not to a VAE: whoever has the same encoder can decode it.
"""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeGuard, cast

from pydantic import TypeAdapter, ValidationError

from vaelens.errors import BadInputError, CheckFailedError, UsageError
from vaelens.families.spec import config_values
from vaelens.files import StrPath, checked_json, read_checked_json
from vaelens.images.datasets.opening import name_in
from vaelens.images.size_rules import SizeRule
from vaelens.latent_cache.shards import FOLDER
from vaelens.runs.plan import as_stored, differences, read_plan
from vaelens.text.paths import user_path
from vaelens.vae import VAE
from vaelens.weights.fingerprint import SHORT, Digests

INDEX = "cache.json"
COMMAND = "encode"
SCHEMA = 1
MAKE_AGAIN = "Make the cache again with `vaelens encode`, in another folder."

Posterior = Literal["gaussian", "mean"]


@dataclass(frozen=True)
class Encoder:
    """Which encoder: its weights, and what else its output depends on. `vae` is the name of one VAE that has it."""

    vae: str
    fingerprint: Digests
    pixel_range: tuple[float, float]
    config: dict[str, Any]

    @classmethod
    def of(cls, vae: VAE) -> "Encoder":
        """A VAE's."""
        decides = {name: value for name, value in config_values(vae.spec.config).items() if not _is_decoders(name)}
        if "norm_exponents" in decides:
            decides["norm_exponents"] = [one for one in decides["norm_exponents"] if not _is_decoders(one[0])]
        return cls(vae.name, vae.fingerprint.encoder, vae.spec.pixel_range, decides)

    def is_same(self, other: "Encoder") -> bool:
        """Whether both give the same moments, within what rounding them to float16 moves."""
        return self.has_weights_of(other) and not self.differences(other)

    def has_weights_of(self, other: "Encoder") -> bool:
        """Whether the weights are the same, or were before they were stored in float16.

        A copy in bfloat16 doesn't count: it moves the moments eight times further than the cache's own rounding.
        """
        own, others = self.fingerprint, other.fingerprint
        return own.stored == others.stored or own.fp16 == others.fp16

    def differences(self, other: "Encoder") -> list[str]:
        """What differs beside the weights, in words."""
        own, others = (as_stored({"pixel_range": one.pixel_range, **one.config}) for one in (self, other))
        return [f"{name} is {new}, not {old}" for name, old, new in differences(own, others)]

    def __str__(self) -> str:
        return f"the encoder of {self.vae} ({self.fingerprint.stored[:SHORT]})"


def _is_decoders(name: str) -> bool:
    """Whether a field of a config, or a norm of that name, is of the decoder alone."""
    return name.startswith(("decoder", "num_decoder", "up_block")) or name in {"out_channels", "use_post_quant_conv"}


@dataclass(frozen=True)
class Origin:
    """The encoded dataset: what a report calls it, the sha256 of its ids and hashes and of its boxes, unread images.

    `call` is how the images can be opened again, the arguments of `open_dataset`, where the cache doesn't hold them.
    """

    name: str
    origin: str
    notes: tuple[str, ...]
    manifest_sha256: str
    boxes_sha256: str
    skipped: dict[str, str]  # reason by id
    call: dict[str, Any] | None = None


@dataclass(frozen=True)
class ShardRecord:
    """One shard: how many images it holds, and the sha256 of its file."""

    images: int
    sha256: str


@dataclass(frozen=True)
class Index:
    """The content of cache.json.

    posterior: gaussian is mean and logvar; mean alone is of networks without a posterior (TAESD)
    latent: the shape of an image's mean: channels, height, width
    precision: of the VAE when it encoded
    """

    encoder: Encoder
    rule: SizeRule
    posterior: Posterior
    latent: tuple[int, int, int]
    precision: str
    dataset: Origin
    shards: tuple[ShardRecord, ...]
    vaelens: str

    @property
    def count(self) -> int:
        """Images."""
        return sum(shard.images for shard in self.shards)

    def content(self) -> bytes:
        """As cache.json."""
        return checked_json({"schema": SCHEMA, "command": COMMAND, "images": self.count, **asdict(self)})


def is_cache(source: object) -> TypeGuard[StrPath]:
    """Whether that names a cache's folder, finished or not: neither a dataset's name nor a folder of images that has
    a cache.json of another program.
    """
    if not isinstance(source, str | os.PathLike) or name_in(cast(StrPath, source)):
        return False
    try:
        path = user_path(cast(StrPath, source))
        return ((path / INDEX).is_file() and (path / FOLDER).is_dir()) or (path.is_dir() and _is_begun(path))
    except (OSError, UsageError, BadInputError):  # no file can have such a name
        return False


def _is_begun(path: Path) -> bool:
    try:
        return read_plan(path, COMMAND) is not None
    except (UsageError, BadInputError, CheckFailedError):  # another command's run
        return False


def read_index(path: Path) -> Index:
    """Of the cache in a folder. Raises BadInputError where it isn't finished, or isn't a cache that this version
    reads; CheckFailedError where cache.json has changed.
    """
    file = path / INDEX
    try:
        content = file.read_bytes()
    except FileNotFoundError as error:
        raise BadInputError(
            f"{path} is a cache that isn't finished. Run its `vaelens encode` command again, which resumes it."
        ) from error
    except OSError as error:
        raise BadInputError(f"{file} can't be read: {error.strerror}. Check its permissions.") from error
    try:
        held = read_checked_json(content)
    except (ValueError, RecursionError) as error:
        raise CheckFailedError(f"{file}: {error}. {MAKE_AGAIN}") from error
    if held.get("schema") != SCHEMA:
        raise BadInputError(
            f"{file} has schema {str(held.get('schema'))[:20]}, but this version reads schema {SCHEMA}. {MAKE_AGAIN}"
        )
    try:
        return TypeAdapter(Index).validate_python({name: held.get(name) for name in Index.__dataclass_fields__})
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise BadInputError(f"{file} isn't a cache's index: {where} is wrong. {MAKE_AGAIN}") from error


def refuse_other_encoder(path: Path, cached: Encoder, vae: VAE) -> None:
    """Raises UsageError, naming both, where the VAE's encoder isn't the one that made the cache."""
    own = Encoder.of(vae)
    if not cached.is_same(own):
        settings = cached.differences(own)
        differing = f": of the same weights, but its {settings[0]}" if cached.has_weights_of(own) else ""
        if not differing and cached.fingerprint.is_same(own.fingerprint):
            differing = ": one is the other in bfloat16, and their moments differ by more than a cache's rounding"
        raise UsageError(
            f"{path} was made with {cached}, and {own} is another one{differing}. Name a VAE that has the first, or "
            f"encode the images with {vae.name}."
        )
