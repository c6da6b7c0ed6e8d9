"""True-size runs with random weights, measured: `python -m tests.support.real_size` (make real-size) writes
docs/results/real-size.md, and fails where a bar is not met.

It builds the checkpoints of `real_size_files` under `--work`, about 25 GB, runs the commands on them one after another,
and removes them. It needs a machine of 24 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.support.real_size_files import build_all

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "results" / "real-size.md"
MOST, UNIQUE, PLANNED = 14.0, 1.15, 0.1  # GB in memory; peak / unique bytes; what plan and peak may differ by
LARGE = 4.0  # GB of unique bytes from where on their ratio to the peak is held to `UNIQUE`: below, the program counts
LOADING = ("check", "load", "LoRA", "encode", "networks")
PHASES = ("start", "check", "load", "LoRA", "encode", "networks", "sample", "decode")

COLUMNS = (
    *("needed", "loading", "loading / needed", "peak", "peak / needed", "plan", "plan / peak"),
    *("dry run, s", "first line, s", "all, s", "loop", "bars"),
)
INTRODUCTION = """\
Networks of true size with random weights in bfloat16, {pixels} x {pixels} pixels, T {steps} where not said (DiT-MoE:
256 pixels; 512 pixels: T 1), on
{machine}. Written by `make real-size`, which builds the
checkpoints, runs the commands one after another and measures each process. GB are 10^9 bytes. `needed` is what
networks, text encoders and VAEs take, each address counted once, the most at one time (before the prompts are encoded,
or after); `loading` the most that was in memory (VmHWM) before anything is sampled, the program (0.5 GB) and pages of
files included; `peak` the most in all, sampling's own included; `plan` what `--dry-run` says without loading anything,
in so many seconds; `loop` what the loop adds to the seconds in networks and VAEs.
Bars: a peak of at most {most:g} GB, {unique} times what is needed while loading (where that is {large:g} GB or more),
and a plan within 10 percent of the peak."""


@dataclass
class Measured:
    """One command: what its plan says, what it took (GB: 10^9 bytes), its lines by second."""

    name: str
    planned: dict[str, Any] = field(default_factory=dict)
    dry_seconds: float = 0.0
    inside: dict[str, Any] = field(default_factory=dict)
    peak: float = 0.0
    seconds: float = 0.0
    lines: list[tuple[float, str]] = field(default_factory=list)

    @property
    def plan(self) -> float | None:
        plans = self.planned.get("memory_plans")
        return None if plans is None else max(plans["plans"]["resident"]["host"].values()) * 2**20 / 1e9

    @property
    def unique(self) -> float | None:
        """GB of networks, text encoders and VAEs, each address counted once: the most at one time."""
        return self.inside.get("unique") or None

    @property
    def loading(self) -> float:
        """GB in memory at most before anything is sampled."""
        return max(peak for name, peak in self.inside["peaks"].items() if name in LOADING)

    @property
    def overhead(self) -> float | None:
        """What a loop adds to its networks and VAEs, of their seconds."""
        inside = sum((self.inside.get("inside") or {}).values())
        return self.inside["loop"] / inside - 1 if inside else None

    def failures(self) -> list[str]:
        """The bars that are not met."""
        found = []
        if self.peak > MOST:
            found.append(f"{self.peak:.2f} GB in memory, more than {MOST:g}")
        if self.unique is not None and self.unique > LARGE and self.loading > UNIQUE * self.unique:
            found.append(f"loading takes {self.loading / self.unique:.3f} of the {self.unique:.2f} GB, not {UNIQUE}")
        if self.plan is not None and abs(self.plan / self.peak - 1) > PLANNED:
            found.append(f"planned {self.plan:.2f} GB, took {self.peak:.2f}")
        return found


def statuses(pid: int) -> Iterator[float]:
    """Yields the GB in memory at most so far, while a process lives."""
    while True:
        try:
            text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
        except OSError:
            return
        if "VmHWM:" not in text:
            return
        yield int(text.partition("VmHWM:")[2].split()[0]) * 1024 / 1e9
        time.sleep(0.1)


def run(name: str, words: list[str], output: Path) -> Measured:
    """Runs a command, and measures it from outside and inside."""
    found = Measured(name)
    shutil.rmtree(output, ignore_errors=True)
    if words[:2] != ["moe", "convert"]:
        words = [*words, "--output", str(output)]
    log, report = output.with_suffix(".log"), output.with_suffix(".json")
    begin = time.monotonic()
    with log.open("w") as file:
        child = [sys.executable, "-m", "tests.support.real_size_child", str(report), *words]
        process = subprocess.Popen(child, cwd=ROOT, stderr=file, stdout=file)
        for peak in statuses(process.pid):
            found.peak = max(found.peak, peak)
            lines = [line for line in log.read_text().splitlines() if not line.startswith("[transformers]")]
            now = time.monotonic() - begin
            found.lines += [(now, line) for line in lines[len(found.lines) :]]
            if process.poll() is not None:
                break
        code = process.wait()
    found.seconds = time.monotonic() - begin
    if code:
        raise SystemExit(f"{name} ended with {code}:\n{log.read_text()}")
    found.inside = json.loads(report.read_text())
    found.peak = max(found.peak, *found.inside["peaks"].values())
    return found


def with_plan(found: Measured, words: list[str]) -> Measured:
    """Returns what was measured with what a dry run says of it."""
    if words[:2] == ["moe", "convert"]:
        return found
    begin = time.monotonic()
    dry = [sys.executable, "-m", "w2sd_video", *words, "--dry-run", "--format", "json"]
    planned = json.loads(subprocess.run(dry, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout)
    return replace(found, planned=planned, dry_seconds=time.monotonic() - begin)


def commands(work: Path, pixels: int, steps: int) -> dict[str, list[str]]:
    """The words of each run."""
    short = ["--steps", str(steps), "--device", "cpu", "--dtype", "bfloat16", "--methods", "w2sd"]
    small = ["--height", str(pixels), "--width", str(pixels), "--prompt", "a", *short]
    file, base = str(work / "finetune.safetensors"), str(work / "base")
    video = ["video", "--num-frames", "4", "--motion-adapter", str(work / "motion"), *small]
    flux = ["--strong", str(work / "flux" / "flux.safetensors"), "--config", str(work / "flux")]
    return {
        "SDXL video, a file over a folder": [*video, "--strong", file, "--weak", base, "--config", base],
        "SDXL pictures, two equal folders": [
            *("image", *small, "--strong", base, "--weak", str(work / "twin")),
            *("--guidance", "2", "--weak-guidance", "1"),
        ],
        "SDXL pictures, a LoRA with both text encoders": [
            *("image", *small, "--strong", base, "--guidance", "2"),
            *("--lora", f"style={work / 'lora.safetensors'}:0.8"),
        ],
        "Flux of true width, 6 blocks, a file over SDXL": [
            *("bridge", *small, *flux, "--weak", base, "--noise-map", "paired", "--reflections", "2"),
        ],
        "DiT-MoE B/2, converted": ["moe", "convert", str(work / "moe.pt"), str(work / "moe")],
        "DiT-MoE B/2": [
            *("moe", *short, "--strong", str(work / "moe"), "--vae", str(work / "vae"), "--weak-experts", "0,1"),
            *("--classes", "207", "--num-images", "1"),
        ],
        "SDXL, two pictures of 512 px at once, one side": [
            *("image", "--prompt", "a", "--strong", base, "--guidance", "5", "--num", "2", "--batch", "2"),
            *("--height", "512", "--width", "512", "--steps", "1", "--reflections", "0", "--methods", "strong"),
            *("--device", "cpu", "--dtype", "bfloat16"),
        ],
    }


def machine() -> str:
    """This machine in words, without its name."""
    text = Path("/proc/meminfo").read_text(encoding="ascii")
    size, threads = int(text.partition("MemTotal:")[2].split()[0]) * 1024 / 1e9, os.environ.get("OMP_NUM_THREADS")
    used = "" if threads is None else f", one process using {threads}"
    return f"a machine with {os.cpu_count()} CPU cores ({platform.machine()}; shared{used}) and {size:.0f} GB of memory"


def page(runs: Iterable[Measured], pixels: int, steps: int, left_out: Iterable[str] = ()) -> str:
    """The report."""
    runs = list(runs)
    head = INTRODUCTION.format(pixels=pixels, steps=steps, machine=machine(), most=MOST, unique=UNIQUE, large=LARGE)
    lines = ["# Real size", "", head, "", f"| run | {' | '.join(COLUMNS)} |", f"|---|{'---|' * len(COLUMNS)}"]
    for each in runs:
        first = f"{each.lines[0][0]:.1f}" if each.lines else ""
        cells = [
            each.name,
            "" if each.unique is None else f"{each.unique:.2f}",
            "" if each.unique is None else f"{each.loading:.2f}",
            "" if each.unique is None else f"{each.loading / each.unique:.3f}",
            f"{each.peak:.2f}",
            "" if each.unique is None else f"{each.peak / each.unique:.3f}",
            "" if each.plan is None else f"{each.plan:.2f}",
            "" if each.plan is None else f"{each.plan / each.peak:.3f}",
            f"{each.dry_seconds:.1f}" if each.planned else "",
            first,
            f"{each.seconds:.0f}",
            "" if each.overhead is None else f"{each.overhead:+.2%}",
            "; ".join(each.failures()) or "met",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    for name in left_out:
        lines += ["", f"Not run: {name}."]
    lines += ["", "## Phases", "", "Seconds, and the peak in GB.", ""]
    lines += [f"| run | {' | '.join(PHASES)} |", f"|---|{'---|' * len(PHASES)}"]
    for each in runs:
        seconds, peaks = each.inside["seconds"], each.inside["peaks"]
        cells = [f"{seconds[name]:.1f}, {peaks[name]:.2f}" if name in seconds else "" for name in PHASES]
        lines.append(f"| {each.name} | {' | '.join(cells)} |")
    lines += ["", "## Calls", ""]
    for each in (each for each in runs if each.inside["calls"]):
        calls, inside = each.inside["calls"], each.inside["inside"]
        told = ", ".join(f"{calls[name]} x {name} {inside[name]:.1f} s" for name in calls)
        lines.append(f"- {each.name}: {told}; the loop {each.inside['loop']:.1f} s.")
    for each in runs:
        lines += ["", f"## {each.name}: what is said, by second", "", "```"]
        lines += [f"{second:6.1f}  {_plain(line)}" for second, line in each.lines[:14]]
        lines += ["```"]
    return "\n".join(lines) + "\n"


def _plain(line: str) -> str:
    """A line without the paths of this machine."""
    return " ".join(word.rpartition("/")[2] if word.count("/") > 1 else word for word in line.split(" "))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=ROOT / "outputs" / "real-size")
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--only", type=int, nargs="+", help="of the runs, from 0 on; the others as they were measured")
    parser.add_argument("--pixels", type=int, default=128, help="of a side")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--keep", action="store_true", help="leave the checkpoints there, and what was measured")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # each thread has scratch of its own
    options.work.mkdir(parents=True, exist_ok=True)
    build_all(options.work)
    runs, left_out = [], []
    for number, (name, words) in enumerate(commands(options.work, options.pixels, options.steps).items()):
        kept = options.work / f"measured-{number}.json"
        if options.only is None or number in options.only:
            print(f"running: {name}", file=sys.stderr, flush=True)
            made = with_plan(run(name, words, options.work / "run"), words)
            kept.write_text(json.dumps(asdict(made)), encoding="utf-8")
            print(f"  peak {made.peak:.2f} GB; {'; '.join(made.failures()) or 'bars met'}", file=sys.stderr, flush=True)
        if kept.exists():
            runs.append(with_plan(Measured(**json.loads(kept.read_text(encoding="utf-8"))), words))
        else:
            left_out.append(name)
    options.page.write_text(page(runs, options.pixels, options.steps, left_out), encoding="utf-8")
    if not options.keep:
        shutil.rmtree(options.work)
    return 1 if any(each.failures() for each in runs) else 0


if __name__ == "__main__":
    sys.exit(main())
