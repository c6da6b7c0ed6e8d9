"""What the command for pictures refuses before a model is loaded, and the plans of every preset."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.support import disk_pairs, tiny
from tests.support.family_programs import image as main
from w2sd_video.commands.lora_flags import LoraFlag, parse_lora, plan_loras
from w2sd_video.commands.prompts import read_prompt_pairs
from w2sd_video.errors import UserError
from w2sd_video.presets import PICTURE_PRESETS

ASK = ["--prompt", "a cat", "--device", "cpu", "--quiet"]


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("refused")
    disk_pairs.sdxl(1).save_pretrained(root / "sdxl")
    tiny.flux(1).save_pretrained(root / "flux")
    save_file({"unet.to_q.lora_A.weight": torch.zeros(1, 1)}, root / "lora.safetensors")
    save_file({"to_q.weight": torch.zeros(1, 1)}, root / "weights.safetensors")
    (root / "cut.safetensors").write_bytes((root / "lora.safetensors").read_bytes()[:-1])
    for side in (16, 1024):
        Image.new("RGB", (side, side)).save(root / f"picture{side}.png")
    (root / "pairs.tsv").write_text("a refined prompt\traw\n")
    return root


@pytest.mark.parametrize("name", PICTURE_PRESETS)
def test_every_preset_builds_a_plan_once_it_has_what_it_asks_for(
    name: str, disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    preset = PICTURE_PRESETS[name]
    files = {"--lora": "lora.safetensors", "--prompt-pairs": "pairs.tsv"}
    words, prompt = [], ASK[:2]
    for need in preset.needs:
        flag, value = need.split()
        file = str(disk / files.get(flag, "picture1024.png"))
        words += [flag, value.replace("FILE", file)]
        prompt = [] if flag == "--prompt-pairs" else prompt
    assert main(["--preset", name, *prompt, *words, "--dry-run", "--format", "json"]) == 0
    report = json.loads(capsys.readouterr().out)
    settings, lam = report["settings"], preset.num_reflections
    assert (settings["steps"], settings["reflections"], settings["guidance"]) == (preset.steps, lam, preset.guidance)
    inside = (settings["strong_guidance"], settings["weak_guidance"])
    assert inside == (preset.pair.strong.guidance, preset.pair.weak.guidance)
    assert report["methods"]["w2sd"]["evaluations"] == preset.steps + 2 * lam
    assert (report["pair"]["strong"], report["preset"]) == (preset.pair.strong.checkpoint, name)
    assert bool(report.get("paper")) == bool(preset.paper)


@pytest.mark.parametrize("name", [name for name, preset in PICTURE_PRESETS.items() if preset.needs])
def test_a_preset_says_what_it_needs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--preset", name, *ASK, "--dry-run"]) == 2
    flag = PICTURE_PRESETS[name].needs[0].split()[0]
    assert flag in capsys.readouterr().err


def test_the_papers_costs_come_out_of_its_presets(capsys: pytest.CaptureFixture[str]) -> None:
    for name, rows in (("guidance-sdxl", 247), ("finetune-sdxl", 198), ("guidance-flux", 48)):
        assert main(["--preset", name, *ASK, "--dry-run", "--format", "json"]) == 0
        report = json.loads(capsys.readouterr().out)
        assert report["methods"]["w2sd"]["rows"] == rows, "50 * 2 + 49 * (2 + 1), 50 * 2 + 49 * (1 + 1), 28 + 10 * 2"


def test_every_setting_of_a_preset_can_be_overridden(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--steps", "10", "--guidance", "4", "--weak-guidance", "-3", "--mode", "fused", "--strength", "2"]
    words += ["--height", "512", "--width", "768", "--scheduler", "euler", "--seed", "7"]
    assert main(["--preset", "guidance-sdxl", *ASK, *words, "--dry-run", "--format", "json"]) == 0
    settings = json.loads(capsys.readouterr().out)["settings"]
    assert (settings["steps"], settings["reflections"]) == (10, 9), "the preset's share of the steps: all but the last"
    assert (settings["guidance"], settings["strong_guidance"], settings["weak_guidance"]) == (4, 4, -3)
    assert (settings["mode"], settings["strength"], settings["height"], settings["width"]) == ("fused", 2, 512, 768)
    assert (settings["scheduler"], settings["seed"]) == ("euler", 7)


REFUSED: dict[str, tuple[list[str], str]] = {
    "preset": (["--preset", "guidance-sdlx"], "did you mean 'guidance-sdxl'"),
    "video": (["--preset", "juggernaut-vs-sdxl"], "makes videos: use it with `w2sd video`"),
    "weak alone": (["--weak", "a/b"], "--weak is given without --strong"),
    "no gap": (["--strong", "SDXL", "--guidance", "3"], "differs in nothing"),
    "a LoRA alike on both sides": (
        ["--strong", "SDXL", "--lora", "a=LORA:0.8", "--weak-lora", "a:0.8"],
        "differs in nothing",
    ),
    "families": (["--strong", "SDXL", "--weak", "FLUX"], "different families.*w2sd bridge"),
    "sampling": (["--guidance", "0.5"], "sampling takes 1"),
    "weak by itself": (
        ["--methods", "weak,w2sd", "--weak-guidance", "0.5"],
        "by itself the weak side.* leave the method weak out",
    ),
    "steps too": (["--match-evaluations", "10", "--steps", "4"], "chooses --steps itself"),
    "scheduler": (["--scheduler", "ddpm"], "unknown scheduler 'ddpm'"),
    "size": (["--height", "36"], "use 32 or 40"),
    "LoRA form": (["--lora", "style"], "NAME=FILE:SCALE"),
    "LoRA scale": (["--lora", "a=LORA:inf"], "must be a finite number"),
    "LoRA file": (["--lora", "a=./nowhere.safetensors:1"], "there is no LoRA at"),
    "LoRA that is none": (["--lora", "a=WEIGHTS:1"], "is no LoRA: it holds 1 tensors such as to_q.weight"),
    "LoRA cut short": (["--lora", "a=CUT:1"], "cut short, corrupt"),
    "LoRA from nowhere": (["--weak-lora", "a:-1"], "give --lora a=FILE"),
    "pairs and prompts": (["--prompt-pairs", "PAIRS"], "leave --prompt, --prompts, --weak-prompt out"),
    "pairs of one column": (["--prompt-pairs", "LORA"], "binary|UTF-8|columns"),
    "control without a net": (["--control-image", "PICTURE"], "without --controlnet"),
    "net without a picture": (["--controlnet", "a/b"], "give --control-image FILE"),
    "picture that is not there": (["--controlnet", "a/b", "--control-image", "no.png"], "no picture at no.png"),
    "picture of another size": (
        ["--controlnet", "a/b", "--control-image", "PICTURE", "--width", "24"],
        "is 16 x 16 pixels and the output 24 x 16",
    ),
    "control that is no picture": (
        ["--controlnet", "a/b", "--control-image", "PAIRS"],
        "cannot read the control image",
    ),
    "adapter that is told no picture": (
        ["--ip-adapter", "a/b", "--ip-adapter-image", "PAIRS"],
        "cannot read the picture for the IP-Adapter",
    ),
    "negative prompt of embedded guidance": (
        ["--preset", "guidance-flux", "--weak-negative-prompt", "blurred"],
        "no negative half",
    ),
    "adapter scale": (["--weak-ip-adapter-scale", "0.5"], "without --ip-adapter"),
    "weak config": (["--weak-config", "a/b"], "leave it out"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_with_code_2_and_nothing_written(
    case: str, disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, said = REFUSED[case]
    names = {
        "SDXL": "sdxl",
        "FLUX": "flux",
        "LORA": "lora.safetensors",
        "PICTURE": "picture16.png",
        "PAIRS": "pairs.tsv",
    }
    names |= {"WEIGHTS": "weights.safetensors", "CUT": "cut.safetensors"}
    for name, file in names.items():
        words = [word.replace(name, str(disk / file)) for word in words]
    sizes = [] if case == "size" else ["--height", "16"]
    assert main([*ASK, *sizes, *words, "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert re.search(said, error) and error.count("\n") == 1, "one line"
    assert not (tmp_path / "out").exists()


def test_loras_are_read_with_and_without_file_and_scale() -> None:
    assert parse_lora("a=b/c.safetensors:-1.5") == LoraFlag("a", "b/c.safetensors", -1.5)
    assert parse_lora("a=owner/name") == LoraFlag("a", "owner/name", None)
    assert parse_lora("a:0.3") == LoraFlag("a", None, 0.3)
    assert parse_lora("a=C:\\files\\b.safetensors") == LoraFlag("a", "C:\\files\\b.safetensors", None)


def test_a_lora_of_the_strong_side_is_off_on_the_weak_one_unless_told_otherwise() -> None:
    hub = "owner/name"
    plain = plan_loras([LoraFlag("a", hub, 0.8)], [], sources={})
    assert (plain.strong, plain.weak, plain.sources) == ((("a", 0.8),), (("a", 0.0),), {"a": hub})
    both = plan_loras([LoraFlag("a", hub)], [LoraFlag("a", None, -1.5), LoraFlag("b", hub, 2.0)], sources={})
    assert both.strong == (("a", 1.0), ("b", 0.0)) and both.weak == (("a", -1.5), ("b", 2.0))
    preset = plan_loras(
        [LoraFlag("a", hub)], [], sources={"a": None}, strong_scales=(("a", 0.8),), weak_scales=(("a", -1.5),)
    )
    assert (preset.strong, preset.weak) == ((("a", 0.8),), (("a", -1.5),)), "the file is the user's, the scales not"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("refined\traw\n", "no pair of prompts"),
        ("a\n", "line 1: 1 columns"),
        ("a\tb\nc\td\te\n", "line 2: 3 columns"),
        ("a\t\n", "line 1: the prompt is empty"),
        ("a\tb\na\tc\n", "line 2: 'a' has another raw prompt"),
    ],
)
def test_prompt_pairs_that_cannot_be_used_are_refused_with_their_line(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "pairs.tsv").write_text(text)
    with pytest.raises(UserError, match=said):
        read_prompt_pairs(tmp_path / "pairs.tsv")
