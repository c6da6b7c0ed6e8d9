"""From a request to a plan: presets filled in, everything checked that can be before a model is loaded (imports no
torch).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from w2sd_video.commands.checked_values import MAX_SEED, finite, one_of, unknown, whole
from w2sd_video.commands.lora_flags import plan_loras
from w2sd_video.commands.matching import matched
from w2sd_video.commands.method_settings import (
    GAPPED,
    check_lag,
    check_reflection,
    check_sides_alone,
    check_used,
    plan_reflection,
)
from w2sd_video.commands.prompt_pairs import both_sides, check_gap
from w2sd_video.commands.request import (
    DEFAULT_METHODS,
    DTYPES,
    OFFLOADS,
    PIPELINE_GAPS,
    SCHEDULERS,
    GenerationRequest,
    Plan,
)
from w2sd_video.commands.rewards import identity_of, plan_reward
from w2sd_video.errors import UserError
from w2sd_video.pair import MODES, ModelPair, ModelSpec
from w2sd_video.presets import PRESETS, VIDEO_PRESETS, Preset, get_preset
from w2sd_video.runs.file_names import run_folder, video_stems
from w2sd_video.runs.tasks import METHODS
from w2sd_video.runs.video_io import check_format

if TYPE_CHECKING:
    from w2sd_video.loading.pair_description import PairDescription

MAX_STEPS = 1000  # the training levels of every diffusion scheduler here
SIZE_FACTOR = 8  # what diffusers' pipelines ask of heights and widths, also where the VAE would take less


def plan(request: GenerationRequest) -> Plan:
    """Returns the request completed from its preset and checked against everything that can be known without loading a
    model.

    Raises UserError saying what was got, what is allowed and what to do.
    """
    if given := [name for name in PIPELINE_GAPS if getattr(request, name) not in (None, False)]:
        raise UserError(
            f"{', '.join(given)} is of whole pipelines; plan such a request with plan_images(whole_pipelines(request))"
        )
    preset = _preset(request)
    assert preset.num_frames is not None and preset.fps is not None
    strong, weak, adapter = _checkpoints(request, preset)
    match = matched(request.match_evaluations, steps=request.steps, reflections=request.reflections)
    steps = whole(match.steps if match else request.steps, preset.steps, "steps", 1, MAX_STEPS)
    guidance = finite(request.guidance, preset.guidance, "guidance")
    if (
        guidance < 1
    ):  # diffusers pipelines take any scale up to 1 to mean "unguided": what was asked for would not be done
        raise UserError(
            f"guidance is {guidance:g}; sampling takes 1 (unguided) or more; inside the reflection, --strong-guidance "
            "and --weak-guidance may be any number"
        )
    inside = (
        preset.pair.strong.guidance if request.guidance is None else guidance
    )  # sampling and reflecting agree unless told not to
    strong_guidance = finite(request.strong_guidance, guidance if inside is None else inside, "strong guidance")
    outer = preset.pair.weak.guidance
    weak_guidance = finite(request.weak_guidance, strong_guidance if outer is None else outer, "weak guidance")
    mode = request.mode or preset.reflection.mode
    if mode not in MODES:
        unknown("mode", mode, MODES)
    prompts, raw = _prompts(request, preset)
    methods = _methods(request.methods, preset)
    check_used(request, methods)
    loras = plan_loras(request.loras, request.weak_loras, sources=preset.loras)
    done = Plan(
        preset=preset.name,
        pair=ModelPair(
            ModelSpec(checkpoint=strong, guidance=strong_guidance, loras=loras.strong),
            ModelSpec(
                checkpoint=weak,
                guidance=weak_guidance,
                negative_prompt=request.weak_negative_prompt,
                loras=loras.weak,
            ),
            name=preset.pair.name if (strong, weak) == _sides(preset) else f"{Path(strong).stem}-vs-{Path(weak).stem}",
        ),
        motion_adapter=adapter,
        config=request.config,
        reflection=plan_reflection(
            request,
            preset.reflection,
            num_reflections=_reflections(match.reflections if match else request.reflections, steps, mode, preset),
            mode=mode,
        ),
        reward=None,
        prompts=prompts,
        raw_prompts=raw,
        lora_sources=loras.sources,
        stems=video_stems(prompts),
        methods=methods,
        steps=steps,
        plain_steps=whole(match.plain_steps if match else None, steps, "steps", 1, MAX_STEPS),
        guidance=guidance,
        negative_prompt=preset.negative_prompt if request.negative_prompt is None else request.negative_prompt,
        scheduler=None if request.scheduler is None else one_of(request.scheduler, SCHEDULERS, "scheduler"),
        num_frames=whole(request.num_frames, preset.num_frames, "number of frames", 1, 10_000),
        height=whole(request.height, preset.height, "height", 8, 8192),
        width=whole(request.width, preset.width, "width", 8, 8192),
        fps=finite(request.fps, preset.fps, "fps"),
        seed=whole(request.seed, 0, "seed", 0, MAX_SEED),
        num_videos=whole(request.num_videos, 1, "number of videos", 1, 100_000),
        dtype=one_of(
            request.dtype if request.dtype != "auto" or preset.dtype is None else preset.dtype, DTYPES, "dtype"
        ),
        device=request.device,
        offload=one_of(request.offload, OFFLOADS, "offload"),
        compile=request.compile,
        allow_pickle=request.allow_pickle,
        output=Path(),
        video_format=request.video_format,
    )
    check_reflection(done.reflection, methods, steps)
    check_lag(done.reflection, methods, strong=(guidance, strong_guidance), weak=(guidance, weak_guidance))
    if set(GAPPED) & set(methods):
        check_gap(done.pair, done.raw_prompts)
    check_sides_alone(methods, done.pair, {"strong": guidance, "weak": guidance}, raw)
    if done.loras_of("weak") and done.offload != "none":
        raise UserError(
            f"a LoRA on the weak side's own network does not go with --offload {done.offload}; use none, or "
            "put the LoRA on the strong side alone"
        )
    _check_seeds(done)
    _check_checkpoints(done)
    check_format(done.video_format, done.height, done.width, done.fps)
    size = (done.height, done.width)
    done = replace(
        done, reward=plan_reward(request, methods, preset=preset.name, prompts=prompts, size=size, video=True)
    )
    identity = [done.settings(), done.pair_record(), done.prompts, done.dtype, done.device, *identity_of(done.reward)]
    return replace(done, output=run_folder(request.output, done.pair.name, identity))


def parse_methods(text: str) -> tuple[str, ...]:
    """Returns the methods in a comma-separated list; raises UserError naming an unknown one and the nearest that
    exists.
    """
    return _methods(tuple(name.strip() for name in text.split(",") if name.strip()), None)


def _preset(request: GenerationRequest) -> Preset:
    if request.preset is not None:
        if request.preset not in PRESETS:
            unknown("preset", request.preset, VIDEO_PRESETS)
        if request.preset not in VIDEO_PRESETS:
            raise UserError(
                f"the preset {request.preset} makes pictures: use it with generate_image.py; "
                f"presets that make videos: {', '.join(VIDEO_PRESETS)}"
            )
        return get_preset(request.preset)
    if request.strong is None and request.weak is None:
        return get_preset("demo")
    if request.strong is None or request.weak is None:
        given, lacking = ("strong", "weak") if request.weak is None else ("weak", "strong")
        raise UserError(
            f"--{given} is given without --{lacking}; give both, or a --preset whose {lacking} side is to be used"
        )
    return get_preset("juggernaut-vs-sdxl")


def _sides(preset: Preset) -> tuple[str | None, str | None]:
    return preset.pair.strong.checkpoint, preset.pair.weak.checkpoint


def _checkpoints(request: GenerationRequest, preset: Preset) -> tuple[str, str, str | None]:
    strong, weak = (given or own for given, own in zip((request.strong, request.weak), _sides(preset), strict=True))
    assert strong is not None and weak is not None
    adapter = request.motion_adapter
    # Two local checkpoints without a preset bring their own motion modules or are refused: nothing is fetched unless a
    # hub id is given.
    if adapter is None and (request.preset or not (Path(strong).exists() and Path(weak).exists())):
        adapter = preset.motion_adapter
    return strong, weak, adapter


def specification_of(done: Plan) -> PairDescription:
    """Returns the plan's pair as its files describe it; raises UserError for files that do not exist, are damaged or
    do not fit.
    """
    from w2sd_video.loading.pair_description import describe_pair

    assert done.pair.strong.checkpoint is not None and done.pair.weak.checkpoint is not None
    return describe_pair(
        done.pair.strong.checkpoint,
        done.pair.weak.checkpoint,
        done.motion_adapter,
        config=done.config,
        allow_pickle=done.allow_pickle,
        num_frames=done.num_frames,
    )


def _check_checkpoints(done: Plan) -> None:
    pair = specification_of(done)
    vae = pair.part("strong", "vae") or pair.part("weak", "vae") or {}
    factor = max(SIZE_FACTOR, 2 ** (len(vae.get("block_out_channels", (1, 1, 1, 1))) - 1))
    for name, size in (("height", done.height), ("width", done.width)):
        if size % factor:
            near = max(factor, size // factor * factor)
            raise UserError(f"{name} is {size}; it must be a multiple of {factor}: use {near} or {near + factor}")


def _reflections(given: int | None, steps: int, mode: str, preset: Preset) -> int:
    if given is not None:
        # Whether the last step can be inverted depends on the schedule, except in release mode, where it never can.
        most = steps - (mode == "release")
        if isinstance(given, bool) or not isinstance(given, int) or not 0 <= given <= most:
            raise UserError(
                f"reflections is {given!r} with {steps} steps; use a whole number from 0 to {most} "
                f"({steps - 1} by default: most schedules end without noise, and such a step cannot be inverted)"
            )
        return given
    own = preset.reflection.num_reflections
    share = 1.0 if own is None else own / preset.steps
    return min(steps - 1, round(share * steps))


def _prompts(request: GenerationRequest, preset: Preset) -> tuple[tuple[str, ...], Mapping[str, str]]:
    from w2sd_video.demo import DEMO_PROMPTS

    own = DEMO_PROMPTS if preset.name == "demo" else ()
    return both_sides(request.prompts, request.prompt_pairs, request.weak_prompt, own, preset=preset.name)


def _methods(given: Iterable[str] | None, preset: Preset | None) -> tuple[str, ...]:
    if given is None:
        return (*DEFAULT_METHODS, "zero-gap") if preset is not None and preset.name == "demo" else DEFAULT_METHODS
    methods = tuple(dict.fromkeys(given))
    if not methods:
        raise UserError(f"no method is given; choose from {', '.join(METHODS)}")
    for method in methods:
        if method not in METHODS:
            unknown("method", method, METHODS)
    return methods


def _check_seeds(done: Plan) -> None:
    if done.seed + done.num_videos - 1 > MAX_SEED:
        raise UserError(f"seed {done.seed} + {done.num_videos} videos goes beyond {MAX_SEED}; use a smaller seed")
