"""Measure what the bridge through pixels costs: python scripts/benchmark_bridge.py [--device cuda] [--output FILE]

Counts first (evaluations and VAE passes per reflection), then the arithmetic and the weights of Flux.1-dev over SDXL
at 1024 px, counted on shapes without any weights. Then times on random networks of the real classes, in one run: how a
reflected step divides into strong, weak, decoding and encoding; the bridge's own work, with every network and VAE
replaced by one that does nothing; tiny VAEs against full ones. About 2 minutes on one core. With --device cuda the
networks are those of Flux.1-dev and SDXL in bfloat16 at 1024 px, and peak memory is measured for each memory plan.
Exit code 1 if a count is off or a ratio above its target by more than its own spread.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.bridge_networks import (
    FULL,
    PARTS,
    SIGMAS,
    SMALL,
    Size,
    call,
    flux_transformer,
    flux_vae,
    own_work,
    pipelines,
    sdxl_unet,
    sdxl_vae,
    timed_parts,
    tiny_vaes,
)
from benchmarks.measuring import Row, at_most, bench_parser, claim, equal, paired_ratio, report

STEPS = len(SIGMAS)

# -- counts and arithmetic ------------------------------------------------------------------------------------------


def count_passes(size: Size) -> Iterator[Row]:
    flux, sdxl = pipelines(size, "cpu", torch.float32)
    run = call(flux, sdxl, size, 2)
    for what, value, target in (
        (f"evaluations, T {STEPS}, lambda 2", run.num_evaluations, STEPS + 4),
        ("VAE decodings per reflection: 1 D_A, 2 D_B", run.num_decodes / 2, 3),
        ("VAE encodings per reflection: 1 E_B, 2 E_A", run.num_encodes / 2, 3),
        ("reflections left out", run.num_skipped, 0),
    ):
        yield equal("count", what, value, target)


def full_size_arithmetic() -> Iterator[Row]:
    """Operations and weights of Flux.1-dev over SDXL at 1024 px, counted on shapes alone."""
    size, cells = FULL, FULL.pixels // 8
    with torch.device("meta"):
        vaes = {"flux": flux_vae(size), "sdxl": sdxl_vae(size)}
        tiny = dict(zip(("flux", "sdxl"), tiny_vaes(size), strict=True))
        transformer, unet = flux_transformer(size), sdxl_unet(size)
        tokens = (cells // 2) ** 2
        pictures, channels = torch.empty(1, 3, size.pixels, size.pixels), {"flux": 16, "sdxl": 4}
        strong = flops(
            lambda: transformer(
                hidden_states=torch.empty(1, tokens, 64), encoder_hidden_states=torch.empty(1, size.tokens, 4096),
                pooled_projections=torch.empty(1, 768), timestep=torch.empty(1), guidance=torch.empty(1),
                img_ids=torch.empty(tokens, 3), txt_ids=torch.empty(size.tokens, 3),
            )
        )  # fmt: skip
        weak = flops(
            lambda: unet(
                torch.empty(1, 4, cells, cells), torch.empty(1), torch.empty(1, 77, 2048),
                added_cond_kwargs={"text_embeds": torch.empty(1, 1280), "time_ids": torch.empty(1, 6)},
            )
        )  # fmt: skip

        def passes(ends: dict[str, Any]) -> tuple[float, float]:
            grid = {name: torch.empty(1, channels[name], cells, cells) for name in ends}
            decode = {name: flops(partial(vae.decode, grid[name])) for name, vae in ends.items()}
            encode = {name: flops(partial(vae.encode, pictures)) for name, vae in ends.items()}
            return decode["flux"] + 2 * decode["sdxl"], encode["sdxl"] + 2 * encode["flux"]

        decode, encode = passes(vaes)
        whole = 2 * strong + weak + decode + encode
        shares = zip(PARTS, (2 * strong, weak, decode, encode), strict=True)
        for part, operations in shares:
            yield Row("flops", f"1024 px: share of a reflected step, {part}", operations / whole)
        yield Row("flops", "1024 px: TFLOP of a reflected step", whole / 1e12)
        with_tiny = 2 * strong + weak + sum(passes(tiny))
        yield Row("flops", "1024 px: a reflected step with tiny VAEs / with full ones", with_tiny / whole)
        gigabytes = {
            name: sum(p.numel() for net in networks for p in net.parameters()) * 2 / 1e9
            for name, networks in (("strong", [transformer]), ("weak", [unet]), ("vaes", vaes.values()))
        }
    both = sum(gigabytes.values())
    yield Row("bytes", "1024 px, bfloat16: GB of both networks and VAEs (memory plan resident)", both)
    held = gigabytes["strong"] + gigabytes["vaes"]
    yield Row("bytes", "the same while the strong network runs, plan weak-offload / resident", held / both)


def flops(function: Callable[[], Any]) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        function()
    return counter.get_total_flops()


# -- times ----------------------------------------------------------------------------------------------------------


def time_shares(size: Size, device: str, dtype: torch.dtype) -> Iterator[Row]:
    flux, sdxl = pipelines(size, device, dtype)
    clock = clock_of(device)
    call(flux, sdxl, size, 1)  # warm
    with timed_parts(flux, sdxl, clock) as spent:
        start = clock()
        run = call(flux, sdxl, size, STEPS)
        whole = clock() - start
    yield equal("count", f"{size.pixels} px: reflections left out of those timed", run.num_skipped, 0)
    for part in PARTS:
        yield Row("share", f"{size.pixels} px: time of {part} / of a reflected step", spent[part] / whole)
    yield Row("share", f"{size.pixels} px: seconds of a reflected step", whole / STEPS)
    tiny = [vae.to(device, dtype) for vae in tiny_vaes(size)]

    def seconds(function: Callable[[], Any]) -> float:
        start = clock()
        function()
        return clock() - start

    ratio, spread = paired_ratio(
        lambda: call(flux, sdxl, size, STEPS, vae=tiny[0], weak_vae=tiny[1]),
        lambda: call(flux, sdxl, size, STEPS),
        3 if device == "cpu" else 1,
        seconds,
    )
    yield Row("tiny", f"{size.pixels} px: reflected steps with tiny VAEs / with full ones", ratio, spread=spread)
    own = own_work(flux, sdxl, size, clock)
    yield at_most("overhead", f"{size.pixels} px: the bridge's own work / a reflected step", own / whole * STEPS, 0.03)
    yield Row("overhead", "milliseconds of the bridge's own work per reflected step", own * 1e3)


def clock_of(device: str) -> Callable[[], float]:
    if not device.startswith("cuda"):
        return time.process_time

    def clock() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return clock


def peaks(size: Size, dtype: torch.dtype) -> Iterator[Row]:
    """Peak memory of the two memory plans that keep the strong model on the device (needs CUDA)."""
    for plan in ("resident", "weak-offload"):
        torch.cuda.empty_cache()
        flux, sdxl = pipelines(size, "cuda", dtype)
        if plan == "weak-offload":
            sdxl.enable_model_cpu_offload()
        torch.cuda.reset_peak_memory_stats()
        call(flux, sdxl, size, 1)
        yield Row("peak", f"{size.pixels} px: peak GB, memory plan {plan}", torch.cuda.max_memory_allocated() / 1e9)


# -- report ---------------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    parser = bench_parser(__doc__, output="outputs/benchmark_bridge.json", parts=("counts", "times"), quick=None)
    parser.add_argument("--device", default="cpu", help="cpu (default), or cuda: at full size with random weights")
    options = parser.parse_args(arguments)
    full = options.device.startswith("cuda")
    if full and not torch.cuda.is_available():
        parser.error(f"--device is {options.device}, and torch finds no CUDA device here; leave it out")
    claim(parser, options.output)
    torch.set_num_threads(1)
    rows: list[Row] = []
    if options.only != "times":
        rows += [*count_passes(SMALL), *full_size_arithmetic()]
    if options.only != "counts":
        size, dtype = (FULL, torch.bfloat16) if full else (SMALL, torch.float32)
        rows += time_shares(size, options.device, dtype)
        rows += peaks(size, dtype) if full else []
    return report(rows, options.output, {"device": options.device})
