"""A request becomes a plan with every setting known: presets, matched cost, LoRAs, names of folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.support import tiny
from tests.support.family_programs import costs, planned, video_request
from tests.support.family_programs import image as main
from tests.support.family_programs import video as videos
from tests.support.layouts import save_flux_file
from w2sd_video.commands.lora_flags import LoraFlag, parse_lora, plan_loras
from w2sd_video.commands.method_settings import match_evaluations
from w2sd_video.commands.options import check_methods, words
from w2sd_video.commands.plan import Plan
from w2sd_video.errors import UserError
from w2sd_video.presets import PICTURE_PRESETS, PRESETS, VIDEO_PRESETS

PAPER = {"preset": "juggernaut-vs-sdxl", "prompts": ("a corgi",)}


def paper(**changes: Any) -> Plan:
    return planned(video_request(**{**PAPER, **changes}))


def test_the_papers_pair_costs_what_the_formula_says() -> None:
    done = paper(methods=("weak", "strong", "w2sd", "zero-gap", "swapped"))
    assert (done.steps, done.num_reflections) == (50, 49)
    assert [costs(done)[method].evaluations for method in done.methods] == [50, 50, 148, 148, 148], (
        "T, and T + 2 lambda"
    )
    # Guidance 3 is two rows, guidance 1 one: T * 2, and lambda * (2 + 1) or, without a gap, lambda * (2 + 2) more.
    assert [costs(done)[method].rows for method in done.methods] == [100, 100, 247, 296, 247]


def test_unset_fields_are_the_presets() -> None:
    preset, done = PRESETS["juggernaut-vs-sdxl"], paper()
    for name in ("steps", "guidance", "num_frames", "height", "width", "fps", "negative_prompt", "motion_adapter"):
        assert (getattr(done, name) if name != "motion_adapter" else done.part(name)) == getattr(preset, name)
    assert (done.strong_guidance, done.weak_guidance, done.reflection.mode) == (3.0, 1.0, "paper")
    assert done.methods == ("weak", "strong", "w2sd", "zero-gap")


def test_fewer_steps_reflect_the_same_share_of_them() -> None:
    assert paper(steps=20).num_reflections == 19
    assert paper(steps=20, reflections=5).num_reflections == 5
    assert paper(steps=1).num_reflections == 0


def test_the_strong_side_reflects_as_it_samples_unless_told_otherwise() -> None:
    done = paper(guidance=5.5)
    assert (done.guidance, done.strong_guidance, done.weak_guidance) == (5.5, 5.5, 1.0)
    done = paper(guidance=5.5, strong_guidance=1.0, weak_guidance=-2.0)
    assert (done.guidance, done.strong_guidance, done.weak_guidance) == (5.5, 1.0, -2.0)


def test_video_i_of_every_prompt_has_seed_plus_i_in_every_method() -> None:
    done = paper(prompts=("a", "b"), seed=7, num=3, methods=("strong", "w2sd"))
    assert {(task.prompt, task.index, task.seed) for group in done.groups() for task in group} == {
        (prompt, index, 7 + index) for prompt in "ab" for index in range(3)
    }
    assert [task.path for task in done.groups()[1]] == ["strong/a-1.mp4", "w2sd/a-1.mp4"]


def test_the_same_request_goes_to_the_same_folder_and_another_elsewhere() -> None:
    assert paper().output == paper().output
    assert paper(methods=("strong", "w2sd", "zero-gap")).output == paper().output, "a method may be added"
    assert paper(memory="model-offload").output == paper().output
    others = [paper(seed=1), paper(steps=10), paper(prompts=("a cat",)), paper(dtype="float32")]
    assert len({paper().output, *(other.output for other in others)}) == 5
    assert paper(output="here").output == Path("here")


def test_one_checkpoint_at_two_guidances_is_a_pair() -> None:
    same = "RunDiffusion/Juggernaut-XL-v9"
    assert paper(weak=same).weak_guidance == 1.0


def test_two_checkpoints_of_the_hub_without_a_preset_get_the_papers_settings_and_adapter() -> None:
    done = planned(video_request(strong="a/b", weak="c/d", prompts=("x",)))
    assert (done.steps, done.guidance, done.part("motion_adapter")) == (
        50,
        3.0,
        "guoyww/animatediff-motion-adapter-sdxl-beta",
    )
    assert done.pair.name == "b-vs-d"


def test_methods_are_parsed_from_a_list_with_blanks_and_repeats() -> None:
    assert check_methods(words(" w2sd, strong ,w2sd,")) == ("w2sd", "strong")


def test_no_arguments_are_the_bundled_demo_with_its_prompts_and_its_control() -> None:
    from w2sd_video.demo import DEMO_PROMPTS

    done = planned(video_request())
    assert (done.preset, done.prompts) == ("demo", DEMO_PROMPTS)
    assert done.methods == ("weak", "strong", "w2sd", "zero-gap")
    assert [costs(done)[method].rows for method in done.methods] == [20, 20, 40, 40], "unguided: a row per evaluation"


# -- presets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VIDEO_PRESETS)
def test_every_video_preset_builds_a_plan(name: str) -> None:
    preset = VIDEO_PRESETS[name]
    loras = tuple(LoraFlag(lora, "x/y") for lora, source in preset.loras.items() if source is None)
    done = planned(video_request(preset=name, prompts=("a red ring moving up",), loras=loras))
    assert (done.steps, done.num_reflections) == (preset.steps, preset.num_reflections)
    assert (done.num_frames, done.fps) == (preset.num_frames, preset.fps)
    assert costs(done)["w2sd"].evaluations == preset.steps + 2 * preset.num_reflections


ASK = ["--prompt", "a red ring", "--device", "cpu", "--quiet"]


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that presets ask for."""
    root = tmp_path_factory.mktemp("asked")
    save_file({"unet.to_q.lora_A.weight": torch.zeros(1, 1)}, root / "lora.safetensors")
    Image.new("RGB", (1024, 1024)).save(root / "picture1024.png")
    save_flux_file(tiny.flux_transformer(), root / "flux.safetensors")
    (root / "pairs.tsv").write_text("a refined prompt\traw\n")
    return root


@pytest.mark.parametrize("name", PICTURE_PRESETS)
def test_every_preset_builds_a_plan_once_it_has_what_it_asks_for(
    name: str, disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    preset = PICTURE_PRESETS[name]
    files = {"--lora": "lora.safetensors", "--prompt-pairs": "pairs.tsv", "--strong": "flux.safetensors"}
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
    strong = str(disk / files["--strong"]) if "--strong" in words else preset.pair.strong.checkpoint
    assert (report["pair"]["strong"], report["preset"]) == (strong, name)
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


# -- matched cost -----------------------------------------------------------------------------------------------------


def test_half_the_steps_and_a_quarter_reflected_never_cost_more() -> None:
    for count in range(4, 200):
        chosen = match_evaluations(count)
        assert chosen.steps == int(count / 2) and chosen.reflections == int(int(count / 2) / 2)
        assert chosen.evaluations == chosen.steps + 2 * chosen.reflections
        assert 0 <= count - chosen.evaluations <= 2, "each halving loses less than one"
        assert 0 < chosen.reflections < chosen.steps
    for bad in (3, 0, -50, True, 12.0):
        with pytest.raises(UserError, match="a whole number from 4 on"):
            match_evaluations(bad)  # type: ignore[arg-type]


def test_the_formula_at_50_gives_one_step_more_than_the_papers_example() -> None:
    assert (match_evaluations(50).steps, match_evaluations(50).reflections) == (25, 12)
    assert match_evaluations(48).evaluations == 48, "the example's 24 + 2 * 12"


def test_a_plan_matches_every_method_to_the_same_cost() -> None:
    done = planned(video_request(match_evaluations=20, methods=("weak", "strong", "w2sd", "zero-gap", "swapped")))
    assert [costs(done)[method].evaluations for method in done.methods] == [20, 20, 20, 20, 20]
    assert (done.steps, done.num_reflections, done.settings()["plain_steps"]) == (10, 5, 20)


def test_the_command_says_what_it_chose_and_makes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--match-evaluations", "7", "--prompt", "a red ring moving up", "--methods", "strong,w2sd"]
    assert videos([*words, "--num-frames", "1", "--device", "cpu", "--output", str(tmp_path / "out")]) == 0
    assert "matched to 7 evaluations: T 3 and lambda 1, 5 evaluations" in capsys.readouterr().err
    records = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert {record["method"]: record["num_evaluations"] for record in records} == {"strong": 7, "w2sd": 5}
    assert videos([*words, "--quiet", "--dry-run"]) == 0
    assert "matched cost: 7 steps without reflections" in capsys.readouterr().out


def test_a_network_distilled_without_guidance_is_told_none(capsys: pytest.CaptureFixture[str]) -> None:
    from w2sd_video import demo

    strong = Path(demo.__file__).parent / "picture_weights" / "strong"  # a Flux without guidance as an input
    words = ["--strong", str(strong), "--weak-precision", "int2", "--prompt", "a red ring", "--dry-run"]
    assert main([*words, "--format", "json"]) == 0
    settings = json.loads(capsys.readouterr().out)["settings"]
    assert (settings["guidance"], settings["weak_guidance"]) == (1.0, 1.0)
    for flag in ("--guidance", "--weak-guidance"):
        assert main([*words, flag, "3"]) == 2
        assert f"{flag} is 3, and {strong} has no guidance to set" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--preset ideogram4-networks --methods weak,w2sd", "Ideogram 4 takes none; leave the method weak out"),
        ("--preset ideogram4-networks --methods w2sd --negative-prompt x", "Ideogram 4 takes none"),
        (
            "--strong {flux} --weak-precision int2 --negative-prompt x",
            "--negative-prompt is given, and guidance that is",
        ),
    ],
)
def test_a_negative_prompt_that_nobody_is_told_is_refused(
    words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from w2sd_video import demo

    flux = Path(demo.__file__).parent / "picture_weights" / "strong"
    assert main([*words.format(flux=flux).split(), "--prompt", "a red ring", "--dry-run"]) == 2
    assert message in capsys.readouterr().err
