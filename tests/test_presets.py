"""The table of presets: the paper's settings and numbers, and names that do not exist."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

from w2sd_video.errors import UserError
from w2sd_video.pair import check_pair
from w2sd_video.presets import PRESETS, TABLE_12, get_preset


def test_the_papers_video_preset_has_the_papers_settings() -> None:
    preset = get_preset("juggernaut-vs-sdxl")
    assert (preset.guidance, preset.pair.strong.guidance, preset.pair.weak.guidance) == (3.0, 3.0, 1.0)
    assert (preset.steps, preset.reflection.num_reflections, preset.reflection.mode) == (50, None, "paper")
    assert (preset.num_frames, preset.fps, preset.height, preset.width) == (16, 8, 1024, 1024)
    assert preset.paper == TABLE_12


def test_the_papers_table_shows_the_motion_lost_beside_the_quality_gained() -> None:
    weak, strong, w2sd = TABLE_12
    assert weak.dynamic_degree > strong.dynamic_degree > w2sd.dynamic_degree
    assert weak.aesthetic_quality < strong.aesthetic_quality < w2sd.aesthetic_quality


def test_every_preset_is_a_pair_with_a_gap_under_its_own_name() -> None:
    for name, preset in PRESETS.items():
        assert (name, name) == (preset.name, preset.pair.name)
        check_pair(preset.pair)


def test_presets_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        get_preset("demo").steps = 3  # type: ignore[misc]
    with pytest.raises(TypeError):
        PRESETS["other"] = get_preset("demo")  # type: ignore[index]


def test_an_unknown_preset_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=re.escape("no preset 'juggernaut'; choose one of demo, juggernaut-vs-sdxl")):
        get_preset("juggernaut")


def test_presets_import_no_torch() -> None:
    program = "import sys, w2sd_video.presets; sys.exit('torch' in sys.modules)"
    root = Path(__file__).resolve().parents[1]
    assert subprocess.run([sys.executable, "-c", program], cwd=root, check=False).returncode == 0
