"""Whole runs of a tiny saved pair: what each method is, what is written, and how a run is taken up again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.support import tiny
from tests.support.disk_pairs import loaded_pair, quick_arguments, save_pair
from tests.support.family_programs import generated, video_request
from tests.support.family_programs import video as main
from w2sd_video.commands import making
from w2sd_video.commands.request import Request
from w2sd_video.runs.tasks import W2SD_METHODS as METHODS
from w2sd_video.runs.video_io import read_video

PROMPTS = ("a ring", "A ring", "up/down\0")
SHOWN = ("strong", "w2sd")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pair")
    save_pair(folder)
    return folder


def request(pair: Path, output: Path, **changes: Any) -> Request:
    settings: dict[str, Any] = {
        "strong": str(pair / "strong"),
        "weak": str(pair / "weak"),
        "prompts": ("a ring",),
        "steps": 3,
        "num_frames": 2,
        "height": 16,
        "width": 16,
        "guidance": 2.0,
        "device": "cpu",
        "output": output,
    }
    return video_request(**{**settings, **changes})


def made(request: Request) -> dict[str, NDArray[np.uint8]]:
    """Runs the request with lossless files; returns each method's only video."""
    summary = generated(request.changed(video_format="png"))
    assert summary.complete
    return {record["method"]: read_video(summary.folder / record["path"]).frames for record in summary.made}


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def full_run(pair: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("runs") / "full"
    summary = generated(request(pair, output, prompts=PROMPTS, num=2, methods=SHOWN, seed=7), command="x")
    assert summary.complete and summary.total == len(PROMPTS) * 2 * len(SHOWN)
    return output


# -- what is written ------------------------------------------------------------------------------------------------


def test_the_folder_holds_exactly_what_the_contract_says(full_run: Path) -> None:
    assert {entry.name for entry in full_run.iterdir()} == {
        "run.json",
        "results.jsonl",
        "index.html",
        "comparison",
        *SHOWN,
    }
    names = {file.name for file in (full_run / "w2sd").iterdir()}
    assert {"a ring-0.mp4", "a ring-1.mp4"} <= names and len(names) == 6
    assert len({name.casefold() for name in names}) == 6
    for folder in (*SHOWN, "comparison"):
        assert {file.name for file in (full_run / folder).iterdir()} == names


def test_each_line_of_results_tells_a_video_and_its_cost(full_run: Path) -> None:
    records = lines(full_run)
    assert {(r["method"], r["prompt"], r["index"]) for r in records} == {
        (method, prompt, index) for method in SHOWN for prompt in PROMPTS for index in (0, 1)
    }
    for record in records:
        reflects = METHODS[record["method"]].reflects
        assert record["num_evaluations"] == 3 + 2 * 2 * reflects, "T + 2 lambda with T 3, lambda 2"
        assert record["seed"] == 7 + record["index"]
        assert (record["frames"], record["fps"], record["status"]) == (2, 8, "done")
        assert record["seconds"] > 0 and record["peak_memory_mb"] > 0
        assert (full_run / record["path"]).is_file()
    rows = {record["method"]: (record["num_forwards"], record["num_rows"]) for record in records}
    # Guidance 2 is two rows of one call; the weak side reflects at 1: one row.
    assert rows == {"strong": (3, 6), "w2sd": (7, 12)}


def test_a_video_carries_its_true_prompt_and_settings(full_run: Path) -> None:
    for record in lines(full_run):
        video = read_video(full_run / record["path"])
        assert video.frames.shape == (2, 16, 16, 3)
        assert video.fps == 8
        for name in ("method", "prompt", "index", "seed"):
            assert video.metadata[name] == record[name]
        assert (video.metadata["steps"], video.metadata["guidance"]) == (3, 2.0)


def test_the_page_and_the_comparison_show_every_method(full_run: Path) -> None:
    page = (full_run / "index.html").read_text("utf-8")
    assert page.count("<video") == len(PROMPTS) * 2 * (len(SHOWN) + 1), "the comparison, too"
    video = read_video(full_run / "comparison" / "a ring-0.mp4")
    assert len(video.frames) == 2 and video.frames.shape[2] > len(SHOWN) * 256


# -- what the methods are -------------------------------------------------------------------------------------------


def stock(pair: Path, network: Any = None) -> NDArray[np.uint8]:
    """The stock pipeline's own frames, float64 rounding aside: [F, H, W, 3] uint8."""
    pipe = loaded_pair(str(pair / "strong"), str(pair / "weak")).pipe
    if network is not None:
        pipe.unet = network
    pipe.set_progress_bar_config(disable=True)
    settings: dict[str, Any] = {
        "num_frames": 2,
        "height": 16,
        "width": 16,
        "num_inference_steps": 3,
        "guidance_scale": 2.0,
    }
    frames = pipe("a ring", generator=tiny.generator(0), output_type="np", **settings).frames[0]
    return np.rint(frames * 255).astype(np.uint8)


def test_strong_and_weak_are_the_stock_pipeline_with_either_network(pair: Path, tmp_path: Path) -> None:
    videos = made(request(pair, tmp_path, methods=("strong", "weak")))
    # Hosting agrees with the stock loop to 5e-7 of 1, so a level may differ by one where it lies between two.
    for frames, network in ((videos["strong"], None), (videos["weak"], tiny.motion_unet(5))):
        assert np.abs(frames.astype(int) - stock(pair, network)).max() <= 1
    assert np.abs(videos["strong"].astype(int) - videos["weak"]).max() > 10, "the two networks do differ"


def test_without_a_gap_the_fused_mode_is_strong_and_with_one_it_is_not(pair: Path, tmp_path: Path) -> None:
    videos = made(request(pair, tmp_path, methods=("strong", "zero-gap", "w2sd"), mode="fused"))
    assert np.array_equal(videos["strong"], videos["zero-gap"])
    assert not np.array_equal(videos["strong"], videos["w2sd"])


def test_swapped_is_w2sd_of_the_pair_given_the_other_way_round(pair: Path, tmp_path: Path) -> None:
    guidance = {"strong_guidance": 3.0, "weak_guidance": 0.0}
    swapped = made(request(pair, tmp_path / "a", methods=("swapped",), **guidance))["swapped"]
    other = request(
        pair,
        tmp_path / "b",
        methods=("w2sd",),
        strong=str(pair / "weak"),
        weak=str(pair / "strong"),
        strong_guidance=0.0,
        weak_guidance=3.0,
    )
    assert np.array_equal(swapped, made(other)["w2sd"])


@pytest.mark.slow
def test_methods_of_a_pair_with_two_sets_of_text_encoders(pair: Path, tmp_path: Path) -> None:
    """Each side is told the prompt by its own encoders, also when the roles are exchanged."""
    other = tiny.animatediff_sdxl(5)
    other.register_modules(text_encoder=tiny.clip_text_encoder(40))
    other.save_pretrained(tmp_path / "other")
    reflected = ("w2sd", "swapped")
    ours = request(
        pair, tmp_path / "a", weak=str(tmp_path / "other"), methods=("weak", *reflected), strong_guidance=3.0
    )
    theirs = request(
        pair,
        tmp_path / "b",
        strong=str(tmp_path / "other"),
        weak=str(pair / "strong"),
        methods=("strong", *reflected),
        strong_guidance=1.0,
        weak_guidance=3.0,
    )
    first, second = made(ours), made(theirs)
    for mine, yours in (("weak", "strong"), ("w2sd", "swapped"), ("swapped", "w2sd")):
        assert np.array_equal(first[mine], second[yours]), f"{mine} is {yours} of the pair the other way round"
    plain = made(request(pair, tmp_path / "c", methods=("weak", "w2sd"), strong_guidance=3.0))
    for method in plain:
        assert not np.array_equal(plain[method], first[method]), "the other encoder does say something else"


# -- what goes wrong ------------------------------------------------------------------------------------------------


METHODS_ASKED = ("--methods", "weak,strong,w2sd")


def arguments(pair: Path, output: Path, *more: str) -> list[str]:
    return [*quick_arguments(pair), "--output", str(output), "--prompt", "ring", "--quiet", *METHODS_ASKED, *more]


def test_a_non_finite_video_is_recorded_with_its_step_and_the_others_go_on(
    pair: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tiny.motion_unet(5)
    with torch.no_grad():
        broken.conv_out.bias.fill_(float("nan"))
    broken.save_pretrained(tmp_path / "broken" / "unet")
    output = tmp_path / "run"
    words = arguments(pair, output, "--weak", str(tmp_path / "broken"), "--format", "json")
    assert main(words) == 1
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert (report["status"], report["exit_code"]) == ("failed", 1)
    assert {r["method"]: r["status"] for r in lines(output)} == {"weak": "failed", "strong": "done", "w2sd": "failed"}
    failed = next(record for record in lines(output) if record["method"] == "weak")
    assert "step 1 of 3" in failed["reason"] and failed["path"] is None
    assert "FAILED weak" in captured.err and "Traceback" not in captured.err
    assert "step 1 of 3" in (output / "index.html").read_text("utf-8")
    assert sorted(path.name for path in output.rglob("*.mp4")) == ["ring-0.mp4", "ring-0.mp4"], "strong, comparison"


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "same command again"),
        (torch.OutOfMemoryError("CUDA out of memory"), 1, "--memory model-offload"),
        (MemoryError(), 1, "out of memory"),
    ],
)
def test_an_interrupt_or_a_lack_of_memory_ends_with_what_to_do(
    pair: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    said: str,
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(making, "measured", stop)
    assert main(arguments(pair, tmp_path / "run", "--methods", "strong")) == code
    captured = capsys.readouterr().err
    assert said in captured and "Traceback" not in captured
