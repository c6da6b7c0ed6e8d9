"""Every documented command line still runs, and leaves the same kinds of files with the same columns and counts.

`python -m tests.conformance.test_documented_commands` records documented_results.json anew, for a deliberate change.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
import torch

from tests.conformance import documented_commands as documented
from tests.conformance import stand_ins
from tests.conformance.documented_commands import CHAPTERS, Chapter
from tests.support import disk_pairs, programs, tiny

RECORDED = Path(__file__).with_name("documented_results.json")
ROUNDING = 1.5  # of 255: what rounding may do to the mean of an output, far less than another seed, step or gap does


def left_behind(folder: Path, before: set[Path]) -> dict[str, Any]:
    """The files that were made; of each results.jsonl its columns, each method's counts, each output's brightness."""
    made = sorted(path for path in folder.rglob("*") if path.is_file() and path not in before)
    runs = {}
    for path in made:
        if path.name == "results.jsonl":
            lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            columns = set.intersection(*(set(line) for line in lines))
            counts = {line["method"]: [line["num_evaluations"], line["num_rows"]] for line in lines}
            means = {line["path"]: brightness(path.parent / line["path"]) for line in lines}
            run = {"columns": sorted(columns), "counts": counts, "brightness": means}
            runs[path.relative_to(folder).as_posix()] = run
    return {"files": [path.relative_to(folder).as_posix() for path in made], "runs": runs}


def brightness(path: Path) -> float:
    return round(float(np.mean(iio.imread(path, **({"plugin": "pyav"} if path.suffix == ".mp4" else {})))), 1)


def carried_out(chapter: Chapter, store: Path, folder: Path) -> dict[str, Any]:
    stand_ins.put(chapter.needs, store, folder)
    before = {path for path in folder.rglob("*") if path.is_file()}
    for line in chapter.lines:
        ended = programs.run(line.command, folder)
        assert ended.code in line.codes, f"{line.command}\n{ended.err}"
        assert ended.err.count("Traceback") == 0, ended.err
    return left_behind(folder, before)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stand-ins")


@pytest.fixture(autouse=True)
def settings_of_their_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HF_HOME", "VBENCH_EVAL_CACHE", "VBENCH_CACHE_DIR", "TORCH_HOME"):
        monkeypatch.setenv(name, str(tmp_path.parent / "nowhere"))
    for name in ("HF_HUB_CACHE", "RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    "chapter",
    [pytest.param(c, id=c.name, marks=[pytest.mark.slow] * (not c.quick)) for c in CHAPTERS],
)
def test_documented_commands_leave_the_same_files(chapter: Chapter, store: Path, tmp_path: Path) -> None:
    found = carried_out(chapter, store, tmp_path)
    recorded = json.loads(RECORDED.read_text(encoding="utf-8")).get(chapter.name, {"files": [], "runs": {}})
    assert [name for name in recorded["files"] if name not in found["files"]] == []
    for name, run in recorded["runs"].items():
        assert set(run["columns"]) <= set(found["runs"][name]["columns"]), name
        counts = found["runs"][name]["counts"]
        assert {method: counts.get(method) for method in run["counts"]} == run["counts"], name
        means = {path: found["runs"][name]["brightness"].get(path) for path in run["brightness"]}
        assert means == pytest.approx(run["brightness"], abs=ROUNDING), name


MADE = ("vbench prompts", "vbench.py prompts", "bridge_image.py fit")  # what lines after them read
PLANNED = ("generate_video", "generate_image", "bridge_image.py --", "sample_dit_moe.py --", "sweep.py", "w2sd-video")


@pytest.mark.parametrize("chapter", [pytest.param(c, id=c.name) for c in CHAPTERS if not c.quick])
def test_documented_commands_are_understood(
    chapter: Chapter, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What can say what it would do says it; the others end where their words are read."""
    stand_ins.put(chapter.needs, store, tmp_path)
    read = argparse.ArgumentParser.parse_args

    def and_no_more(*given: Any, **settings: Any) -> Any:
        read(*given, **settings)
        sys.exit(0)

    for line in chapter.lines:
        command, own, given_on = line.command.partition(" -- ")
        with monkeypatch.context() as patch:
            if any(name in command for name in PLANNED):
                command += " --dry-run"
            elif not any(name in command for name in MADE):
                patch.setattr(argparse.ArgumentParser, "parse_args", and_no_more)
            ended = programs.run(command + own + given_on, tmp_path)
        assert ended.code in line.codes, f"{line.command}\n{ended.err}"


# -- Python -----------------------------------------------------------------------------------------------------------


def on_a_cpu(snippet: str) -> str:
    return (
        snippet.replace("torch.float16", "torch.float32")
        .replace('"cuda"', '"cpu"')
        .replace("num_reflections=25", "num_reflections=2")
        .replace("num_reflections=10", "num_reflections=2")
        .replace("num_inference_steps=50", "num_inference_steps=4, height=16, width=16")
        .replace("num_inference_steps=28", "num_inference_steps=4, height=16, width=16")
    )


def test_w2sd_runs_around_a_call_of_a_stock_pipeline(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_ins.put(("stabilityai/stable-diffusion-xl-base-1.0",), store, tmp_path)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(on_a_cpu(documented.AROUND_A_CALL), names)
    assert names["image"].size == (16, 16)
    assert capsys.readouterr().out.startswith("8 14 [")  # T + 2 lambda; 2 rows where guided, 1 at guidance 0


def test_w2sd_runs_across_architectures(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from w2sd_video import ModelSpec

    stand_ins.put(("flux", "sdxl", "photographs"), store, tmp_path)
    line = next(
        line for c in CHAPTERS for line in c.lines if line.says.startswith("python scripts/bridge_image.py fit")
    )
    assert programs.run(line.command, tmp_path).code == 0
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"flux": tiny.flux(1), "sdxl": disk_pairs.sdxl(2), "ModelSpec": ModelSpec}
    exec(on_a_cpu(documented.ACROSS_ARCHITECTURES), names)
    evaluations, skipped, decodes, encodes = map(int, capsys.readouterr().out.split())
    assert evaluations == 4 + 2 * (2 - skipped) and decodes == encodes == 3 * (2 - skipped)


def test_the_algorithm_runs_alone() -> None:
    from w2sd_video.core import Level

    levels = [Level(timestep=t, alpha=(1 - t / 1000) ** 0.5, sigma=(t / 1000) ** 0.5) for t in (900, 600, 300, 0)]
    calls: list[str] = []

    def side(name: str, factor: float) -> Any:
        return lambda x, level: calls.append(name) or factor * x

    names: dict[str, Any] = {"x": torch.ones(1, 4, 2, 2), "levels": levels}
    names |= {"strong": side("strong", 0.5), "weak": side("weak", 0.4)}
    exec(documented.THE_ALGORITHM_ALONE, names)
    assert names["x0"].shape == (1, 4, 2, 2) and calls.count("weak") == 2 and len(calls) == 3 + 2 * 2


def test_the_smaller_snippets_run() -> None:
    names: dict[str, Any] = {"pipe": tiny.animatediff_sdxl(1)}
    exec(documented.ROUTING, names)
    assert names["weak"].routing.k == 2
    exec(documented.DECODING, names)
    assert len(names["frames"][0]) == 2


def record(names: list[str]) -> None:
    known = json.loads(RECORDED.read_text(encoding="utf-8")) if RECORDED.exists() else {}
    with tempfile.TemporaryDirectory() as scratch:
        for number, chapter in enumerate(CHAPTERS):
            if names and chapter.name not in names:
                continue
            folder, start = Path(scratch) / str(number), time.process_time()
            folder.mkdir()
            try:
                known[chapter.name] = carried_out(chapter, Path(scratch) / "store", folder)
            except Exception as error:
                print(f"FAILED {chapter.name}: {type(error).__name__} {error}", file=sys.stderr)
            print(f"{time.process_time() - start:6.1f} s  {chapter.name}", file=sys.stderr)
    chapters = (f"{json.dumps(name)}: {json.dumps(known[name], sort_keys=True)}" for name in sorted(known))
    RECORDED.write_text("{\n" + ",\n".join(chapters) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    record(sys.argv[1:])
