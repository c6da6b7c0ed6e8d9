"""The doctor as a user runs it: tiny pairs on disk, loaded and measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.support import disk_pairs, tiny
from w2sd_video.diagnosis.program import main
from w2sd_video.hosting import reflected
from w2sd_video.pair import ModelSpec

STEPS = ["--steps", "4", "--device", "cpu"]
SIZE = ["--height", "16", "--width", "16"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pictures")
    for name, seed in (("strong", 1), ("weak", 2)):
        tiny.sdxl(seed).save_pretrained(root / name)
    return root


def diagnose(capsys: pytest.CaptureFixture[str], *words: str | Path, code: int = 0) -> dict[str, Any]:
    given = [str(word) for word in (*words, "--format", "json")]
    assert main(given) == code
    return json.loads(capsys.readouterr().out)


def test_a_pair_of_pictures_is_measured_and_kept(pictures: Path, tmp_path: Path, capsys: Any) -> None:
    pair = ["--strong", pictures / "strong", "--weak", pictures / "weak", "--prompt", "a fox", "--guidance", "1"]
    report = diagnose(capsys, *pair, *STEPS, *SIZE, "--seed", "3", "--seeds", "2", "--output", tmp_path)
    found = report["measured"]
    assert (found["samples"], found["prompts"], found["steps"], len(found["levels"])) == (2, 1, 4, 3)
    assert json.loads((tmp_path / "diagnosis.json").read_text()) == {
        k: v for k, v in report.items() if k != "exit_code"
    }
    with Image.open(tmp_path / "gap.png") as picture:
        assert picture.width > 1000
    assert set(found["recommendation"]["flags"][::2]) == {"--steps", "--reflections", "--mode", "--strength"}
    assert " ".join(found["recommendation"]["flags"]) in report["next"]["command"] and report["next"]["problem"] is None
    assert found["failure_modes"].keys() == {"over-similarity", "conflict"}


def test_the_moves_are_those_of_the_run_itself(pictures: Path, capsys: Any) -> None:
    pair = ["--strong", pictures / "strong", "--weak", pictures / "weak", "--prompt", "a fox", "--guidance", "1"]
    found = diagnose(capsys, *pair, *STEPS, *SIZE)["measured"]
    strong, weak = tiny.sdxl(1), tiny.sdxl(2)
    moves = {}
    for partner, mode in ((weak, "fused"), ("zero-gap", "paper")):
        with reflected(strong, partner, num_reflections=3, mode=mode, progress=False) as run:
            call = {"num_inference_steps": 4, "guidance_scale": 1.0, "output_type": "latent", **tiny.IMAGE_CALL}
            size = strong("a fox", generator=tiny.generator(0), **call).images.numel()
        moves[mode] = [gap / size**0.5 for gap in run.gaps]
    for name, mode in (("move", "fused"), ("error", "paper")):
        measured = [level[name]["mean"] for level in found["levels"]]
        assert measured == pytest.approx(moves[mode], rel=1e-4)  # five digits are written


@pytest.mark.parametrize("gap", [["--weak-guidance", "0"], ["--weak-prompt", "a wolf"]])
def test_a_gap_of_one_network_is_measured(pictures: Path, capsys: Any, gap: list[str]) -> None:
    pair = ["--strong", pictures / "strong", "--prompt", "a fox", "--guidance", "2"]
    found = diagnose(capsys, *pair, *gap, *STEPS, *SIZE)["measured"]
    assert all(level["move"]["mean"] > 0 for level in found["levels"])


def test_a_pair_of_videos_is_measured(tmp_path: Path, capsys: Any) -> None:
    words = disk_pairs.save_pair(tmp_path)
    report = diagnose(capsys, *words, "--prompt", "a fox", "--steps", "4")
    assert report["verdict"] == "share" and len(report["measured"]["levels"]) == 3
    assert "w2sd video" in report["next"]["command"] and report["next"]["problem"] is None


def test_a_network_that_has_nothing_to_do_with_the_other_conflicts(tmp_path: Path, capsys: Any) -> None:
    tiny.sdxl(1).save_pretrained(tmp_path / "strong")
    other = tiny.sdxl(1)
    for parameter in other.unet.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, generator=tiny.generator(5))
    other.save_pretrained(tmp_path / "weak")
    pair = ["--strong", tmp_path / "strong", "--weak", tmp_path / "weak", "--prompt", "a fox", "--guidance", "1"]
    found = diagnose(capsys, *pair, *STEPS, *SIZE)["measured"]
    assert found["failure_modes"]["conflict"]["found"]
    assert found["recommendation"]["strength"] < 1


def test_the_same_network_but_for_rounding_is_too_similar(tmp_path: Path, capsys: Any) -> None:
    tiny.sdxl(1).save_pretrained(tmp_path / "strong")
    rounded = tiny.sdxl(1)
    for parameter in rounded.unet.parameters():
        parameter.data = parameter.data * 1.01  # which is beyond any rounding: files tell it apart
    rounded.save_pretrained(tmp_path / "weak")
    pair = ["--strong", tmp_path / "strong", "--weak", tmp_path / "weak", "--prompt", "a fox", "--guidance", "1"]
    report = diagnose(capsys, *pair, *STEPS, *SIZE)
    assert report["weights_apart"] == pytest.approx(0.01, rel=1e-3)
    assert report["measured"]["failure_modes"]["over-similarity"]["found"]


def test_the_healthy_bundled_pictures_raise_no_alarm(capsys: Any) -> None:
    words = ["--preset", "picture-demo", "--prompt", "a red ring", "--prompt", "a blue cross", "--steps", "8"]
    assert main([*words, "--device", "cpu", "--quiet"]) == 0
    told = capsys.readouterr().out
    assert "over-similarity: no" in told and "conflict: no" in told
    assert "this alarm: analytic pairs: false" in told and "recommended: --steps 20" in told


def test_what_cannot_be_measured_is_refused_before_loading(pictures: Path, capsys: Any) -> None:
    pair = ["--strong", pictures / "strong", "--weak", pictures / "weak", *SIZE]
    for words, reason in (
        (["--prompt", "a fox", "--steps", "2"], "at least 3"),
        (["--prompt", "a fox", "--seeds", "0"], "at least 1"),
        (["--steps", "4"], "prompt"),
    ):
        assert reason in diagnose(capsys, *pair, *words, code=2)["error"]


def test_a_latent_that_is_not_finite_ends_the_measurement_with_its_reason(tmp_path: Path, capsys: Any) -> None:
    tiny.sdxl(1).save_pretrained(tmp_path / "strong")
    broken = tiny.sdxl(2)
    broken.unet.conv_out.bias.data.fill_(float("nan"))
    broken.save_pretrained(tmp_path / "weak")
    pair = ["--strong", tmp_path / "strong", "--weak", tmp_path / "weak", "--prompt", "a fox"]
    report = diagnose(capsys, *pair, *STEPS, *SIZE, code=1)
    assert report["verdict"] == "share" and "not finite" in report["measured"]["failed"]


def test_the_zero_gap_of_a_spec_is_what_reflected_calls_so(pictures: Path) -> None:
    """The control measures the strong side as it reflects, not as it samples."""
    strong = tiny.sdxl(1)
    call = {"num_inference_steps": 3, "guidance_scale": 3.0, "output_type": "latent", **tiny.IMAGE_CALL}
    sizes = []
    for reflector in (ModelSpec(guidance=1.0), ModelSpec(guidance=3.0)):
        with reflected(strong, "zero-gap", num_reflections=2, reflector=reflector, progress=False) as run:
            strong("a fox", generator=tiny.generator(0), **call)
        sizes.append(run.gaps[0])
    assert sizes[0] != sizes[1]
