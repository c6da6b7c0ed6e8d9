"""The machine that a plan is for: this one, or any other that the flags describe; what of a pair fits it (no torch)."""

from __future__ import annotations

import gc
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from w2sd_video.commands.plan import Plan
from w2sd_video.demo.bundled import is_bundled
from w2sd_video.errors import UserError
from w2sd_video.loading.memory import AUTO, RESERVED, Estimate, Machine, memory_plan

DEVICES = re.compile(r"(cpu|mps|(cuda|xpu)(:\d+)?)")


def cpu_build() -> bool:
    """Whether the installed torch knows no accelerator; its version says so, without loading it."""
    return sys.platform == "linux" and version("torch").endswith("+cpu")


def check_device(device: str, *, elsewhere: bool = False) -> None:
    """Raises `UserError` for a device that cannot be here, as far as can be told without torch."""
    remedy = "try auto or cpu, or say with --gpu-memory what another machine has"
    if not DEVICES.fullmatch(device):
        raise UserError(f"device {device!r} cannot be used here (there is no such kind); {remedy}")
    if device != "cpu" and not elsewhere and cpu_build():
        raise UserError(f"device {device!r} cannot be used here (the installed torch is for CPUs); {remedy}")


def planned_device(plan: Plan) -> Plan:
    """Returns the plan with "auto" resolved as far as can be told without torch.

    A plan for a GPU whose memory is given may be for another machine, so that none need be here.

    Raises:
        UserError: no such device, or this machine has none; a memory plan that goes with no CPU.
    """
    device, elsewhere = plan.device, plan.machine.gpu is not None
    if device == "auto":
        device = "cuda" if elsewhere or _gpu_memory() is not None else "mps" if _apple() else "cpu"
    check_device(device, elsewhere=elsewhere)
    if plan.memory != AUTO:
        memory_plan(plan.memory, device)
    wide = "bfloat16" if device.startswith("cuda") else "float16"
    dtype = plan.dtype if plan.dtype != "auto" else "float32" if device == "cpu" else wide
    return replace(plan, device=device, dtype=dtype)


def this_machine(device: str) -> Machine:
    """Returns what this machine has: the memory of its first NVIDIA GPU, and what is available of the host's."""
    return Machine(_gpu_memory() if device.startswith("cuda") else None, _host_memory())


def machine_of(plan: Plan) -> Machine:
    """Returns the machine that a plan is for: what its flags say, the rest as here."""
    here = this_machine(plan.device) if plan.machine.gpu is None else Machine()
    return Machine(plan.machine.gpu or here.gpu, plan.machine.host or here.host)


def machine_as_it_is(plan: Plan, device: str) -> Machine:
    """Returns the machine that a run finds, whose `device` has what is free, and what this process holds: models of a
    run before are used again, or let go of.
    """
    import torch

    free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    return Machine(plan.machine.gpu or free, machine_of(plan).host)


def choose_memory(plan: Plan, estimate: Estimate | None, machine: Machine) -> Plan:
    """Returns the plan with the memory plan "auto" resolved: the fastest that fits; "resident" where nothing is known.

    Raises:
        UserError: none fits.
    """
    if plan.memory != AUTO:
        return plan
    if estimate is None or plan.device == "cpu":
        return replace(plan, memory="resident")
    taken = estimate.choose(machine)
    if taken is None:
        least = min(estimate.plans, key=lambda name: estimate.plans[name].peak)
        needs = estimate.plans[least]
        raise UserError(
            f"no memory plan fits: {least}, the least, takes {_gib(needs.peak + RESERVED)} GB of the device and "
            f"{_gib(needs.host_peak)} GB of the host, and there are {_gib(machine.gpu)} and {_gib(machine.host)}; "
            "choose a smaller --height and --width, or name a --memory plan to try it all the same"
        )
    if taken == "resident":
        return replace(plan, memory=taken)
    there, whole = _gib(machine.gpu), _gib(estimate.plans["resident"].peak + RESERVED)
    said = f"memory plan {taken}: the fastest that fits {there} GB; resident, the fastest, takes {whole} GB"
    return replace(plan, memory=taken, notes=(*plan.notes, said))


def memory_report(plan: Plan, estimate: Estimate | None, machine: Machine) -> dict[str, Any]:
    """Returns what a plan takes as JSON data, for its own memory plan and as a table of all; {} where unknown."""
    if estimate is None:
        return {}
    taken = estimate.plans.get(plan.memory) or estimate.plans["resident"]
    phases = taken.device or taken.host
    sizes = {"weights": estimate.networks, **{f"{name[:-1]}ing": size for name, size in phases.items()}}
    there = {name: size for name, size in (("gpu", machine.gpu), ("host", machine.host)) if size is not None}
    return {
        "memory_mb": {name: round(size / 2**20) for name, size in {**sizes, "peak": taken.peak}.items()},
        "memory_plans": {
            "machine": {name: round(size / 2**20) for name, size in there.items()},
            **estimate.record(machine),
        },
    }


def memory_lines(report: Mapping[str, Any]) -> list[str]:
    """Returns the table of a plan's memory as text; [] where nothing is known."""
    found = report.get("memory_plans")
    if found is None:
        return []
    plans, machine = found["plans"], found["machine"]
    first = next(iter(plans.values()))
    where = "device" if "device" in first else "host"
    phases = list(first[where])
    heads = [*(f"{name}" for name in phases), *(["host"] if where == "device" else []), "fits"]
    there = ", ".join(f"{size / 1024:.1f} GB of {'GPU' if name == 'gpu' else name}" for name, size in machine.items())
    lines = [f"memory on the {where}, estimated in GB by phase{f' (there are {there})' if there else ''}:"]
    lines.append(f"  {'':14s}" + "".join(f"{head:>9s}" for head in heads))
    for name, plan in plans.items():
        sizes = [*plan[where].values(), *([max(plan["host"].values())] if where == "device" else [])]
        cells = [*(f"{size / 1024:.1f}" for size in sizes), "yes" if plan["fits"] else "no"]
        lines.append(f"  {name:14s}" + "".join(f"{cell:>9s}" for cell in cells))
    if where == "device":
        taken = found["take"]
        lines.append(f"  take --memory {taken}" if taken else "  none fits: choose a smaller --height and --width")
    return [*lines, ""]


def to_load(plan: Plan) -> tuple[str, int]:
    """What will be loaded, and the bytes of it that are files here."""
    names = [Path(side.checkpoint).name for side in (plan.pair.strong, plan.pair.weak) if side.checkpoint is not None]
    return " over ".join(dict.fromkeys(names)), sum(weights.nbytes for weights in plan.weights)


def _gib(size: int | None) -> str:
    return "?" if size is None else f"{size / 2**30:.1f}"


def _apple() -> bool:
    return sys.platform == "darwin" and platform.machine() == "arm64"


def _gpu_memory() -> int | None:
    """Bytes of the first NVIDIA GPU, as its driver's tool says; None without one."""
    if cpu_build() or not (Path("/proc/driver/nvidia").exists() or sys.platform == "win32"):
        return None
    with suppress(OSError, ValueError, IndexError, subprocess.SubprocessError):
        asked = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=5, check=True)
        return int(done.stdout.split()[0]) * 2**20
    return None


def _host_memory() -> int | None:
    """Bytes that are available of the host's memory; None where the system does not tell."""
    with suppress(OSError, ValueError, IndexError):
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        return int(text.partition("MemAvailable:")[2].split()[0]) * 2**10
    return None


@contextmanager
def prepared(plan: Plan, *, first: bool = True) -> Iterator[None]:
    """Inside, threads are few (`few_threads`), and garbage is looked for in what comes after alone: each collection
    while loading would otherwise go through all that was imported, a quarter of a second.

    Of several runs of a process only the `first` does that, as later ones let go of what an earlier one loaded.
    """
    apart = first and not gc.get_freeze_count()
    if apart:
        gc.collect()  # what checking left
        gc.freeze()
    try:
        with few_threads(plan):
            yield
    finally:
        if apart:
            gc.unfreeze()


@contextmanager
def few_threads(plan: Plan) -> Iterator[None]:
    """Inside, a bundled pair on a CPU runs in one thread, unless OMP_NUM_THREADS says otherwise: its networks are so
    small that more threads cost time and gain none.
    """
    if not is_bundled(plan.pair.strong.checkpoint) or plan.device != "cpu" or "OMP_NUM_THREADS" in os.environ:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
