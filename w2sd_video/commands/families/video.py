"""Videos: AnimateDiff on SDXL, whose sides lend each other what one lacks, and whole pipelines of every other family in
the table, from AnimateDiff on SD 1.5 to LTX-2 (imports no torch until it loads).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from w2sd_video.commands.checks import ON_SDXL, check_parts, check_steerable
from w2sd_video.commands.families.pairs import Described, PairFamily, chosen_preset, describe_pipelines
from w2sd_video.commands.request import Request
from w2sd_video.demo import DEMO_PROMPTS
from w2sd_video.errors import UserError
from w2sd_video.loading.files import FAMILIES, class_on_hub, family_of, is_hub_id, read_json, read_safetensors_header
from w2sd_video.loading.pipeline_families import family_called, makes_videos
from w2sd_video.presets import VIDEO_PRESETS

PAPER, OTHERS = "juggernaut-vs-sdxl", "guidance-sdxl"  # whose settings a pair of the user's own gets
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
    about="videos of a weak/strong pair: AnimateDiff, Wan, HunyuanVideo 1.5, LTX, Kandinsky 5 and more",
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
    path = None if request.strong is None else Path(request.strong).expanduser()
    whole = makes_videos(found) and not str(found).startswith(ON_SDXL)
    return (path is None or not path.is_file()) and (whole or found == FAMILIES["sd15"])


def _class_name(request: Request) -> str | None:
    """The strong side's class of pipelines, None for a hub id (or nothing that exists)."""
    if request.strong is None:
        preset = VIDEO_PRESETS.get(request.preset or "demo")
        return None if preset is None else _class_of(preset)
    path = Path(request.strong).expanduser()
    if path.is_file() and path.suffix == ".safetensors":
        return FAMILIES[family_of(read_safetensors_header(path), path)] if _steered(request) else None
    if not path.exists() and is_hub_id(request.strong):
        return class_on_hub(request.strong) or next(
            (_class_of(preset) for preset in VIDEO_PRESETS.values() if preset.pair.strong.checkpoint == request.strong),
            None,
        )
    index = path / "model_index.json"
    return str(read_json(index).get("_class_name")) if index.is_file() else None


def _class_of(preset: Any) -> str | None:
    family = family_called(preset.family)
    return None if family is None else next(iter(family.classes.values()))


def _steered(request: Request) -> bool:
    return any(request.asks(name) for name in STEERED)
