"""Loads what a plan of pictures needs: one pipeline, or two of one family, with what belongs to them, placed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from w2sd_video.commands.pictures.control_frames import read_control_frames
from w2sd_video.commands.pictures.making import LoadedImages, Texts
from w2sd_video.commands.pictures.request import ImagePlan
from w2sd_video.commands.pictures.videos import check_family
from w2sd_video.commands.rewards import load_reward
from w2sd_video.gaps.control_images import canny_edges
from w2sd_video.loading.describe import Description
from w2sd_video.loading.parts import Source
from w2sd_video.loading.pipelines import (
    adapter_arguments,
    add_ip_adapter,
    control_arguments,
    load_reflectable,
    with_controlnet,
)
from w2sd_video.loading.placement import can_encode, encoded_prompts, free_text_encoders, place
from w2sd_video.pair import ModelSpec
from w2sd_video.runs.tasks import SELECTING

Note = Callable[[str], None]


def load_images(
    plan: ImagePlan, methods: Iterable[str], prompts: Iterable[str], *, note: Note, quiet: bool
) -> LoadedImages:
    """Returns what the methods need, placed, with the prompts encoded and the text encoders of known families freed.

    Raises:
        UserError: a side, or something that belongs to it, cannot be used.
    """
    _check_fetched(plan)
    methods, prompts = set(methods), list(dict.fromkeys(prompts))
    reward = None
    if SELECTING in methods and plan.reward is not None:
        reward = load_reward(plan.reward, device=plan.device, allow_pickle=plan.allow_pickle)
    one = plan.pair.weak.checkpoint is None
    strong = None if methods == {"weak"} and not one else _pipeline(plan, "strong", plan.pair.strong, note, quiet)
    weak = None
    if not one and methods - {"strong", "zero-gap", "resample"}:
        weak = _pipeline(plan, "weak", plan.pair.weak, note, quiet, sharing=strong)
    loaded = LoadedImages(plan, strong, weak, extra=_told(plan, strong or weak), reward=reward)
    first = plan.memory == "sequential"  # then the text encoders, too, never are on the device as a whole
    if first:
        place(strong, weak, plan.device, plan.memory)
    _encode(loaded, prompts)
    if not first:
        place(strong, weak, plan.device, plan.memory)
    return loaded


def _check_fetched(plan: ImagePlan) -> None:
    """For a hub id the check of `whole_pipelines`, from the one file that says what it is."""
    given = plan.pair.strong.checkpoint
    assert given is not None
    if plan.num_frames is not None and (plan.controlnet or plan.ip_adapter) and not Path(given).expanduser().exists():
        index = Source(Description(given, "hub"), torch.float32).config("model_index") or {}
        check_family(plan, index.get("_class_name"))


def _pipeline(plan: ImagePlan, role: str, spec: ModelSpec, note: Note, quiet: bool, sharing: Any = None) -> Any:
    assert spec.checkpoint is not None
    pipe = load_reflectable(
        spec.checkpoint,
        role=role,
        dtype=getattr(torch, plan.dtype),
        note=note,
        scheduler=plan.scheduler,
        config=plan.config if role == "strong" else plan.weak_config,
        motion_adapter=plan.motion_adapter,
        video=plan.num_frames is not None,
        allow_pickle=plan.allow_pickle,
        quiet=quiet,
        sharing=sharing,
    )
    if sources := {name: plan.lora_sources[name] for name, _ in plan.loras_of(role)}:
        from w2sd_video.loading.loras import load_loras, use_loras

        loras = load_loras(pipe, sources)
        use_loras(pipe, plan.loras_of(role))  # text encoders too, for the prompts
        if loras.with_text and plan.pair.weak.checkpoint is None:
            note(f"LoRA {', '.join(loras.with_text)} acts on text encoders too: each side's prompts have its scale")
    if plan.controlnet is not None:  # on both sides: at scale 0 it is not evaluated
        pipe = with_controlnet(pipe, plan.controlnet, pipe.dtype, allow_pickle=plan.allow_pickle)
    if plan.ip_adapter is not None:
        add_ip_adapter(pipe, plan.ip_adapter)
    return pipe


def _told(plan: ImagePlan, pipe: Any) -> dict[str, Any]:
    """The pictures that both sides are told."""
    told: dict[str, Any] = {}
    if plan.control_image is not None and plan.num_frames is not None:
        frames = read_control_frames(
            plan.control_image, plan.width, plan.height, plan.num_frames, resize=plan.resize_control
        )
        told["conditioning_frames"] = [canny_edges(frame) for frame in frames] if plan.canny else frames
    elif plan.control_image is not None:
        told |= control_arguments(
            pipe, plan.control_image, plan.height, plan.width, canny=plan.canny, resize=plan.resize_control
        )
    if plan.ip_adapter_image is not None:
        told |= adapter_arguments(plan.ip_adapter_image)
    return told


def _encode(loaded: LoadedImages, prompts: list[str]) -> None:
    plan = loaded.plan
    raw = [plan.raw_prompts.get(prompt, prompt) for prompt in prompts]
    if loaded.weak is None:
        with _as_weak(loaded):
            loaded.texts["weak"] = _texts(plan, loaded.strong, raw, loaded.negative("weak"))
        loaded.texts["strong"] = _texts(plan, loaded.strong, prompts, plan.negative_prompt)
        pipes = [loaded.strong]
    else:
        loaded.texts["weak"] = _texts(plan, loaded.weak, raw, loaded.negative("weak"))
        if loaded.strong is not None:
            loaded.texts["strong"] = _texts(plan, loaded.strong, prompts, plan.negative_prompt)
        pipes = [pipe for pipe in (loaded.strong, loaded.weak) if pipe is not None]
    for pipe in pipes:
        if can_encode(pipe):
            free_text_encoders(pipe)


@contextmanager
def _as_weak(loaded: LoadedImages) -> Iterator[None]:
    """Inside, LoRAs of the one pipeline's text encoders have the weak side's scales."""
    if not loaded.plan.lora_sources:
        yield
        return
    from w2sd_video.loading.loras import use_loras

    use_loras(loaded.strong, loaded.plan.loras_of("weak"))
    try:
        yield
    finally:
        use_loras(loaded.strong, loaded.plan.loras_of("strong"))


def _texts(plan: ImagePlan, pipe: Any, prompts: list[str], negative: str | None) -> Texts | None:
    if not can_encode(pipe):
        return None
    unused = type(pipe).__name__.startswith("Flux")  # it runs no true guidance here
    return encoded_prompts(
        pipe,
        dict.fromkeys(prompts),
        None if unused else negative,
        device=plan.device,
        max_sequence_length=plan.max_sequence_length,
    )
