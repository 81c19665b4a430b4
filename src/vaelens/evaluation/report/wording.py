"""The text of a report: its title, what was measured, how to read it, and how it was made."""

import re
from collections.abc import Mapping
from typing import Any, cast

from vaelens.evaluation.metric_table import METRICS, REGION_METRICS
from vaelens.evaluation.presets import Preset
from vaelens.evaluation.report.score_tables import letters_table, pairs_table, regions_table
from vaelens.evaluation.results import Results
from vaelens.kernels.paths import TORCH
from vaelens.report.tables import Table
from vaelens.text.numbers import counted

READING = {
    "plain": "Pillow's plain conversion to RGB, without EXIF rotation or colour profiles",
    "rules": "turned upright by EXIF, colour profiles converted to sRGB, transparency laid over white",
}
RESIZE = {
    "opencv_bilinear": "the shorter side to {side} pixels by OpenCV's bilinear resize, without antialiasing",
    "pillow_bicubic": "the shorter side to {side} pixels by Pillow's antialiased bicubic resize",
}
POSTERIOR = {"sample": "a sample of the posterior is decoded", "mode": "the posterior's mode is decoded"}
ROUNDING = {
    "truncate": "truncated to 8 bits, originals too",
    "half-up": "rounded to 8 bits",
}
PADDING = {"zero": "zero-padded at the borders", "valid": "only where the whole window lies inside the image"}
INCEPTION = {"torch_fidelity": "torch-fidelity", "pytorch_fid": "pytorch-fid"}

# A reason that names an image: its id, alone or behind a folder or an archive, and what is wrong with it.
NAMES = r"(?:^|[/\\]|: ){}(?:: | (?:is|isn't|has|holds|begins)\b)"

SPREAD = (
    "Mean ± std is over the images: the std says how much images differ from each other. It is not an error of "
    "the mean; the 95 % interval in brackets under it is. The means of a column are over the same images."
)
BOLD = "Bold is the best in a column, ↑ where higher is better and ↓ where lower is."
PUBLISHED = "Published values are those of the model cards, on the same dataset by the same preset."
PAIRED = (
    "Every VAE saw the same images, so VAEs are compared image by image: the interval of the difference is far "
    "narrower than those of the two means, which may well overlap. Where it contains 0, the images don't tell "
    "the two VAEs apart. Of twenty comparisons that make no difference, about one is decided by chance."
)
DATASETS = (
    "Distances of whole datasets fall with the number of images and depend on what they show: they compare only within "
    "one dataset. Their differences have jackknife intervals."
)
REGIONS = (
    "Measured on the marked regions of whole reconstructed images, by the size of a region's shorter side after "
    "resizing. Regions of one image aren't independent."
)
LETTERS = (
    "The share of synthetic letters that a small reader reads correctly, on the reconstructions and, as the ceiling, "
    "on the originals."
)


def title(results: Results) -> str:
    """The report's heading."""
    one = len(results.vaes) == 1
    return f"{results.vaes[0] if one else f'{len(results.vaes)} VAEs'} on {results.source}"


def shown(results: Results) -> str:
    """One line under the title: how many images, how large, and by which preset."""
    side = results.preset.side
    return f"{counted(results.count, 'image')} of {side} x {side} pixels, preset {results.preset.name}"


def detail_tables(results: Results) -> list[tuple[str, str, Table]]:
    """The tables below the scores that have rows, each with its heading and how to read it."""
    tables = (
        ("Differences", PAIRED, pairs_table(results)),
        ("Regions", REGIONS, regions_table(results)),
        ("Letters read", LETTERS, letters_table(results)),
    )
    return [(heading, lead, table) for heading, lead, table in tables if table.rows]


def column_meanings(results: Results) -> list[tuple[str, str]]:
    """Each metric's title and what it means, which way is better included."""
    metrics = [METRICS[key] for key in results.metrics]
    in_regions = {region.metric for region in results.regions} - {*results.metrics}
    metrics += [metric for key, metric in REGION_METRICS.items() if key in in_regions]
    return [
        (m.title, " ".join(_sentence(text) for text in (m.better and f"{m.better} is better", m.about) if text))
        for m in metrics
    ]


def protocol(preset: Preset) -> str:
    """The preset in a few sentences."""
    steps = [
        f"Reading: {READING[preset.reading]}.",
        f"Resizing: {RESIZE[preset.resize].format(side=preset.side)}, then the middle cut out.",
        _sentence(f"{POSTERIOR[preset.posterior]}, the result {ROUNDING[preset.rounding]}"),
        f"SSIM with an 11 x 11 Gaussian window, {PADDING[preset.ssim_padding]}.",
    ]
    if preset.inception:
        steps.append(f"Inception's input as in {INCEPTION[preset.inception]}.")
    return " ".join(steps)


def facts(results: Results) -> dict[str, str]:
    """How it was made, in the order to show; of the record, what it holds."""
    record = results.record
    settings = _mapping(record.get("settings"))
    found = {"preset": f"{results.preset.name}. {protocol(results.preset)}"}
    for vae in _mappings(record.get("vaes")):
        where = ", ".join(str(vae[name]) for name in ("latent_space", "dtype", "device") if vae.get(name))
        prints = _mapping(vae.get("fingerprint"))
        parts = ", ".join(f"{half} {_mapping(of).get('stored', '?')}" for half, of in prints.items())
        found[f"VAE {vae.get('name', '?')}"] = ". ".join(filter(None, (where, parts or str(vae.get("weights", "")))))
    for name, found_network in _mapping(settings.get("networks")).items():
        network = _mapping(found_network)
        source = {"published": "the published weights", "given": "other weights than the published ones"}
        kind = source.get(str(network.get("source")), "")
        path = str(network.get("kernels", TORCH))
        kernels = f"{path} kernels" if path != TORCH else ""
        found[f"network {name}"] = ", ".join(filter(None, (kind, f"sha256 {network.get('sha256', '?')}", kernels)))
    found |= {
        name: str(settings[field])
        for name, field in (
            ("images", "images"),
            ("manifest sha256", "manifest_sha256"),
            ("boxes sha256", "boxes_sha256"),
            ("batch size", "batch"),
            ("seed", "seed"),
            ("ranks", "ranks"),
        )
        if settings.get(field) is not None
    }
    if record.get("notes"):
        found["dataset"] = " ".join(map(str, record["notes"]))
    skipped = _mapping(record.get("skipped"))
    if skipped:
        found["skipped"] = list_skipped(skipped)
    if record.get("threads") is not None:
        found["threads"] = str(record["threads"])
    found |= _timing(results)
    if record.get("peak_memory_bytes"):
        found["peak memory"] = f"{record['peak_memory_bytes'] / 1e9:.2f} GB"
    if record.get("versions"):
        found["versions"] = ", ".join(f"{name} {value}" for name, value in _mapping(record["versions"]).items())
    if record.get("finished"):
        found["finished"] = str(record["finished"])
    return found


def list_skipped(skipped: Mapping[str, Any]) -> str:
    """How many images are unreadable, and the first of them with the reasons."""
    first = "; ".join(name_and_reason(name, str(why)) for name, why in list(skipped.items())[:20])
    return f"{len(skipped)} unreadable: {first}{'; ...' if len(skipped) > 20 else ''}"


def name_and_reason(name: str, why: str) -> str:
    """An unreadable image and the reason; the name stands once, as most reasons begin with it."""
    return why if re.search(NAMES.format(re.escape(name)), why) else f"{name}: {why}"


def _timing(results: Results) -> dict[str, str]:
    """The speed of all calls whose times are known; interrupted ones and other shards leave none."""
    found: dict[str, str] = {}
    calls = _mappings(results.record.get("calls"))
    done = sum(call["reconstructions"] for call in calls)
    seconds = sum(call["measuring_seconds"] for call in calls)
    if done and seconds:
        found["measured"] = f"{counted(done, 'reconstruction')} in {seconds:.1f} s, {done / seconds:.2f} per second"
        others = results.count * len(results.vaes) - done
        if others > 0:
            found["measured"] += f"; {others:,} more by shards or interrupted calls, whose times aren't known"
    if results.record.get("seconds") is not None:
        found["total time"] = f"{results.record['seconds']:.1f} s"
        if len(calls) > 1:
            found["total time"] += f", in {len(calls)} calls"
    return found


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _mapping(value: Any) -> Mapping[str, Any]:
    return cast(Mapping[str, Any], value) if isinstance(value, Mapping) else {}


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    return [_mapping(one) for one in cast(list[Any], value)] if isinstance(value, list | tuple) else []
