"""Measure W2SD on a GPU, without weights: python scripts/benchmark_gpu.py [--quick] [--only PART] [--device cpu]

Networks of the true shapes with random weights in bfloat16: AnimateDiff-SDXL (16 frames at 512 and 1024 px), SDXL,
Flux.1-dev, Wan 2.1 1.3B, DiT-MoE B/2. For each: seconds of a network row, as it is and with its blocks compiled,
against the floor of this card (its own matrix products and memory, measured first); a whole W2SD call against the bare
forwards that it makes; numbers read back by the host in the loop; peak memory by memory plan against the estimate.
Then switching LoRA scales, the experts sorted and in a plain loop, and how a step of the bridge divides. Under 8
minutes on a card with 48 GB or more; what does not fit is left out and said so. `--device cpu` runs the same code on
small networks.
"""

from __future__ import annotations

import gc
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import (
    AnimateDiffSDXLPipeline,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    MotionAdapter,
    StableDiffusionXLPipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import bridge, bridge_networks, lora, moe
from benchmarks.measuring import Meter, Row, at_most, bench_parser, claim, equal, recorded_calls, report
from w2sd_video import ModelSpec, reflected
from w2sd_video.loading.animatediff import assemble_motion_unet
from w2sd_video.loading.memory import Load, Sides, estimate_memory
from w2sd_video.loading.placement import compile_networks, place
from w2sd_video.loading.sizes import Sizes

STEPS, REFLECTIONS = 4, 3
MOST_LOOP = 1.03  # of the bare forwards' time
PLANS = ("resident", "model-offload", "group")
PARTS = ("networks", "memory", "lora", "moe", "bridge")


@dataclass(frozen=True)
class Machine:
    """Where it is measured: the device, networks' dtype, and what the device does in a second."""

    device: str
    dtype: torch.dtype
    budget: float
    operations: float = 0.0
    bytes: float = 0.0

    @property
    def gpu(self) -> bool:
        return self.device.startswith("cuda")

    def now(self) -> float:
        """Seconds, with nothing under way."""
        if self.gpu:
            torch.cuda.synchronize()
        return time.perf_counter()

    def seconds(self, function: Callable[[], Any], least: int = 3) -> float:
        """The median time of a call, after one to warm up; repeated for `budget` seconds, `least` times at least."""
        function()
        times: list[float] = []
        begin = self.now()
        while len(times) < least or (self.now() - begin < self.budget and len(times) < 20):
            start = self.now()
            function()
            times.append(self.now() - start)
        return statistics.median(times)


@dataclass(frozen=True)
class Case:
    """A pair: its name, a function that makes a pipeline and a second network, and the arguments of a call."""

    name: str
    make: Callable[[Machine], tuple[Any, nn.Module]]
    call: Callable[[Machine], dict[str, Any]]
    load: Load
    vae: int = 8  # pixels of a cell
    motion: bool = False
    guidance: float = 3.0
    facts: dict[str, Any] = field(default_factory=dict)


# -- networks ----------------------------------------------------------------------------------------------------------


def random_network(make: Callable[[], Any], machine: Machine) -> Any:
    """A network with random weights on the device, small enough at its end that a few steps stay finite."""
    with torch.device("meta"):
        network = make()
    network = network.to(machine.dtype).to_empty(device=machine.device).eval().requires_grad_(False)
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        if not tensor.is_floating_point():
            tensor.zero_()
        elif tensor.dim() < 2:
            tensor.fill_(1.0 if name.endswith("weight") else 0.0)
        else:
            tensor.normal_(0.0, 0.02)
        if name.startswith(("conv_out", "proj_out")) and tensor.dim() > 1:
            tensor.mul_(0.01)
    if hasattr(network, "rope") and hasattr(network.rope, "freqs_cos"):  # made in the constructor, and of no checkpoint
        network.rope = type(network.rope)(
            network.rope.attention_head_dim, network.rope.patch_size, network.rope.max_seq_len
        ).to(machine.device)
    return network


def sdxl_unet(machine: Machine, small: bool) -> Any:
    size = bridge_networks.SMALL if small else bridge_networks.FULL
    return random_network(lambda: bridge_networks.sdxl_unet(size), machine)


def make_sdxl(machine: Machine, small: bool) -> tuple[Any, nn.Module]:
    strong, weak = (sdxl_unet(machine, small) for _ in range(2))
    return _sdxl(StableDiffusionXLPipeline, strong), weak


def _sdxl(kind: Any, unet: Any, **more: Any) -> Any:
    nothing: dict[str, Any] = dict.fromkeys(("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
    return kind(
        **{**nothing, **more}, unet=unet, scheduler=DDIMScheduler(timestep_spacing="trailing", clip_sample=False)
    )


def make_animatediff(machine: Machine, small: bool) -> tuple[Any, nn.Module]:
    def motion_unet() -> Any:
        made = sdxl_unet(machine, small)
        return assemble_motion_unet(made, adapter)

    channels = bridge_networks.SMALL.unet if small else bridge_networks.FULL.unet
    settings: dict[str, Any] = {"block_out_channels": channels["block_out_channels"], "use_motion_mid_block": False}
    settings["motion_layers_per_block"] = channels.get("layers_per_block", 2)
    settings["motion_norm_num_groups"] = channels.get("norm_num_groups", 32)
    adapter = random_network(lambda: MotionAdapter(**settings), machine)
    strong, weak = motion_unet(), motion_unet()
    vae = random_network(lambda: bridge_networks.sdxl_vae(bridge_networks.SMALL), machine)  # asked for its dtype only
    return _sdxl(AnimateDiffSDXLPipeline, strong, motion_adapter=adapter, vae=vae), weak


def make_flux(machine: Machine, small: bool) -> tuple[Any, nn.Module]:
    size = bridge_networks.SMALL if small else bridge_networks.FULL
    network = random_network(lambda: bridge_networks.flux_transformer(size), machine)
    nothing = dict.fromkeys(("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
    return FluxPipeline(**nothing, transformer=network, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0)), network


def make_wan(machine: Machine, small: bool) -> tuple[Any, nn.Module]:
    sizes = {"num_attention_heads": 12, "attention_head_dim": 128, "ffn_dim": 8960, "num_layers": 30}
    if small:
        sizes = {"num_attention_heads": 2, "attention_head_dim": 32, "ffn_dim": 128, "num_layers": 2}
    network = random_network(lambda: WanTransformer3DModel(**sizes), machine)
    nothing = dict.fromkeys(("vae", "text_encoder", "tokenizer"))
    return WanPipeline(**nothing, transformer=network, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0)), network


def _numbers(machine: Machine, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, device=machine.device, dtype=machine.dtype)


def sdxl_call(machine: Machine, width: int, small: bool) -> dict[str, Any]:
    pooled = 1280 if not small else _pooled()
    texts = {"prompt_embeds": (1, 77, width), "pooled_prompt_embeds": (1, pooled)}
    told = {name: _numbers(machine, *shape) for name, shape in texts.items()}
    return {**told, **{f"negative_{name}": torch.zeros_like(tensor) for name, tensor in told.items()}}


def _pooled() -> int:
    unet = bridge_networks.SMALL.unet
    return int(unet["projection_class_embeddings_input_dim"]) - 6 * int(unet["addition_time_embed_dim"])


def flux_call(machine: Machine, small: bool) -> dict[str, Any]:
    settings = bridge_networks.SMALL.flux if small else {}
    tokens, width = (32 if small else 512), settings.get("joint_attention_dim", 4096)
    pooled = settings.get("pooled_projection_dim", 768)
    return {"prompt_embeds": _numbers(machine, 1, tokens, width), "pooled_prompt_embeds": _numbers(machine, 1, pooled)}


def wan_call(machine: Machine) -> dict[str, Any]:
    told = _numbers(machine, 1, 512, 4096)
    return {"prompt_embeds": told, "negative_prompt_embeds": torch.zeros_like(told)}


def cases(small: bool) -> list[Case]:
    """What is measured, at true size or small."""
    width = 2048 if not small else int(bridge_networks.SMALL.unet["cross_attention_dim"])

    def pixels(size: int) -> int:
        return 64 if small else size

    def frames(count: int) -> int:
        return 2 if small else count

    def video(size: int, h200: float) -> Case:
        return Case(
            f"AnimateDiff-SDXL, {frames(16)} frames, {pixels(size)} px",
            lambda machine: make_animatediff(machine, small),
            lambda machine: sdxl_call(machine, width, small),
            Load(2, pixels(size), pixels(size), frames(16)),
            motion=True,
            facts={"h200": h200},
        )

    wan = Load(2, 64, 64, 5) if small else Load(2, 480, 832, 33)
    return [
        video(512, 0.0378),
        video(1024, 0.1595),
        Case(
            f"SDXL, {pixels(1024)} px",
            lambda machine: make_sdxl(machine, small),
            lambda machine: sdxl_call(machine, width, small),
            Load(2, pixels(1024), pixels(1024)),
            facts={"h200": 0.00856},
        ),
        Case(
            f"Flux.1-dev, {pixels(1024)} px",
            lambda machine: make_flux(machine, small),
            lambda machine: flux_call(machine, small),
            Load(1, pixels(1024), pixels(1024)),
            facts={"h200": 0.0942},
        ),
        Case(
            f"Wan 2.1 1.3B, {wan.num_frames} frames, {wan.width}x{wan.height}",
            lambda machine: make_wan(machine, small),
            wan_call,
            wan,
        ),
    ]


# -- what is measured --------------------------------------------------------------------------------------------------


def of_the_card(device: str, dtype: torch.dtype, budget: float) -> Machine:
    """What the device does in a second: matrix products, and bytes moved."""
    machine = Machine(device, dtype, budget)
    side, numbers = (8192, 2**28) if machine.gpu else (512, 2**20)
    a, b = _numbers(machine, side, side), _numbers(machine, side, side)
    moved = _numbers(machine, numbers)
    products = 2 * side**3 / machine.seconds(lambda: a @ b)
    copied = 2 * moved.nbytes / machine.seconds(moved.clone)
    return Machine(device, dtype, budget, products, copied)


def call_of(case: Case, machine: Machine, pipe: Any, weak: nn.Module, arguments: dict[str, Any]) -> Callable[[], Any]:
    """A W2SD call to the latents."""
    load = case.load
    settings: dict[str, Any] = {"height": load.height, "width": load.width, "num_inference_steps": STEPS}
    if load.num_frames is not None:
        settings["num_frames"] = load.num_frames
    pipe.set_progress_bar_config(disable=True)
    same = weak is getattr(pipe, "transformer", None)

    def run() -> Any:
        side = ModelSpec(guidance=1.0) if same else (weak, ModelSpec(guidance=1.0))
        generator = torch.Generator("cpu").manual_seed(0)
        with reflected(pipe, side, num_reflections=REFLECTIONS) as counted:
            made = pipe(
                **arguments, **settings, guidance_scale=case.guidance, generator=generator, output_type="latent"
            )[0]
        assert torch.isfinite(made).all(), case.name
        return counted

    return run


def measure_network(case: Case, machine: Machine, *, compiled: bool) -> Iterator[Row]:
    """Times of a row and of a call, and host reads."""
    pipe, weak = case.make(machine)
    arguments = case.call(machine)
    run = call_of(case, machine, pipe, weak, arguments)
    network = getattr(pipe, "unet", None) or pipe.transformer
    networks = [network] if weak is network else [network, weak]
    with Meter(*networks).watching() as meter:
        counted = run()
    what = f"host reads between evaluations, {case.name}"
    if "Wan" in case.name:  # whose own loop reads
        yield Row("reads", what, meter.reads_between)
    else:
        yield equal("reads", what, meter.reads_between, 0)
    yield equal("rows", f"network rows as the run counts them, {case.name}", counted.num_rows, meter.rows)
    bare = recorded_calls(networks, run)
    rows = meter.rows
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        bare()
    weights = sum(tensor.nbytes for tensor in network.parameters())
    floor = max(flops.get_total_flops() / rows / machine.operations, weights / machine.bytes)
    eager = machine.seconds(bare)
    yield Row("row", f"milliseconds of a row, {case.name}", eager / rows * 1e3)
    yield Row("row", f"times this card's floor, {case.name}", eager / rows / floor)
    if machine.gpu and "h200" in case.facts:
        yield Row("row", f"times the floor of an H200, {case.name}", eager / rows / case.facts["h200"])
    whole = machine.seconds(run)
    target = MOST_LOOP if machine.gpu else None
    yield at_most("loop", f"a call / its bare forwards, {case.name}", whole / eager, target)
    if compiled:
        compile_networks(networks)
        fast = machine.seconds(bare)
        yield Row("compiled", f"milliseconds of a row, compiled, {case.name}", fast / rows * 1e3)
        yield Row("compiled", f"compiled / eager, {case.name}", fast / eager)


def measure_memory(case: Case, machine: Machine) -> Iterator[Row]:
    """Peaks of a call on the device by memory plan, against the estimate."""
    made = case.make(Machine("cpu", machine.dtype, 0))
    pipe, weak = made
    network = getattr(pipe, "unet", None) or pipe.transformer
    sides = _sides(case, network, None if weak is network else weak)
    estimate = estimate_memory(sides, dtype=str(machine.dtype).removeprefix("torch."), device=machine.device)
    arguments = case.call(machine)
    for plan in PLANS if machine.gpu else ("resident",):
        if plan != "resident":
            pipe, weak = case.make(Machine("cpu", machine.dtype, 0))
        place(pipe, None if weak is network else weak, machine.device, plan)
        if not machine.gpu:
            call_of(case, machine, pipe, weak, arguments)()
            planned = estimate.plans[plan].host["sample"]
            yield Row("peak", f"GB of the estimate, plan {plan}, {case.name}", planned / 1e9)
            continue
        torch.cuda.reset_peak_memory_stats()
        call_of(case, machine, pipe, weak, arguments)()
        peak, planned = torch.cuda.max_memory_allocated(), estimate.plans[plan].device["sample"]
        yield Row("peak", f"GB on the device, plan {plan}, {case.name}", peak / 1e9)
        yield at_most("peak", f"measured / estimated, plan {plan}, {case.name}", peak / planned, 1.1)
        del pipe, weak
        network = None
        _empty()


def _sides(case: Case, network: Any, weak: Any) -> Sides:
    motion = sum(t.numel() for name, t in network.named_parameters() if "motion_modules" in name)
    whole = sum(tensor.numel() for tensor in network.parameters()) - motion
    sizes = Sizes(
        {"network": whole},
        largest=max(tensor.numel() for tensor in network.parameters()),
        config=dict(network.config),
        vae_config={"block_out_channels": [128] * 4},
    )
    return Sides(
        sizes, None if weak is None else sizes, (case.load, None if weak is None else case.load), motion=motion
    )


def measure_moe(machine: Machine) -> Iterator[Row]:
    """A pass of DiT-MoE: tokens sorted by expert, a plain loop over the experts, and a CUDA graph."""
    name, changes = ("B/2", {}) if machine.gpu else ("S/2", {"num_layers": 1})
    net = moe.network(name, **changes).to(machine.device, machine.dtype)
    latents = _numbers(machine, 2, 4, 32, 32)
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
    unet = lora.network(320 if machine.gpu else 8).to(machine.device)
    board = lora.held(unet)
    weak = lora.sides()[1]

    def ours() -> None:
        for _ in range(100):
            with board.in_force(unet, weak):
                pass

    yield Row("lora", "microseconds to the weak side's LoRA scale and back", machine.seconds(ours) / 100 * 1e6)
    board.close()


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
    for case in cases(small=not machine.gpu):
        parts: list[tuple[str, Callable[[], Iterator[Row]]]] = [
            ("networks", lambda case=case: measure_network(case, machine, compiled=compiled)),  # type: ignore[misc]
            ("memory", lambda case=case: measure_memory(case, machine)),  # type: ignore[misc]
        ]
        for part, rows in parts:
            if only in (None, part):
                say(f"{part}, {case.name}")
                yield from _fitting(rows, case.name)
    if only in (None, "lora"):
        say("LoRA scales")
        yield from measure_lora(machine)
    if only in (None, "moe"):
        say("experts")
        yield from measure_moe(machine)
    if only in (None, "bridge"):
        say("the bridge")
        size = bridge_networks.FULL if machine.gpu else bridge_networks.SMALL
        yield from _fitting(lambda: bridge.time_shares(size, machine.device, machine.dtype), "the bridge")


def _fitting(rows: Callable[[], Iterator[Row]], name: str) -> Iterator[Row]:
    """The rows, or one that says that the card is too small for them."""
    try:
        yield from rows()
    except torch.OutOfMemoryError:
        yield Row("memory", f"left out, as the card is too small: {name}", 0)
    _empty()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = bench_parser(
        __doc__, output="outputs/benchmark_gpu.json", parts=PARTS, quick="nothing is compiled, times are taken once"
    )
    parser.add_argument("--device", default="cuda", help="cuda (default), or cpu: small networks, to try the program")
    options = parser.parse_args(arguments)
    gpu = options.device.startswith("cuda")
    if gpu and not torch.cuda.is_available():
        parser.error(f"--device is {options.device}, and torch finds no CUDA device here; --device cpu tries it small")
    claim(parser, options.output)
    name = torch.cuda.get_device_name(options.device) if gpu else "CPU"
    begin = time.perf_counter()
    machine = of_the_card(
        options.device, torch.bfloat16 if gpu else torch.float32, 0.0 if options.quick else 2.0 if gpu else 0.1
    )
    rows = list(measure(machine, options.only, compiled=gpu and not options.quick))
    rows.append(Row("all", "minutes", (time.perf_counter() - begin) / 60))
    return report(rows, options.output, {"device": name, "quick": options.quick})
