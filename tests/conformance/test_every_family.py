"""What every family of pairs keeps, whatever its pipelines are: written once, run over all of them."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conformance import families
from tests.conformance.families import FAMILIES, Family, Run
from tests.support import programs
from w2sd_video.runs.progress import TerminalProgress

TIMES = ("seconds", "peak_memory_mb")


# Whole pipelines that make videos go the way of pictures and of AnimateDiff pairs: theirs run in `make test-slow`.
TESTED = [
    pytest.param(family, marks=[pytest.mark.slow] * (family.name == "whole video pipeline"), id=family.name)
    for family in FAMILIES
]


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    families.prepare(folder)
    return folder


@pytest.fixture(scope="module", params=TESTED)
def family(request: pytest.FixtureRequest) -> Family:
    return request.param


@pytest.fixture(scope="module")
def make(family: Family, disk: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    """Runs the family's program into a folder called `name`; the rest are words."""
    folder = tmp_path_factory.mktemp("runs")

    def made(name: str, *words: str, thing: int = 0) -> Run:
        return families.make(family, disk, folder / name, words, thing=thing)

    return made


@pytest.fixture(scope="module")
def words(family: Family) -> tuple[str, ...]:
    return ("--methods", "strong,w2sd", family.count, "2", "--seed", "5")


@pytest.fixture(scope="module")
def whole(make: Callable[..., Run], words: tuple[str, ...]) -> Run:
    """The run of `words` by one process that nothing disturbs."""
    return make("whole", *words)


def timeless(run: Run) -> list[dict[str, Any]]:
    return [{name: value for name, value in line.items() if name not in TIMES} for line in run.lines]


def assert_alike(run: Run, whole: Run) -> None:
    """Both hold the same files, byte for byte, and the same lines."""
    files, wanted = run.files(), whole.files()
    assert set(files) == set(wanted)
    assert [name for name in files if files[name] != wanted[name]] == []
    assert timeless(run) == timeless(whole)


def told(family: Family, disk: Path, *words: str) -> dict[str, Any]:
    """The one JSON object that a command prints; nothing else is on standard output."""
    ended = programs.run(family.line("--format", "json", *words), disk)
    report = json.loads(ended.out)
    assert ended.out.count("\n") == 1 and report["exit_code"] == ended.code
    return report


# -- plans ------------------------------------------------------------------------------------------------------------


def test_a_run_does_what_its_dry_run_says(family: Family, disk: Path, tmp_path: Path) -> None:
    words = ("--methods", ",".join(family.methods), *shlex.split(family.reward), "--output", str(tmp_path / "out"))
    plan = told(family, disk, *words, "--dry-run")
    assert plan["status"] == "planned" and not (tmp_path / "out").exists()
    report, run = told(family, disk, *words, "--quiet"), Run(tmp_path / "out")
    assert report["status"] == "done" and report["failed"] == []
    assert {name: run.record[name] for name in ("pair", "settings", "device", "dtype")} == {
        name: plan[name] for name in ("pair", "settings", "device", "dtype")
    }
    assert set(plan["methods"]) == set(family.methods)
    assert [name for name in plan["files"] if not (run.folder / name).exists()] == []
    assert len(run.lines) == len(family.methods)
    for line in run.lines:
        cost = plan["methods"][line["method"]]
        skipped = 2 * line.get("num_skipped", 0)  # a bridge leaves out levels that its weak side does not know
        assert line["num_evaluations"] + skipped == cost["evaluations"], line["method"]
        if "rows" in cost:  # at most, where a reward decides which side samples
            rows = line["num_rows"] + skipped
            assert rows <= cost["rows"] if "at_most" in cost else rows == cost["rows"], line["method"]
        if "vae_calls" in cost:
            assert line["num_encodes"] + line["num_decodes"] + 3 * skipped == cost["vae_calls"], line["method"]
    steps, two = run.record["settings"]["steps"], 2  # reflections
    extra = {"weak": 0, "strong": 0, "w2sd-auto": 3 * two, "resample": two, "autoguided": steps}
    assert {method: plan["methods"][method]["evaluations"] for method in family.methods} == {
        method: steps + extra.get(method, 2 * two) for method in family.methods
    }
    # The others may choose, by a reward or by chance, what one of these does.
    different = [method for method in family.methods if method in families.PAIRS]
    assert len({run.frames(method).tobytes() for method in different}) == len(different)


def test_as_many_bytes_are_read_as_were_told_before(
    family: Family, disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, read = [], []  # type: ignore[var-annotated]
    monkeypatch.setattr(TerminalProgress, "loading", lambda self, title, size: told.append(size))
    monkeypatch.setattr(TerminalProgress, "read", lambda self, size, part: read.append((size, part)))
    families.make(family, disk, tmp_path / "out", ("--methods", "weak,strong"))
    assert [sum(size for size, _ in read)] == told != [0]
    assert all(part for _, part in read)


@pytest.mark.slow
@pytest.mark.parametrize("gap_every", ["1", "auto"])
def test_a_cached_gap_costs_what_its_dry_run_says(family: Family, disk: Path, tmp_path: Path, gap_every: str) -> None:
    if (family.name, gap_every) == ("bridge", "auto"):
        pytest.skip("so few reflections leave one place alone, at a level that its weak side does not know")
    methods = [method for method in ("strong", "w2sd", "zero-gap", "swapped") if method in family.methods]
    measured = 2 if family.name == "bridge" else 1  # whose weak side knows no level as noisy as the first
    more = ("--gap-every", gap_every, "--reflections", str(measured + 1))
    words = ("--methods", ",".join(methods), *more, "--output", str(tmp_path / "out"))
    plan = told(family, disk, *words, "--dry-run")
    report, run = told(family, disk, *words, "--quiet"), Run(tmp_path / "out")
    assert report["failed"] == [] and run.record["settings"]["mode"] == "fused"
    for line in run.lines:
        cost, skipped = plan["methods"][line["method"]], line.get("num_skipped", 0)
        own = run.record["settings"]["steps"] + measured * (line["method"] != "strong")
        assert line["num_evaluations"] + skipped == cost["evaluations"] == own
        assert line["num_rows"] == cost.get("rows", line["num_rows"]), line["method"]
        if "vae_calls" in cost:
            assert line["num_encodes"] + line["num_decodes"] + 6 * skipped == cost["vae_calls"]
    if family.name != "bridge":  # whose control goes through an autoencoder
        assert np.array_equal(run.frames("zero-gap"), run.frames("strong"))
    assert not np.array_equal(run.frames("w2sd"), run.frames("strong"))


# -- seeds, batches ---------------------------------------------------------------------------------------------------


def test_an_output_depends_on_its_seed_and_on_nothing_beside_it(
    family: Family, make: Callable[..., Run], whole: Run
) -> None:
    alone = make("alone", "--methods", "w2sd", "--seed", "6")
    assert whole.of("w2sd", 1)["seed"] == alone.of("w2sd")["seed"] == 6
    assert np.array_equal(whole.frames("w2sd", 1), alone.frames("w2sd"))
    assert not np.array_equal(whole.frames("w2sd", 0), whole.frames("w2sd", 1))
    other = make("other", "--methods", "w2sd", "--seed", "6", thing=1)
    lossy = family.name == "whole video pipeline"  # its prompts change less than mp4 keeps
    assert lossy or not np.array_equal(other.frames("w2sd"), alone.frames("w2sd"))


def test_batches_make_what_single_outputs_are(
    family: Family, make: Callable[..., Run], words: tuple[str, ...], whole: Run
) -> None:
    if not family.batch:
        pytest.skip("makes one at a time")
    batched = make("batched", *words, *family.batch.split())
    for line in whole.lines:
        one, other = (run.frames(line["method"], line["index"]).astype(int) for run in (whole, batched))
        assert np.abs(one - other).max() <= 1
        theirs = batched.of(line["method"], line["index"])
        assert (theirs["num_evaluations"], theirs["num_rows"]) == (line["num_evaluations"], line["num_rows"])


# -- the stock pipeline -----------------------------------------------------------------------------------------------


def test_without_reflections_w2sd_is_the_stock_pipeline_and_a_folder_takes_more_methods_and_no_other_run(
    family: Family, disk: Path, tmp_path: Path
) -> None:
    run, words = Run(tmp_path / "out"), ("--reflections", "0", "--output", str(tmp_path / "out"))
    loud = programs.run(family.line("--methods", "strong", "--seed", "7", *words), disk)
    assert str(run.folder / "index.html") in loud.out and "evaluations" in loud.out and loud.err
    before = run.lines
    quiet = programs.run(family.line("--methods", "strong,w2sd", "--seed", "7", *words, "--quiet"), disk)
    assert quiet.out.strip() == str(run.folder / "index.html")
    assert all(line.startswith("note: ") for line in quiet.err.splitlines())
    assert run.lines[: len(before)] == before and run.of("w2sd")["status"] == "done"
    refused = told(family, disk, "--methods", "strong", "--seed", "3", *words)
    assert refused["status"] == "refused" and refused["exit_code"] == 2

    assert run.of("w2sd")["num_evaluations"] == run.of("strong")["num_evaluations"]
    assert np.array_equal(run.frames("w2sd"), run.frames("strong"))
    stock = families.stock_frames(family, families.stock_pipeline(family), 7)
    assert stock.shape == run.frames("w2sd").shape
    assert np.abs(stock - run.frames("w2sd")).mean() <= family.tolerance


class Boom(Exception):
    pass


def test_an_exception_leaves_the_pipeline_as_it_was(family: Family) -> None:
    from bridges.pixel.bridged import bridged
    from w2sd_video import ModelSpec, Routing, reflected

    pipe = families.stock_pipeline(family)
    network = getattr(pipe, "unet", None) or pipe.transformer
    before, scheduler = families.stock_frames(family, pipe, 1), pipe.scheduler
    if family.name == "bridge":
        weak = families.stock_pipeline(families.FAMILIES[2])
        context = bridged(pipe, (weak, ModelSpec(guidance=1.0)), num_reflections=2, noise_map="fixed")
    elif family.name == "moe":
        context = reflected(pipe, weak=ModelSpec(routing=Routing("bottom", k=2)), num_reflections=2)
    else:
        context = reflected(pipe, weak=ModelSpec(guidance=0.0), num_reflections=2)
    calls: list[int] = []

    def boom(*_: Any) -> None:
        calls.append(1)
        if len(calls) == 3:  # inside the first reflection, or the step after it
            raise Boom

    hook = network.register_forward_pre_hook(boom)
    with pytest.raises(Boom), context:
        families.stock_frames(family, pipe, 1)
    hook.remove()
    assert "forward" not in vars(network) and "step" not in vars(scheduler) and pipe.scheduler is scheduler
    assert np.array_equal(families.stock_frames(family, pipe, 1), before)


# -- stopped and gone on with -----------------------------------------------------------------------------------------


def beside(run: Callable[[], object], **environment: str) -> int:
    """Starts `run` in a process beside this one, which has torch already and one thread; returns its number."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.closerange(0, 3)
            os.environ.update(environment)
            run()
            code = 0
        finally:
            os._exit(code)
    return child


def test_a_killed_run_is_finished_by_the_same_command(
    family: Family, disk: Path, tmp_path: Path, words: tuple[str, ...], whole: Run
) -> None:
    cut = Run(tmp_path / "cut")
    child = beside(lambda: families.make(family, disk, cut.folder, words))
    results = cut.folder / "results.jsonl"
    deadline = time.monotonic() + 60
    while not (results.exists() and results.read_bytes().count(b"\n")):
        assert time.monotonic() < deadline, "nothing was made"
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1]), "it was done before it was killed"
    kept = cut.folder / cut.lines[0]["path"]
    time_of_it = kept.stat().st_mtime_ns
    assert len(cut.lines) < len(whole.lines)
    families.make(family, disk, cut.folder, words)
    assert kept.stat().st_mtime_ns == time_of_it, "what was finished is not made again"
    assert_alike(cut, whole)
    assert list(cut.folder.rglob("*.part*")) == []


def test_two_processes_make_what_one_makes(
    family: Family, disk: Path, tmp_path: Path, words: tuple[str, ...], whole: Run
) -> None:
    shared = Run(tmp_path / "shared")
    children = [
        beside(lambda: families.make(family, disk, shared.folder, words), RANK=rank, LOCAL_RANK=rank, WORLD_SIZE="2")
        for rank in ("0", "1")
    ]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    assert_alike(shared, whole)


# -- refusals ---------------------------------------------------------------------------------------------------------

REFUSED = {  # words -> what the one sentence has to name
    "steps": (("--steps", "0"), "steps"),
    "reflections": (("--reflections", "99"), "reflections"),
    "negative reflections": (("--reflections", "-1"), "reflections"),
    "seed": (("--seed", "-1"), "seed"),
    "no number": (("--steps", "many"), "many"),
    "guidance": (("--guidance", "nan"), "guidance"),
    "weak guidance": (("--weak-guidance", "inf"), "guidance"),
    "strength": (("--strength", "nan"), "strength"),
    "method": (("--methods", "weak,wek"), "wek"),
    "dtype": (("--dtype", "float8"), "float8"),
    "device": (("--device", "tpu"), "tpu"),
    "flag": (("--promt", "x"), "--promt"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_values_are_refused_alike_by_a_run_and_its_dry_run(
    case: str, family: Family, disk: Path, tmp_path: Path
) -> None:
    words, named = REFUSED[case]
    output = ("--output", str(tmp_path / "out"))
    reports = [told(family, disk, *words, *output, *dry) for dry in ((), ("--dry-run",))]
    assert [report["exit_code"] for report in reports] == [2, 2]
    assert reports[0]["error"] == reports[1]["error"] and named in reports[0]["error"]
    assert "\n" not in reports[0]["error"] and not (tmp_path / "out").exists()
    text = programs.run(family.line(*words, *output), disk)
    assert (text.code, text.out, text.err) == (2, "", f"error: {reports[0]['error']}\n")


def test_refusals_come_before_torch(disk: Path, tmp_path: Path) -> None:
    lines = [family.line(*words, "--output", "out") for family in FAMILIES for words, _ in REFUSED.values()]
    program = (
        "import json, sys; from pathlib import Path; from tests.support import programs\n"
        "for line in json.loads(sys.argv[1]):\n"
        "    assert programs.run(line, Path(sys.argv[2])).code == 2, line\n"
        "    assert 'torch' not in sys.modules, line\n"
    )
    lines = [line for line in lines if "tpu" not in line]  # torch knows its devices
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(lines), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(programs.ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
