"""Videos of pairs that are loaded as whole pipelines, asked for as any other videos: AnimateDiff on SD 1.5 and Wan, and
with an IP-Adapter also AnimateDiff on SDXL.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from w2sd_video.commands.method_settings import REFINEMENTS, REWARD
from w2sd_video.commands.pictures.checking import check_parts
from w2sd_video.commands.pictures.request import ImagePlan, ImageRequest
from w2sd_video.commands.request import PIPELINE_GAPS, GenerationRequest
from w2sd_video.errors import UserError
from w2sd_video.loading.files import FAMILIES, family_of, read_json, read_safetensors_header
from w2sd_video.presets import VIDEO_PRESETS

PUT_TOGETHER = "AnimateDiff SDXL"  # the family whose pairs are put together part by part
OWN_PAIR = "juggernaut-vs-sdxl"  # whose settings a pair of that family gets
WITHOUT_CONTROLNET = {  # by how the classes of pipelines begin, that make videos or become such with a motion adapter
    "Wan": "Wan",
    "AnimateDiffSDXL": "AnimateDiff on SDXL",
    "StableDiffusionXL": "AnimateDiff on SDXL",
}
CLASSES = {PUT_TOGETHER: "AnimateDiffSDXLPipeline", "AnimateDiff SD 1.5": "AnimateDiffPipeline", "Wan": "WanPipeline"}
MEMORY = {"none": "resident", "model": "weak-offload", "sequential": "sequential"}
ALIKE = (
    *("prompts", "prompt_pairs", "weak_prompt", "negative_prompt", "weak_negative_prompt", "preset", "strong", "weak"),
    *("config", "motion_adapter", "methods", "mode", "strength", "steps", "reflections", "match_evaluations"),
    *REFINEMENTS,
    *REWARD,
    *("guidance", "strong_guidance", "weak_guidance", "loras", "weak_loras", "num_frames", "height", "width", "fps"),
    *("seed", "dtype", "device", "allow_pickle", "output", "scheduler"),
    *PIPELINE_GAPS,
)


def needs_whole_pipelines(request: GenerationRequest) -> bool:
    """Whether the request is loaded as whole pipelines: those of other families than AnimateDiff on SDXL, by the preset
    or the strong folder, and all with a ControlNet or an IP-Adapter.
    """
    if _pipeline_gaps(request):
        return True
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
    name = _class_name(request)
    check_family(request, name)
    large = (name or "").startswith(("AnimateDiffSDXL", "StableDiffusionXL"))
    others = "pipelines with an IP-Adapter" if large else "other families"
    if request.compile:
        raise UserError(f"--compile is for AnimateDiff-SDXL; leave it out for {others}")
    if request.video_format != "mp4":
        raise UserError(f"the video format {request.video_format} is for AnimateDiff-SDXL; {others} write mp4")
    if request.offload not in MEMORY:
        raise UserError(f"--offload {request.offload} is for AnimateDiff-SDXL; choose from {', '.join(MEMORY)}")
    given = {name: getattr(request, name) for name in ALIKE}
    single = request.weak is not None and Path(request.weak).expanduser().is_file()
    found = ImageRequest(
        **given,
        weak_config=request.config if single else None,
        video=True,
        num_pictures=request.num_videos,
        memory=MEMORY[request.offload],
    )
    check_parts(found, found)
    return _as_put_together(found) if large and request.preset is None else found


def _pipeline_gaps(request: GenerationRequest) -> bool:
    return any(getattr(request, name) not in (None, False) for name in PIPELINE_GAPS)


def _class_name(request: GenerationRequest) -> str | None:
    """The strong side's class of pipelines, None for a hub id (or nothing that exists)."""
    if request.strong is None:
        preset = VIDEO_PRESETS.get(request.preset or "demo")
        return None if preset is None else CLASSES[preset.family]
    path = Path(request.strong).expanduser()
    if path.is_file() and path.suffix == ".safetensors":
        return FAMILIES[family_of(read_safetensors_header(path), path)]
    index = path / "model_index.json"
    return str(read_json(index).get("_class_name")) if index.is_file() else None


def check_family(request: GenerationRequest | ImagePlan, name: str | None) -> None:
    """Raises `UserError` for a ControlNet or an IP-Adapter where diffusers has none for videos of the strong side's
    class of pipelines (None: not known yet).
    """
    if name is None:
        return
    family = next((family for start, family in WITHOUT_CONTROLNET.items() if name.startswith(start)), None)
    if request.controlnet is not None and family is not None:
        raise UserError(
            f"--controlnet: diffusers has no ControlNet for videos of {family} ({name}); AnimateDiff on SD 1.5 has "
            "one: give an SD 1.5 checkpoint with its --motion-adapter, or --preset animatediff-sd15"
        )
    if request.ip_adapter is not None and name.startswith("Wan"):
        raise UserError(
            f"--ip-adapter: diffusers has no IP-Adapter for {name}; AnimateDiff on SD 1.5 and on SDXL have one: give "
            "such a checkpoint with its --motion-adapter, or --preset animatediff-sd15"
        )


def _as_put_together(request: ImageRequest) -> ImageRequest:
    """With the defaults that a pair of AnimateDiff on SDXL has without an IP-Adapter."""
    preset = VIDEO_PRESETS[OWN_PAIR]
    sides = [side for side in (request.strong, request.weak) if side is not None]
    fetched = not all(Path(side).expanduser().exists() for side in sides)
    theirs = request.weak_guidance
    if theirs is None and request.weak is not None:
        theirs = preset.pair.weak.guidance
    return replace(
        request,
        motion_adapter=request.motion_adapter or (preset.motion_adapter if fetched else None),
        guidance=preset.guidance if request.guidance is None else request.guidance,
        weak_guidance=theirs,
    )
