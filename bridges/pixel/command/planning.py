"""From a request to a plan: presets filled in, everything checked that can be before a model is loaded (imports no
torch).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bridges.pixel.command.checking import check_settings
from bridges.pixel.command.presets import BRIDGE_PRESETS, BridgePreset
from bridges.pixel.command.request import (
    BRIDGE_METHODS,
    CODECS,
    MEMORY_PLANS,
    NOISE_MAPS,
    VIDEO_FPS,
    BridgePlan,
    BridgeRequest,
)
from w2sd_video.commands.checks import MAX_SEED, check_multiple, check_sizes, finite, one_of, unknown, whole
from w2sd_video.commands.options import DTYPES, MAX_SIZE
from w2sd_video.commands.prompts import check_prompt, without_repeats
from w2sd_video.errors import UserError
from w2sd_video.loading.describe import Description, describe, describe_motion_adapter
from w2sd_video.loading.files import read_safetensors_header
from w2sd_video.pair import ModelPair, ModelSpec
from w2sd_video.runs.file_names import run_folder, video_stems

MAX_STEPS = 1000
VIDEO_FRAMES = 16  # AnimateDiff's own


def plan_bridge(request: BridgeRequest) -> BridgePlan:
    """Returns the request completed from its preset and checked against everything that can be known without loading a
    model.

    Raises UserError saying what was got, what is allowed and what to do.
    """
    preset = _preset(request)
    strong, weak = _sides(request, preset)
    files = _described(request, strong, weak)
    steps = whole(request.steps, preset.steps, "steps", 1, MAX_STEPS)
    height, width, weak_height, weak_width = _sizes(request, preset, files)
    own = (strong, weak) == (preset.pair.strong.checkpoint, preset.pair.weak.checkpoint)
    prompts = _prompts(request.prompts, preset)
    done = BridgePlan(
        preset=preset.name,
        pair=ModelPair(
            ModelSpec(checkpoint=strong, guidance=_guidance(request.guidance, preset.pair.strong.guidance, "guidance")),
            ModelSpec(
                checkpoint=weak, guidance=_number(request.weak_guidance, preset.pair.weak.guidance, "weak guidance")
            ),
            name=preset.pair.name if own else f"{Path(strong).stem}-over-{Path(weak).stem}",
        ),
        config=request.config,
        weak_config=request.weak_config,
        motion_adapter=request.motion_adapter,
        prompts=prompts,
        stems=video_stems(prompts),
        methods=_methods(request, preset),
        steps=steps,
        reflections=_reflections(request.reflections, steps, preset),
        strength=finite(request.strength, 1.0, "strength"),
        true_cfg=None if request.true_cfg is None else finite(request.true_cfg, 0.0, "true CFG"),
        negative_prompt=request.negative_prompt,
        noise_map=_noise_map(request.noise_map),
        preset_map=preset.noise_map if own else None,
        codec=one_of(request.codec, CODECS, "codec"),
        strong_tiny_vae=request.strong_tiny_vae,
        weak_tiny_vae=request.weak_tiny_vae,
        tiled=request.tiled,
        height=height,
        width=width,
        weak_height=weak_height,
        weak_width=weak_width,
        max_sequence_length=preset.max_sequence_length,
        num_pictures=whole(request.num_pictures, 1, "number of pictures", 1, 100_000),
        seed=whole(request.seed, 0, "seed", 0, MAX_SEED),
        num_frames=_frames(request),
        fps=finite(request.fps, VIDEO_FPS, "fps") if request.video else None,
        memory=one_of(request.memory, MEMORY_PLANS, "memory plan"),
        dtype=one_of(
            request.dtype if request.dtype != "auto" or preset.dtype is None else preset.dtype, DTYPES, "dtype"
        ),
        device=request.device,
        force_bridge=request.force_bridge,
        allow_pickle=request.allow_pickle,
        output=Path(),
    )
    check_settings(request, done, *files)
    identity = [done.settings(), done.pair_record(), done.prompts, done.dtype, done.device]
    return replace(done, output=run_folder(request.output, done.pair.name, identity))


def _preset(request: BridgeRequest) -> BridgePreset:
    if request.preset is not None:
        if request.preset not in BRIDGE_PRESETS:
            unknown("preset", request.preset, BRIDGE_PRESETS)
        return BRIDGE_PRESETS[request.preset]
    if request.strong is None and request.weak is None:
        return BRIDGE_PRESETS["demo"]
    return BRIDGE_PRESETS["own-pair"]


def _sides(request: BridgeRequest, preset: BridgePreset) -> tuple[str, str]:
    strong, weak = request.strong or preset.pair.strong.checkpoint, request.weak or preset.pair.weak.checkpoint
    if strong is None or weak is None:
        lacking = " and ".join(flag for flag, side in (("--strong", strong), ("--weak", weak)) if side is None)
        raise UserError(
            f"{lacking} must be given for a pair of your own; or name a --preset whose sides are to be used"
        )
    return strong, weak


def _described(request: BridgeRequest, strong: str, weak: str) -> tuple[Description, Description]:
    """Both sides as far as their files tell."""
    ours = describe(strong, "strong", config=request.config, allow_pickle=request.allow_pickle, video=request.video)
    if request.motion_adapter is not None:
        if not request.video:
            raise UserError(
                "--motion-adapter makes a video pipeline of the strong side; give --video too, or leave it out"
            )
        describe_motion_adapter(request.motion_adapter, allow_pickle=request.allow_pickle)
    elif request.video and ours.class_name is not None and not ours.class_name.startswith("AnimateDiff"):
        raise UserError(
            f"the strong side {strong} is a {ours.class_name}, which makes pictures; for --video give AnimateDiff's "
            "folder or an SDXL checkpoint with --motion-adapter"
        )
    return ours, describe(weak, "weak", config=request.weak_config, allow_pickle=request.allow_pickle)


def _sizes(
    request: BridgeRequest, preset: BridgePreset, files: tuple[Description, Description]
) -> tuple[int, int, int, int]:
    """Height and width of the strong side, then of the weak one."""
    ours, theirs = files
    height, width = check_sizes(request.height, request.width, preset.height, preset.width, ours)
    weak_height = whole(request.weak_height, height, "weak height", 8, MAX_SIZE)
    weak_width = whole(request.weak_width, width, "weak width", 8, MAX_SIZE)
    for name, size in (("height", weak_height), ("width", weak_width)):
        check_multiple(f"weak {name}", size, theirs.multiple, f" (give --weak-{name})")
    return height, width, weak_height, weak_width


def _guidance(given: float | None, default: float | None, name: str) -> float | None:
    value = _number(given, default, name)
    if value is not None and value < 0:
        raise UserError(f"{name} is {value:g}; sampling takes 1 (unguided) or more, Flux 0 or more")
    return value


def _number(given: float | None, default: float | None, name: str) -> float | None:
    return None if given is None and default is None else finite(given, default or 0.0, name)


def _reflections(given: int | None, steps: int, preset: BridgePreset) -> int:
    if given is None:
        return round(steps * preset.reflections / preset.steps)
    if isinstance(given, bool) or not isinstance(given, int) or not 0 <= given <= steps:
        raise UserError(f"reflections is {given!r} with {steps} steps; use a whole number from 0 to {steps}")
    return given


def _noise_map(given: str) -> str:
    if given in NOISE_MAPS:
        return given
    if not given.endswith(".safetensors"):
        if "/" not in given:
            unknown("noise map", given, (*NOISE_MAPS, "FILE.safetensors"))
        raise UserError(f"the noise map {given} is no .safetensors file; fit one with the subcommand fit")
    path = Path(given).expanduser()
    if not path.is_file():
        raise UserError(f"there is no noise map at {given}; fit one with the subcommand fit, or use --noise-map auto")
    try:
        tensors = read_safetensors_header(path)
    except UserError as error:
        raise UserError(f"the noise map {given} is damaged or no safetensors file; fit it again") from error
    if "matrix" not in tensors:
        raise UserError(f"{given} is no noise map; fit one with the subcommand fit, or use --noise-map auto")
    return str(path.resolve())


def _frames(request: BridgeRequest) -> int | None:
    return whole(request.num_frames, VIDEO_FRAMES, "number of frames", 1, 10_000) if request.video else None


def _prompts(given: Sequence[str], preset: BridgePreset) -> tuple[str, ...]:
    if given:
        return tuple(check_prompt(prompt, f"prompt {n}") for n, prompt in enumerate(without_repeats(given), start=1))
    if preset.name != "demo":
        raise UserError(f"the preset {preset.name} has no prompts of its own; give --prompt TEXT or --prompts FILE")
    from w2sd_video.demo import PICTURE_PROMPTS

    return tuple(PICTURE_PROMPTS)


def _methods(request: BridgeRequest, preset: BridgePreset) -> tuple[str, ...]:
    if request.methods is None:
        left_out = {name for name, out in (("weak", request.video), ("zero-gap", preset.name != "demo")) if out}
        return tuple(name for name in BRIDGE_METHODS if name not in left_out)
    if not request.methods:
        raise UserError(f"no method is given; choose from {', '.join(BRIDGE_METHODS)}")
    return tuple(one_of(method, BRIDGE_METHODS, "method") for method in dict.fromkeys(request.methods))
