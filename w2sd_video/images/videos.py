"""Videos of families that are loaded as whole pipelines (AnimateDiff on SD 1.5, Wan), asked for as any other videos."""

from __future__ import annotations

from pathlib import Path

from w2sd_video.adapters.checkpoints import read_json
from w2sd_video.errors import UserError
from w2sd_video.images.request import ImageRequest
from w2sd_video.presets import VIDEO_PRESETS
from w2sd_video.request import GenerationRequest

PUT_TOGETHER = "AnimateDiff SDXL"  # the family whose pairs are put together part by part
MEMORY = {"none": "resident", "model": "weak-offload", "sequential": "sequential"}
ALIKE = (
    *("prompts", "prompt_pairs", "weak_prompt", "negative_prompt", "weak_negative_prompt", "preset", "strong", "weak"),
    *("config", "motion_adapter", "methods", "mode", "strength", "steps", "reflections", "match_evaluations"),
    *("guidance", "strong_guidance", "weak_guidance", "loras", "weak_loras", "num_frames", "height", "width", "fps"),
    *("seed", "dtype", "device", "allow_pickle", "output"),
)


def needs_whole_pipelines(request: GenerationRequest) -> bool:
    """Whether the request is of a family that is loaded as whole pipelines: its preset's, or the strong folder's."""
    if request.strong is not None:
        index = Path(request.strong).expanduser() / "model_index.json"
        name = str(read_json(index).get("_class_name")) if index.is_file() else ""
        return name.startswith(("Wan", "AnimateDiffPipeline", "StableDiffusionPipeline"))
    preset = VIDEO_PRESETS.get(request.preset or "")
    return preset is not None and preset.family != PUT_TOGETHER


def whole_pipelines(request: GenerationRequest) -> ImageRequest:
    """Returns the same request for whole pipelines.

    Raises:
        UserError: a setting that they do not have.
    """
    if request.compile:
        raise UserError("--compile is for AnimateDiff-SDXL; leave it out for other families")
    if request.video_format != "mp4":
        raise UserError(f"the video format {request.video_format} is for AnimateDiff-SDXL; other families write mp4")
    if request.offload not in MEMORY:
        raise UserError(f"--offload {request.offload} is for AnimateDiff-SDXL; choose from {', '.join(MEMORY)}")
    given = {name: getattr(request, name) for name in ALIKE}
    single = request.weak is not None and Path(request.weak).expanduser().is_file()
    return ImageRequest(
        **given,
        weak_config=request.config if single else None,
        video=True,
        num_pictures=request.num_videos,
        memory=MEMORY[request.offload],
    )
