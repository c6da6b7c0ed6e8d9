"""The command for videos on families that are loaded as whole pipelines: AnimateDiff on SD 1.5, and Wan."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UniPCMultistepScheduler, WanPipeline
from PIL import Image

from tests.support import tiny
from tests.support.family_programs import video as main
from w2sd_video.loading.pipelines import load_reflectable
from w2sd_video.presets import VIDEO_PRESETS
from w2sd_video.runs.video_io import read_video

QUICK = (
    "--steps",
    "3",
    "--reflections",
    "2",
    "--height",
    "16",
    "--width",
    "16",
    "--num-frames",
    "5",
    "--device",
    "cpu",
)
ALL = ("--methods", "weak,strong,w2sd,zero-gap,swapped")


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("families")
    for seed in (1, 2):
        tiny.sd15(seed).save_pretrained(root / f"sd15-{seed}")
        tiny.wan(seed).save_pretrained(root / f"wan-{seed}")
    tiny.motion_adapter().save_pretrained(root / "motion")
    tiny.wan22(1).save_pretrained(root / "wan22")
    flow = UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=5.0)
    WanPipeline(**{**tiny.wan(1).components, "scheduler": flow}).save_pretrained(root / "wan-unipc")
    return root


def run(disk: Path, output: Path, strong: str, *given: str) -> dict[str, Any]:
    """The records by method, the frames of each under "frames"."""
    words = [*QUICK, "--strong", f"@{strong}", "--prompt", "a cat", "--guidance", "3", "--quiet", *given]
    assert main([*(word.replace("@", f"{disk}/") for word in words), "--output", str(output)]) == 0
    records = [json.loads(line) for line in (output / "results.jsonl").read_text().splitlines()]
    return {r["method"]: {**r, "pixels": read_video(output / r["path"]).frames} for r in records}


def differing(made: dict[str, Any]) -> int:
    return len({record["pixels"].tobytes() for record in made.values()})


@pytest.mark.parametrize(
    ("strong", "given"),
    [
        ("sd15-1", ("--motion-adapter", "@motion", "--weak", "@sd15-2", *ALL)),
        ("wan-1", ("--weak", "@wan-2", *ALL)),
        ("wan22", ("--weak-guidance", "-20", "--methods", "strong,w2sd,zero-gap")),
    ],
)
def test_videos_of_a_family_are_made_by_every_method(
    strong: str, given: tuple[str, ...], disk: Path, tmp_path: Path
) -> None:
    made = run(disk, tmp_path / "out", strong, *given)
    assert differing(made) == len(made)
    assert {m: r["num_evaluations"] for m, r in made.items()} == {m: 3 if m in ("weak", "strong") else 7 for m in made}
    for record in made.values():
        assert record["path"].endswith(".mp4") and record["pixels"].shape == (5, 16, 16, 3)
    assert (tmp_path / "out" / "index.html").is_file() and len(list((tmp_path / "out" / "comparison").iterdir())) == 1


def test_a_guidance_gap_of_wan_takes_the_rows_that_the_plan_says(
    disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = run(disk, tmp_path / "out", "wan-1", "--weak-guidance", "0", "--methods", "strong,w2sd")
    capsys.readouterr()
    words = [*QUICK, "--strong", str(disk / "wan-1"), "--prompt", "a cat", "--guidance", "3", "--weak-guidance", "0"]
    assert main([*words, "--methods", "strong,w2sd", "--dry-run", "--format", "json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {m: cost["rows"] for m, cost in report["methods"].items()} == {m: r["num_rows"] for m, r in made.items()}
    assert report["videos"] == 2 and made["w2sd"]["num_rows"] == 3 * 2 + 2 * (2 + 1)


def test_a_flow_scheduler_that_cannot_be_reflected_hands_on_its_shift(disk: Path) -> None:
    notes: list[str] = []
    pipe = load_reflectable(
        str(disk / "wan-unipc"), role="strong", dtype=torch.float32, note=notes.append, video=True, quiet=True
    )
    assert pipe.scheduler.config.shift == 5.0 and "UniPCMultistepScheduler cannot be reflected" in notes[0]
    shifted, plain = pipe.scheduler, tiny.wan(1).scheduler
    for scheduler in (shifted, plain):
        scheduler.set_timesteps(4)
    sigma = plain.sigmas[:4].double() / (3 - 2 * plain.sigmas[:4].double())  # undo the shift of 3
    assert np.allclose(shifted.sigmas[:4], 5 * sigma / (1 + 4 * sigma), atol=0.02)


@pytest.mark.parametrize("name", VIDEO_PRESETS)
def test_every_video_preset_builds_a_plan(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    preset = VIDEO_PRESETS[name]
    prompt = "a red ring moving up" if name == "demo" else "a corgi"
    assert main(["--preset", name, "--prompt", prompt, "--device", "cpu", "--dry-run", "--format", "json"]) == 0
    report = json.loads(capsys.readouterr().out)
    settings = report["settings"]
    assert (settings["steps"], settings["reflections"]) == (preset.steps, preset.num_reflections)
    assert (settings["num_frames"], settings["fps"]) == (preset.num_frames, preset.fps)
    assert report["methods"]["w2sd"]["evaluations"] == preset.steps + 2 * preset.num_reflections


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--height", "24"), "height is 24; it must be a multiple of 16"),
        (("--weak", "@sd15-1"), "makes pictures|different families"),
        (
            ("--strong", "@sd15-1", "--motion-adapter", "@motion", "--weak-guidance", "0", "--num-frames", "17"),
            "17 frames asked for; the motion modules of .*motion allow at most 16",
        ),
    ],
)
def test_what_whole_pipelines_cannot_make_is_refused(
    given: tuple[str, ...], said: str, disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*QUICK, "--strong", "@wan-1", "--prompt", "a", *given, "--output", str(tmp_path / "out")]
    assert main([word.replace("@", f"{disk}/") for word in words]) == 2
    assert re.search(said, capsys.readouterr().err) and not (tmp_path / "out").exists()


@pytest.mark.parametrize("pair", [("--strong", "@wan-1", "--weak", "@wan-2"), ("--preset", "wan21-size")])
def test_a_reward_of_what_cannot_be_decoded_frame_by_frame_is_refused_before_anything_is_loaded(
    pair: tuple[str, ...], disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*QUICK, *pair, "--prompt", "a", "--methods", "strong,w2sd-auto", "--output", str(tmp_path / "out")]
    assert main([word.replace("@", f"{disk}/") for word in words]) == 2
    assert "w2sd-auto shows the reward single frames" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_the_bundled_pair_is_not_exchanged_for_pictures_where_an_ip_adapter_is_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "told.png")
    words = ["--ip-adapter", "a/b", "--ip-adapter-image", str(tmp_path / "told.png"), "--prompt", "a ring", "--dry-run"]
    assert main(words) == 2
    assert "the bundled pair of videos goes with no IP-Adapter" in capsys.readouterr().err


@pytest.mark.parametrize("video_format", ["gif", "webp", "png"])
def test_whole_pipelines_write_every_format_and_are_compiled(
    video_format: str, disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[str] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(type(self).__name__))
    words = [*QUICK, "--strong", f"{disk}/wan-1", "--prompt", "a", "--methods", "strong", "--output", str(tmp_path)]
    assert main([*words, "--video-format", video_format, "--compile", "--quiet"]) == 0
    assert set(compiled) == {"WanTransformerBlock"}
    made = tmp_path / "strong" / ("a-0" if video_format == "png" else f"a-0.{video_format}")
    assert len(read_video(made).frames) == 5
