"""Result files of any origin: our reports, VBench's own files, and those of its early versions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vbench_eval.aggregation import PER_FRAME, PER_PAIR
from vbench_eval.dimensions import VBENCH_EXTRAS
from vbench_eval.errors import UserError
from vbench_eval.files import read_json
from vbench_eval.naming import parse_name

SCHEMA = 1  # of our reports
EVAL_SUFFIX, INFO_SUFFIX, REPORT_SUFFIX = "_eval_results.json", "_full_info.json", "_report.json"
OVERSHOOT = 1e-3  # a mean of cosines in single precision may lie this little above 1 at most
Result = tuple[float | None, dict[str, float | bool | None]]


def read_results(path: Path, *, pairs: Mapping[str, int] | None = None) -> dict[str, Result]:
    """Returns dimension -> (aggregate, {video path: value}) of an eval_results file, values as VBench writes them.

    Names with spaces, as in VBench's score tables, are taken too, as are results without a list of videos. NaN and
    Infinity come back as None.

    VBench before 0.1.4 wrote the *sum* over the T - 1 pairs of frames for subject_consistency, not the mean. Such a
    list (any value above 1) is divided by T - 1, taken from "cnt_per_video" of the same video here or in
    background_consistency, or from `pairs` (video path or file name -> T - 1). Raises UserError where it is in none of
    them, and for a file of another layout.
    """
    return {
        name: (aggregate, {entry["video_path"]: entry["video_results"] for entry in entries})
        for name, (aggregate, entries) in _dimensions(path, pairs or {}).items()
    }


def find_results(path: Path) -> Path:
    """Returns the file to read: the path itself, or the one report (else the one eval_results file) in the folder.

    Raises UserError if the folder holds none, or several.
    """
    if not path.is_dir():
        return path
    for suffix in (REPORT_SUFFIX, EVAL_SUFFIX):
        found = sorted(path.glob(f"*{suffix}"))
        if len(found) == 1:
            return found[0]
        if found:
            raise UserError(
                f"folder {path} holds {len(found)} files *{suffix} ({', '.join(file.name for file in found[:5])}); "
                "give one of them"
            )
    raise UserError(
        f"folder {path} holds no *{REPORT_SUFFIX} and no *{EVAL_SUFFIX}; give the --output of the verb score"
    )


def read_report(path: Path, *, pairs: Mapping[str, int] | None = None) -> dict[str, Any]:
    """Returns the report in a file or folder, as written by `results.write_results`.

    VBench's own eval_results file becomes a report of the same shape with profile None: prompt and index from the file
    names, `score` in 0..1. Raises UserError if there is none, or it is of another layout or of a later version.
    """
    path = find_results(path)
    data = read_json(path, "results")
    if isinstance(data, dict) and "schema" in data and "videos" in data:
        if data["schema"] != SCHEMA:
            raise UserError(
                f"report {path} has schema {data['schema']!r}; this version reads {SCHEMA}: score again, "
                "or use the version that wrote it"
            )
        check_report(data, f"report {path}")
        return data
    return _as_report(path, _dimensions(path, pairs or {}))


def check_report(report: Mapping[str, Any], what: str) -> None:
    """Raises UserError, naming the place, for a report that is not of the shape that `results.write_results` gives."""

    def expect(value: Any, kinds: type | tuple[type, ...], place: str, words: str) -> None:
        if not isinstance(value, kinds):
            raise UserError(f"{what}: {place} is {value!r:.60}, not {words}; give the file as it was written")

    expect(report.get("dimensions") or {}, Mapping, "dimensions", "an object")
    for name, facts in (report.get("dimensions") or {}).items():
        expect(facts, Mapping, f"dimensions.{name}", "an object")
        expect(facts.get("backbone"), (str, Mapping, type(None)), f"dimensions.{name}.backbone", "an object or a name")
    expect(report.get("profile"), (str, Mapping, type(None)), "profile", "a name")
    for key in ("name", "folder"):
        expect(report.get(key) or "", str, key, "text")
    expect(report.get("skipped") or [], list, "skipped", "a list")
    for place, one in enumerate(report.get("skipped") or []):
        expect(one, Mapping, f"skipped[{place}]", "an object")
        expect(one.get("path"), str, f"skipped[{place}].path", "text")
    expect(report["videos"], list, "videos", "a list")
    for place, video in enumerate(report["videos"]):
        at = f"videos[{place}]"
        expect(video, Mapping, at, "an object")
        expect(video.get("path"), str, f"{at}.path", "text")
        expect(video.get("prompt"), (str, type(None)), f"{at}.prompt", "text")
        expect(video.get("index"), (int, type(None)), f"{at}.index", "a whole number")
        for key in ("info", "measured", "generation"):
            expect(video.get(key) or {}, Mapping, f"{at}.{key}", "an object")
        for key in ("width", "height", "fps", "frames"):
            expect((video.get("info") or {}).get(key), (int, float, type(None)), f"{at}.info.{key}", "a number")
        for name, measured in (video.get("measured") or {}).items():
            expect(measured, Mapping, f"{at}.measured.{name}", "an object")
            for key in ("value", "score", "weight"):
                got = measured.get(key)
                expect(got, (int, float, type(None)), f"{at}.measured.{name}.{key}", "a number")
            expect(measured.get("extras") or {}, Mapping, f"{at}.measured.{name}.extras", "an object")


def _as_report(path: Path, found: Mapping[str, tuple[float | None, list[dict[str, Any]]]]) -> dict[str, Any]:
    videos: dict[str, dict[str, Any]] = {}
    pairs = _pairs(found)
    backbones: dict[str, str | None] = {}
    for name, (aggregate, entries) in found.items():
        divisor = _divisor(name, aggregate, entries)
        backbones[name] = next((entry["backbone"] for entry in entries if "backbone" in entry), None)
        for entry in entries:
            parsed = parse_name(Path(entry["video_path"].replace("\\", "/")).name)
            video = videos.setdefault(
                entry["video_path"],
                {
                    "path": entry["video_path"],
                    "prompt": parsed.prompt,
                    "index": parsed.index,
                    "info": {},
                    "measured": {},
                    "error": None,
                    "generation": {},
                },
            )
            value = entry["video_results"]
            video["measured"][name] = {
                "value": value,
                "score": None if value is None else float(value) / divisor,
                "weight": _weight(name, entry, pairs),
                "extras": {key: entry[key] for key in (*VBENCH_EXTRAS.get(name, ()), "backbone") if key in entry},
                "reason": "the file holds no number" if value is None else None,
            }
    return {
        "schema": SCHEMA,
        "name": path.name.removesuffix(EVAL_SUFFIX).removesuffix(".json"),
        "profile": None,
        "mode": None,
        "folder": "",
        "dimensions": {
            name: {
                "aggregate": aggregate,
                "videos": len(entries),
                "status": "measured",
                "backbone": backbones[name],
                "reason": None,
            }
            for name, (aggregate, entries) in found.items()
        },
        "skipped": [],
        "notes": [f"read from {path.name}, a file in VBench's layout: what measured it is not known"],
        "videos": [videos[key] for key in sorted(videos)],
    }


def _weight(name: str, entry: Mapping[str, Any], pairs: Mapping[str, float]) -> float:
    """By how many pairs of frames, or frames, VBench weighs the video."""
    if name in PER_PAIR:
        return float(pairs.get(entry["video_path"], 1))
    frames = entry.get(
        "frame_count", len(entry["frame_results"]) if isinstance(entry.get("frame_results"), list) else 1
    )
    return float(frames) if name in PER_FRAME and isinstance(frames, int) and frames > 0 else 1.0


def _divisor(name: str, aggregate: float | None, entries: list[dict[str, Any]]) -> float:
    """100 for imaging_quality, whose videos VBench writes in 0..100 and whose aggregate in 0..1; else 1."""
    values = [float(entry["video_results"]) for entry in entries if entry["video_results"] is not None]
    if name != "imaging_quality" or not values:
        return 1.0
    mean = sum(values) / len(values)
    if aggregate is not None:
        return 100.0 if abs(mean / 100 - aggregate) <= abs(mean - aggregate) else 1.0
    return 100.0 if max(values) > 1 else 1.0


def _dimensions(path: Path, pairs: Mapping[str, int]) -> dict[str, tuple[float | None, list[dict[str, Any]]]]:
    data = read_json(path, "results")
    if not isinstance(data, dict) or "schema" in data:
        kind = "a report or manifest" if isinstance(data, dict) else "a list (is it the full_info file?)"
        raise UserError(f"results {path} is {kind}; give the file that ends in {EVAL_SUFFIX}")
    found = {}
    for key, result in data.items():
        name = key.replace(" ", "_")
        parts = result if isinstance(result, list) else [result]
        aggregate = parts[0] if parts else None
        entries = parts[1] if len(parts) > 1 else []
        if isinstance(aggregate, str | list | dict) or not isinstance(entries, list):
            raise UserError(f"results {path}, {key}: a number and a list of videos are expected, as VBench writes them")
        found[name] = (None if aggregate is None else float(aggregate), list(_entries(path, key, entries)))
    for name in PER_PAIR:
        if name in found:
            _divide_sums(path, name, found, pairs)
    return found


def _entries(path: Path, name: str, entries: list[Any]) -> Iterator[dict[str, Any]]:
    for number, entry in enumerate(entries, start=1):
        if not isinstance(entry, dict) or not isinstance(entry.get("video_path"), str):
            raise UserError(f"results {path}, {name}, video {number}: no video_path; is this VBench's file?")
        if not isinstance(value := entry.get("video_results"), float | int | None):
            raise UserError(
                f"results {path}, {name}, {entry['video_path']}: video_results is {value!r:.80}, not a number"
            )
        yield {**entry, "video_results": value}


def _pairs(found: Mapping[str, tuple[float | None, list[dict[str, Any]]]]) -> dict[str, float]:
    """The number of pairs of frames of each video that says it, in either of the two consistencies."""
    return {
        entry["video_path"]: entry["cnt_per_video"]
        for name in PER_PAIR
        for entry in found.get(name, (None, []))[1]
        if isinstance(entry.get("cnt_per_video"), int | float) and entry["cnt_per_video"] > 0
    }


def _divide_sums(
    path: Path, name: str, found: Mapping[str, tuple[float | None, list[dict[str, Any]]]], pairs: Mapping[str, int]
) -> None:
    entries = found[name][1]
    if all(entry["video_results"] is None or entry["video_results"] <= 1 + OVERSHOOT for entry in entries):
        return
    counted = _pairs(found)
    counts = {Path(key).name: count for key, count in counted.items()} | counted | dict(pairs)
    for entry in entries:
        value, video = entry["video_results"], entry["video_path"]
        if value is None:
            continue
        count = counts.get(video, counts.get(Path(video).name))
        if not count:
            raise UserError(
                f"results {path}: {name} of {video} is {value:g}, a sum over pairs of frames as VBench wrote it before "
                "0.1.4, and the file does not say over how many; score again, or give pairs={video: frames - 1}"
            )
        if not 0 <= value <= count * (1 + OVERSHOOT):
            raise UserError(
                f"results {path}: {name} of {video} is {value:g}, which no {count:g} pairs of frames can give"
            )
        entry["video_results"], entry["cnt_per_video"] = value / count, count
