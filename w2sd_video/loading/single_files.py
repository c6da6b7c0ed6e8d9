"""What family a single checkpoint file is of, and what it lacks, read from its safetensors header (no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from w2sd_video.errors import UserError
from w2sd_video.loading.checkpoints import LDM_UNET, LDM_VAE, TensorInfo

FAMILIES = {"sdxl": "StableDiffusionXLPipeline", "sd15": "StableDiffusionPipeline", "flux": "FluxPipeline"}
# Where the original layouts keep the text encoders.
TEXT = {
    "sdxl": {
        "text_encoder": "conditioner.embedders.0.transformer.",
        "text_encoder_2": "conditioner.embedders.1.model.",
    },
    "sd15": {"text_encoder": "cond_stage_model.transformer."},
}
SD2_TEXT = "cond_stage_model.model."
# The original layout of Flux, with or without a prefix; its relatives of another build lack some of it.
FLUX_LAYOUT = ("double_blocks.0.img_attn.qkv.weight", "img_in.weight", "txt_in.weight", "vector_in.in_layer.weight")
FLUX_OUT = "final_layer.linear.weight"
_WANTED = "a single file must be an SDXL, SD 1.5 or Flux.1 text-to-image checkpoint in its original layout"


def family_of(header: Mapping[str, TensorInfo], path: Path) -> str:
    """Returns "sdxl", "sd15" or "flux" for the header of a single file in the original layout.

    Raises:
        UserError: anything else: a LoRA, a network in another layout, SD 2, quantised or scaled weights, a network that
            takes more than a noisy latent.
    """
    names = {name.removeprefix(LDM_UNET) for name in header}
    for name in names:
        if "scale_weight" in name or "quant_state" in name or name.endswith((".absmax", ".qweight")):
            raise UserError(f"{path} holds quantised weights ({name}); give one in 16 or 32 bits; {_WANTED}")
    if names.issuperset((*FLUX_LAYOUT, FLUX_OUT)):
        prefix = flux_prefix(header)
        channels, out = header[prefix + "img_in.weight"].shape[1], header[prefix + FLUX_OUT].shape[0]
        if channels != out:
            raise UserError(
                f"{path} takes {channels} input channels and makes {out}: a Flux that fills, edits or follows depth; "
                f"{_WANTED}"
            )
        return "flux"
    entry = header.get(LDM_UNET + "input_blocks.0.0.weight")
    if entry is None:
        raise UserError(f"{path} looks like {_likeness(header)}; {_WANTED}")
    if len(entry.shape) == 4 and entry.shape[1] != 4:
        raise UserError(
            f"{path} takes {entry.shape[1]} input channels, not 4 (9 is an inpainting checkpoint, 8 an editing one); "
            f"{_WANTED}"
        )
    if LDM_UNET + "label_emb.0.0.weight" in header:
        return "sdxl"
    if any(name.startswith(SD2_TEXT) for name in header):
        raise UserError(f"{path} is of the SD 2 family: give it as a diffusers folder; {_WANTED}")
    return "sd15"


def missing_parts(family: str, header: Mapping[str, TensorInfo]) -> tuple[str, ...]:
    """Returns the parts with weights that are not taken from a single file, so that they come from its config.

    Of Flux's files the transformer alone is used: all-in-one files hold the rest in several layouts.
    """
    if family == "flux":
        return ("vae", "text_encoder", "text_encoder_2")

    def holds(prefix: str) -> bool:
        return any(name.startswith(prefix) for name in header)

    has_text = all(holds(prefix) for prefix in TEXT[family].values())
    return (*(() if holds(LDM_VAE) else ("vae",)), *(() if has_text else TEXT[family]))


def flux_prefix(header: Mapping[str, TensorInfo]) -> str:
    """Returns what stands before the names of a Flux transformer's tensors in a single file."""
    return "" if FLUX_LAYOUT[0] in header else LDM_UNET


def _likeness(header: Mapping[str, TensorInfo]) -> str:
    kinds = {
        "lora": "a LoRA",
        "double_blocks": "a relative of Flux.1 of another build",
        "transformer_blocks.0.norm1": "one network in diffusers' layout (give the whole pipeline's folder)",
        "down_blocks.0": "one network in diffusers' layout (give the whole pipeline's folder)",
    }
    return next((kind for mark, kind in kinds.items() if any(mark in name for name in header)), "something else")
