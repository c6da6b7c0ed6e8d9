"""Measure what comes before the first frame: python scripts/benchmark_start.py [--quick] [--output FILE]

Processes that start cold, by their CPU seconds, which a busy machine does not change: a dry run of the bundled pair and
of the paper's, which load no torch; importing what a run imports; `w2sd video` of the bundled pair from the command to
its first video. The last one's peak of memory stands beside what its dry run says. About half a minute of one core.
Exit code 1 if a target is missed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measuring import Row, at_most, bench_parser, claim, report

ROOT = Path(__file__).resolve().parents[2]
MOST_DRY, MOST_FIRST = 1.0, 10.0  # CPU seconds
PAPER = ("video", "--preset", "juggernaut-vs-sdxl", "--prompt", "x", "--gpu-memory", "12GB")


@dataclass(frozen=True)
class Started:
    """A process that ended: CPU seconds, seconds, the most MiB that it held, and what it printed."""

    cpu: float
    seconds: float
    peak: float
    out: str


def started(*words: str) -> Started:
    """Runs Python on words; raises CalledProcessError if that fails."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    begin = time.monotonic()
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen([sys.executable, *words], cwd=ROOT, env=environment, stdout=out)
        _, code, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(code)
        out.seek(0)
        text = out.read()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, words, text)
    return Started(used.ru_utime + used.ru_stime, time.monotonic() - begin, used.ru_maxrss / 2**10, text)


def measure(output: Path) -> Iterator[Row]:
    """All rows; the run's files go into `output`."""
    program = ("-m", "w2sd_video")
    asking = ("video", "--device", "cpu", "--prompt", "a red ring moving up", "--methods", "w2sd", "--steps", "4")
    dry = started(*program, *asking, "--dry-run", "--format", "json")
    yield at_most("dry run", "CPU seconds, the bundled pair of videos", dry.cpu, MOST_DRY)
    paper = started(*program, *PAPER, "--dry-run")
    yield at_most("dry run", "CPU seconds, the paper's pair on a GPU of 12 GB", paper.cpu, MOST_DRY)
    for module in ("torch", "diffusers", "w2sd_video.commands.making"):
        yield Row("import", f"CPU seconds, {module}", started("-c", f"import {module}").cpu)
    first = started(*program, *asking, "--quiet", "--output", str(output))
    yield at_most("first", "CPU seconds from the command to the first video, 4 steps", first.cpu, MOST_FIRST)
    yield Row("first", "seconds, on this machine as busy as it is", first.seconds)
    planned = json.loads(dry.out)["memory_mb"]["peak"]
    yield Row("memory", "peak MiB of that run / what its dry run says", first.peak / planned)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = bench_parser(__doc__, output="outputs/benchmark_start.json", parts=("all",), quick="the same")
    options = parser.parse_args(arguments)
    claim(parser, options.output)
    with tempfile.TemporaryDirectory() as folder:
        rows = list(measure(Path(folder) / "run"))
    return report(rows, options.output, {"quick": options.quick})
