"""The command for videos on Wan: its schedulers, formats and compiling."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DEISMultistepScheduler, WanPipeline

from tests.support import tiny
from tests.support.family_programs import video as main
from w2sd_video.errors import UserError
from w2sd_video.loading.pipelines import chosen_scheduler, load_reflectable
from w2sd_video.runs.video_io import read_video

QUICK = [
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
]


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("families")
    tiny.wan(1).save_pretrained(root / "wan-1")
    flow = DEISMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=5.0)
    WanPipeline(**{**tiny.wan(1).components, "scheduler": flow}).save_pretrained(root / "wan-deis")
    return root


def test_a_flow_scheduler_that_cannot_be_reflected_hands_on_its_shift(disk: Path) -> None:
    notes: list[str] = []
    pipe = load_reflectable(
        str(disk / "wan-deis"), role="strong", dtype=torch.float32, note=notes.append, video=True, quiet=True
    )
    assert pipe.scheduler.config.shift == 5.0 and "DEISMultistepScheduler cannot be reflected" in notes[0]
    shifted, plain = pipe.scheduler, tiny.wan(1).scheduler
    for scheduler in (shifted, plain):
        scheduler.set_timesteps(4)
    sigma = plain.sigmas[:4].double() / (3 - 2 * plain.sigmas[:4].double())  # undo the shift of 3
    assert np.allclose(shifted.sigmas[:4], 5 * sigma / (1 + 4 * sigma), atol=0.02)


@pytest.mark.parametrize("video_format", ["gif", "webp", "png"])
def test_whole_pipelines_write_every_format_and_are_compiled(
    video_format: str, disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[str] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(type(self).__name__))
    words = [
        *QUICK,
        "--num-frames",
        "5",
        "--strong",
        f"{disk}/wan-1",
        "--prompt",
        "a",
        "--methods",
        "strong",
        "--output",
        str(tmp_path),
    ]
    assert main([*words, "--video-format", video_format, "--compile", "--quiet", "--output", str(tmp_path)]) == 0
    assert set(compiled) == {"WanTransformerBlock"}
    made = tmp_path / "strong" / ("a-0" if video_format == "png" else f"a-0.{video_format}")
    assert len(read_video(made).frames) == 5


def test_a_flow_takes_no_scheduler_of_a_noise_path() -> None:
    with pytest.raises(UserError, match="is a flow"):
        chosen_scheduler(tiny.wan(1).scheduler, "ddim", "strong")
