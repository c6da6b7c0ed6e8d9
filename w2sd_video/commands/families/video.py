"""Videos: AnimateDiff on SDXL, whose sides lend each other what one lacks, AnimateDiff on SD 1.5, and Wan (imports no
torch until it loads).
"""

from __future__ import annotations

from pathlib import Path

from w2sd_video.commands.checks import ON_SDXL, check_parts, check_steerable
from w2sd_video.commands.families.pairs import Described, PairFamily, chosen_preset, describe_pipelines
from w2sd_video.commands.request import Request
from w2sd_video.demo import DEMO_PROMPTS
from w2sd_video.errors import UserError
from w2sd_video.loading.files import FAMILIES, family_of, read_json, read_safetensors_header
from w2sd_video.presets import VIDEO_PRESETS

PAPER, OTHERS = "juggernaut-vs-sdxl", "guidance-sdxl"  # whose settings a pair of the user's own gets
CLASSES = {
    "AnimateDiff SDXL": "AnimateDiffSDXLPipeline",
    "AnimateDiff SD 1.5": "AnimateDiffPipeline",
    "Wan": "WanPipeline",
}
WHOLE = ("Wan", "AnimateDiffPipeline", "StableDiffusionPipeline")
STEERED = ("controlnet", "control_image", "canny", "resize_control", "control_scale", "weak_control_scale",
           "ip_adapter", "ip_adapter_image", "ip_adapter_scale", "weak_ip_adapter_scale")  # fmt: skip


def describe(request: Request) -> Described:
    """Returns what the files of the two sides tell; see `base`."""
    found = _class_name(request)
    check_steerable(request.controlnet, request.ip_adapter, found)
    lending = not _whole(request, found)
    if not lending:
        check_parts(request, {name: request.get(name) for name in STEERED}, video=True)
    large = lending or (found or "").startswith(ON_SDXL)
    preset, own = chosen_preset(request, PAPER if large else OTHERS)
    if not lending and request.preset is None and not own:
        raise UserError(
            "the bundled pair of videos goes with no IP-Adapter; give --strong with its --motion-adapter, or "
            "--preset animatediff-sd15"
        )
    if lending and own and request.weak is None:
        raise UserError("--strong is given without --weak; give both, or a --preset whose weak side is to be used")
    return describe_pipelines(request, preset, own, sdxl_video=lending or (large and own), lending=lending)


FAMILY = PairFamily(
    name="video",
    about="videos of a weak/strong pair: AnimateDiff on SDXL or SD 1.5, Wan",
    examples="""\
  {program}                                the bundled demo, on any machine: weak, strong, W2SD, zero-gap
  {program} --prompt "a red ring moving up" --num 4
  {program} --mode fused --strength 2 --methods strong,w2sd,zero-gap
  {program} --preset juggernaut-vs-sdxl --prompt "a corgi runs on the beach" --dry-run
  {program} --strong ./finetune.safetensors --weak stabilityai/stable-diffusion-xl-base-1.0 --prompts prompts.txt
""",
    room="Try --memory model-offload, then --memory group, a smaller --height and --width, or fewer --num-frames; "
    "--dry-run estimates what is needed.",
    presets=VIDEO_PRESETS,
    prompts=DEMO_PROMPTS,
    describe=describe,
)


def _whole(request: Request, found: str | None) -> bool:
    """Whether the request is loaded as whole pipelines: those of other families than AnimateDiff on SDXL, by the preset
    or the strong folder, and all with a ControlNet or an IP-Adapter.
    """
    if _steered(request):
        return True
    folder = request.strong is None or Path(request.strong).expanduser().is_dir()
    return folder and (found or "").startswith(WHOLE)


def _class_name(request: Request) -> str | None:
    """The strong side's class of pipelines, None for a hub id (or nothing that exists)."""
    if request.strong is None:
        preset = VIDEO_PRESETS.get(request.preset or "demo")
        return None if preset is None else CLASSES[preset.family]
    path = Path(request.strong).expanduser()
    if path.is_file() and path.suffix == ".safetensors":
        return FAMILIES[family_of(read_safetensors_header(path), path)] if _steered(request) else None
    index = path / "model_index.json"
    return str(read_json(index).get("_class_name")) if index.is_file() else None


def _steered(request: Request) -> bool:
    return any(request.asks(name) for name in STEERED)
