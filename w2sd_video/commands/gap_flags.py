"""The flags of gaps that pictures and videos have alike: prompts, LoRAs, what steers a pipeline (imports no torch)."""

from __future__ import annotations

import argparse
from typing import Any

from w2sd_video.commands.lora_flags import parse_lora
from w2sd_video.commands.prompt_pairs import read_prompt_pairs


def add_gaps(gaps: argparse._ArgumentGroup) -> None:
    """Adds the flags to a group."""
    gaps.add_argument(
        "--prompt-pairs",
        metavar="FILE",
        help="two columns, refined and raw (tabs, or commas in a .csv): what the strong and the weak side are told",
    )
    gaps.add_argument("--weak-prompt", metavar="TEXT", help="what the weak side is told in place of every prompt")
    gaps.add_argument("--weak-negative-prompt", metavar="TEXT", help="the weak side's negative prompt")
    gaps.add_argument(
        "--lora",
        action="append",
        metavar="NAME=FILE:SCALE",
        help="a LoRA of the strong side (file, folder or hub id; kohya's or diffusers' format); any number of times",
    )
    gaps.add_argument(
        "--weak-lora",
        action="append",
        metavar="NAME:SCALE",
        help="its scale on the weak side, or NAME=FILE:SCALE (default: 0, none); scales may be negative",
    )


def add_pipeline_gaps(gaps: argparse._ArgumentGroup, *, video: bool = False) -> None:
    """Adds the flags of a ControlNet and an IP-Adapter to a group."""
    follows = "the picture it follows, of the output's size"
    names = ["--control-image"]
    if video:
        follows = "the video, folder of pictures or one picture it follows, of the output's size and number of frames"
        names.append("--control-video")
    gaps.add_argument("--controlnet", metavar="MODEL", help="a ControlNet: a folder or a hub id")
    gaps.add_argument(*names, dest="control_image", metavar="FILE", help=follows)
    gaps.add_argument("--canny", action="store_const", const=True, help="follow the edges of what it shows")
    gaps.add_argument("--resize-control", action="store_const", const=True, help="resize and crop it to the output")
    gaps.add_argument("--control-scale", type=float, metavar="S", help="on the strong side (default: 1)")
    gaps.add_argument("--weak-control-scale", type=float, metavar="S", help="on the weak side (default: 0, none)")
    gaps.add_argument("--ip-adapter", metavar="MODEL", help="an IP-Adapter: a file, a folder or a hub id")
    gaps.add_argument("--ip-adapter-image", metavar="FILE", help="the picture it is told")
    gaps.add_argument("--ip-adapter-scale", type=float, metavar="S", help="on the strong side (default: 1)")
    gaps.add_argument("--weak-ip-adapter-scale", type=float, metavar="S", help="on the weak side (default: 0, none)")


def gaps_given(given: dict[str, Any]) -> dict[str, Any]:
    """Returns the flags that were given, with prompt pairs read and LoRAs parsed, under the names of a request.

    Raises UserError for a file or a LoRA that cannot be used.
    """
    found = dict(given)
    if "prompt_pairs" in found:
        found["prompt_pairs"] = read_prompt_pairs(found["prompt_pairs"])
    for flag, name in (("lora", "loras"), ("weak_lora", "weak_loras")):
        if flag in found:
            texts = found.pop(flag)
            found[name] = tuple(parse_lora(text, f"--{flag.replace('_', '-')}") for text in texts)
    return found
