"""The DiT-MoE command on a tiny pipeline saved to disk: what is made, written, resumed, shared and refused."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bridges.dit_moe import DiTMoE, files, making
from bridges.dit_moe.family import FAMILY
from bridges.dit_moe.layout import published_layout
from bridges.dit_moe.pipeline import DiTMoEPipeline, build_scheduler
from tests.support import tiny
from vbench_eval.images import frechet, inception
from w2sd_video.commands import app, engine
from w2sd_video.commands.request import Request
from w2sd_video.gaps.routing import routed
from w2sd_video.pair import Routing
from w2sd_video.runs.picture_io import read_picture

ROOT = Path(__file__).resolve().parents[2]
LABELS = {0: "zero, nought", 3: "three", 7: "seven"}
QUICK = ("--steps", "3", "--device", "cpu", "--quiet")
SIZES = {
    "sample_size": 8,
    "num_layers": 2,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "num_classes": 10,
    "num_experts": 8,
    "expert_hidden_size": 16,
    "shared_expert_hidden_size": 16,
}
TIMES = ("seconds", "peak_memory_mb")


def main(words: list[str]) -> int:
    return app.run("moe", words, "w2sd moe")


def network() -> DiTMoE:
    def build() -> DiTMoE:
        net = DiTMoE(**SIZES)
        for parameter in net.parameters():  # those that start at zero too
            nn.init.normal_(parameter, std=0.2)
        return net

    return tiny.seeded(1, build).eval()


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("dit-moe")
    vae = tiny.vae(scaling_factor=0.18215)
    DiTMoEPipeline(network(), vae, build_scheduler("noise"), LABELS).save_pretrained(root / "pipeline")
    vae.save_pretrained(root / "vae")
    network().save_pretrained(root / "network")
    return root


def run(disk: Path, output: Path, *words: str, code: int = 0) -> list[dict[str, Any]]:
    assert main(["--checkpoint", str(disk / "pipeline"), *QUICK, *words, "--output", str(output)]) == code
    return records(output)


def records(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "results.jsonl").read_text().splitlines()]


def timeless(output: Path) -> list[dict[str, Any]]:
    return [{name: value for name, value in line.items() if name not in TIMES} for line in records(output)]


def pictures(output: Path) -> dict[str, bytes]:
    return {str(path.relative_to(output)): path.read_bytes() for path in sorted(output.glob("*/*.png"))}


def pixels(output: Path, line: dict[str, Any]) -> np.ndarray:
    return read_picture(output / line["path"]).pixels


# -- what is made ----------------------------------------------------------------------------------------------------


def test_a_run_writes_counts_and_shows_every_method(disk: Path, tmp_path: Path) -> None:
    words = ("--classes", "3,zero", "--num-images", "3", "--methods", "weak,strong,w2sd,zero-gap,swapped")
    lines = run(disk, tmp_path, *words, "--batch", "2", "--seed", "5", "--expert-load")
    by = {(line["method"], line["index"]): line for line in lines}
    assert len(by) == 15 and all(line["status"] == "done" for line in lines)
    assert [by["w2sd", i]["prompt"] for i in range(3)] == ["3 three", "0 zero", "3 three"]
    assert [by["w2sd", i]["seed"] for i in range(3)] == [5, 6, 7]
    assert by["w2sd", 1]["path"] == "w2sd/0 zero-1.png"
    for method, evaluations in {"weak": 3, "strong": 3, "w2sd": 7, "zero-gap": 7, "swapped": 7}.items():
        line = by[method, 0]
        assert (line["num_evaluations"], line["num_forwards"], line["num_rows"]) == (evaluations,) * 2 + (
            2 * evaluations,
        )
    made = {method: pixels(tmp_path, by[method, 0]) for method in ("weak", "strong", "w2sd", "zero-gap", "swapped")}
    assert all(picture.shape == (16, 16, 3) for picture in made.values())
    assert len({picture.tobytes() for picture in made.values()}) == 5

    settings = read_picture(tmp_path / by["w2sd", 1]["path"]).metadata
    assert (settings["method"], settings["seed"], settings["prompt"], settings["steps"]) == ("w2sd", 6, "0 zero", 3)
    told = json.loads((tmp_path / "run.json").read_text())
    assert told["pair"]["weak_experts"] == "bottom 2" and told["pair"]["strong_experts"] == "top 2"
    assert told["prompts"] == ["3 three", "0 zero"] and told["seeds"] == {"first": 5, "count": 3}
    assert (told["settings"]["reflections"], told["settings"]["height"], told["batch"]) == (2, 16, 2)
    assert (tmp_path / "index.html").is_file() and len(list((tmp_path / "comparison").glob("*.png"))) == 3
    for method in told["methods"]:
        height, width, _ = read_picture(tmp_path / f"grid-{method}.png").pixels.shape
        assert width > 3 * 256 and height > 256
    assert read_picture(tmp_path / "expert_load.png").pixels.std() > 10
    with np.load(tmp_path / "expert_load.npz") as shares:
        assert shares["weak"].shape == (3, 2, 8)
        assert np.allclose(shares["strong"].sum(-1), 1) and np.abs(shares["strong"] - shares["weak"]).max() > 0.1


def test_pictures_are_the_pipelines_own(disk: Path, tmp_path: Path) -> None:
    """Of batches of one, to the bit: the same call."""
    lines = run(
        disk, tmp_path, "--classes", "7", "--methods", "strong,weak", "--batch", "1", "--guidance-channels", "3"
    )
    pipe = DiTMoEPipeline.from_pretrained(disk / "pipeline", local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    for line, routing in zip(lines, (None, Routing("bottom")), strict=True):
        with routed(pipe.transformer, routing):
            stock = pipe(7, 3, 1.5, 3, generator=tiny.generator(0), output_type="np").images
        # Hosted sampling differs by rounding, which may turn a half.
        assert np.abs(pixels(tmp_path, line).astype(int) - np.rint(stock[0] * 255)).max() <= 1


def test_the_weak_side_may_be_any_experts_and_guidance(disk: Path, tmp_path: Path) -> None:
    made = {}
    for name, words in {
        "bottom": (),
        "ids": ("--weak-experts", "0,3"),
        "fewer": ("--weak-experts", "top", "--k", "1"),
        "renormalized": ("--renormalize",),
        "guidance": ("--weak-guidance", "-1"),
        "fused": ("--mode", "fused", "--strong-guidance", "1", "--weak-guidance", "3"),
        "half": ("--strength", "0.5"),
    }.items():
        (line,) = run(disk, tmp_path / name, "--classes", "3", "--methods", "w2sd", *words)
        made[pixels(tmp_path / name, line).tobytes()] = name
    assert len(made) == 7
    told = json.loads((tmp_path / "ids" / "run.json").read_text())["pair"]
    assert told["weak_experts"] == "experts 0 3" and told["name"] == "pipeline-top-2-over-experts-0-3"


def test_a_fused_reflection_without_a_gap_changes_nothing(disk: Path, tmp_path: Path) -> None:
    one, other = run(disk, tmp_path, "--classes", "3", "--methods", "strong,zero-gap", "--mode", "fused")
    assert (one["num_evaluations"], other["num_evaluations"]) == (3, 7)
    assert np.array_equal(pixels(tmp_path, one), pixels(tmp_path, other))


def brightness(frames: np.ndarray, prompt: str) -> float:
    """A reward."""
    return float(frames.mean()) + len(prompt)


ALL = tuple(FAMILY.methods)
SETTINGS = {  # beside those of tests/conformance
    "fused": ("--mode", "fused", "--strong-guidance", "1", "--weak-guidance", "3"),
    "settings": ("--every", "2", "--window", "0:0.9", "--noise", "0.1", "--cap", "0.5", "--strength", "1.5"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_every_method_costs_what_its_plan_says_whatever_the_batch(disk: Path, tmp_path: Path, name: str) -> None:
    words = [*SETTINGS[name], "--steps", "4"]
    reward = f"{__file__}:brightness"
    words += ["--classes", "3,7,0", "--methods", ",".join(ALL), "--reward", reward]
    made = {}
    for batch in ("1", "3"):
        made[batch] = run(disk, tmp_path / batch, *words, "--batch", batch)
    planned = json.loads((tmp_path / "1" / "run.json").read_text())
    request = engine.request_of(
        "moe",
        engine.parser_of(FAMILY, "moe").parse_args(["--checkpoint", str(disk / "pipeline"), *words]),
        print,
    )
    costs = FAMILY.cost(engine.plan_of(FAMILY, request))
    assert planned["methods"] == list(ALL)
    for line in made["1"]:
        cost = costs[line["method"]]
        counted = line["num_evaluations"], line["num_rows"]
        assert counted == (cost.evaluations, cost.rows) or (cost.at_most and counted <= (cost.evaluations, cost.rows))
    by = {(line["method"], line["index"]): line for line in made["3"]}
    for line in made["1"]:
        other = by[line["method"], line["index"]]
        assert line["num_rows"] == other["num_rows"]
        # Batches of other sizes differ by rounding.
        difference = pixels(tmp_path / "1", line).astype(int) - pixels(tmp_path / "3", other)
        assert np.abs(difference).max() <= 1, line["method"]
    pictures_of = {method: pixels(tmp_path / "3", by[method, 0]).tobytes() for method in ALL}
    assert len(set(pictures_of.values())) >= len(ALL) - 3


# -- large runs ------------------------------------------------------------------------------------------------------

SHARED = ("--classes", "3,7,0", "--num-images", "7", "--batch", "2", "--methods", "strong,w2sd")


@pytest.mark.parametrize("theirs", [None, "7"])
def test_few_of_onednns_kernels_are_kept_unless_the_environment_says_how_many(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, theirs: str | None
) -> None:
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", theirs or "")  # set back when the test ends
    if theirs is None:
        monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY")
    run(disk, tmp_path / "run", "--classes", "3", "--methods", "strong")
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == (theirs or making.KERNELS)


def test_a_stopped_run_is_finished_without_remaking_and_byte_for_byte(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(disk, tmp_path / "whole", *SHARED)
    made = making.Sampler.make
    batches = []

    def stopped(self: making.Sampler, tasks: Any, report: Any) -> Any:
        batches.append([task.index for task in tasks])
        if len(batches) == 4:
            raise KeyboardInterrupt
        return made(self, tasks, report)

    monkeypatch.setattr(making.Sampler, "make", stopped)
    kept = run(disk, tmp_path / "stopped", *SHARED, code=130)
    assert len(kept) == 6
    lost = tmp_path / "stopped" / kept[0]["path"]
    lost.unlink()
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "stopped").glob("*/*.png")}
    finished = run(disk, tmp_path / "stopped", *SHARED)
    assert batches[4:] == [[0, 1], [2, 3], [4, 5], [4, 5], [6], [6]], "the whole batch of what is lost, and the rest"
    assert all(path.stat().st_mtime_ns == time for path, time in times.items() if path.parent.name != "comparison")
    assert len(finished) == 14 and pictures(tmp_path / "stopped") == pictures(tmp_path / "whole")
    batches.clear()
    run(disk, tmp_path / "stopped", *SHARED)
    assert batches == []


@pytest.mark.slow  # conformance shares a folder by processes for every family
@pytest.mark.timeout(900)
def test_two_processes_that_accelerate_launches_make_what_one_makes(disk: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    words = ["--checkpoint", str(disk / "pipeline"), *QUICK, *SHARED, "--format", "json", "--output", str(two)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    # On CPUs accelerate launches by mpirun unless it is told so; the processes themselves find that they are CPUs'.
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", port]
    done = subprocess.run(
        [sys.executable, *launch, str(ROOT / "scripts" / "sample_dit_moe.py"), *words],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["kept"] + len(told["made"]) == len(run(disk, one, *SHARED)) == 14
    assert timeless(two) == timeless(one) and pictures(two) == pictures(one)
    assert not list(two.glob("results-*.jsonl"))


def test_a_picture_that_is_not_finite_fails_alone(disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call = DiTMoE.forward

    def poisoned(self: DiTMoE, hidden_states: Any, timestep: Any, class_labels: Any, **given: Any) -> Any:
        (out,) = call(self, hidden_states, timestep, class_labels, **given)
        return (torch.where((class_labels == 7).view(-1, 1, 1, 1), torch.nan, out),)

    monkeypatch.setattr(DiTMoE, "forward", poisoned)
    lines = run(disk, tmp_path, "--classes", "3,7,0", "--methods", "strong", code=1)
    assert [(line["prompt"], line["status"]) for line in lines] == [
        ("3 three", "done"),
        ("7 seven", "failed"),
        ("0 zero", "done"),
    ]
    assert "not finite" in lines[1]["reason"]


# -- scores ----------------------------------------------------------------------------------------------------------


class Projected(nn.Module):
    """For Inception: 16 means of each picture as features, and logits that are sure of one of two classes in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = nn.functional.adaptive_avg_pool2d(pictures, 4).mean(1).flatten(1) * self.scale
        return features, 1000 * torch.eye(2)[torch.arange(len(pictures)) % 2]


def test_fid_is_the_shift_of_the_mean_and_is_the_number_of_sure_classes(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torchmetrics")
    monkeypatch.setattr(inception, "load_inception", lambda path: Projected())
    monkeypatch.setattr(frechet, "FEATURES", 16)
    monkeypatch.setattr(frechet, "SPLITS", 1)
    (tmp_path / "weights.pth").write_bytes(b"weights")
    out = tmp_path / "out"
    words = ["--classes", "3,7", "--num-images", "4", "--methods", "strong,w2sd"]
    words += ["--metrics", "fid,is", "--inception", str(tmp_path / "weights.pth"), "--reference"]
    run(disk, tmp_path / "real", "--classes", "3,7", "--num-images", "4", "--methods", "strong")
    run(disk, out, *words, str(tmp_path / "real" / "strong"))
    found = json.loads((out / "metrics.json").read_text())["methods"]
    # Covariances of 4 pictures have 13 eigenvalues of 0, whose rounding (1e-16) the square root makes 1e-8.
    assert found["strong"]["pictures"] == 4 and abs(found["strong"]["fid"]) < 1e-6 < found["w2sd"]["fid"]
    assert found["strong"]["is"] == pytest.approx(2, rel=1e-6)

    with np.load(out / "statistics-strong.npz") as kept:
        np.savez(tmp_path / "shifted.npz", mu=kept["mu"] + 0.5, sigma=kept["sigma"])
    monkeypatch.setattr(inception, "load_inception", None)  # the statistics are kept
    run(disk, out, *words, str(tmp_path / "shifted.npz"))
    found = json.loads((out / "metrics.json").read_text())["methods"]
    assert found["strong"]["fid"] == pytest.approx(16 * 0.5**2, rel=1e-6)


def test_other_weights_than_inceptions_end_the_command_in_its_own_words(
    disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"fc.weight": torch.zeros(2)}, tmp_path / "weights.pth")
    words = ["--checkpoint", str(disk / "pipeline"), *QUICK, "--classes", "3,7", "--methods", "strong"]
    words += ["--metrics", "is", "--inception", str(tmp_path / "weights.pth"), "--output", str(tmp_path / "out")]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "pt_inception-2015-12-05" in said and "Traceback" not in said


# -- checkpoints -----------------------------------------------------------------------------------------------------


def published(path: Path) -> Path:
    """A file with the published keys, of a width that is a named configuration's."""
    config = {**SIZES, "hidden_size": 384, "num_attention_heads": 6, "num_layers": 1}
    config |= {"patch_size": 2, "in_channels": 4, "out_channels": 8, "qk_norm": False}
    layout = published_layout(config, flash=False)
    torch.save({"ema": {key: torch.zeros(place.shape) for key, place in layout.items()}}, path)
    return path


def test_a_published_file_is_sampled_as_it_is_and_converted(
    disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = published(tmp_path / "dit_moe_s.pt")
    assert main(["convert", str(file), str(tmp_path / "folder"), "--format", "json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["num_layers"], report["num_experts"], report["hidden_size"]) == (1, 8, 384)
    made = []
    for given in (file, tmp_path / "folder"):
        out = tmp_path / f"out-{given.name}"
        words = [
            "--checkpoint",
            str(given),
            "--vae",
            str(disk / "vae"),
            *QUICK,
            "--classes",
            "2",
            "--methods",
            "strong",
        ]
        assert main([*words, "--output", str(out)]) == 0
        made.append(pixels(out, records(out)[0]))
        assert json.loads((out / "run.json").read_text())["settings"]["path"] == "noise"
    assert np.array_equal(*made)
    assert main(["convert", str(file), str(tmp_path / "folder")]) == 2


def test_without_a_checkpoint_the_bundled_network_is_sampled(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "WEIGHTS", disk / "pipeline")
    plan = engine.plan_of(FAMILY, Request("moe"))
    assert plan.methods == ("weak", "strong", "w2sd", "zero-gap")
    assert (plan.total, plan.steps, plan.num_reflections, plan.guidance) == (10, 50, 49, 1.5)
    assert plan.prompts[:4] == ("0 zero", "1", "2", "3 three")
    monkeypatch.setattr(files, "WEIGHTS", disk / "nothing")
    assert main(["--output", str(tmp_path)]) == 2


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--classes", "10"], "class 10 is not one of this network's; give ids from 0 to 9"),
        (["--classes", "thre"], "no class is called 'thre'"),
        (["--methods", ","], "no method is given"),
        (["--guidance", "0.5"], "guidance is 0.5"),
        (["--guidance-channels", "5"], "guidance channels is 5"),
        (["--weak-experts", "8,9"], "experts 0 to 7"),
        (["--weak-experts", "lowest"], "give bottom, top, or experts by number"),
        (["--weak-experts", "0,1", "--k", "2"], "leave it out"),
        (["--weak-experts", "top"], "there is no gap"),
        (["--k", "9"], "takes 9 experts per token"),
        (["--weak-guidance", "0", "--methods", "weak"], "weak guidance is 0"),
        (["--num-images", "0"], "number of images is 0"),
        (["--num-images", "4", "--num", "1"], "leave one of the two out"),
        (["--memory", "group"], "the network is one"),
        (["--methods", "w2sd-auto"], "needs to know what is better"),
        (["--mode", "fused", "--fixed-point", "1"], "refines the inversion of mode paper"),
        (["--every", "2", "--methods", "strong"], "none of the methods"),
        (["--batch", "0"], "batch is 0"),
        (["--path", "flow"], "leave --path out"),
        (["--labels", "nowhere.txt"], "nowhere.txt cannot be read"),
        (["--vae", "nowhere/at/all"], "the VAE nowhere/at/all does not exist"),
        (["--checkpoint", "nowhere.pt"], "the checkpoint nowhere.pt does not exist"),
        (["--checkpoint", "owner/name"], "a hub id is not taken"),
        (["--metrics", "kid"], "unknown metric 'kid'"),
        (["--metrics", "is"], "--inception is None"),
        (["--reference", "x.npz"], "are for --metrics"),
        (["--metrics", "fid", "--inception", "THIS"], "fid needs --reference"),
        (["--metrics", "fid", "--inception", "THIS", "--reference", "x.npz"], "x.npz cannot be read"),
    ],
)
def test_what_cannot_be_used_is_refused_before_loading(
    words: list[str], said: str, disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(making, "load_pipeline", None)
    words = [str(Path(__file__)) if word == "THIS" else word for word in words]
    assert main(["--checkpoint", str(disk / "pipeline"), *words, "--output", str(tmp_path / "out"), "--quiet"]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("error: ") and said in captured.err
    assert "Traceback" not in captured.err and not (tmp_path / "out").exists()


def test_a_network_without_a_vae_and_a_pickle_are_refused(
    disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--checkpoint", str(disk / "network"), "--output", str(tmp_path / "out")]) == 2
    assert "brings no VAE" in capsys.readouterr().err
    torch.save({"model": {}, "config": Path("x")}, tmp_path / "pickle.pt")
    assert main(["--checkpoint", str(tmp_path / "pickle.pt"), "--output", str(tmp_path / "out")]) == 2
    assert "--allow-pickle" in capsys.readouterr().err


def test_metrics_without_torchmetrics_say_what_to_install(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(frechet.importlib.util, "find_spec", lambda name: None)
    words = ["--checkpoint", str(disk / "pipeline"), "--metrics", "is", "--inception", __file__]
    assert main([*words, "--output", str(tmp_path / "out")]) == 2
    assert 'pip install "w2sd-video[metrics]"' in capsys.readouterr().err
