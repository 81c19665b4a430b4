"""What a file of tensors holds that has no VAE, by its tensors' names: for the message that refuses it as one."""

import re
from collections.abc import Collection
from dataclasses import dataclass

from vaelens.tensors.tensor_file import TensorFile
from vaelens.text.file_kinds import LATENT_TENSORS, LATENTS_KEY
from vaelens.weights.registry import registry
from vaelens.weights.wrappers import unwrapped


@dataclass(frozen=True)
class OtherNetwork:
    """A kind of network: its name with an article, and a pattern for the names of its tensors alone."""

    title: str
    names: re.Pattern[str]

    def fits(self, names: Collection[str]) -> bool:
        """Whether at least one tensor has such a name."""
        return any(self.names.search(name) for name in names)


# In this order: what changes a network has names of that network in its own.
OTHERS = (
    OtherNetwork(
        "a LoRA", re.compile(r"(^|[._])(lora_(up|down|mid|A|B|unet|te\d?)|lora\.(up|down)|hada_w\d|lokr_w\d)|^lycoris_")
    ),
    OtherNetwork(
        "a ControlNet",
        re.compile(r"^control_model\.|^controlnet_|(^|\.)(input_hint_block|zero_convs?)\.|^lllite_"),
    ),
    OtherNetwork("an adapter", re.compile(r"^(ip_adapter|image_proj|adapter)\.|^body\.\d+\.block")),
    OtherNetwork("a textual inversion", re.compile(r"^(emb_params|string_to_param|clip_[gl]$|<.*>$)")),
    OtherNetwork(
        "a diffusion model's denoiser (UNet or transformer)",
        re.compile(
            r"^model\.diffusion_model\.|^(input|output)_blocks\.|^(down|up)_blocks\.\d+\.(attentions|resnets)\."
            r"|^(double|single|joint)_blocks\.|^(single_)?transformer_blocks\."
        ),
    ),
    OtherNetwork(
        "a text encoder",
        re.compile(
            r"^(cond_stage_model|conditioner|text_encoders?|text_model|text_projection)\.|^encoder\.block\.\d+\.layer\."
            r"|^token_embedding\.|^transformer\.resblocks\.|^model\.(embed_tokens|language_model)\.|^model\.layers\."
        ),
    ),
    OtherNetwork("an image encoder", re.compile(r"^(vision_model|visual_projection|visual)\.")),
)


def is_latents(opened: TensorFile) -> bool:
    """Whether the file holds latents, as vaelens, ComfyUI and others write them."""
    images = [name for name, shape in opened.shapes.items() if len(shape) == 4]
    return LATENTS_KEY in opened.metadata or (bool(LATENT_TENSORS & {*images}) and len(opened.shapes) <= 2)


def other_networks(opened: TensorFile) -> list[str]:
    """What the file holds, as far as its tensors' names tell: one thing that changes a network, or parts of a model."""
    names = [unwrapped(name) for name in opened.shapes]
    found = [other.title for other in OTHERS if other.fits(names)]
    return found[:1] if found and found[0] in {other.title for other in OTHERS[:4]} else found


def space_of_checkpoint(opened: TensorFile) -> str | None:
    """The latent space that a whole checkpoint's text encoder or denoiser belongs to."""
    names = [unwrapped(name) for name in opened.shapes]
    for name, space in registry().spaces.items():
        if any(n.startswith(key) for key in space.checkpoint_keys for n in names):
            return name
    return None
