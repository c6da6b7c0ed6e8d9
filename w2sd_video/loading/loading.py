"""Load an AnimateDiff-SDXL pair from hub ids, folders or single files, with equal tensors in one storage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import AnimateDiffSDXLPipeline, DDIMScheduler, UNet2DConditionModel, UNetMotionModel

import w2sd_video.loading.sources as sources
from w2sd_video.errors import UserError
from w2sd_video.loading.animatediff import assemble_motion_unet, motion_adapter_of
from w2sd_video.loading.checkpoints import Checkpoint
from w2sd_video.loading.loaded_pair import LoadedPair, PairReport, PromptInputs
from w2sd_video.loading.memory import install_chunked_decode, share_equal_tensors, unique_bytes
from w2sd_video.loading.offload import TEXT_ENCODERS, check_offload, place
from w2sd_video.loading.specification import Configs, PairSpecification, check_configs, check_pair_specification
from w2sd_video.loading.text_parts import TextParts, same_text_parts, same_weights

__all__ = ["LoadedPair", "PairReport", "PromptInputs", "choose_device", "choose_dtype", "load_pair"]

# The recipe of diffusers' documentation for AnimateDiff on SDXL, but for the spacing: with its "linspace" DDIM misses
# its own grid. "trailing" starts from the same level, 999, and chains when the number of steps divides 1000.
ANIMATEDIFF_SDXL_SCHEDULER: Mapping[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "timestep_spacing": "trailing",
}
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def load_pair(
    strong: str,
    weak: str,
    motion_adapter: str | None = None,
    *,
    config: str | None = None,
    dtype: str | torch.dtype | None = None,
    device: str | None = None,
    offload: str | None = None,
    allow_pickle: bool = False,
    num_frames: int | None = None,
    scheduler: Mapping[str, Any] | None = None,
    quiet: bool = False,
) -> LoadedPair:
    """Returns the pair, on `device`, in evaluation mode, with equal tensors of the two sides in one storage.

    A side is a hub id, a diffusers folder (2-D UNet or motion UNet), a folder with one network only (the other parts
    are the other side's) or a single .safetensors file of SDXL's original layout, which takes its configs and
    tokenizers from `config` (or from the other side, where that is a folder). Nothing is fetched unless a hub id is
    given.

    `dtype` and `device` None choose for the machine. `offload` is "none", "model", "sequential" or "group".
    `num_frames` is checked against the motion modules. `scheduler` overrides settings of the DDIM scheduler. `quiet`
    silences the libraries' progress bars.

    Raises:
        UserError: what was given does not exist, is damaged, or does not make a pair; the message says what is allowed.
    """
    chosen_device = choose_device(device)
    chosen_dtype = choose_dtype(dtype, chosen_device)
    kind = check_offload(offload, chosen_device)
    specification = check_pair_specification(
        strong, weak, motion_adapter, config=config, allow_pickle=allow_pickle, num_frames=num_frames
    )
    ours = _source(specification.strong, specification.strong_config, chosen_dtype, allow_pickle)
    theirs = _source(specification.weak, specification.weak_config, chosen_dtype, allow_pickle)
    adapter = specification.motion_adapter
    motion = None if adapter is None else sources.FolderSource(adapter, chosen_dtype, allow_pickle)
    notes: list[str] = []
    with sources.progress_bars(shown=not quiet):
        if specification.needs_network:
            _check_fetched(specification, ours, theirs, motion)
        unet, weak_unet = _load_networks(ours, theirs, motion, notes)
        vae = _load_vae(ours, theirs, notes)
        text, weak_text = _load_text(ours, theirs, notes)
    pipe = AnimateDiffSDXLPipeline(
        vae=vae,
        unet=unet,
        motion_adapter=motion_adapter_of(unet),
        scheduler=_scheduler(ours, theirs, unet, scheduler),
        force_zeros_for_empty_prompt=text.force_zeros,
        **text.components(),
    )
    weak_side: Any = weak_unet
    if weak_text is not None:
        weak_side = AnimateDiffSDXLPipeline(
            vae=vae,
            unet=weak_unet,
            motion_adapter=pipe.motion_adapter,
            scheduler=DDIMScheduler.from_config(pipe.scheduler.config),
            force_zeros_for_empty_prompt=weak_text.force_zeros,
            **weak_text.components(),
        )
    total = unique_bytes(unet, weak_unet, vae, *_encoders(text), *_encoders(weak_text))
    shared = unique_bytes(unet) + unique_bytes(weak_unet) - unique_bytes(unet, weak_unet)
    place(pipe, weak_side, torch.device(chosen_device), kind)
    install_chunked_decode(pipe.vae)
    return LoadedPair(pipe, weak_side, PairReport(total, shared, tuple(notes)))


def choose_device(device: str | None) -> str:
    """Returns `device`, or for None and "auto" the first of cuda, mps and cpu that there is.

    Raises:
        UserError: no device of that name, or this machine has none.
    """
    if device in (None, "auto"):
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert device is not None
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch asserts on a build without CUDA
        raise UserError(f"device {device!r} cannot be used here ({error}); try auto or cpu") from error
    return device


def choose_dtype(dtype: str | torch.dtype | None, device: str) -> torch.dtype:
    """Returns the dtype named, or for None float32 on a CPU and 16 bits on an accelerator.

    Raises:
        UserError: another dtype than float32, float16 and bfloat16.
    """
    if dtype is None or dtype == "auto":
        if torch.device(device).type == "cpu":
            return torch.float32
        wide = torch.device(device).type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if wide else torch.float16
    found = DTYPES.get(str(dtype).removeprefix("torch."))
    if found is None:
        raise UserError(f"dtype is {dtype}; choose one of {', '.join(DTYPES)}")
    return found


def _source(checkpoint: Checkpoint, config: str | None, dtype: torch.dtype, allow_pickle: bool) -> sources.Source:
    if config is not None:
        return sources.FileSource(checkpoint, config, dtype)
    return sources.FolderSource(checkpoint, dtype, allow_pickle)


def _check_fetched(specification: PairSpecification, ours: Any, theirs: Any, motion: Any) -> None:
    """The checks of `check_pair_specification` again, now with the configs of hub ids."""
    found = {
        f"{role}_{part}": side.config(part)
        for role, side in (("strong", ours), ("weak", theirs))
        for part in ("unet", "vae", "scheduler")
    }
    adapter = None if motion is None else motion.config("motion_adapter" if motion.checkpoint.kind == "hub" else "unet")
    configs = Configs(**found, motion_adapter=adapter)
    check_configs(configs, specification.strong.given, specification.weak.given, specification.num_frames)


def _load_networks(ours: Any, theirs: Any, motion: Any, notes: list[str]) -> tuple[UNetMotionModel, UNetMotionModel]:
    """Both motion UNets with one adapter; whatever is equal in the second is dropped before anything else is loaded."""
    adapter = None if motion is None else motion.motion_adapter()
    first, second = ours.unet(), None
    if adapter is None:
        if isinstance(first, UNet2DConditionModel):
            second = theirs.unet()
        bringing = next((network for network in (first, second) if isinstance(network, UNetMotionModel)), None)
        if bringing is None:
            raise UserError("neither side holds motion modules; give a motion adapter")
        adapter = motion_adapter_of(bringing)
    unet = assemble_motion_unet(first, adapter) if isinstance(first, UNet2DConditionModel) else first
    del first
    second = second if second is not None else theirs.unet()
    weak = assemble_motion_unet(second, adapter) if isinstance(second, UNet2DConditionModel) else second
    share_equal_tensors(unet, weak)
    modules = [motion_adapter_of(network) for network in (unet, weak)]
    if unique_bytes(*modules) != unique_bytes(modules[0]):
        notes.append("the sides hold motion modules of their own, which differ: they are part of the gap")
    return unet, weak


def _load_vae(ours: Any, theirs: Any, notes: list[str]) -> Any:
    """The VAE that decodes: the strong side's, where it has one."""
    vae, other = ours.vae(), theirs.vae()
    if vae is None and other is None:
        raise UserError(
            f"neither {ours.checkpoint.given} nor {theirs.checkpoint.given} holds a VAE; give one that does"
        )
    if vae is None:
        notes.append(f"{ours.checkpoint.given} holds no VAE: that of {theirs.checkpoint.given} decodes")
        return other
    if other is not None and not same_weights(vae, other):
        notes.append(
            "the two VAEs differ in their weights though not in their scaling: the strong side's decodes, and the gap "
            "includes what the latents mean to each"
        )
    return vae


def _load_text(ours: Any, theirs: Any, notes: list[str]) -> tuple[TextParts, TextParts | None]:
    """The strong side's text parts and the weak side's, None where they are equal or only one side has any."""
    text, other = ours.text(), theirs.text()
    if text is None and other is None:
        raise UserError(
            f"neither {ours.checkpoint.given} nor {theirs.checkpoint.given} holds SDXL's two text encoders; "
            "give one side as a whole diffusers folder or a whole single file"
        )
    if text is None:
        assert other is not None
        notes.append(f"{ours.checkpoint.given} holds no text encoders: those of {theirs.checkpoint.given} serve both")
        return other, None
    if other is None:
        if theirs.checkpoint.kind == "file":
            notes.append(
                f"{theirs.checkpoint.given} holds no text encoders: those of {ours.checkpoint.given} serve both"
            )
        return text, None
    if same_text_parts(text, other):
        return text, None
    notes.append("the text encoders differ: each side encodes the prompt with its own")
    for part in TEXT_ENCODERS:
        share_equal_tensors(getattr(text, part), getattr(other, part))
    return text, other


def _scheduler(ours: Any, theirs: Any, unet: UNetMotionModel, settings: Mapping[str, Any] | None) -> DDIMScheduler:
    """The strong side's own scheduler where it was saved as a video pipeline, else AnimateDiff-SDXL's DDIM."""
    source = next((side for side in (ours, theirs) if side.config("scheduler") is not None), ours)
    found = dict(source.config("scheduler") or {})
    index = source.config("model_index") if source.checkpoint.kind != "file" else None
    saved_as = (index or {}).get("_class_name", "")
    if saved_as.startswith("AnimateDiff") and found.get("_class_name") == "DDIMScheduler":
        base = {key: value for key, value in found.items() if not key.startswith("_")}
    else:
        base = {**ANIMATEDIFF_SDXL_SCHEDULER, "prediction_type": found.get("prediction_type", "epsilon")}
    return DDIMScheduler(**{**base, **(settings or {})})


def _encoders(text: TextParts | None) -> list[Any]:
    return [] if text is None else [text.text_encoder, text.text_encoder_2]
