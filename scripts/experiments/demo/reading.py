"""What the oracle reads in the videos of a generation run of the demo."""

import json
from pathlib import Path

import torch
from torch import Tensor

from w2sd_video.demo import oracle, parse_caption
from w2sd_video.errors import UserError
from w2sd_video.runs.video_io import read_video


def read_run(folder: Path) -> dict[str, Tensor]:
    """Which attributes each method's finished videos show as their prompts say: booleans [N, 3] by method.

    Args:
        folder: the output folder of `scripts/generate_video.py`, prompts being captions of the toy world.

    Raises:
        UserError: there is no finished video in it, or a prompt is not a caption of the toy world.
    """
    journal = folder / "results.jsonl"
    if not journal.is_file():
        raise UserError(f"{folder} holds no results.jsonl; give the --output folder of scripts/generate_video.py")
    records = [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines() if line.strip()]
    correct: dict[str, list[Tensor]] = {}
    for record in records:
        if record["status"] != "done" or not (folder / record["path"]).exists():
            continue
        try:
            wanted = parse_caption(record["prompt"])
        except ValueError as error:
            raise UserError(f"the oracle reads clips of the toy world only: {error}") from error
        frames = torch.from_numpy(read_video(folder / record["path"]).frames)  # [F, H, W, 3] uint8
        right = oracle.accuracy(frames.permute(0, 3, 1, 2)[None] / 255, torch.tensor([wanted]))
        correct.setdefault(record["method"], []).append(right)
    if not correct:
        raise UserError(f"{folder} holds no finished video; run the command that made it again")
    return {method: torch.cat(parts) for method, parts in correct.items()}


def describe(correct: dict[str, Tensor]) -> str:
    """A line per method: how many videos show what their prompt says."""
    lines = ["what an oracle reads in the videos, against their prompts:"]
    for method, right in correct.items():
        parts = ", ".join(
            f"{name} {int(count)}" for name, count in zip(("colour", "shape", "motion"), right.sum(dim=0), strict=True)
        )
        lines.append(f"  {method:10s} {int(right.all(dim=1).sum())} of {len(right)} all right ({parts})")
    return "\n".join(lines)
