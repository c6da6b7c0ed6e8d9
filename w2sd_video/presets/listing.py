"""The table of presets as text for people: what `--list-presets` prints (imports no torch)."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from typing import Any

from w2sd_video.pair import ModelSpec
from w2sd_video.presets import PRESETS
from w2sd_video.presets.preset import Preset


def preset_table(presets: Iterable[Preset] = tuple(PRESETS.values())) -> str:
    """Returns every preset with its settings, its models, and what the paper reports for it."""
    return "\n\n".join("\n".join(_lines(preset)) for preset in presets)


class ListPresets(argparse.Action):
    """A flag that prints the table of presets and ends the program, as --version does."""

    def __init__(self, option_strings: list[str], dest: str, **settings: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, **settings)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print(preset_table(), flush=True)
        parser.exit()


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
    for name, text in (("give", ", ".join(preset.needs)), ("paper", preset.source), ("chosen", preset.chosen)):
        lines += [f"  {name:10s} {text}"] if text else []
    return lines + [f"    {line}" for table in preset.paper for line in table.lines()]


def _side(spec: ModelSpec, sources: Mapping[str, str | None]) -> str:
    said = [spec.checkpoint] if spec.checkpoint else []
    if spec.guidance is not None:
        said.append(f"guidance {spec.guidance:g} inside the reflection")
    said += [f"LoRA {name} at {scale:g}" for name, scale in spec.loras]
    if spec.control is not None:
        said.append(f"ControlNet at {spec.control['scale']:g}")
    if spec.ip_adapter is not None:
        said.append(f"IP-Adapter at {spec.ip_adapter:g}")
    return ", ".join(said)
