"""The benchmarks: their instruments, the integers they gate on, and what they would notice, on tiny pipelines."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks import gpu, loop, lora, measuring, vbench
from benchmarks.measuring import Meter, Row, cpu_seconds, paired_ratio, recorded_calls
from torch import Tensor, nn

from tests.support import tiny
from tests.support.tiny_loras import add_lora
from vbench_eval.dimensions import Dimension
from vbench_eval.selection import select
from vbench_eval.settings import ScoringSettings
from vbench_eval.videos import open_video
from w2sd_video.loading.sizes import KNOWN


class Clock:
    """A process clock that moves only when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def work(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "process_time", lambda: clock.now)
    return clock


def test_a_drifting_machine_does_not_move_a_paired_ratio(clock: Clock) -> None:
    slowness = iter(1.0 + 0.01 * k for k in range(100))  # everything takes 1 percent longer each time
    assert cpu_seconds(lambda: clock.work(3.0)) == 3.0
    ratio, stray = paired_ratio(lambda: clock.work(2 * next(slowness)), lambda: clock.work(next(slowness)), rounds=5)
    assert ratio == pytest.approx(2.0, rel=1e-12)
    # References of a round are two steps apart: 2 percent of what the first of them took, 1.02 at the least.
    assert stray == pytest.approx(0.02 / 1.02, rel=1e-9)


class Network(nn.Module):
    def forward(self, sample: Tensor, timestep: int) -> Tensor:
        sample.max().item()  # a network's own reads are its own affair
        return sample


@torch.no_grad()
def test_the_meter_counts_rows_and_the_reads_between_calls_only() -> None:
    first, second = Network(), Network()
    meter = Meter(first, second)
    x = torch.ones(2, 4)
    with meter.watching():
        x.sum().item()  # before the first call
        first(x, 1)
        second(sample=x[:1], timestep=1)
        x.sum().item()
        bool(x.sum() > 0)
        first(x, 0)
        x.sum().item()  # after the last
    first(x, 0)
    assert (meter.calls, meter.rows, meter.reads_between) == (3, 5, 2)


def test_recorded_calls_repeats_the_network_calls_and_nothing_else() -> None:
    network, seen = Network(), []
    network.register_forward_pre_hook(lambda _, args: seen.append(args))
    work = []

    def function() -> None:
        work.append(1)
        network(torch.zeros(1), 5)
        network(torch.zeros(2), 6)

    repeat = recorded_calls([network], function)
    seen.clear()
    repeat()
    assert [(args[0].shape[0], args[1]) for args in seen] == [(1, 5), (2, 6)]
    assert work == [1]


@pytest.mark.slow  # the gate of `make bench`, whole
def test_every_integer_of_the_benchmark_is_on_target(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """247 rows for T 50, lambda 49 and guidances 3/3/1; no host read inside the loop; four text-encoder calls."""
    assert loop.main(["--only", "counts", "--output", str(tmp_path / "new" / "bench.json")]) == 0
    document = json.loads((tmp_path / "new" / "bench.json").read_text(encoding="utf-8"))
    assert document["passed"]
    values = {row["what"]: row["value"] for row in document["rows"]}
    assert values["network rows, T 50, lambda 49, guidances 3/3/1"] == 247
    assert values["host reads between evaluations, T 50, lambda 49, guidances 3/3/1"] == 0
    table = capsys.readouterr().out
    assert all(what in table for what in values)


@pytest.mark.parametrize("benchmark", [loop, lora])
def test_an_output_that_cannot_be_written_is_refused_before_measuring(
    benchmark: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match="2"):
        benchmark.main(["--output", str(tmp_path / "file" / "bench.json")])
    assert "cannot write" in capsys.readouterr().err


def test_a_ratio_fails_only_beyond_its_target_and_its_own_spread() -> None:
    assert measuring.at_most("R1", "", 1.05, 1.03, 0.03).passed
    assert not measuring.at_most("R1", "", 1.07, 1.03, 0.03).passed
    assert measuring.at_most("R1", "", 9.0, None, 0.03).passed
    assert not measuring.equal("rows", "", 248, 247).passed
    assert "OFF" in measuring.table([measuring.equal("rows", "rows", 248, 247)])


# -- LoRAs, on a network of few layers in place of SDXL's 722 ----------------------------------------------------------


def network(width: int) -> Any:
    unet = tiny.sdxl_unet()
    add_lora(unet, "style", targets=lora.TARGETS)
    unet.set_adapters(["style"], [lora.STRONG])
    return unet.requires_grad_(False)


@pytest.mark.slow
def test_the_benchmark_measures_both_ways_and_counts_no_recompilation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its target of 1/500 is for SDXL's number of layers; on a tenth of them the usual way is a tenth as dear."""
    monkeypatch.setattr(lora, "network", network)
    monkeypatch.setattr(lora, "MOST", 10 * lora.MOST)
    assert lora.main(["--quick", "--output", str(tmp_path / "new" / "lora.json")]) == 0
    rows = {row["what"]: row["value"] for row in json.loads((tmp_path / "new" / "lora.json").read_text())["rows"]}
    assert [value for what, value in rows.items() if what.startswith("recompilations of")] == [0]
    assert 0 < rows["ours / the usual way"] == pytest.approx(1 / rows["times cheaper"])
    table = capsys.readouterr().out
    assert all(what in table for what in rows)


# -- one decode for every measure of a video ---------------------------------------------------------------------------


SIDE = 128


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("benchmark") / "drift-0.mp4"
    vbench.write_video(path, SIDE)
    return path


@pytest.fixture(scope="module")
def dimensions() -> Mapping[str, Dimension]:
    return select(ScoringSettings(dimensions=("proxies", "temporal_flickering"), device="cpu", offline=True)).dimensions


def by_what(rows: list[Row]) -> dict[str, Row]:
    return {row.what.partition(f", {SIDE}x{SIDE}")[0]: row for row in rows}


@pytest.mark.slow
def test_one_pass_decodes_once_and_estimates_each_flow_once_for_the_same_values(
    video: Path, dimensions: Mapping[str, Dimension]
) -> None:
    rows = list(vbench.count(SIDE, video, dimensions))
    assert all(row.passed for row in rows), [row.what for row in rows if not row.passed]
    found = by_what(rows)
    assert found[f"decodes for {len(dimensions)} measures in one pass"].value == 1
    # Between 16 frames: 15 steps forward and 15 back, and 7 over two frames; apart, two measures make the 15 forward.
    assert found["flows between two frames in one pass"].value == 15 + 15 + 7
    assert found["flows with a pass per measure"].value == 15 + 15 + 15 + 7


def test_a_second_decode_is_noticed(video: Path) -> None:
    counts = vbench.Counts()
    with counts.counting():
        for _ in range(2):
            assert sum(len(chunk) for chunk in open_video(video).chunks()) == 16
    assert sum(len(chunk) for chunk in open_video(video).chunks()) == 16  # not counted any more
    assert counts.decodes == 2


def test_the_benchmarks_video_is_16_frames_at_8_per_second_that_move(video: Path) -> None:
    opened = open_video(video)
    frames = [frame for chunk in opened.chunks() for frame in chunk]
    assert (len(frames), opened.info.fps, opened.info.width, opened.info.height) == (16, 8.0, SIDE, SIDE)
    assert all((a != b).any() for a, b in pairwise(frames))


@pytest.mark.parametrize(("ratio", "passes"), [(0.4, True), (0.52, True), (0.6, False)])
def test_less_than_twice_the_videos_per_second_fails_by_more_than_the_spread(
    video: Path, monkeypatch: pytest.MonkeyPatch, ratio: float, passes: bool
) -> None:
    def measured(first: Callable[[], Any], second: Callable[[], Any], rounds: int) -> tuple[float, float]:
        first()
        first()
        return ratio, 0.05

    monkeypatch.setattr(vbench, "paired_ratio", measured)
    flickering = select(ScoringSettings(dimensions=("temporal_flickering",), device="cpu", offline=True)).dimensions
    rows = list(vbench.time_passes(SIDE, video, flickering, rounds=1))
    assert [row.passed for row in rows] == [passes, True, True, True]
    assert rows[1].value == 1 / ratio


def test_what_scoring_adds_to_its_networks_is_measured_against_their_bare_calls(
    video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dimensions, networks = vbench.with_networks(layers=1, width=64)
    calls = []
    for network in networks:
        network.register_forward_hook(lambda one, args, out: calls.append(type(one).__name__))

    def measured(first: Callable[[], Any], second: Callable[[], Any], rounds: int) -> tuple[float, float]:
        calls.clear()
        second()
        assert sorted(calls) == ["CLIPVisionModelWithProjection", "ViTModel"], "one batch of 16 frames each"
        first()
        first()
        return 1.2, 0.05

    monkeypatch.setattr(vbench, "paired_ratio", measured)
    ratio, rate = vbench.time_networks(SIDE, video, dimensions, networks, rounds=1)
    assert not ratio.passed and ratio.target == 1.1 and rate.value > 0


# -- a GPU without weights, tried small on the processor --------------------------------------------------------------


@torch.no_grad()
def test_a_case_of_the_gpu_benchmark_measures_rows_reads_and_the_loop_on_small_networks() -> None:
    machine = gpu.of_the_card("cpu", torch.bfloat16, 0.0)  # the dtype of a GPU
    case = next(case for case in gpu.cases(small=True) if case.name.startswith("SDXL"))
    rows = list(gpu.measure_network(dataclasses.replace(case, counts=(2, 1)), machine, compiled=False))
    found = {row.what.partition(",")[0]: row for row in rows}
    # 2 steps at guidance 3, and a reflection of which the weak side is asked at guidance 1.
    assert found["network rows as the run counts them"].value == 2 * 2 + (2 + 1)
    assert found["host reads between evaluations"].value == 0
    assert found["times the floor of this card"].value > 1
    assert found["a call / its bare forwards"].value > 0.5


@torch.no_grad()
def test_the_gpu_benchmark_places_a_pair_by_every_plan_and_estimates_wan_as_the_commands_do() -> None:
    """Without a GPU only weights and activations of the first plan are counted, at this size mostly weights."""
    machine = gpu.Machine("cpu", torch.bfloat16, 0.0)
    case = next(case for case in gpu.cases(small=True) if case.name.startswith("Wan"))
    found = {row.what: row.value for row in gpu.measure_memory(case, machine)}
    assert [what for what in found if what.startswith("GB by the estimate")] == [
        f"GB by the estimate, plan {plan}, {case.name}" for plan in gpu.PLANS
    ]
    assert 0.5 < found[f"measured / estimated, plan resident, {case.name}"] < 2
    true = next(case for case in gpu.cases(small=False) if case.name.startswith("Wan"))
    pipe, network = true.make(gpu.Machine("meta", torch.bfloat16, 0.0))
    assert pipe.transformer is network
    sides = gpu.sides_of(true, network, None)
    size = (true.load.height, true.load.width, true.load.num_frames)
    assert sides.strong.alive(*size) == KNOWN["Wan 1.3B"].alive(*size)
    assert sum(sides.strong.networks.values()) == pytest.approx(sum(KNOWN["Wan 1.3B"].networks.values()), rel=1e-3)


def test_what_fails_in_the_gpu_benchmark_is_a_row_and_what_is_late_or_too_large_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: Any) -> Any:
        raise RuntimeError("no such kernel")
        yield

    def too_large(*_: Any) -> Any:
        yield Row("moe", "first", 1)
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(gpu, "measure_lora", fails)
    monkeypatch.setattr(gpu, "measure_moe", too_large)
    monkeypatch.setattr(gpu, "cases", lambda small: [])
    machine = gpu.Machine("cpu", torch.float32, 0.0)
    rows = [*gpu.measure(machine, "lora", compiled=False), *gpu.measure(machine, "moe", compiled=False)]
    kinds = [(row.id, row.passed) for row in rows if row.id != "card"]
    assert kinds == [("failed", False), ("moe", True), ("memory", True)] and "no room" not in capsys.readouterr().out
    late = list(gpu.measure(dataclasses.replace(machine, until=0.0), None, compiled=False))
    assert [row.what for row in late if "time is up: " in row.what] == [
        f"left out, as time is up: {name}" for name in ("LoRA scales", "experts", "Flux.1-dev over SDXL")
    ]


@pytest.mark.slow
def test_the_gpu_benchmark_runs_whole_on_the_processor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--device", "cpu", "--quick", "--output", str(tmp_path / "gpu.json")]) == 0
    document = json.loads((tmp_path / "gpu.json").read_text())
    assert {row["id"] for row in document["rows"]} >= {"card", "row", "loop", "reads", "peak", "time", "moe", "share"}
    assert document["passed"] and not [row for row in document["rows"] if row["id"] == "failed"]
    assert document["settings"]["device"] == "CPU"
