"""From a request to a plan: presets filled in, everything checked that can be before a model is loaded (imports no
torch).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from w2sd_video.commands.checked_values import MAX_SEED, finite, one_of, unknown, whole
from w2sd_video.commands.lora_flags import LoraPlan, plan_loras
from w2sd_video.commands.matching import matched
from w2sd_video.commands.method_settings import check_used, plan_reflection
from w2sd_video.commands.picture_sizes import checked_sizes
from w2sd_video.commands.pictures.checking import check_image_plan
from w2sd_video.commands.pictures.request import DEFAULT_METHODS, MEMORY_PLANS, ImagePlan, ImageRequest
from w2sd_video.commands.prompt_pairs import both_sides
from w2sd_video.commands.request import DTYPES, SCHEDULERS
from w2sd_video.commands.rewards import identity_of, plan_reward
from w2sd_video.errors import UserError
from w2sd_video.loading.describe import Description, describe
from w2sd_video.pair import MODES, ModelPair, ModelSpec
from w2sd_video.presets import PICTURE_PRESETS, PRESETS, Preset, get_preset
from w2sd_video.runs.file_names import run_folder, video_stems
from w2sd_video.runs.tasks import METHODS

MAX_STEPS = 1000
OWN_PAIR = "guidance-sdxl"  # whose settings a pair of the user's own gets


def plan_images(request: ImageRequest) -> ImagePlan:
    """Returns the request completed from its preset and checked against everything that can be known without loading a
    model.

    Raises UserError saying what was got, what is allowed and what to do.
    """
    preset, own = _preset(request)
    strong = request.strong or preset.pair.strong.checkpoint
    weak = request.weak or (preset.pair.weak.checkpoint if not own else None)
    assert strong is not None
    reading: dict[str, Any] = {"allow_pickle": request.allow_pickle, "video": request.video}
    files = describe(strong, "strong", config=request.config, **reading)
    other = None
    if weak is not None:
        other = describe(weak, "weak", config=request.weak_config, **reading)
    elif request.weak_config is not None:
        raise UserError("--weak-config is for a --weak that is a single file; leave it out")
    match = matched(request.match_evaluations, steps=request.steps, reflections=request.reflections)
    steps = whole(match.steps if match else request.steps, preset.steps, "steps", 1, MAX_STEPS)
    mode = one_of(request.mode or preset.reflection.mode, MODES, "mode")
    loras = plan_loras(
        request.loras,
        request.weak_loras,
        sources=preset.loras,
        strong_scales=preset.pair.strong.loras,
        weak_scales=preset.pair.weak.loras,
    )
    guidance, inside, outer = _guidances(request, preset, own)
    prompts, raw = _prompts(request, preset)
    sides = _sides(request, preset, own, loras)
    height, width = checked_sizes(request.height, request.width, *_size_defaults(preset, own, files), files)
    done = ImagePlan(
        preset=preset.name,
        pair=ModelPair(
            ModelSpec(checkpoint=strong, guidance=inside, **sides["strong"]),
            ModelSpec(checkpoint=weak, guidance=outer, negative_prompt=request.weak_negative_prompt, **sides["weak"]),
            name=_name(preset, own, strong, weak),
        ),
        config=request.config,
        weak_config=request.weak_config,
        reflection=plan_reflection(
            request,
            preset.reflection,
            num_reflections=_reflections(match.reflections if match else request.reflections, steps, mode, preset),
            mode=mode,
        ),
        reward=None,
        prompts=prompts,
        raw_prompts=raw,
        stems=video_stems(prompts),
        methods=(),
        steps=steps,
        plain_steps=match.plain_steps if match else steps,
        guidance=guidance,
        negative_prompt=preset.negative_prompt if request.negative_prompt is None else request.negative_prompt,
        lora_sources=loras.sources,
        controlnet=request.controlnet or (None if own else preset.controlnet),
        control_image=request.control_image,
        canny=request.canny,
        resize_control=request.resize_control,
        ip_adapter=request.ip_adapter or (None if own else preset.ip_adapter),
        ip_adapter_image=request.ip_adapter_image,
        scheduler=_scheduler(request.scheduler or (None if own else preset.scheduler)),
        height=height,
        width=width,
        motion_adapter=request.motion_adapter or (None if own else preset.motion_adapter),
        num_frames=whole(request.num_frames, preset.num_frames or 16, "number of frames", 1, 10_000)
        if request.video
        else None,
        fps=finite(request.fps, preset.fps or 8, "fps") if request.video else None,
        max_sequence_length=None,
        embedded=preset.family == "Flux" if files.is_flux is None else bool(files.is_flux),
        num_pictures=whole(request.num_pictures, 1, "number of pictures", 1, 100_000),
        seed=whole(request.seed, 0, "seed", 0, MAX_SEED),
        dtype=one_of(_dtype(request, preset), DTYPES, "dtype"),
        device=request.device,
        memory=one_of(request.memory, MEMORY_PLANS, "memory plan"),
        allow_pickle=request.allow_pickle,
        output=Path(),
    )
    done = replace(done, methods=_methods(request, done))
    check_used(request, done.methods)
    check_image_plan(request, done, files, other)
    reward = plan_reward(
        request, done.methods, preset=preset.name, prompts=prompts, size=(height, width), video=request.video
    )
    done = replace(done, reward=reward)
    identity = [done.settings(), done.pair_record(), done.prompts, done.dtype, done.device, *identity_of(reward)]
    return replace(done, output=run_folder(request.output, done.pair.name, identity))


def _preset(request: ImageRequest) -> tuple[Preset, bool]:
    """The preset, and whether the pair is the user's own, with nothing of it but steps and guidance."""
    if request.preset is not None:
        if request.preset not in PRESETS:
            unknown("preset", request.preset, PICTURE_PRESETS)
        if request.preset not in PICTURE_PRESETS and not request.video:
            raise UserError(
                f"the preset {request.preset} makes videos: use it with generate_video.py; presets that make pictures: "
                f"{', '.join(PICTURE_PRESETS)}"
            )
        return get_preset(request.preset), False
    if request.strong is None:
        if request.weak is not None:
            raise UserError(
                "--weak is given without --strong; give both, or a --preset whose strong side is to be used"
            )
        if request.video:
            raise UserError(
                "the bundled pair of videos goes with no IP-Adapter; give --strong with its --motion-adapter, or "
                "--preset animatediff-sd15"
            )
        return get_preset("picture-demo"), False
    return get_preset(OWN_PAIR), True


def _guidances(request: ImageRequest, preset: Preset, own: bool) -> tuple[float, float, float]:
    """Of sampling, and of the strong and the weak side inside the reflection."""
    guidance = finite(request.guidance, preset.guidance, "guidance")
    ours, theirs = preset.pair.strong.guidance, preset.pair.weak.guidance
    if own:  # one guidance for all unless it is the gap
        ours = theirs = None
    elif request.guidance is not None and ours == preset.guidance:
        ours = None  # sampling and reflecting agree in the preset, so they go on to
    inside = finite(request.strong_guidance, guidance if ours is None else ours, "strong guidance")
    return guidance, inside, finite(request.weak_guidance, inside if theirs is None else theirs, "weak guidance")


def _sides(request: ImageRequest, preset: Preset, own: bool, loras: LoraPlan) -> dict[str, dict[str, Any]]:
    """What the two sides are told beside guidance and prompt."""
    sides: dict[str, dict[str, Any]] = {"strong": {"loras": loras.strong}, "weak": {"loras": loras.weak}}
    control = request.controlnet is not None or (not own and preset.controlnet is not None)
    adapter = request.ip_adapter is not None or (not own and preset.ip_adapter is not None)
    for role, scale, adapted, default in (
        ("strong", request.control_scale, request.ip_adapter_scale, 1.0),
        ("weak", request.weak_control_scale, request.weak_ip_adapter_scale, 0.0),
    ):
        if control:
            sides[role]["control"] = {"scale": finite(scale, default, f"{role} control scale")}
        if adapter:
            sides[role]["ip_adapter"] = finite(adapted, default, f"{role} IP-Adapter scale")
    return sides


def _name(preset: Preset, own: bool, strong: str, weak: str | None) -> str:
    named = (preset.pair.strong.checkpoint, preset.pair.weak.checkpoint)
    if not own and (strong, weak) == named:
        return preset.name
    return Path(strong).stem if weak is None else f"{Path(strong).stem}-vs-{Path(weak).stem}"


def _size_defaults(preset: Preset, own: bool, files: Description) -> tuple[int | None, int | None]:
    return (files.own_size, files.own_size) if own else (preset.height, preset.width)


def _reflections(given: int | None, steps: int, mode: str, preset: Preset) -> int:
    if given is None:
        return min(steps - 1, round(preset.num_reflections / preset.steps * steps)) if steps > 1 else 0
    most = steps - (mode == "release")
    if isinstance(given, bool) or not isinstance(given, int) or not 0 <= given <= most:
        raise UserError(f"reflections is {given!r} with {steps} steps; use a whole number from 0 to {most}")
    return given


def _prompts(request: ImageRequest, preset: Preset) -> tuple[tuple[str, ...], Mapping[str, str]]:
    """The strong side's prompts, and the weak side's where they differ."""
    from w2sd_video.demo import PICTURE_PROMPTS

    own = PICTURE_PROMPTS if preset.name == "picture-demo" else ()
    return both_sides(request.prompts, request.prompt_pairs, request.weak_prompt, own, preset=preset.name)


def _scheduler(given: str | None) -> str | None:
    return None if given is None else one_of(given, SCHEDULERS, "scheduler")


def _dtype(request: ImageRequest, preset: Preset) -> str:
    return request.dtype if request.dtype != "auto" or preset.dtype is None else preset.dtype


def _methods(request: ImageRequest, done: ImagePlan) -> tuple[str, ...]:
    if request.methods is None:
        alone = done.embedded or done.sampling_guidance("weak") >= 1  # by itself a side samples with 1 or more
        return tuple(name for name in DEFAULT_METHODS if name != "weak" or alone)
    if not request.methods:
        raise UserError(f"no method is given; choose from {', '.join(METHODS)}")
    return tuple(one_of(method, METHODS, "method") for method in dict.fromkeys(request.methods))
