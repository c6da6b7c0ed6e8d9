"""The table of options: one row a setting, one name a thing; requests and parsers made from it; the program `w2sd`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from w2sd_video.commands.app import families, main
from w2sd_video.commands.command_line import build_parser
from w2sd_video.commands.options import OPTIONS, options_of
from w2sd_video.commands.request import Request
from w2sd_video.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ("video", "image", "bridge", "moe", "diagnose", "sweep", "arena")
ALIASES = {
    "num": ("--num", "--num-videos", "--num-pictures", "--num-images", "--samples"),
    "reflections": ("--reflections", "--lambda"),
    "guidance": ("--guidance", "--cfg"),
    "negative_prompt": ("--negative-prompt", "--negative"),
    "memory": ("--memory", "--offload"),
    "strong": ("--strong", "--checkpoint"),
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_has_each_field_and_each_flag_once(program: str) -> None:
    rows = options_of(program)
    flags = [flag for row in rows for flag in row.names]
    assert len({row.field for row in rows}) == len(rows) and len(set(flags)) == len(flags)
    assert all(row.help and row.group for row in rows)
    assert sum(row.everyday for row in rows) <= 20


def test_one_thing_has_one_name_and_its_older_names_in_every_program_that_has_it() -> None:
    for field, names in ALIASES.items():
        rows = [row for row in OPTIONS if row.field == field and row.families != ("moe",)]
        assert rows and all(row.names == names for row in rows), field


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_short_help_shows_everyday_flags_and_the_long_one_all(
    program: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = {}
    for flag in ("--help", "--help-all"):
        parser = build_parser(f"w2sd {program}", program, description="x", examples="  {program} --quiet\n")
        with pytest.raises(SystemExit):
            parser.parse_args([flag])
        shown[flag] = capsys.readouterr().out
    for row in options_of(program):
        assert row.names[0] in shown["--help-all"]
        assert (f"  {row.names[0]} " in shown["--help"] or f"  {row.names[0]}\n" in shown["--help"]) == row.everyday
    assert f"w2sd {program} --quiet" in shown["--help"]


def test_a_request_has_defaults_ranges_and_older_words() -> None:
    asked = Request("video", steps=20, memory="model", window=(0, 0.5), output=Path("x"))
    assert (asked.steps, asked.guidance, asked.seed, asked.prompts) == (20, None, 0, ())
    assert (asked.memory, asked.output) == ("model-offload", "x")
    assert asked.changed(steps=None) == Request("video", memory="model-offload", window=(0, 0.5), output="x")
    assert not asked.asks("guidance") and Request("video", cap=0.0).asks("cap")
    for values, said in (
        ({"steps": 0}, "steps is 0; it must be a whole number from 1 to 1000"),
        ({"steps": True}, "steps is True"),
        ({"noise": -1.0}, "noise is -1.0; it must be a number from 0 or more"),
        ({"memory": "disk"}, "unknown memory plan 'disk'"),
    ):
        with pytest.raises(UserError, match=said):
            Request("video", **values)
    with pytest.raises(TypeError, match="noise_map"):
        Request("video", noise_map="auto")


def test_the_program_names_its_commands_and_the_nearest_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(f"  {name} " in said for name in ("video", "image", "bridge", "moe", "diagnose", "sweep", "eval"))
    assert main(["vidoe"]) == 2
    assert "did you mean video" in capsys.readouterr().err
    assert {"video", "image"} <= set(families())
    assert main(["presets", "demo"]) == 0 and "lambda 10" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "known"),
    [
        (["image", "--prompt", "a red ring", "--prompt", "a corgi"], "'a red ring': a COLOUR (red"),
        (["image", "--preset", "picture-demo", "--prompt", "a corgi"], "SHAPE (ring"),
        (["image", "--weak-prompt", "a corgi"], "SHAPE (ring"),
        (["video", "--prompt", "a corgi runs", "--dry-run"], "MOTION (moving left"),
        (["video", "--prompt", "a red ring"], "MOTION (moving left"),
        (["bridge", "--prompt", "a corgi"], "SHAPE (ring"),
        (["sweep", "--setting", "lambda", "--values", "1", "--", "--prompt", "a corgi"], "SHAPE (ring"),
        (["diagnose", "--prompt", "a corgi runs"], "MOTION (moving left"),
        (["image", "--height", "1024"], "the bundled toy makes 32 x 32 pixels"),
        (["bridge", "--weak-width", "64"], "the bundled toy makes 32 x 32 pixels"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_toy_never_stands_in_for_a_model(
    words: list[str], known: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    said = capsys.readouterr().err
    assert known in said and "--preset NAME (--list-presets shows them) or --strong MODEL" in said
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("family", ["video", "image", "bridge", "moe"])
def test_what_a_bundled_pair_makes_says_that_it_is_a_toy(family: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([family, "--dry-run", "--device", "cpu", "--format", "json"]) == 0
    out, err = capsys.readouterr()
    note, *_ = json.loads(out)["notes"]
    assert note.startswith("the bundled toy makes this") and note in err
    spaces = {
        "video": "share: one a",
        "image": "share: one auto",
        "bridge": "bridge: the strong",
        "moe": "share: one net",
    }
    assert json.loads(out)["verdict"].startswith(spaces[family])
