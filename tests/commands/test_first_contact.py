"""What goes wrong at first contact is said, or does not go wrong: prompts, cut texts, huge plans, pipes, interrupts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import tiny
from tests.support.family_programs import image, image_request, planned, video_request
from w2sd_video import ModelSpec
from w2sd_video.commands import app, machines, making
from w2sd_video.errors import TerminatedError, UserError

ROOT = Path(__file__).resolve().parents[2]
PYTHON = [sys.executable, "-m", "w2sd_video"]
QUICK = ["--steps", "2", "--reflections", "1", "--device", "cpu", "--quiet"]
LONG = "a red ring " + "and " * 90 + "nothing else"


def results(folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    lines = (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()
    return {(record["method"], record["prompt"]): record for record in map(json.loads, lines)}


def test_a_plan_of_a_million_pictures_is_told_at_once() -> None:
    code = (
        "import os, sys, time; from w2sd_video.commands.app import main\n"
        "from w2sd_video.demo import PICTURE_CAPTIONS\n"
        "words = [word for caption in PICTURE_CAPTIONS[:10] for word in ('--prompt', caption)]\n"
        "words += ['--methods', 'strong,w2sd,zero-gap,swapped', '--num', '25000', '--device', 'cpu', '--dry-run']\n"
        "code = main(['image', *words])\n"
        "assert time.process_time() < 2, time.process_time()\n"
        "status = open('/proc/self/status').read() if os.path.exists('/proc/self/status') else 'VmHWM: 0'\n"
        "assert int(status.partition('VmHWM:')[2].split()[0]) < 100 * 1024, status\n"
        "sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "1000000 pictures of 10 prompts" in done.stdout


def test_one_of_a_thing_is_spoken_of_as_one(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--prompt", "a red ring", "--methods", "strong", "--steps", "1", "--device", "cpu", "--dry-run"]
    assert image(words) == 0
    out = capsys.readouterr().out
    assert "1 picture of 1 prompt " in out and "1 step, 0 reflections" in out


def test_a_plan_without_a_reflection_says_so_unless_none_was_asked_for() -> None:
    for request in (image_request(steps=1), video_request(steps=1)):
        _, note = planned(request).notes
        assert note.startswith("with 1 step no step is reflected, so that w2sd, zero-gap make")
    assert len(planned(image_request(steps=1, reflections=0)).notes) == 1
    assert len(planned(image_request(steps=1, methods=("strong",))).notes) == 1


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A model of the user's own, whose text encoders read 77 tokens of a character each."""
    folder = tmp_path_factory.mktemp("model")
    tiny.sdxl(1).save_pretrained(folder)
    return ["--strong", str(folder), "--weak-guidance", "0", "--height", "16", "--width", "16"]


def test_what_a_text_encoder_cuts_off_is_noted_before_the_run_and_in_it(
    model: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*QUICK, *model, "--methods", "strong", "--prompt", LONG, "--prompt", "a red ring"]
    assert image([*words, "--dry-run", "--format", "json"]) == 0
    planned = json.loads(capsys.readouterr().out)["notes"]
    assert image([*words, "--output", str(tmp_path / "run")]) == 0
    notes = json.loads((tmp_path / "run" / "run.json").read_text())["notes"]
    assert notes == planned and len(notes) == 1
    assert "77 tokens" in notes[0] and notes[0].endswith("else'") and LONG[:20] in notes[0]


def test_a_pair_of_prompts_that_is_one_when_it_is_read_fails_alone(model: list[str], tmp_path: Path) -> None:
    rows = [("a red ring", "a green cross"), (LONG, f"{LONG} at all"), ("a blue square", "a blue square")]
    (tmp_path / "pairs.tsv").write_text("".join(f"{refined}\t{raw}\n" for refined, raw in rows))
    words = [*model, "--prompt-pairs", str(tmp_path / "pairs.tsv"), "--weak-guidance", "1", "--guidance", "1"]
    assert image([*QUICK, *words, "--methods", "strong,w2sd", "--output", str(tmp_path / "run")]) == 1
    found = results(tmp_path / "run")
    assert {prompt: found["w2sd", prompt]["status"] for prompt, _ in rows} == {
        rows[0][0]: "done",
        rows[1][0]: "failed",
        rows[2][0]: "failed",
    }
    assert {found["strong", prompt]["status"] for prompt, _ in rows} == {"done"}
    assert "after what the text encoder cuts off" in found["w2sd", LONG]["reason"]


def test_prompts_may_be_added_after_those_of_a_finished_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*QUICK, "--methods", "strong,w2sd", "--output", str(tmp_path / "run")]
    first, more = ["--prompt", "a red ring"], ["--prompt", "a green cross"]
    assert image([*words, *first]) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.png")}
    made: list[str] = []
    make = making.LoadedSides.make

    def counted(self: Any, tasks: Any, report: Any) -> Any:
        made.extend(task.prompt for task in tasks)
        return make(self, tasks, report)

    monkeypatch.setattr(making.LoadedSides, "make", counted)
    assert image([*words, *first, *more]) == 0
    assert made == ["a green cross"] * 2
    assert all(path.read_bytes() == content for path, content in before.items())
    assert json.loads((tmp_path / "run" / "run.json").read_text())["prompts"] == ["a red ring", "a green cross"]
    assert len(results(tmp_path / "run")) == 4
    capsys.readouterr()
    for other in (first, more, [*more, *first]):  # fewer, or others before them
        assert image([*words, *other]) == 2
        assert "prompts: " in capsys.readouterr().err


def test_the_size_of_a_repository_that_a_preset_knows_need_not_be_given() -> None:
    done = planned(
        image_request(strong="stabilityai/stable-diffusion-xl-base-1.0", weak_guidance=1.0, prompts=("a fox",))
    )
    assert (done.height, done.width) == (1024, 1024)
    with pytest.raises(UserError, match="give --height and --width"):
        planned(image_request(strong="someone/else", weak_guidance=1.0, prompts=("a fox",)))


def test_a_bundled_pair_runs_in_one_thread_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    bundled, own = (
        planned(image_request(device="cpu")),
        planned(image_request(device="cpu", preset="guidance-sdxl", prompts=("x",))),
    )
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for plan in (bundled, own):
        with machines.few_threads(plan):
            pass
    assert asked == [1, 7]
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    with machines.few_threads(bundled):
        assert asked == [1, 7]


@pytest.mark.parametrize(
    ("error", "code", "said"), [(KeyboardInterrupt, 130, "interrupted"), (TerminatedError, 143, "terminated")]
)
@pytest.mark.parametrize("words", [["image"], ["sweep"]])
def test_an_interrupt_during_imports_is_a_sentence(
    error: type[BaseException],
    code: int,
    said: str,
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def importing(name: str) -> None:
        raise error

    monkeypatch.setattr(app.importlib, "import_module", importing)
    assert app.main(words) == code
    assert capsys.readouterr().err.strip().startswith(said)


def test_a_reader_that_went_away_is_no_error() -> None:
    done = subprocess.run(
        f"{PYTHON[0]} -m w2sd_video presets | head -n 1; exit ${{PIPESTATUS[0]}}",
        shell=True, executable="/bin/bash", cwd=ROOT, capture_output=True, text=True, env=os.environ,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_lora_scales_may_be_a_mapping() -> None:
    assert ModelSpec(loras={"style": 0.5, "art": -1.5}) == ModelSpec(loras=(("art", -1.5), ("style", 0.5)))  # type: ignore[arg-type]


def test_users_of_a_multistep_scheduler_are_sent_to_its_nearest_kin() -> None:
    from diffusers import DEISMultistepScheduler, DPMSolverMultistepScheduler

    from w2sd_video.latents.schedules import check_scheduler

    theirs = DEISMultistepScheduler()
    with pytest.raises(UserError, match=r"DPM-Solver\+\+\(2M\)"):
        check_scheduler(theirs)
    check_scheduler(DPMSolverMultistepScheduler.from_config(theirs.config, algorithm_type="dpmsolver++"))


def test_what_keeps_nothing_does_not_say_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from w2sd_video.diagnosis import program

    def interrupted(arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(program, "_diagnosed", interrupted)
    assert program.main([]) == 130
    assert "interrupted; nothing is kept: run the same command again" in capsys.readouterr().err
