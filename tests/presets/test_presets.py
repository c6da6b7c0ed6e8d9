"""The table of presets: the paper's settings and numbers as literals, and names that do not exist."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.family_programs import video as main
from w2sd_video.commands.app import family_named
from w2sd_video.commands.engine import check_words
from w2sd_video.core.trained_timesteps import trained_timesteps
from w2sd_video.errors import UserError
from w2sd_video.loading.pipeline_families import family_called
from w2sd_video.pair import ModelSpec, check_pair
from w2sd_video.presets import PICTURE_PRESETS, PRESETS, TABLE_12, VIDEO_PRESETS, get_preset, preset_table
from w2sd_video.presets.newer import PICTURES_2026, VIDEOS_2026

# T, lambda, sampling guidance, guidance inside the reflection (strong, weak); where the paper says so.
SETTINGS = {
    "finetune-sd15": (50, 49, 5.5, (1.0, 1.0)),  # App. C.1, full-parameter tuning
    "finetune-sdxl": (50, 49, 5.5, (1.0, 1.0)),  # App. C.1, full-parameter tuning
    "lora-sdxl": (50, 49, 5.5, (1.0, 1.0)),  # App. C.1, efficient tuning
    "lora-sd15": (50, 49, 5.5, (1.0, 1.0)),  # App. C.1, efficient tuning
    "lora-personal": (50, 49, 5.5, (1.0, 1.0)),  # App. C.1, efficient tuning
    "guidance-sdxl": (50, 49, 5.5, (5.5, 0.0)),  # App. C.1, condition gap
    "guidance-sd15": (50, 49, 5.5, (5.5, 0.0)),  # App. C.1 and Table 5
    "prompt-sdxl": (50, 49, 5.5, (1.0, 1.0)),  # App. C.1, semantic gaps
    "controlnet-sdxl": (50, 49, 5.5, (0.5, 0.5)),  # App. C.1, sampling pipeline gap
    "ip-adapter-sdxl": (50, 49, 5.5, (0.5, 0.5)),  # as the ControlNet's
    "cumulative-sdxl": (50, 49, 5.5, (5.5, 0.0)),  # section 4.4
    "guidance-flux": (28, 10, 2.0, (2.0, 1.0)),  # App. E.6
    "lora-flux": (28, 10, 2.0, (2.0, 2.0)),  # App. E.6; the guidance is not the paper's
    "few-steps-turbo": (8, 7, 2.0, (1.0, 1.0)),  # Figure 19; the guidance is not the paper's
    "few-steps-sdxl": (20, 19, 5.5, (1.0, 1.0)),  # Figure 20
    "juggernaut-vs-sdxl": (50, 49, 3.0, (3.0, 1.0)),  # App. D.1
}
LORA_SCALES = {
    "lora-sdxl": (0.8, -1.5),  # App. C.1
    "lora-sd15": (0.8, -1.5),  # App. C.1
    "few-steps-turbo": (0.8, -1.5),  # App. C.1
    "few-steps-sdxl": (0.8, -1.5),  # App. C.1
    "lora-personal": (0.8, 0.0),  # Table 3: the base model is the weak one
    "lora-flux": (0.3, 0.0),  # App. E.6
    "dpo-sdxl": (1.0, 0.0),  # not in the paper
    "wan21-lightning": (0.0, 1.0),  # not in the paper
}
# Table number: (preset, weak or base model, strong model, W2SD), as the paper prints them; "-" for no value.
TABLES = {
    (2, "finetune-sd15"): "24.9558 5.5003 20.1368 - | 30.1477 6.1155 21.5035 46.8705 | 30.4924 6.2478 21.5727 53.1304",
    (2, "finetune-sdxl"): "29.8701 6.0939 21.6487 - | 31.6412 5.9790 22.1903 45.7397 | 32.0992 6.0712 22.2434 54.2634",
    (3, "lora-personal"): "27.47 52.08 20.14 | 48.03 64.37 25.99 | 51.58 68.04 27.66",
    (5, "guidance-sd15"): "24.9558 5.5003 20.1368 42.1101 | 25.5069 5.5073 20.2443 57.8903",
    (5, "guidance-sdxl"): "29.8701 6.0939 21.6487 43.9425 | 31.2020 6.0970 21.7980 56.0608",
    (6, "prompt-sdxl"): "25.3897 5.4454 20.7144 - | 28.5698 5.7714 21.6350 45.7719 | 29.4023 5.8812 21.8053 54.2275",
    (7, "cumulative-sdxl"): "31.6412 - | 32.8217 84 | 32.0992 76 | 32.9623 90",
    (8, "finetune-sd15"): "25.3601 5.2023 21.0519 - | 28.7845 5.7047 21.8522 47.8813 | 28.7901 5.7847 21.9057 52.1192",
    (8, "finetune-sdxl"): "28.5536 5.4946 22.2464 - | 28.9085 5.3455 22.4906 47.5648 | 29.3246 5.4261 22.5803 52.4358",
    (9, "guidance-sd15"): "25.3601 5.2023 21.0519 47.7075 | 25.8234 5.2157 21.2079 52.2934",
    (9, "guidance-sdxl"): "28.5536 5.4946 22.2464 40.9590 | 30.1426 5.6600 22.4434 59.0415",
    (10, "lora-sd15"): "24.9558 5.5003 20.1368 - | 25.5678 5.5804 20.3514 44.2889 | 26.0825 5.6567 20.5096 55.7106",
    (10, "lora-sdxl"): "29.8701 6.0939 21.6487 - | 32.8040 6.1176 22.3259 48.2224 | 33.5959 6.2252 22.3644 51.7770",
    (11, "lora-sd15"): "25.3601 5.2023 21.0519 - | 25.8896 5.2895 21.2308 49.3617 | 25.9431 5.3553 21.2589 50.6399",
    (11, "lora-sdxl"): "28.5536 5.4946 22.2464 - | 31.2727 5.5487 22.7721 47.0396 | 32.34857 5.7595 22.8301 52.9588",
    (12, "juggernaut-vs-sdxl"): (
        "91.4152 95.8491 94.1647 45.0000 55.3108 58.4293 | 96.0820 97.5463 96.8834 13.0653 57.7097 64.1674 | "
        "97.1398 97.9386 96.8706 8.0000 59.3736 64.6987"
    ),
    (17, "guidance-flux"): "23.2291 6.0081 20.5669 | 29.9532 6.3668 22.1578 | 31.1962 6.3677 22.2464",
    (17, "lora-flux"): "29.9532 6.3668 22.1578 | 30.3402 6.3987 22.2199 | 31.7411 6.3580 22.3050",
    (18, "guidance-flux"): "22.5098 5.5170 21.4877 | 29.2550 5.8035 22.8866 | 30.6314 5.9030 23.0236",
    (18, "lora-flux"): "29.2550 5.8035 22.8866 | 29.5438 5.8088 22.8680 | 30.9390 5.9238 22.9202",
}
MODELS = {
    "finetune-sd15": ("Lykon/dreamshaper-8", "stable-diffusion-v1-5/stable-diffusion-v1-5"),  # DreamShaper v8; SD1.5
    "finetune-sdxl": ("RunDiffusion/Juggernaut-XL-v9", "stabilityai/stable-diffusion-xl-base-1.0"),
    "cumulative-sdxl": ("RunDiffusion/Juggernaut-XL-v9", "stabilityai/stable-diffusion-xl-base-1.0"),
    "guidance-sdxl": ("stabilityai/stable-diffusion-xl-base-1.0", None),
    "guidance-flux": ("black-forest-labs/FLUX.1-dev", None),  # the captions of Tables 17 and 18
    "few-steps-turbo": ("Lykon/dreamshaper-xl-turbo", None),  # Figure 19
    "juggernaut-vs-sdxl": ("RunDiffusion/Juggernaut-XL-v9", "stabilityai/stable-diffusion-xl-base-1.0"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_presets_steps_and_guidance_are_the_papers(name: str) -> None:
    preset = get_preset(name)
    inside = (preset.pair.strong.guidance, preset.pair.weak.guidance)
    assert (preset.steps, preset.num_reflections, preset.guidance, inside) == SETTINGS[name]
    assert (preset.reflection.mode, preset.reflection.strength) == ("paper", 1.0)


def test_every_preset_with_a_place_in_the_paper_is_held_to_it() -> None:
    assert {name for name, preset in PRESETS.items() if preset.source} == SETTINGS.keys()
    assert {(table.number, name) for name, preset in PRESETS.items() for table in preset.paper} == TABLES.keys()
    assert {name for name, preset in PRESETS.items() if preset.pair.strong.loras} == LORA_SCALES.keys()


@pytest.mark.parametrize("name", LORA_SCALES)
def test_the_lora_scales_are_the_papers(name: str) -> None:
    preset = get_preset(name)
    ((ours, strong),), ((theirs, weak),) = preset.pair.strong.loras, preset.pair.weak.loras
    assert (strong, weak) == LORA_SCALES[name]
    assert {ours, theirs} == preset.loras.keys(), "one LoRA at two scales"


@pytest.mark.parametrize(("number", "name"), TABLES)
def test_the_numbers_beside_a_preset_are_the_papers(number: int, name: str) -> None:
    printed = TABLES[number, name]
    wanted = [[None if cell == "-" else float(cell) for cell in row.split()] for row in printed.split("|")]
    (table,) = (table for table in get_preset(name).paper if table.number == number)
    assert [list(row) for row in table.rows.values()] == wanted


@pytest.mark.parametrize("name", MODELS)
def test_the_models_are_those_the_paper_names(name: str) -> None:
    preset = get_preset(name)
    assert (preset.pair.strong.checkpoint, preset.pair.weak.checkpoint) == MODELS[name]


def test_pipeline_gaps_switch_off_on_the_weak_side_what_the_strong_side_has() -> None:
    control, adapter = get_preset("controlnet-sdxl"), get_preset("ip-adapter-sdxl")
    assert (control.pair.strong.control, control.pair.weak.control) == ({"scale": 1.0}, {"scale": 0.0})  # App. C.1
    assert (adapter.pair.strong.ip_adapter, adapter.pair.weak.ip_adapter) == (1.0, 0.0)
    assert control.controlnet and adapter.ip_adapter and (control.scheduler, adapter.scheduler) == ("ddim", "ddim")


def test_few_steps_use_the_samplers_of_the_papers_figures() -> None:
    assert get_preset("few-steps-turbo").scheduler == "dpm-solver++"  # Figure 19
    assert get_preset("few-steps-sdxl").scheduler == "ddim"  # Figure 20


def test_the_papers_video_preset_has_animatediffs_own_frames() -> None:
    preset = get_preset("juggernaut-vs-sdxl")
    assert (preset.num_frames, preset.fps, preset.height, preset.width) == (16, 8, 1024, 1024)


def test_the_papers_table_shows_the_motion_lost_beside_the_quality_gained() -> None:
    motion, looks = (
        [TABLE_12.value(m, name) or 0.0 for m in ("weak", "strong", "W2SD")] for name in TABLE_12.metrics[3:5]
    )
    assert motion == sorted(motion, reverse=True) and looks == sorted(looks)


def test_every_preset_is_a_pair_with_a_gap_under_its_own_name() -> None:
    for name, preset in PRESETS.items():
        assert (name, name) == (preset.name, preset.pair.name)
        given = {"--prompt-pairs FILE": ModelSpec(prompt="raw")}  # the one gap that only a file of the user's can make
        weak = next((spec for flag, spec in given.items() if flag in preset.needs), preset.pair.weak)
        check_pair(dataclasses.replace(preset.pair, weak=weak))


def test_what_a_side_names_comes_from_somewhere_or_is_asked_for() -> None:
    for preset in PRESETS.values():
        named = {name for side in (preset.pair.strong, preset.pair.weak) for name, _ in side.loras}
        assert named == preset.loras.keys()
        for name, source in preset.loras.items():
            assert source is not None or f"--lora {name}=FILE" in preset.needs
        assert (preset.pair.strong.control is None) == (preset.controlnet is None)
        assert (preset.pair.strong.ip_adapter is None) == (preset.ip_adapter is None)


def test_videos_and_pictures_are_told_apart() -> None:
    assert VIDEO_PRESETS.keys() | PICTURE_PRESETS.keys() == PRESETS.keys()
    assert not VIDEO_PRESETS.keys() & PICTURE_PRESETS.keys()
    assert {"demo", "juggernaut-vs-sdxl"} <= VIDEO_PRESETS.keys() and "picture-demo" in PICTURE_PRESETS


def test_presets_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        get_preset("demo").steps = 3  # type: ignore[misc]
    with pytest.raises(TypeError):
        PRESETS["other"] = get_preset("demo")  # type: ignore[index]


def test_an_unknown_preset_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"no preset 'juggernaut'; choose one of .*, juggernaut-vs-sdxl, "):
        get_preset("juggernaut")


def test_the_list_of_presets_has_settings_models_and_every_number_of_the_paper(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--list-presets"])
    text = capsys.readouterr().out
    assert ended.value.code == 0 and text.strip() == preset_table().strip()
    blocks = {block.partition(":")[0]: block for block in text.split("\n\n")}
    assert blocks.keys() == PRESETS.keys()
    for (number, name), printed in TABLES.items():
        shown = blocks[name].partition(f"Table {number},")[2]
        for cell in re.findall(r"[\d.]+", printed):
            assert re.search(rf"(?<![\d.]){float(cell):.7g}(?![\d.])", shown), (number, name, cell)
    assert "T 28, lambda 10" in blocks["guidance-flux"] and "LoRA xlMoreArtFullV1 at -1.5" in blocks["lora-sdxl"]
    assert "--prompt-pairs FILE" in blocks["prompt-sdxl"] and "Lykon/dreamshaper-xl-turbo" in blocks["few-steps-turbo"]


def test_presets_import_no_torch() -> None:
    program = "import sys, w2sd_video.presets; sys.exit('torch' in sys.modules)"
    root = Path(__file__).resolve().parents[2]
    assert subprocess.run([sys.executable, "-c", program], cwd=root, check=False).returncode == 0


@pytest.mark.parametrize("name", [preset.name for preset in (*PICTURES_2026, *VIDEOS_2026)])
def test_a_pair_of_2026_says_what_it_takes_and_that_nothing_of_it_was_measured(name: str) -> None:
    preset = PRESETS[name]
    assert "chosen, not measured" in preset.chosen and "scheduler its own, " in preset.chosen and not preset.paper
    family = family_called(preset.family)
    assert family is not None and family.makes_videos == preset.is_video
    assert not preset.is_video or (preset.num_frames - 1) % family.group == 0  # type: ignore[operator]
    assert len(re.findall(r"\d[\d.]*", preset.memory)) == (2 if preset.pair.weak.checkpoint else 1) + 1  # "16 bits"
    if preset.pair.weak.levels is not None:  # a flow's levels need its shift
        assert trained_timesteps(preset.pair.weak.levels, flow=True)


def test_a_preset_of_a_file_that_is_no_pipeline_asks_for_it() -> None:
    with pytest.raises(UserError, match=r"flux-srpo is one file, tencent/SRPO/\S+ of the hub: .*--strong FILE"):
        check_words(family_named("image"), ["--preset", "flux-srpo", "--prompt", "a"])
