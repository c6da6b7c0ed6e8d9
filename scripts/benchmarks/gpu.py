"""Measure W2SD on a GPU, without weights: python scripts/benchmark_gpu.py [--quick] [--only PART] [--device cpu]

Networks of the true shapes with random weights in bfloat16: AnimateDiff-SDXL (16 frames at 512 and 1024 px), SDXL,
Flux.1-dev, Wan 2.1 1.3B, DiT-MoE B/2. For each: seconds of a network row, as it is and with its blocks compiled,
against the floor of this card (its own matrix products and memory, measured first); a whole W2SD call against the bare
forwards that it makes; numbers read back by the host in the loop. Then switching LoRA scales, the experts sorted and in
a plain loop, how a step of the bridge (Flux.1-dev over SDXL) divides; last, peak memory by memory plan against the
estimate. Under 8 minutes on a card with 48 GB or more: what is not begun by --minutes is left out, and so is what does
not fit; both are said. What fails is a row, too, and the rest goes on. `--device cpu` runs the same code on small
networks (4 minutes of one core; --quick: 1).
"""

from __future__ import annotations

import gc
import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import bridge, bridge_networks, lora, moe
from benchmarks.gpu_cases import FEW, Case, Machine, cases, numbers
from benchmarks.measuring import LiveBytes, Meter, Row, at_most, bench_parser, claim, equal, recorded_calls, report
from w2sd_video import ModelSpec, reflected
from w2sd_video.loading.memory import Sides, estimate_memory
from w2sd_video.loading.placement import compile_networks, place
from w2sd_video.loading.sizes import Sizes
from w2sd_video.runs.progress import calm_libraries

H200 = (790e12, 4.3e12)  # what an H200 does in a second, measured: bf16 operations of products, bytes moved
MOST_LOOP = 1.03  # of the bare forwards' time
PLANS = ("resident", "model-offload", "group")
PARTS = ("networks", "memory", "lora", "moe", "bridge")


# -- what is measured --------------------------------------------------------------------------------------------------


def of_the_card(device: str, dtype: torch.dtype, budget: float) -> Machine:
    """What the device does in a second: matrix products, and bytes moved."""
    machine = Machine(device, dtype, budget)
    side, count = (8192, 2**28) if machine.gpu else (512, 2**20)
    a, b = numbers(machine, side, side), numbers(machine, side, side)
    moved = numbers(machine, count)
    products = 2 * side**3 / machine.seconds(lambda: a @ b)
    copied = 2 * moved.nbytes / machine.seconds(moved.clone)
    return Machine(device, dtype, budget, products, copied)


def call_of(case: Case, pipe: Any, weak: nn.Module, arguments: dict[str, Any], counts: tuple[int, int]) -> Any:
    """A W2SD call to the latents, of so many steps and reflections; returns its run."""
    load = case.load
    settings: dict[str, Any] = {"height": load.height, "width": load.width, "num_inference_steps": counts[0]}
    if load.num_frames is not None:
        settings["num_frames"] = load.num_frames
    pipe.set_progress_bar_config(disable=True)
    same = weak is getattr(pipe, "transformer", None)

    def run() -> Any:
        side = ModelSpec(guidance=1.0) if same else (weak, ModelSpec(guidance=1.0))
        generator = torch.Generator("cpu").manual_seed(0)
        with reflected(pipe, side, num_reflections=counts[1]) as counted:
            made = pipe(
                **arguments, **settings, guidance_scale=case.guidance, generator=generator, output_type="latent"
            )[0]
        assert torch.isfinite(made).all(), case.name
        return counted

    return run


def measure_network(case: Case, machine: Machine, *, compiled: bool) -> Iterator[Row]:
    """Times of a row and of a call, and host reads."""
    pipe, weak = case.make(machine)
    run = call_of(case, pipe, weak, case.call(machine), case.counts)
    network = getattr(pipe, "unet", None) or pipe.transformer
    networks = [network] if weak is network else [network, weak]
    runs: list[Any] = []
    with Meter(*networks).watching() as meter, FlopCounterMode(display=False) as flops:
        bare = recorded_calls(networks, lambda: runs.append(run()))
    what = f"host reads between evaluations, {case.name}"
    if "Wan" in case.name:  # whose own loop reads
        yield Row("reads", what, meter.reads_between)
    else:
        yield equal("reads", what, meter.reads_between, 0)
    rows = meter.rows
    yield equal("rows", f"network rows as the run counts them, {case.name}", runs[0].num_rows, rows)
    operations = flops.get_total_flops() / rows
    weights = sum(tensor.nbytes for tensor in network.parameters())
    eager = machine.seconds(bare)
    yield Row("row", f"TFLOP of a row, {case.name}", operations / 1e12)
    yield Row("row", f"milliseconds of a row, {case.name}", eager / rows * 1e3)
    for name, (most, moved) in {"this card": (machine.operations, machine.bytes), "an H200": H200}.items():
        if name == "this card" or machine.gpu:
            floor = max(operations / most, weights / moved)
            yield Row("row", f"times the floor of {name}, {case.name}", eager / rows / floor)
    whole = machine.seconds(run)
    target = MOST_LOOP if machine.gpu else None
    yield at_most("loop", f"a call / its bare forwards, {case.name}", whole / eager, target)
    if compiled and not machine.time_is_up:
        compile_networks(networks)
        fast = machine.seconds(bare)
        torch._dynamo.reset()
        yield Row("compiled", f"milliseconds of a row, compiled, {case.name}", fast / rows * 1e3)
        yield Row("compiled", f"compiled / eager, {case.name}", fast / eager)


def measure_memory(case: Case, machine: Machine) -> Iterator[Row]:
    """Peaks of a call on the device by memory plan, against the estimate; without a GPU of the first plan alone."""
    for plan in PLANS:
        if machine.time_is_up:
            yield Row("memory", f"left out, as time is up: plan {plan}, {case.name}", 0)
            continue
        planned, peak = _planned_and_held(case, machine, plan)
        yield Row("peak", f"GB by the estimate, plan {plan}, {case.name}", planned / 1e9)
        if machine.gpu or plan == "resident":
            yield Row("peak", f"GB on the device, plan {plan}, {case.name}", peak / 1e9)
            target = 1.1 if machine.gpu else None
            yield at_most("peak", f"measured / estimated, plan {plan}, {case.name}", peak / planned, target)
        _empty()


def _planned_and_held(case: Case, machine: Machine, plan: str) -> tuple[int, int]:
    """Bytes of a plan by the estimate, and the most that a call held, of networks that are gone afterwards.

    Without a GPU the tensors are counted, and all of them are on the one device there is.
    """
    with nullcontext() if machine.gpu else LiveBytes(machine.device) as live:
        pipe, weak = case.make(machine)
        network = getattr(pipe, "unet", None) or pipe.transformer
        other = None if weak is network else weak
        dtype = str(machine.dtype).removeprefix("torch.")
        estimate = estimate_memory(sides_of(case, network, other), dtype=dtype, device="cuda")
        if plan != "resident":
            for each in (pipe, weak):
                each.to("cpu")
            _empty()
        place(pipe, other, machine.device, plan)
        run = call_of(case, pipe, weak, case.call(machine), FEW)
        if live is None:
            torch.cuda.reset_peak_memory_stats()
        else:
            live.peak = live.now
        run()
    peak = torch.cuda.max_memory_allocated() if live is None else live.peak
    return estimate.plans[plan].device["sample"], peak


def sides_of(case: Case, network: Any, weak: Any) -> Sides:
    """What the estimate is told of a pair: its networks, which have no files here."""
    motion = sum(t.numel() for name, t in network.named_parameters() if "motion_modules" in name)
    whole = sum(tensor.numel() for tensor in network.parameters()) - motion
    sizes = Sizes(
        {"network": whole},
        largest=max(tensor.numel() for tensor in network.parameters()),
        config={**network.config, "_class_name": type(network).__name__},
        vae_config={"block_out_channels": [128] * 4},
    )
    return Sides(
        sizes, None if weak is None else sizes, (case.load, None if weak is None else case.load), motion=motion
    )


def measure_moe(machine: Machine) -> Iterator[Row]:
    """A pass of DiT-MoE: tokens sorted by expert, a plain loop over the experts, and a CUDA graph."""
    name, changes = ("B/2", {}) if machine.gpu else ("S/2", {"num_layers": 1})
    with torch.device(machine.device):
        net = moe.network(name, **changes).to(machine.dtype)
    latents = numbers(machine, 2, 4, 32, 32)
    steps = torch.tensor([500.0, 500.0], device=machine.device)
    call = (latents, steps, torch.tensor([207, 1000], device=machine.device))
    with torch.no_grad():
        with moe.looped(net):
            loop = machine.seconds(lambda: net(*call))
        ours = machine.seconds(lambda: net(*call))
        yield Row("moe", f"milliseconds of a pass of DiT-MoE {name}, batch 2", ours * 1e3)
        yield at_most(
            "moe", f"tokens sorted / plain loop, {name}", ours / loop, moe.MOST_GPU_TIME if machine.gpu else None
        )
        if machine.gpu:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                net(*call)
            yield Row("moe", f"in a CUDA graph / plain loop, {name}", machine.seconds(graph.replay) / loop)


def measure_lora(machine: Machine) -> Iterator[Row]:
    """Going over to the weak side's scale and back, on SDXL's modules."""
    with torch.device(machine.device):
        unet = lora.network(320 if machine.gpu else 8)
    yield from lora.time_switching(unet, 1)


def _empty() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def measure(machine: Machine, only: str | None, *, compiled: bool) -> Iterator[Row]:
    """All rows, or those of one part; says on standard error what it is at."""

    def say(what: str) -> None:
        print(f"measuring: {what}", file=sys.stderr, flush=True)

    yield Row("card", "TFLOP per second of matrix products", machine.operations / 1e12)
    yield Row("card", "GB per second of memory", machine.bytes / 1e9)
    found = cases(small=not machine.gpu)
    fast, last = machine.gpu, found[-1] if found else None
    size = bridge_networks.FULL if machine.gpu else bridge_networks.SMALL
    parts: list[tuple[str, str, Callable[[], Iterator[Row]]]] = [
        *(
            # On a processor the blocks of a UNet take many minutes: there, one transformer shows that it works.
            (
                "networks",
                case.name,
                partial(measure_network, case, machine, compiled=compiled and (fast or case is last)),
            )
            for case in found
        ),
        ("lora", "LoRA scales", partial(measure_lora, machine)),
        ("moe", "experts", partial(measure_moe, machine)),
        ("bridge", "Flux.1-dev over SDXL", partial(bridge.time_shares, size, machine.device, machine.dtype)),
        *(("memory", case.name, partial(measure_memory, case, machine)) for case in found),
    ]
    if machine.gpu:
        parts.append(("memory", "Flux.1-dev over SDXL", partial(bridge.peaks, size, machine.dtype)))
    for part, name, rows in parts:
        if only not in (None, part):
            continue
        if machine.time_is_up:
            yield Row(part, f"left out, as time is up: {name}", 0)
            continue
        say(f"{part}, {name}")
        yield from _fitting(rows, f"{part}, {name}")


def _fitting(rows: Callable[[], Iterator[Row]], name: str) -> Iterator[Row]:
    """The rows; or one that says that the card is too small for them, or that they failed (why: standard error)."""
    try:
        yield from rows()
    except torch.OutOfMemoryError:
        yield Row("memory", f"left out, as the card is too small: {name}", 0)
    except Exception:
        traceback.print_exc()
        yield Row("failed", f"{name}: see the error above", 0, passed=False)
    _empty()


def _compiler() -> bool:
    """Whether there is a C++ compiler, which torch needs to compile for a processor."""
    return any(shutil.which(name) for name in (os.environ.get("CXX", ""), "g++", "clang++") if name)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = bench_parser(
        __doc__, output="outputs/benchmark_gpu.json", parts=PARTS, quick="nothing is compiled, times are taken once"
    )
    parser.add_argument("--device", default="cuda", help="cuda (default), or cpu: small networks, to try the program")
    parser.add_argument("--minutes", type=float, default=7.0, help="begin nothing after so many (default 7)")
    options = parser.parse_args(arguments)
    gpu = options.device.startswith("cuda")
    if gpu and not torch.cuda.is_available():
        parser.error(f"--device is {options.device}, and torch finds no CUDA device here; --device cpu tries it small")
    claim(parser, options.output)
    calm_libraries()
    name = torch.cuda.get_device_name(options.device) if gpu else "CPU"
    begin = time.perf_counter()
    machine = of_the_card(
        options.device, torch.bfloat16 if gpu else torch.float32, 0.0 if options.quick else 2.0 if gpu else 0.1
    )
    machine = replace(machine, until=begin + 60 * options.minutes)
    compiled = not options.quick and (gpu or _compiler())
    with torch.no_grad():
        rows: list[Row] = []
        try:
            for row in measure(machine, options.only, compiled=compiled):
                rows.append(row)
        except KeyboardInterrupt:  # what there is is reported
            rows.append(Row("failed", "stopped", 0, passed=False))
    rows.append(Row("all", "minutes", (time.perf_counter() - begin) / 60))
    return report(rows, options.output, {"device": name, "quick": options.quick})
