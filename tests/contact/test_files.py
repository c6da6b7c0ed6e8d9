"""Files that are no files, and configs that no network has: named and refused, without waiting."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from bridges.dit_moe.labels import read_labels
from bridges.pixel.mapped import Mapped
from tests.contact.test_fuzz import SDXL, VIDEO_PAIR, _report, bounded
from tests.support import programs
from vbench_eval.errors import UserError as ScoringError
from vbench_eval.result_reading import read_report
from vbench_eval.suite import read_suite
from vbench_eval.videos import VideoError, find_videos, open_video
from w2sd_video.commands.engine import check_words
from w2sd_video.commands.families.image import FAMILY as IMAGE
from w2sd_video.commands.families.video import FAMILY as VIDEO
from w2sd_video.commands.prompts import read_prompt_pairs, read_prompts
from w2sd_video.diagnosis.program import main as diagnose
from w2sd_video.errors import UserError
from w2sd_video.loading.describe import describe
from w2sd_video.loading.files import found_lora, read_json, read_safetensors_header
from w2sd_video.runs.journal import RESULTS_FILE, Journal, held

REFUSALS = (UserError, ScoringError, VideoError, OSError)
READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "prompts": ("p.txt", read_prompts),
    "prompts in JSON": ("p.json", read_prompts),
    "pairs of prompts": ("p.csv", read_prompt_pairs),
    "labels": ("l.json", read_labels),
    "config": ("config.json", read_json),
    "weights": ("a.safetensors", read_safetensors_header),
    "single file": ("a.safetensors", lambda path: describe(str(path), "strong", config=str(path.parent))),
    "LoRA": ("a.safetensors", lambda path: found_lora("art", str(path))),
    "noise map": ("a.safetensors", Mapped.load),
    "report": ("a_report.json", read_report),
    "suite": ("suite.json", read_suite),
    "video": ("a.mp4", open_video),
    "picture": ("a.png", open_video),
}


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _loop(path: Path) -> None:
    path.symlink_to(path)


def _dangling(path: Path) -> None:
    path.symlink_to(path.with_name("gone"))


KINDS: dict[str, Callable[[Path], None]] = {"pipe": _pipe, "folder": Path.mkdir, "loop": _loop, "dangling": _dangling}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_file_is_refused_at_once(reader: str, kind: str, tmp_path: Path) -> None:
    name, read = READERS[reader]
    path = tmp_path / "given" / name
    path.parent.mkdir()
    KINDS[kind](path)
    with bounded(3.0):
        try:
            read(path)
        except REFUSALS as refusal:
            assert str(refusal).strip()
            return
    assert reader == "LoRA" and kind != "folder" and read(path) is None  # "there is none", its caller says


def test_one_file_that_cannot_be_read_is_named_and_the_others_are_scored(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).touch()
    _loop(tmp_path / "c.mp4")
    _dangling(tmp_path / "d.mp4")
    _pipe(tmp_path / "e.mp4")
    assert [path.name for path in find_videos(tmp_path)] == ["a.mp4", "b.mp4", "c.mp4", "d.mp4", "e.mp4"]
    for name in ("c.mp4", "d.mp4", "e.mp4"):
        with bounded(3.0), pytest.raises(VideoError):
            open_video(tmp_path / name)


@pytest.mark.parametrize("name", ["run.json", RESULTS_FILE])
def test_a_pipe_in_a_run_folder_is_refused(name: str, tmp_path: Path) -> None:
    run = {name: {} if name in ("pair", "settings") else [] for name in ("pair", "settings", "prompts", "methods")}
    run |= dict.fromkeys(("preset", "seeds", "device", "dtype"), "x")
    with Journal(tmp_path, run):
        pass
    (tmp_path / name).unlink(missing_ok=True)
    _pipe(tmp_path / name)
    with bounded(3.0), pytest.raises(UserError, match="no file"), Journal(tmp_path, run):
        pass


ABSURD: tuple[tuple[str, str, Any], ...] = (
    ("vae/config.json", "block_out_channels", 3),
    ("vae/config.json", "block_out_channels", []),
    ("vae/config.json", "scaling_factor", "x"),
    ("vae/config.json", "scaling_factor", 0),
    ("vae/config.json", "latents_mean", 0.5),
    ("vae/config.json", "_class_name", ["AutoencoderKL"]),
    ("vae/config.json", "latent_channels", "four"),
    ("unet/config.json", "_class_name", ["UNet2DConditionModel"]),
    ("unet/config.json", "layers_per_block", 10**9),
    ("unet/config.json", "block_out_channels", [10**12, 4]),
    ("unet/config.json", "in_channels", -4),
    ("scheduler/scheduler_config.json", "beta_start", float("nan")),
    ("scheduler/scheduler_config.json", "beta_end", float("inf")),
    ("scheduler/scheduler_config.json", "trained_betas", [0.1, None]),
    ("scheduler/scheduler_config.json", "num_train_timesteps", 10**9),
    ("scheduler/scheduler_config.json", "_class_name", {}),
    ("model_index.json", "vae", []),
    ("model_index.json", "unet", ["diffusers"]),
    ("model_index.json", "scheduler", "DDIMScheduler"),
    ("model_index.json", "_class_name", ["StableDiffusionXLPipeline"]),
)


@pytest.mark.parametrize("family", ["image", "video"])
def test_absurd_settings_are_refused_by_name_in_the_plan(family: str, tmp_path: Path) -> None:
    good = tmp_path / "pair"
    (SDXL if family == "image" else VIDEO_PAIR)(good)
    words = ["--strong", str(good / "strong"), "--weak", str(good / "weak"), "--prompt", "a cat", "--device", "cpu"]
    plugin = IMAGE if family == "image" else VIDEO
    words += [] if family == "image" else ["--weak-guidance", "1", "--num-frames", "8"]
    check_words(plugin, words)
    for file, name, value in ABSURD:
        path = good / "strong" / file
        whole = path.read_text()
        path.write_text(json.dumps({**json.loads(whole), name: value}))
        with pytest.raises(UserError) as refused:
            check_words(plugin, words)
        assert name in str(refused.value) and str(path) in str(refused.value), (file, name, str(refused.value))
        path.write_text(whole)


def test_damaged_weights_of_a_vae_are_not_called_a_matter_of_precision(tmp_path: Path) -> None:
    SDXL(tmp_path)
    path = tmp_path / "strong" / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = {name: tensor * float("nan") for name, tensor in load_file(path).items()}
    path.unlink()
    save_file(tensors, path)
    line = f"python scripts/generate_image.py --strong {tmp_path / 'strong'} --weak-guidance 0 --guidance 2 --steps 2"
    ended = programs.run(f"{line} --methods strong --prompt cat --device cpu --output {tmp_path / 'out'}", tmp_path)
    assert ended.code == 1
    (record,) = (json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines())
    assert "weights are damaged" in record["reason"]
    assert "use float32" not in record["reason"]


def test_an_auto_class_in_a_folder_is_refused_in_the_plan(tmp_path: Path) -> None:
    SDXL(tmp_path)
    path = tmp_path / "strong" / "model_index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "text_encoder": ["transformers", "AutoModel"]}))
    with pytest.raises(UserError, match="AutoModel, which takes its class from the checkpoint's own code"):
        describe(str(tmp_path / "strong"), "strong")


def test_a_folder_is_held_by_one_command_at_a_time(tmp_path: Path) -> None:
    place = tmp_path / "new" / "folder"
    with held(place), pytest.raises(UserError, match="another process is writing"), held(place):
        pass
    with held(place):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be made"), held(tmp_path / "file"):
        pass


@pytest.mark.parametrize("verb", ["compare", "prompts"])
def test_the_verbs_of_scoring_hold_their_folder(verb: str, tmp_path: Path) -> None:
    _report(tmp_path)
    words = (
        f"compare {tmp_path}/a_report.json {tmp_path}/b_report.json --draws 100"
        if verb == "compare"
        else "prompts --suite sample"
    )
    line = f"w2sd-vbench {words} --output {tmp_path / 'out'}"
    with held(tmp_path / "out"):
        ended = programs.run(line, tmp_path)
    assert ended.code == 2
    assert "another process is writing" in ended.err
    assert not (tmp_path / "out").exists()
    assert programs.run(line, tmp_path).code == 0


def test_diagnose_holds_its_folder_and_refuses_a_file_before_it_measures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert diagnose(["--files-only", "--output", str(tmp_path / "file")]) == 2
    assert "cannot be made" in capsys.readouterr().err
    with held(tmp_path / "out"):
        assert diagnose(["--files-only", "--output", str(tmp_path / "out")]) == 2
    assert "another process is writing" in capsys.readouterr().err
    assert diagnose(["--files-only", "--output", str(tmp_path / "out")]) == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["diagnosis.json"]
