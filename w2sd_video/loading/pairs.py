"""A weak/strong pair of AnimateDiff on SDXL: loaded with equal tensors in one storage, prompts encoded once for both.

Whole pipelines of any family are loaded by `pipelines.load_pipeline`; their pairs share by its `sharing`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AnimateDiffSDXLPipeline, DDIMScheduler, UNet2DConditionModel, UNetMotionModel
from torch import nn

from w2sd_video.errors import UserError
from w2sd_video.loading import placement
from w2sd_video.loading.animatediff import assemble_motion_unet, motion_adapter_of
from w2sd_video.loading.memory import memory_plan
from w2sd_video.loading.pair_description import check_pair_configs, describe_pair
from w2sd_video.loading.parts import Source, progress_bars, same_text_parts, same_weights
from w2sd_video.loading.pipelines import ANIMATEDIFF_SDXL_SCHEDULER
from w2sd_video.loading.sharing import share_equal_tensors, unique_bytes
from w2sd_video.pair import Loras


@dataclass(frozen=True)
class PairReport:
    """What loading a pair came to: bytes on all devices, those the weak side shares, and what the user should know."""

    total_bytes: int
    shared_bytes: int
    notes: tuple[str, ...] = ()


@dataclass
class LoadedPair:
    """A pair ready to sample.

    `weak` is a bare network when both sides encode prompts alike, else a pipeline with the weak side's text encoders.
    The strong pipeline decodes in chunks of frames (`install_chunked_decode`).
    """

    pipe: AnimateDiffSDXLPipeline
    weak: UNetMotionModel | AnimateDiffSDXLPipeline
    report: PairReport

    @property
    def weak_unet(self) -> UNetMotionModel:
        """The weak side's network, also where `weak` is a pipeline."""
        return self.weak.unet if isinstance(self.weak, AnimateDiffSDXLPipeline) else self.weak

    def load_weak_loras(self, files: Mapping[str, str], scales: Loras) -> None:
        """Load LoRAs into the weak side's network alone, for good, at these scales; its text stays as encoded.

        Raises:
            UserError: as `load_loras`, or the text encoders are not freed yet.
        """
        from w2sd_video.loading.loras import load_loras, use_loras

        if self.pipe.text_encoder is not None:
            raise UserError("the text encoders would get the weak side's LoRAs too; free them first")
        own, network = self.pipe.unet, self.weak_unet
        self.pipe.unet = network
        try:
            load_loras(self.pipe, files)
            use_loras(self.pipe, scales)
        finally:
            self.pipe.unet = own


def load_pair(
    strong: str,
    weak: str,
    motion_adapter: str | None = None,
    *,
    config: str | None = None,
    dtype: str | torch.dtype | None = None,
    device: str | None = None,
    memory: str | None = None,
    placed: bool = True,
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

    `dtype` and `device` None choose for the machine. `memory` is a plan of `memory.MEMORY_PLANS`; `placed` False leaves
    both sides on the host, for `placement.place` once the text encoders are freed: then they never are on the device
    beside the networks. `num_frames` is checked against the motion modules. `scheduler` overrides settings of the DDIM
    scheduler. `quiet` silences the libraries' progress bars.

    Raises:
        UserError: what was given does not exist, is damaged, or does not make a pair; the message says what is allowed.
    """
    chosen_device = placement.choose_device(device)
    chosen_dtype = placement.choose_dtype(dtype, chosen_device)
    plan = memory_plan(memory, chosen_device)
    pair = describe_pair(strong, weak, motion_adapter, config=config, allow_pickle=allow_pickle, num_frames=num_frames)
    ours, theirs = (Source(side, chosen_dtype, allow_pickle) for side in (pair.strong, pair.weak))
    motion = None if pair.motion_adapter is None else Source(pair.motion_adapter, chosen_dtype, allow_pickle)
    notes: list[str] = []
    with progress_bars(shown=not quiet):
        if pair.needs_network:  # the same checks again, now with the configs of hub ids
            fetched = {"strong": ours, "weak": theirs, "motion": motion}
            check_pair_configs(pair, lambda role, part: _own_config(fetched[role], part))
        unet, weak_unet = _load_networks(ours, theirs, motion, notes)
        vae = _load_vae(ours, theirs, notes)
        text, weak_text = _load_text(ours, theirs, notes)

    def made(network: UNetMotionModel, motion_adapter: Any, schedule: DDIMScheduler, parts: dict[str, Any]) -> Any:
        return AnimateDiffSDXLPipeline(
            vae=vae, unet=network, motion_adapter=motion_adapter, scheduler=schedule, **parts
        )

    pipe = made(unet, motion_adapter_of(unet), _scheduler(ours, theirs, scheduler), text)
    weak_side: Any = weak_unet
    if weak_text is not None:
        weak_side = made(weak_unet, pipe.motion_adapter, DDIMScheduler.from_config(pipe.scheduler.config), weak_text)
    encoders = [each for parts in (text, weak_text or {}) for each in parts.values() if isinstance(each, nn.Module)]
    total = unique_bytes(unet, weak_unet, vae, *encoders)
    shared = unique_bytes(unet) + unique_bytes(weak_unet) - unique_bytes(unet, weak_unet)
    placement.install_chunked_decode(pipe.vae)
    if placed:
        placement.place(pipe, weak_side, chosen_device, plan)
    return LoadedPair(pipe, weak_side, PairReport(total, shared, tuple(notes)))


def _own_config(source: Source | None, part: str) -> dict[str, Any] | None:
    return None if source is None or not source.has(part) else source.config(part)


def _load_networks(
    ours: Source, theirs: Source, motion: Source | None, notes: list[str]
) -> tuple[UNetMotionModel, UNetMotionModel]:
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


def _load_vae(ours: Source, theirs: Source, notes: list[str]) -> Any:
    """The VAE that decodes: the strong side's, where it has one."""
    vae, other = ours.vae(), theirs.vae()
    if vae is None and other is None:
        raise UserError(f"neither {ours.name} nor {theirs.name} holds a VAE; give one that does")
    if vae is None:
        notes.append(f"{ours.name} holds no VAE: that of {theirs.name} decodes")
        return other
    if other is not None and not same_weights(vae, other):
        notes.append(
            "the two VAEs differ in their weights though not in their scaling: the strong side's decodes, and the gap "
            "includes what the latents mean to each"
        )
    return vae


def _load_text(ours: Source, theirs: Source, notes: list[str]) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The strong side's text parts and the weak side's, None where they are equal or only one side has any."""
    text, other = ours.text(), theirs.text()
    if text is None and other is None:
        raise UserError(
            f"neither {ours.name} nor {theirs.name} holds SDXL's two text encoders; "
            "give one side as a whole diffusers folder or a whole single file"
        )
    if text is None:
        assert other is not None
        notes.append(f"{ours.name} holds no text encoders: those of {theirs.name} serve both")
        return other, None
    if other is None:
        if theirs.description.kind == "file":
            notes.append(f"{theirs.name} holds no text encoders: those of {ours.name} serve both")
        return text, None
    if same_text_parts(text, other):
        return text, None
    notes.append("the text encoders differ: each side encodes the prompt with its own")
    for part in ("text_encoder", "text_encoder_2"):
        share_equal_tensors(text[part], other[part])
    return text, other


def _scheduler(ours: Source, theirs: Source, settings: Mapping[str, Any] | None) -> DDIMScheduler:
    """The strong side's own scheduler where it was saved as a video pipeline, else AnimateDiff-SDXL's DDIM."""
    source = next((side for side in (ours, theirs) if side.config("scheduler") is not None), ours)
    found = dict(source.config("scheduler") or {})
    index = source.config("model_index") if source.description.kind != "file" else None
    saved_as = (index or {}).get("_class_name", "")
    if saved_as.startswith("AnimateDiff") and found.get("_class_name") == "DDIMScheduler":
        base = {key: value for key, value in found.items() if not key.startswith("_")}
    else:
        base = {**ANIMATEDIFF_SDXL_SCHEDULER, "prediction_type": found.get("prediction_type", "epsilon")}
    return DDIMScheduler(**{**base, **(settings or {})})
