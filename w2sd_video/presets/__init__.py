"""The paper's pairs as a table, the paper's numbers beside them (imports no torch)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from w2sd_video.errors import UserError
from w2sd_video.pair import ModelSpec
from w2sd_video.presets.newer import PICTURES_2026, VIDEOS_2026
from w2sd_video.presets.pictures import PICTURES
from w2sd_video.presets.preset import Preset
from w2sd_video.presets.tables import TABLE_12, PaperTable
from w2sd_video.presets.videos import DEMO_WEIGHTS, VIDEOS

__all__ = [
    "DEMO_WEIGHTS",
    "PICTURE_PRESETS",
    "PRESETS",
    "TABLE_12",
    "VIDEO_PRESETS",
    "PaperTable",
    "Preset",
    "get_preset",
    "preset_table",
]

PRESETS: Mapping[str, Preset] = MappingProxyType(
    {preset.name: preset for preset in (*VIDEOS, *VIDEOS_2026, *PICTURES, *PICTURES_2026)}
)
VIDEO_PRESETS, PICTURE_PRESETS = (
    MappingProxyType({name: preset for name, preset in PRESETS.items() if preset.is_video == videos})
    for videos in (True, False)
)


def get_preset(name: str) -> Preset:
    """Returns the preset called `name`.

    Raises:
        UserError: there is no such preset; the message lists those there are.
    """
    if name not in PRESETS:
        raise UserError(f"there is no preset {name!r}; choose one of {', '.join(sorted(PRESETS))}")
    return PRESETS[name]


def preset_table(presets: Iterable[Preset] = tuple(PRESETS.values())) -> str:
    """Returns presets as text for people: settings, models, and what the paper reports (`--list-presets`)."""
    return "\n\n".join("\n".join(_lines(preset)) for preset in presets)


def _lines(preset: Preset) -> list[str]:
    strong, weak, lam = preset.pair.strong, preset.pair.weak, preset.num_reflections
    kind = f"videos of {preset.num_frames} frames at {preset.fps} fps" if preset.is_video else "pictures"
    lines = [
        f"{preset.name}: {preset.description}",
        f"  gap        {preset.gap} ({preset.family}, {kind}, {preset.width}x{preset.height})",
        f"  strong     {_side(strong, preset.loras)}",
        f"  weak       {_side(weak, preset.loras) or 'as the strong side but for what is given'}",
        f"  settings   T {preset.steps}, lambda {lam}, mode {preset.reflection.mode}, "
        f"sampling guidance {preset.guidance:g}" + (f", scheduler {preset.scheduler}" if preset.scheduler else ""),
    ]
    parts = {"motion": preset.motion_adapter, "ControlNet": preset.controlnet, "IP-Adapter": preset.ip_adapter}
    lines += [f"  {name:10s} {given}" for name, given in parts.items() if given]
    for name, text in (
        ("memory", preset.memory),
        ("give", ", ".join(preset.needs)),
        ("paper", preset.source),
        ("chosen", preset.chosen),
    ):
        lines += [f"  {name:10s} {text}"] if text else []
    return lines + [f"    {line}" for table in preset.paper for line in table.lines()]


def _side(spec: ModelSpec, sources: Mapping[str, str | None]) -> str:
    said = [spec.checkpoint] if spec.checkpoint else []
    if spec.levels is not None:
        said.append(f"trained at {spec.levels}")
    if spec.guidance is not None:
        said.append(f"guidance {spec.guidance:g} inside the reflection")
    said += [f"LoRA {name} at {scale:g}" for name, scale in spec.loras]
    if spec.control is not None:
        said.append(f"ControlNet at {spec.control['scale']:g}")
    if spec.ip_adapter is not None:
        said.append(f"IP-Adapter at {spec.ip_adapter:g}")
    return ", ".join(said)
