"""VBench's static filter: which videos of a still scene hold still, and copies of them for temporal_flickering.

VBench asks for 25 videos of each of that dimension's prompts and scores the first five that this filter lets pass.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vbench_eval.errors import UserError
from vbench_eval.files import read_json, write_json
from vbench_eval.naming import SUFFIXES, nfc, parse_name
from vbench_eval.suite import read_suite

if TYPE_CHECKING:
    from torch import Tensor

    from vbench_eval.protocols import FlowEstimator
    from vbench_eval.video_info import Video

KEPT = 5
SHARE = 0.02  # of the pixels, whose motion speaks for the frame
SCOPES = ("temporal_flickering", "all")


def is_static(motions: Sequence[float], ends: Iterable[float], *, frames: int, size: tuple[int, int]) -> bool:
    """Returns whether a video of that many frames of `size` (h, w) is static, by the largest motions between neighbours
    and those between its first and last frame, forward and back.

    At most an eighth of the frames (rounded half to even) may move by more than 3 pixels on a shorter side of 256, and
    the ends by no more than twice that for each frame that may.
    """
    threshold, allowed = 3.0 * (min(size) / 256.0), round(2 * (frames / 16.0))
    return sum(motion > threshold for motion in motions) <= allowed and not any(
        motion > threshold * allowed * 2 for motion in ends
    )


def video_is_static(video: Video, network: FlowEstimator) -> bool:
    """Returns whether a video is static; every pair of neighbouring frames is looked at, whatever the frame rate.

    Raises VideoError for a video that cannot be read, or whose frames are too small for VBench's network.
    """
    from vbench_eval.dimensions.formulas import largest_motion, of_shape, refuse_small
    from vbench_eval.profiles import get_profile
    from vbench_eval.resizing import pad_to_multiple, to_float
    from vbench_eval.video_info import VideoError

    def motion(before: Tensor, after: Tensor) -> float:
        a, b = (pad_to_multiple(to_float(frame[None]), network.pad_multiple)[0] for frame in (before, after))
        refuse_small(network, get_profile("vbench"), a)
        found = largest_motion(of_shape(network, network.flow(a, b), (1, 2, *a.shape[-2:]))[0], SHARE)
        if not math.isfinite(found):
            raise VideoError(f"{network.name} gave motions that are not finite numbers")
        return found

    first = last = None
    motions: list[float] = []
    for chunk in video.chunks():
        for frame in chunk:
            if last is not None:
                motions.append(motion(last, frame))
            first, last = (frame.clone() if first is None else first), frame
        last = None if last is None else last.clone()
    if first is None or last is None:
        raise VideoError("it holds no frames")
    size = int(first.shape[0]), int(first.shape[1])
    return is_static(motions, (motion(first, last), motion(last, first)), frames=len(motions) + 1, size=size)


@dataclass(frozen=True)
class Filtered:
    """What the filter found: by prompt the static videos; `skipped` says why others could not be looked at."""

    static: dict[str, list[Path]]
    skipped: dict[str, str]
    looked_at: int

    def to_json(self) -> dict[str, dict[str, Any]]:
        """Returns VBench's filtered_static_video.json."""
        return {
            prompt: {"static_count": len(paths), "static_path": [str(path) for path in paths]}
            for prompt, paths in self.static.items()
        }


def prompts_of_scope(scope: str, videos: Iterable[Path], suite: str | None = None) -> tuple[str, ...]:
    """Returns whose videos are filtered: the suite's prompts of temporal_flickering, "all" videos there are, or those
    that a JSON list of prompts or file names gives.
    """
    if scope == "temporal_flickering":
        return tuple(prompt.prompt for prompt in read_suite(suite).of([scope]))
    if scope == "all":
        return tuple(dict.fromkeys(parse_name(video.name).prompt for video in videos))
    if Path(scope).suffix.lower() != ".json":
        raise UserError(
            f"the scope is {scope!r}; give one of {', '.join(SCOPES)}, or a JSON file with a list of prompts"
        )
    names = read_json(Path(scope), "list of prompts")
    if not isinstance(names, list | dict) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{scope} is no list of prompts or file names; write a JSON list of texts")
    return tuple(dict.fromkeys(parse_name(name).prompt for name in names))


def filter_static(
    videos: Sequence[Path], prompts: Sequence[str], network: FlowEstimator, *, most: int | None = KEPT
) -> Filtered:
    """Returns the static videos of the prompts, at most `most` of each (None: all), in the order of `videos`."""
    from vbench_eval.video_info import VideoError
    from vbench_eval.videos import open_video

    by_key = {nfc(prompt): prompt for prompt in prompts}
    found: dict[str, list[Path]] = {prompt: [] for prompt in prompts}
    skipped, looked_at = {}, 0
    for path in videos:
        prompt = by_key.get(parse_name(path.name).prompt)
        if prompt is None or (most is not None and len(found[prompt]) >= most):
            continue
        looked_at += 1
        try:
            if video_is_static(open_video(path), network):
                found[prompt].append(path)
        except (VideoError, OSError) as error:
            skipped[path.name] = str(error)
    return Filtered(found, skipped, looked_at)


def write_filtered(filtered: Filtered, folder: Path, name: str) -> list[Path]:
    """Writes `name` (VBench's JSON) into the folder and copies the videos, PROMPT-0 to PROMPT-4, to filtered_videos."""
    if filtered.static and not name.endswith(".json"):
        raise UserError(f"--store_name is {name!r}; give a file name that ends in .json")
    target = folder / "filtered_videos"
    target.mkdir(parents=True, exist_ok=True)
    for prompt, paths in filtered.static.items():
        for number, path in enumerate(paths):
            suffix = path.suffix if path.suffix.lower() in SUFFIXES else ""
            copy = shutil.copytree if path.is_dir() else shutil.copyfile
            copy(path, target / f"{prompt}-{number}{suffix}")
    write_json(folder / name, filtered.to_json())
    return [folder / name, target]
