"""The instruments of the benchmark, and the integers it gates on, measured on real (tiny) pipelines."""

import json
import time
from pathlib import Path

import pytest
import torch
from benchmarks import loop, measuring
from benchmarks.measuring import Meter, cpu_seconds, paired_ratio, recorded_calls
from torch import Tensor, nn


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


def test_the_benchmark_refuses_an_output_it_cannot_write_before_measuring(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match="2"):
        loop.main(["--output", str(tmp_path / "file" / "bench.json")])
    assert "cannot write" in capsys.readouterr().err


def test_a_ratio_fails_only_beyond_its_target_and_its_own_spread() -> None:
    assert measuring.at_most("R1", "", 1.05, 1.03, 0.03).passed
    assert not measuring.at_most("R1", "", 1.07, 1.03, 0.03).passed
    assert measuring.at_most("R1", "", 9.0, None, 0.03).passed
    assert not measuring.equal("rows", "", 248, 247).passed
    assert "OFF" in measuring.table([measuring.equal("rows", "rows", 248, 247)])
