"""Folders are scored whole: one decode per video, nothing fatal, nothing twice; what is odd is said before."""

import json
import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support import vbench_backbones
from tests.support.vbench_files import Frames, moving_square, patterned, write_pictures, write_suite, write_video
from vbench_eval import evaluate_frames, one_pass, score_folder, scoring, videos
from vbench_eval.dimensions import OFFICIAL
from vbench_eval.errors import UserError
from vbench_eval.manifest import sample, write_manifest
from vbench_eval.preflight import format_line, formats, frozen, look_at, repeats, warnings
from vbench_eval.proxies import OFFICIAL_STAND_INS, PROXIES
from vbench_eval.results import Written
from vbench_eval.suite import read_suite
from vbench_eval.videos import VideoFile

ROOT = Path(__file__).resolve().parents[2]


FILES = ("_eval_results.json", "_full_info.json", "_report.json")


def frames(seed: int, count: int = 5) -> Frames:
    return patterned(count, 32, 48, seed)


def measured_from_now(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, set[str]]]:
    """A list that grows with every video that is decoded: its name, and for which dimensions."""
    seen: list[tuple[str, set[str]]] = []
    real = one_pass.measure

    def recorded(video: Any, dimensions: Any, **options: Any) -> Any:
        seen.append((Path(video.info.path).name, set(dimensions)))
        return real(video, dimensions, **options)

    monkeypatch.setattr(one_pass, "measure", recorded)
    return seen


def scored(folder: Path, output: Path, **settings: Any) -> Written:
    settings = {"dimensions": "temporal_flickering", "device": "cpu", "proxies": False, **settings}
    written = score_folder(folder, output=output, **settings)
    assert written is not None
    return written


def values(written: Written, dimension: str = "temporal_flickering") -> dict[str, Any]:
    return {video["path"]: video["measured"].get(dimension, {}).get("value") for video in written.report["videos"]}


def contents(output: Path, name: str = "w2sd") -> dict[str, bytes]:
    return {suffix: (output / f"{name}{suffix}").read_bytes() for suffix in FILES}


def test_every_video_is_decoded_once_for_all_dimensions(folder, tmp_path, monkeypatch):
    decoded: list[str] = []
    real = videos.VideoFile.chunks

    def counted(self: Any, *arguments: Any) -> Any:
        decoded.append(Path(self.info.path).name)
        return real(self, *arguments)

    monkeypatch.setattr(videos.VideoFile, "chunks", counted)
    written = scored(folder, tmp_path, dimensions="all,proxies", backbones=vbench_backbones.ALL)
    assert sorted(decoded) == ["a cat-0.mp4", "a dog-0.mp4", "a fox-0.mp4", "an owl-0.mp4"]
    measured = written.report["videos"][0]["measured"]
    assert set(measured) == {*OFFICIAL, *PROXIES}
    assert all(facts["value"] is not None for facts in measured.values())


def test_together_and_one_by_one_give_the_same_numbers(folder, tmp_path):
    together = scored(folder, tmp_path / "all", dimensions="all,proxies", backbones=vbench_backbones.ALL)
    for name in (*OFFICIAL, "pixel_consistency", "flow_dynamic", "warp_error"):
        choice = {name: vbench_backbones.ALL[name]} if name in vbench_backbones.ALL else {}
        alone = scored(folder, tmp_path / name, dimensions=name, backbones=choice)
        assert values(alone, name) == values(together, name)


def test_a_bad_video_is_recorded_with_its_reason_and_the_others_are_scored(folder, tmp_path):
    whole = values(scored(folder, tmp_path / "whole"))
    cut = (folder / "a cat-0.mp4").read_bytes()
    bad = {"broken-0.mp4": b"no video", "empty-0.mp4": b"", "cut-0.mp4": cut[: len(cut) // 2]}
    for name, content in bad.items():
        (folder / name).write_bytes(content)
    written = scored(folder, tmp_path / "with")
    assert {video["path"] for video in written.report["skipped"]} == set(bad)
    assert all(video["reason"] for video in written.report["skipped"])
    assert {path: value for path, value in values(written).items() if path not in bad} == whole
    assert written.report["dimensions"]["temporal_flickering"]["videos"] == 4
    assert any("3 videos cannot be read" in note for note in written.report["notes"])


def test_a_loop_a_dangling_link_and_an_unreadable_entry_cost_only_themselves(folder, tmp_path, monkeypatch):
    (folder / "a loop-0.mp4").symlink_to(folder / "a loop-0.mp4")
    (folder / "gone-0.mp4").symlink_to(tmp_path / "nowhere")
    os.mkfifo(folder / "a pipe-0.mp4")
    (folder / "closed-0").mkdir()
    real = Path.iterdir

    def refused(self: Path) -> Any:
        if self.name == "closed-0":  # the owner of everything may open it, so the refusal is made here
            raise PermissionError(13, "Permission denied", str(self))
        return real(self)

    monkeypatch.setattr(Path, "iterdir", refused)
    written = scored(folder, tmp_path)
    reasons = {one["path"]: one["reason"] for one in written.report["skipped"]}
    assert reasons.keys() == {"a loop-0.mp4", "gone-0.mp4", "a pipe-0.mp4", "closed-0"}
    assert "Permission denied" in reasons["closed-0"] and "no file" in reasons["a pipe-0.mp4"]
    assert sum(value is not None for value in values(written).values()) == 4


def test_a_second_run_decodes_nothing_and_writes_the_same_files(folder, tmp_path, monkeypatch):
    scored(folder, tmp_path)
    before, seen = contents(tmp_path), measured_from_now(monkeypatch)
    scored(folder, tmp_path)
    assert contents(tmp_path) == before and seen == []


def test_a_dimension_more_measures_only_that_one(folder, tmp_path, monkeypatch):
    scored(folder, tmp_path)
    seen = measured_from_now(monkeypatch)
    written = scored(folder, tmp_path, dimensions="temporal_flickering,contrast")
    assert [dimensions for _, dimensions in seen] == [{"contrast"}] * 4
    assert set(written.report["videos"][0]["measured"]) == {"temporal_flickering", "contrast"}


def test_a_changed_file_and_only_that_one_is_scored_again(folder, tmp_path, monkeypatch):
    before = values(scored(folder, tmp_path))
    write_video(folder / "a dog-0.mp4", moving_square(7, 2, height=32, width=48))
    os.utime(folder / "a dog-0.mp4", ns=(1, 1))
    seen = measured_from_now(monkeypatch)
    after = values(scored(folder, tmp_path))
    assert [name for name, _ in seen] == ["a dog-0.mp4"]
    assert {path for path in after if after[path] != before[path]} == {"a dog-0.mp4"}


STAND_IN = {"subject_consistency": "tests.support.vbench_backbones:encoder"}
SLOW = {"subject_consistency": "tests.support.vbench_backbones:slow"}


@pytest.mark.parametrize("change", [{"profile": "fixed"}, {"dtype": "float16"}, {"backbones": SLOW}])
def test_other_settings_never_take_values_from_the_journal(folder, tmp_path, monkeypatch, change):
    settings = {"dimensions": "subject_consistency", "backbones": STAND_IN}
    scored(folder, tmp_path, **settings)
    seen = measured_from_now(monkeypatch)
    scored(folder, tmp_path, **{**settings, **change})
    assert len(seen) == 4 and all("subject_consistency" in names for _, names in seen)


def test_a_dimension_that_fails_by_accident_is_tried_again_and_costs_no_other(folder, tmp_path, monkeypatch):
    write_video(folder / "the dark-0.mp4", np.full((4, 32, 48, 3), 10, np.uint8))
    settings: dict[str, Any] = {
        "dimensions": "temporal_flickering,aesthetic_quality",
        "backbones": {"aesthetic_quality": "tests.support.vbench_backbones:failing"},
    }
    monkeypatch.setenv("STAND_IN_FAILS_BELOW", "50")
    first = scored(folder, tmp_path, **settings)
    dark = next(video for video in first.report["videos"] if video["path"].startswith("the dark"))
    assert dark["error"] is None
    assert dark["measured"]["temporal_flickering"]["value"] == 1.0
    assert dark["measured"]["aesthetic_quality"]["value"] is None
    assert "out of memory" in dark["measured"]["aesthetic_quality"]["reason"]
    monkeypatch.setenv("STAND_IN_FAILS_BELOW", "0")
    again = values(scored(folder, tmp_path, **settings), "aesthetic_quality")
    assert again["the dark-0.mp4"] is not None
    assert all(value is not None for value in again.values())


def test_without_weights_a_dimension_is_unavailable_and_has_proxies_beside_it(folder, tmp_path):
    written = scored(folder, tmp_path, dimensions="all", proxies=True)
    report = written.report
    unavailable = {name for name, facts in report["dimensions"].items() if facts["status"] == "unavailable"}
    assert unavailable == set(OFFICIAL) - {"temporal_flickering"}
    for name in unavailable:
        facts = report["dimensions"][name]
        assert facts["aggregate"] is None and facts["videos"] == 0
        assert facts["reason"] and facts["stand_in"] == OFFICIAL_STAND_INS.get(name)
        assert all(name not in video["measured"] for video in report["videos"])
    assert set(OFFICIAL_STAND_INS.values()) <= set(report["videos"][0]["measured"])
    assert set(json.loads(written.eval_results.read_text())) == {"temporal_flickering"}
    assert report["scores"]["quality"]["present"] == ["temporal_flickering"]


def test_a_proxy_stands_under_the_official_name_only_if_allowed_and_then_marked(folder, tmp_path):
    written = scored(folder, tmp_path, dimensions="all", allow_proxy=True)
    results = json.loads(written.eval_results.read_text())
    assert set(results) == {"temporal_flickering", *OFFICIAL_STAND_INS}
    for name, proxy in OFFICIAL_STAND_INS.items():
        assert all(video["backbone"] == f"proxy:{proxy}" for video in results[name][1])
        assert values(written, name) == values(written, proxy)
    assert all("backbone" not in video for video in results["temporal_flickering"][1])
    assert written.report["scores"]["quality"]["present"] == ["temporal_flickering"], "no score is made of proxies"


def test_each_video_counts_for_its_own_dimensions_in_standard_mode(folder, tmp_path):
    both = ["subject_consistency", "temporal_flickering"]
    of = {"a cat": both[1:], "a dog": both, "a fox": both[:1], "a bee": ["scene"]}
    suite = write_suite(tmp_path, [{"prompt_en": prompt, "dimension": names} for prompt, names in of.items()])
    written = scored(folder, tmp_path, dimensions=both, backbones=STAND_IN, mode="vbench_standard", suite=suite)
    measured = {video["prompt"]: set(video["measured"]) - {"frozen_frames"} for video in written.report["videos"]}
    assert measured == {prompt: set(of[prompt]) for prompt in ("a cat", "a dog", "a fox")}
    assert written.report["completeness"]["expected"] == 3 * 5, "the prompts of these dimensions, five of each"
    info = json.loads(written.full_info.read_text())
    assert [entry["prompt_en"] for entry in info] == ["a cat", "a dog", "a fox"]
    assert info[0]["video_list"] == [os.path.join(folder, "a cat-0.mp4")]


def test_frames_in_memory_score_as_the_same_frames_on_disk(tmp_path):
    moving = moving_square(6, 3, height=32, width=48)
    write_pictures(tmp_path / "videos" / "a square-0", moving)
    asked = {"dimensions": "all,contrast", "backbones": vbench_backbones.ALL}
    stored = scored(tmp_path / "videos", tmp_path, **asked)
    expected = {name: facts["value"] for name, facts in stored.report["videos"][0]["measured"].items()}
    images = [Image.fromarray(frame) for frame in moving]
    for given in (images, moving, torch.from_numpy(moving), moving.astype(np.float32) / 255):
        found = evaluate_frames(given, fps=8, device="cpu", proxies=False, **asked)
        assert found["error"] is None
        assert {name: facts["value"] for name, facts in found["measured"].items()} == expected


def test_frames_in_memory_without_weights_say_what_is_unavailable():
    found = evaluate_frames(moving_square(6, 3), dimensions="table12", device="cpu")
    assert set(found["unavailable"]) == set(OFFICIAL[:6])
    assert "pixel_consistency" in found["measured"]
    assert not set(OFFICIAL) & set(found["measured"])


def test_a_report_says_what_made_its_numbers(folder, tmp_path):
    stamp = scored(folder, tmp_path, backbones={}).report["stamp"]
    assert stamp["profile"]["name"] == "vbench"
    assert stamp["device"] == "cpu" and stamp["dtype"] == "float32"
    assert {"vbench_eval", "python", "torch", "av", "numpy"} <= set(stamp["versions"])
    assert stamp["formats"] == [{"width": 48, "height": 32, "fps": 8.0, "frames": 5, "videos": 4}]
    info = scored(folder, tmp_path).report["videos"][0]["info"]
    assert info["decoder"].startswith("pyav ") and info["codec"] == "h264"


def test_scores_of_another_folder_are_not_replaced(folder, tmp_path):
    scored(folder, tmp_path)
    other = tmp_path / "other" / "w2sd"
    other.mkdir(parents=True)
    write_video(other / "a cow-0.mp4", frames(9))
    with pytest.raises(UserError, match="--name"):
        scored(other, tmp_path)
    assert set(values(scored(other, tmp_path, name="mine"))) == {"a cow-0.mp4"}


def test_an_incomplete_folder_is_refused_only_if_asked(folder, tmp_path):
    prompts = ("a cat", "a dog", "a bee")
    suite = write_suite(tmp_path, [{"prompt_en": prompt, "dimension": ["temporal_flickering"]} for prompt in prompts])
    write_manifest(tmp_path / "manifest.json", sample(read_suite(suite), samples=1))
    with pytest.raises(UserError, match="'a bee', index 0"):
        scored(folder, tmp_path, manifest=tmp_path / "manifest.json", require_complete=True)
    report = scored(folder, tmp_path, manifest=tmp_path / "manifest.json").report
    assert [video["prompt"] for video in report["videos"]] == ["a cat", "a dog"], "others are none of the set"
    assert report["completeness"]["missing"] == [{"prompt": "a bee", "index": 0, "reason": None}]
    assert any("surplus: 2 files" in note for note in report["notes"])


def test_a_folder_of_stills_is_warned_of(tmp_path):
    still = np.repeat(frames(0, 1), 4, axis=0)
    write_pictures(tmp_path / "videos" / "a still-0", still)
    write_pictures(tmp_path / "videos" / "a film-0", frames(1, 4))
    report = scored(tmp_path / "videos", tmp_path, proxies=True).report
    assert any("1 of 2 videos stand still" in note and "a still-0" in note for note in report["notes"])


@pytest.mark.parametrize("device", ["cuda:99", "xpu:99", "mps"])
def test_a_device_that_is_not_there_is_refused(device, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UserError, match="--device auto"):
        scored(folder, tmp_path, device=device)


def test_a_workers_number_and_a_launcher_are_not_mixed(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(UserError, match="cannot be combined"):
        scoring.score_folder(folder, output=tmp_path, workers=2)


def info(**changes: Any) -> dict[str, Any]:
    about = {"width": 512, "height": 512, "fps": 8.0, "declared_frames": 16, "average_fps": 8.0}
    return {**about, "directory": False, "variable_rate": False, **changes}


def said(*infos: dict[str, Any], dimensions: tuple[str, ...] = ("dynamic_degree",)) -> str:
    return "\n".join(warnings({f"v/{number}-0.mp4": one for number, one in enumerate(infos)}, dimensions=dimensions))


@pytest.mark.parametrize(
    ("changes", "told"),
    # round(fps / 8) by hand, half to even: 1.25 -> 1, 1.5 -> 2, 2.5 -> 2, 3.0 -> 3, 3.75 -> 4
    [
        *(({"fps": fps}, f"every {nth} frame") for fps, nth in ((12, "2nd"), (20, "2nd"), (24, "3rd"), (30, "4th"))),
        *(({"fps": fps}, "") for fps in (8, 10)),
        ({"fps": 30, "directory": True}, ""),  # pictures have no rate to be wrong
        ({"fps": 2, "declared_frames": 4}, "meant for about 8 fps"),
        ({"declared_frames": 39}, ""),
        ({"declared_frames": 40}, "5 s or more"),
    ],
)
def test_a_rate_at_which_dynamic_degree_skips_frames_and_a_length_it_was_not_made_for_are_warned_of(changes, told):
    about = info(**changes, **({"average_fps": changes["fps"]} if "fps" in changes else {}))
    assert told in said(about) if told else said(about, about) == ""
    if "every" in told:
        assert said(about, dimensions=("subject_consistency",)) == ""


def test_mixed_rates_sizes_and_lengths_are_told_with_their_numbers():
    line = said(info(), info(), info(fps=10.0, width=256, declared_frames=20))
    assert "8 fps: 2, 10 fps: 1" in line
    assert "512x512: 2, 256x512: 1" in line
    assert "16 frames: 2, 20 frames: 1" in line


def test_unreadable_and_variable_files_are_named():
    line = said({"error": "torn"}, info(variable_rate=True))
    assert "1 video cannot be read and will be skipped: 0-0.mp4" in line
    assert "variable frame rate" in line and "1-0.mp4" in line


def test_files_are_looked_at_without_decoding_a_frame(tmp_path, monkeypatch):
    write_video(tmp_path / "a-0.mp4", patterned(6, 32, 48), fps=Fraction(24))
    write_pictures(tmp_path / "b-0", patterned(3, 32, 48))
    (tmp_path / "c-0.mp4").write_bytes(b"no video")

    def refuse(*arguments: object) -> None:
        raise AssertionError("a frame was read")

    monkeypatch.setattr(VideoFile, "chunks", refuse)
    found = look_at([tmp_path / name for name in ("a-0.mp4", "b-0", "c-0.mp4")])
    assert [("error" in one) for one in found.values()] == [False, False, True]
    assert found[str(tmp_path / "a-0.mp4")]["fps"] == 24.0
    assert found[str(tmp_path / "b-0")]["directory"] is True


def test_the_table_of_formats_counts_every_readable_video():
    rows = formats([info(), info(), info(fps=10.0), {"error": "torn"}, {}, info(frames=15)])
    assert [(row["fps"], row["frames"], row["videos"]) for row in rows] == [(8.0, 16, 2), (10.0, 16, 1), (8.0, 15, 1)]
    assert format_line(rows[0]) == "2 videos of 512x512, 16 frames at 8 fps (2 s)"
    assert format_line({**rows[1], "frames": None}) == "1 video of 512x512, an unknown number of frames at 10 fps"


def test_files_of_the_same_content_are_told_and_those_of_the_same_size_are_not(tmp_path):
    contents = {"a-0.mp4": b"same", "b-0.mp4": b"same", "c-0.mp4": b"else"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    lines = repeats([tmp_path / name for name in contents])
    assert lines == ["2 files have the same content: a-0.mp4, b-0.mp4"]


def test_videos_that_stand_still_for_half_of_their_frames_are_told():
    shares = {"a": 0.0, "b": 0.49, "c": 0.5, "d": 1.0, "e": None}
    (line,) = frozen({path: {"value": share} for path, share in shares.items()})
    assert line.startswith("2 of 4 videos stand still") and line.endswith("c, d")
    assert frozen({"a": {"value": 0.0}, "b": {}}) == []


def test_a_still_is_frozen_and_a_moving_square_is_not():
    from vbench_eval import evaluate_frames

    moving = moving_square(6, 4)
    for frames, share in ((moving, 0.0), (np.repeat(moving[:1], 6, axis=0), 1.0)):
        found = evaluate_frames(frames, dimensions="contrast", device="cpu")
        assert found["measured"]["frozen_frames"]["value"] == share
