"""The finding about a whole file in words, from what its halves are."""

from vaelens.identification.weights.closeness.half_verdict import SCALED, HalfVerdict, NamedMixture
from vaelens.identification.weights.examined_file import ExaminedFile, ReadVAE
from vaelens.weights.folders import STEM
from vaelens.weights.known_files import KnownFile, known_vaes
from vaelens.weights.other_networks import space_of_checkpoint
from vaelens.weights.registry import registry

SHORT_DTYPES = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "float64": "fp64"}
LAYOUTS = {"ldm": "LDM", "diffusers": "diffusers", "taesd": "TAESD's original"}
ALIKE = 0.02  # by how much the weights of encoder and decoder in one mixture may differ


def finding(file: ExaminedFile, encoder: HalfVerdict | None, decoder: HalfVerdict | None) -> tuple[str, str | None]:
    """What a file is, in words; and the known VAE that it is, if it is one."""
    if file.known is not None:
        beside = f" It can't be read here: {file.error}" if file.error is not None else ""
        return f"{_published(file.known, file.path.name)}{beside}", file.known.vae
    if file.error is not None:
        return str(file.error), None
    if file.other is not None:
        return f"{file.other.title}, which vaelens doesn't run; its weights weren't compared", None
    assert file.vae is not None and encoder is not None and decoder is not None  # noqa: PT018
    what, vae = _of_halves(file, encoder, decoder)
    return (f"{checkpoint} with {what}" if (checkpoint := _checkpoint(file.vae)) else what), vae


def stored(vae: ReadVAE) -> str:
    """The precisions of a VAE's tensors in their short names."""
    return ", ".join(SHORT_DTYPES.get(name, name) for name in vae.stored_as.split(", "))


def layout(vae: ReadVAE) -> str:
    """The layout of its names, as the field calls it."""
    name = vae.raw.layout.name
    return LAYOUTS.get(name, name)


def shared_by(encoder: HalfVerdict, vae: str) -> str | None:
    """Whose encoder a known VAE has as published, where it is another's: ft-mse has kl-f8's."""
    entry = registry().vaes.get(vae)
    while entry is not None and entry.training.part == "decoder" and entry.training.resumed_from is not None:
        vae = entry.training.resumed_from
        entry = registry().vaes.get(vae)
    return vae if vae in encoder.same_as else None


def _of_halves(file: ExaminedFile, encoder: HalfVerdict, decoder: HalfVerdict) -> tuple[str, str | None]:
    assert file.vae is not None
    both = [name for name in decoder.same_as if name in encoder.same_as]
    trusted = encoder.is_identified and decoder.is_identified
    scaled = encoder.is_scaled or decoder.is_scaled
    if both and (trusted or scaled):
        close = "close" in {encoder.sameness, decoder.sameness}
        form = f"in {stored(file.vae) if file.vae.beside else _form(file.vae)}"
        if scaled:
            form = f"{SCALED} (--fp16-safe), {form}"
        elif not file.vae.beside:
            form = f"re-saved {form}"
        form += ", pickled" if file.is_pickled else ""
        owner = next((name for name in encoder.same_as if name in registry().vaes), None)
        vae = next((name for name in both if name in known_vaes()), None)
        called = vae or both[0]
        beside = f"; the encoder is {owner}'s" if owner is not None and called not in registry().vaes else ""
        return f"{called}, {'equal up to rounding, ' if close else ''}{form}{beside}", vae
    scaled_as = any(one.is_scaled and one.same_as for one in (encoder, decoder))
    if decoder.mixture is not None and (whole := _whole_mixture(encoder, decoder.mixture)) is not None:
        return whole + (f", {SCALED} (--fp16-safe)" if scaled else ""), None
    if encoder.is_identified or decoder.is_identified or encoder.mixture or decoder.mixture or scaled_as:
        near = decoder.nearest_known or decoder.nearest
        name = near.name if near is not None else None
        if not decoder.is_identified and decoder.mixture is None and name in encoder.same_as:
            return f"unknown; {_nearest(decoder, 'decoder weights')}; the encoder is {name}'s", None
        return f"decoder: {_half(decoder, 'decoder')}, encoder: {_half(encoder, 'encoder')}", None
    return f"unknown{_compared(encoder, decoder)}", None


def _compared(encoder: HalfVerdict, decoder: HalfVerdict) -> str:
    shared = [
        f"{half} of {one.same_as[0]}{one.form}"
        for half, one in (("decoder", decoder), ("encoder", encoder))
        if one.same_as
    ]
    beside = f", with the {' and the '.join(shared)}" if shared else ""
    if decoder.nearest is not None:
        return f"{beside}; {_nearest(decoder, 'decoder weights')}"
    if encoder.nearest is not None:
        return f"{beside}; {_nearest(encoder, 'encoder weights')}"
    return f"{beside}; there is no {'other ' if shared else ''}VAE of its shapes here to compare with"


def _half(verdict: HalfVerdict, name: str) -> str:
    if verdict.same_as and (verdict.are_known or verdict.is_scaled):
        return verdict.same_as[0] + (", up to rounding" if verdict.sameness == "close" else "") + verdict.form
    if verdict.mixture is not None:
        return str(verdict.mixture) + verdict.form
    return "unknown" + (f" ({_nearest(verdict, f'{name} weights')})" if verdict.nearest is not None else "")


def _nearest(verdict: HalfVerdict, what: str) -> str:
    return verdict.nearest_text(what)


def _whole_mixture(encoder: HalfVerdict, mixture: NamedMixture) -> str | None:
    """The decoder's mixture where the encoder is the same one, or is shared by all its parts."""
    parts = dict(mixture.parts)
    if encoder.same_as and parts.keys() <= {*encoder.same_as}:
        return str(mixture)
    if encoder.mixture is None or encoder.mixture.kind != mixture.kind:
        return None
    theirs = dict(encoder.mixture.parts)
    if theirs.keys() != parts.keys() or any(abs(parts[name] - theirs[name]) > ALIKE for name in parts):
        return None
    return str(mixture)


def _form(vae: ReadVAE) -> str:
    """How it is stored: "fp16 in LDM layout"; what was rounded before it was stored says so."""
    contents = vae.content.encoder.exact_in, vae.content.decoder.exact_in
    rounded = [SHORT_DTYPES[name] for name in contents[0] if name in contents[1]]
    text = f"{stored(vae)} in {layout(vae)} layout"
    if rounded and stored(vae) not in {"fp16", "bf16"}:
        text += f", after rounding to {rounded[0]}"
    return text


def _published(known: KnownFile, name: str) -> str:
    label = known.name
    entry = registry().vaes.get(known.vae) if known.is_listed else None
    if known.names[0].startswith(STEM) and entry is not None and known.name in {file.name for file in entry.files}:
        label = f"{entry.repo}/{known.name}"
    same = name.lower() == known.names[0].lower()
    text = f"{known.vae}, the published file" if same else f"{known.vae}, the same file as {label} under another name"
    return text + (" (by a sha256 from one source, unconfirmed)" if known.seen == 1 else "")


def _checkpoint(vae: ReadVAE) -> str | None:
    """What a whole checkpoint is; None for a VAE by itself."""
    if not vae.beside:
        return None
    space = space_of_checkpoint(vae.raw.files[0])
    if space is None:
        return "a checkpoint"
    return f"a checkpoint of {' or '.join(registry().spaces[space].used_by.rsplit(', ', 1))}"
