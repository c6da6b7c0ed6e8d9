"""What should be known of a folder of videos before its scores are believed: rates, sizes, lengths, repeats, stills."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from vbench_eval.video_info import SAMPLED_FPS, VideoError, sampling_interval

LONG_SECONDS = 5.0  # from here on VBench-Long is meant, which cuts a video into clips first
_SHOWN = 5


def look_at(paths: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """Returns what each file says of itself by its path, `VideoInfo.as_json` or {"error": reason}; reads no frames."""
    from vbench_eval.videos import open_video

    found: dict[str, dict[str, Any]] = {}
    for path in paths:
        try:
            found[str(path)] = open_video(path).info.as_json()
        except VideoError as error:
            found[str(path)] = {"error": str(error)}
    return found


def formats(infos: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns the table of what the readable videos are: size, rate, frames and how many, the most frequent first."""
    counts = Counter(
        (info["width"], info["height"], round(info["fps"], 3), info.get("frames") or info["declared_frames"])
        for info in infos
        if "error" not in info and info
    )
    return [
        {"width": width, "height": height, "fps": fps, "frames": frames, "videos": count}
        for (width, height, fps, frames), count in sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))
    ]


def format_line(row: Mapping[str, Any]) -> str:
    """Returns one row of `formats` for people: "200 videos of 512x512, 16 frames at 8 fps (2 s)"."""
    seconds = f" ({row['frames'] / row['fps']:.3g} s)" if row["frames"] and row["fps"] else ""
    frames = f"{row['frames']} frames" if row["frames"] else "an unknown number of frames"
    videos = "1 video" if row["videos"] == 1 else f"{row['videos']} videos"
    return f"{videos} of {row['width']}x{row['height']}, {frames} at {row['fps']:g} fps{seconds}"


def warnings(infos: Mapping[str, Mapping[str, Any]], *, dimensions: Sequence[str]) -> list[str]:
    """Returns what makes the scores of these videos doubtful, a sentence each; `infos` as `look_at` returns them, or a
    finished run's, by path.
    """
    good = {path: info for path, info in infos.items() if info and "error" not in info}
    lines: list[str] = []
    if unreadable := [path for path, info in infos.items() if "error" in info]:
        lines.append(f"{_videos(len(unreadable))} cannot be read and will be skipped: {_names(unreadable)}")
    rates = Counter(round(float(info["fps"]), 3) for info in good.values())
    if len(rates) > 1:
        lines.append(
            f"the videos differ in frame rate ({_counted(rates, ' fps')}); dynamic_degree depends on it"
            if "dynamic_degree" in dimensions
            else f"the videos differ in frame rate ({_counted(rates, ' fps')})"
        )
    sizes = Counter(f"{info['width']}x{info['height']}" for info in good.values())
    if len(sizes) > 1:
        lines.append(f"the videos differ in size ({_counted(sizes)}): their scores are not comparable with each other")
    counts = Counter(_frames(info) for info in good.values())
    if len(counts) > 1 and None not in counts:
        lines.append(
            f"the videos differ in length ({_counted(counts, ' frames')}); longer ones are consistent less easily"
        )
    if "dynamic_degree" in dimensions:
        lines += _rate_warnings(rates, good)
    if long := [path for path, info in good.items() if _seconds(info) >= LONG_SECONDS]:
        lines.append(
            f"{_videos(len(long))} last {LONG_SECONDS:g} s or more: VBench is meant for shorter ones, and VBench-Long "
            f"cuts these into clips first: {_names(long)}"
        )
    if varying := [path for path, info in good.items() if info.get("variable_rate")]:
        lines.append(
            f"{_videos(len(varying))} have a variable frame rate; motion is scored as if it were constant: "
            f"{_names(varying)}"
        )
    if unstated := [path for path, info in good.items() if not info["fps"] and not info.get("directory")]:
        lines.append(f"{_videos(len(unstated))} state no frame rate: {_names(unstated)}")
    return lines


def frozen(measured: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Returns a warning if videos stand still: `measured` is {path: the measured dict of frozen_frames}."""
    shares = {path: facts["value"] for path, facts in measured.items() if facts.get("value") is not None}
    if not (still := [path for path, share in shares.items() if share >= 0.5]):
        return []
    return [
        f"{len(still)} of {_videos(len(shares))} stand still for half of their frames or more; a still video looks "
        f"consistent and smooth, so read both next to dynamic_degree: {_names(still)}"
    ]


def repeats(paths: Sequence[Path]) -> list[str]:
    """Returns a warning for files with the same content, byte for byte. Folders of frames are not compared."""
    by_size: dict[int, list[Path]] = {}
    for path in paths:
        if path.is_file():
            by_size.setdefault(path.stat().st_size, []).append(path)
    by_content: dict[str, list[Path]] = {}
    for same in by_size.values():
        for path in same if len(same) > 1 else ():
            with suppress(OSError), open(path, "rb") as file:  # what cannot be read is told where it is scored
                by_content.setdefault(hashlib.file_digest(file, "sha256").hexdigest(), []).append(path)
    groups = [group for group in by_content.values() if len(group) > 1]
    return [
        f"{len(group)} files have the same content: {_names([path.name for path in group])}"
        for group in groups[:_SHOWN]
    ] + ([f"and {len(groups) - _SHOWN} more groups of equal files"] if len(groups) > _SHOWN else [])


def _rate_warnings(rates: Counter[float], good: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = []
    for fps in sorted(rates):
        interval = sampling_interval(fps)
        if interval > 1 and any(
            round(float(info["fps"]), 3) == fps and not info.get("directory") for info in good.values()
        ):
            lines.append(
                f"{_videos(rates[fps])} say {fps:g} fps, so dynamic_degree looks at every {_nth(interval)} frame only; "
                f"if they were generated for 8 fps (as AnimateDiff's are), write them at 8 fps"
            )
        elif 0 < fps < SAMPLED_FPS / 2:
            lines.append(
                f"{_videos(rates[fps])} say {fps:g} fps: between frames so far apart in time motion looks large, and "
                "dynamic_degree is meant for about 8 fps"
            )
    return lines


def _frames(info: Mapping[str, Any]) -> int | None:
    return info.get("frames") or info.get("declared_frames")


def _seconds(info: Mapping[str, Any]) -> float:
    fps = info.get("average_fps") or info.get("fps")
    return (_frames(info) or 0) / fps if fps else 0.0


def _counted(counts: Counter[Any], unit: str = "") -> str:
    shown = [
        f"{value:g}{unit}" if isinstance(value, float) else f"{value}{unit}" for value, _ in counts.most_common(_SHOWN)
    ]
    parts = [f"{text}: {count}" for text, (_, count) in zip(shown, counts.most_common(_SHOWN), strict=True)]
    return ", ".join(parts) + (f" and {len(counts) - _SHOWN} more" if len(counts) > _SHOWN else "")


def _videos(count: int) -> str:
    return "1 video" if count == 1 else f"{count} videos"


def _nth(number: int) -> str:
    return {2: "2nd", 3: "3rd"}.get(number, f"{number}th")


def _names(paths: Sequence[str]) -> str:
    rest = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return ", ".join(Path(path).name for path in paths[:_SHOWN]) + rest
