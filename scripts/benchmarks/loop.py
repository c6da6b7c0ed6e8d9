"""Measure what W2SD costs: python scripts/benchmark.py [--quick] [--output FILE]

First integers, which never flake: network rows per video, numbers read back from the device inside the loop, calls of
text encoders, bytes of a pair. Then ratios of CPU times taken in turn (A, B, A) on one thread, beside how far A strays
from A. The networks are random AnimateDiff-SDXL ones of the real classes: small for the integers, mid-size for the
times. About 6 minutes of one core, --quick half a minute. Exit code 1 if an integer is off, or a ratio is above its
target by more than its own A/A spread.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AnimateDiffSDXLPipeline, MotionAdapter, UNet2DConditionModel
from experiments.demo import components
from torch import Tensor, nn

from benchmarks.measuring import (
    Meter,
    Row,
    at_most,
    bench_parser,
    claim,
    cpu_seconds,
    equal,
    paired_ratio,
    recorded_calls,
    report,
)
from w2sd_video import ModelSpec, reflected
from w2sd_video.loading.animatediff import assemble_motion_unet
from w2sd_video.loading.pair_description import describe_pair
from w2sd_video.loading.pairs import load_pair
from w2sd_video.loading.parts import progress_bars
from w2sd_video.loading.placement import encoded_prompts
from w2sd_video.loading.sharing import unique_bytes


@dataclass(frozen=True)
class Size:
    """A network and a video: channels of the first block, frames, pixels of a side (latents are a quarter of it)."""

    width: int
    frames: int
    pixels: int


TINY, SMALL, MIDDLE = Size(16, 2, 16), Size(32, 4, 32), Size(96, 8, 64)


# -- random pipelines of the real classes ---------------------------------------------------------------------------


def unet_2d(width: int, seed: int) -> UNet2DConditionModel:
    config = components.build_unet().config
    torch.manual_seed(seed)
    heads = (width // 16, width // 8)
    wider = UNet2DConditionModel.from_config(config, block_out_channels=(width, 2 * width), attention_head_dim=heads)
    return wider.eval()


def motion_adapter(width: int) -> MotionAdapter:
    config = components.build_motion_adapter().config
    torch.manual_seed(7)
    return MotionAdapter.from_config(config, block_out_channels=(width, 2 * width)).eval()


def pipeline(size: Size, seed: int) -> AnimateDiffSDXLPipeline:
    """An AnimateDiff-SDXL pipeline; `seed` chooses the 2-D UNet, everything else is the same for all seeds."""
    adapter, tokenizer = motion_adapter(size.width), components.build_tokenizer()
    unet = assemble_motion_unet(unet_2d(size.width, seed), adapter)
    torch.manual_seed(8)
    pipe = AnimateDiffSDXLPipeline(
        vae=components.build_vae().eval(),
        text_encoder=components.build_text_encoder(tokenizer, with_projection=False).eval(),
        text_encoder_2=components.build_text_encoder(tokenizer, with_projection=True).eval(),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet,
        motion_adapter=adapter,
        scheduler=components.build_scheduler(),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def call(pipe: Any, size: Size, steps: int, guidance: float, **texts: Any) -> Tensor:
    """The latents [1, 4, F, h, w] of one video; nothing is decoded."""
    return pipe(
        **(texts or {"prompt": "a red ring moving left", "negative_prompt": "a blue cross"}),
        num_frames=size.frames,
        height=size.pixels,
        width=size.pixels,
        num_inference_steps=steps,
        guidance_scale=guidance,
        generator=torch.Generator("cpu").manual_seed(0),
        output_type="latent",
    ).frames


def w2sd_call(pipe: Any, weak: Any, size: Size, steps: int, lam: int, guidances: tuple[float, float, float]) -> Any:
    """The latents and the run of one W2SD call; guidances are (sampling, strong in the reflection, weak)."""
    sampling, strong, weakly = guidances
    side = (weak, ModelSpec(guidance=weakly)) if lam else None
    with reflected(pipe, side, num_reflections=lam, reflector=ModelSpec(guidance=strong)) as run:
        return call(pipe, size, steps, sampling), run


def count_rows(steps: int) -> Iterator[Row]:
    """Rows against T r(sampling) + lambda (r(strong) + r(weak)), where r is 1 for guidance 0 or 1, else 2."""
    pipe, weak = pipeline(TINY, 1), pipeline(TINY, 2).unet
    for guidances, lam in (((3.0, 3.0, 1.0), steps - 1), ((5.5, 1.0, 1.0), steps - 1), ((1.0, 1.0, 0.0), steps // 5)):
        rows = [1 if guidance in (0, 1) else 2 for guidance in guidances]
        with Meter(pipe.unet, weak).watching() as meter:
            _, run = w2sd_call(pipe, weak, TINY, steps, lam, guidances)
        title = f"T {steps}, lambda {lam}, guidances {'/'.join(f'{g:g}' for g in guidances)}"
        yield equal("rows", f"network rows, {title}", meter.rows, steps * rows[0] + lam * (rows[1] + rows[2]))
        yield equal("rows", f"network rows as the run reports them, {title}", run.num_rows, meter.rows)
        yield equal("calls", f"evaluations, {title}", run.num_evaluations, steps + 2 * lam)
        yield equal("reads", f"host reads between evaluations, {title}", meter.reads_between, 0)
    with Meter(pipe.unet).watching() as meter:
        call(pipe, TINY, steps, 3.0)
    title = f"host reads between evaluations of the stock pipeline, T {steps}"
    yield Row("reads", title, meter.reads_between, None, True)


def count_pair() -> Iterator[Row]:
    """Text-encoder calls and bytes of a pair loaded from folders, and lambda 0 against the stock pipeline."""
    whole = pipeline(TINY, 1)
    with tempfile.TemporaryDirectory() as folder:
        strong, weak = Path(folder, "strong"), Path(folder, "weak")
        whole.save_pretrained(strong)
        unet_2d(TINY.width, 2).save_pretrained(weak / "unet")
        sides = load_pair(describe_pair(str(strong), str(weak)), dtype=torch.float32)
    pipe, weak_unet = sides["strong"], sides["weak"].unet
    pipe.set_progress_bar_config(disable=True)
    encoders = (pipe.text_encoder, pipe.text_encoder_2)
    calls: list[nn.Module] = []
    for encoder in encoders:
        encoder.register_forward_pre_hook(lambda encoder, _: calls.append(encoder))
    texts = encoded_prompts(pipe, ["a red ring"], "a blue cross", device="cpu")["a red ring"]
    for lam in range(3):
        with reflected(pipe, (weak_unet, ModelSpec(guidance=1.0)), num_reflections=lam):
            call(pipe, TINY, 3, 3.0, **texts)
    yield equal("text", "text-encoder calls for 3 videos of a prompt (2 encoders, 2 texts)", len(calls), 4)
    ours = unique_bytes(pipe.unet, weak_unet, pipe.vae)
    alone = unique_bytes(whole.unet, whole.vae)
    most = (alone + unique_bytes(unet_2d(TINY.width, 2))) / (2 * alone)
    title = "bytes of a pair's networks / of two pipelines' (at most: all but the 2-D UNet shared)"
    yield at_most("R7", title, ours / (2 * alone), most)
    stock = call(whole, TINY, 4, 3.0)
    hosted, _ = w2sd_call(whole, None, TINY, 4, 0, (3.0, 3.0, 1.0))
    difference = ((hosted - stock).norm() / stock.norm()).item()
    yield at_most("R3", "relative difference of lambda 0 from the stock pipeline's latents", difference, 1e-5)


# -- times ----------------------------------------------------------------------------------------------------------


def time_loops(size: Size, steps: int, rounds: int, say: Callable[[str], None]) -> Iterator[Row]:
    """R1: calls over their own bare forwards. R2: that over the stock pipeline's. R3: lambda 0 over the stock call."""
    pipe, weak = pipeline(size, 1), pipeline(size, 2).unet
    networks = [pipe.unet, weak]
    # In a small network a call's fixed cost (encoding, preparing) is not small beside the forwards: no target there.
    most, most_of_stock = (1.03, 1.0) if size == MIDDLE else (None, None)

    def stock() -> Any:
        return call(pipe, size, steps, 3.0)

    say("stock pipeline over its bare forwards")
    base, base_spread = paired_ratio(stock, recorded_calls(networks, stock), rounds)
    yield Row("R1", f"stock pipeline / its bare forwards, T {steps}", base, None, True, base_spread)
    for lam in (0, steps // 4, steps - 1):

        def ours(lam: int = lam) -> Any:
            return w2sd_call(pipe, weak, size, steps, lam, (3.0, 3.0, 1.0))

        say(f"W2SD with lambda {lam} over its bare forwards")
        ratio, spread = paired_ratio(ours, recorded_calls(networks, ours), rounds)
        yield at_most("R1", f"W2SD / its bare forwards, T {steps}, lambda {lam}", ratio, most, spread)
        title = f"W2SD / stock pipeline at equal forwards, T {steps}, lambda {lam}"
        yield at_most("R2", title, ratio / base, most, max(spread, base_spread))
    say("lambda 0 over the stock pipeline")
    ratio, spread = paired_ratio(lambda: w2sd_call(pipe, weak, size, steps, 0, (3.0, 3.0, 1.0)), stock, rounds)
    yield at_most("R3", f"W2SD with lambda 0 / stock pipeline, T {steps}", ratio, most_of_stock, spread)


def time_stub(rounds: int) -> Iterator[Row]:
    """What the loops themselves cost, with networks that do nothing."""
    pipe, weak = pipeline(TINY, 1), pipeline(TINY, 2).unet

    def still(sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        return (sample,) if kwargs.get("return_dict") is False else argparse.Namespace(sample=sample)

    pipe.unet.forward = weak.forward = still
    few, many = 10, 60

    def cost(make: Callable[[int], Any]) -> float:
        make(few)
        return statistics.median(
            (cpu_seconds(lambda: make(many)) - cpu_seconds(lambda: make(few))) / (many - few) for _ in range(rounds)
        )

    stock = cost(lambda steps: call(pipe, TINY, steps, 3.0))
    yield Row("stub", "stock pipeline, microseconds per step with a network that does nothing", stock * 1e6, None, True)
    ours = cost(lambda steps: w2sd_call(pipe, weak, TINY, steps, steps - 1, (3.0, 3.0, 1.0)))
    title = "W2SD, microseconds per reflected step (3 evaluations) with networks that do nothing"
    yield Row("stub", title, ours * 1e6, None, True)


# -- report ---------------------------------------------------------------------------------------------------------


def measure(only: str | None, *, quick: bool) -> list[Row]:
    """All rows, or those of `only` "counts" or "times"; says on standard error what it is at."""

    def say(what: str) -> None:
        print(f"measuring: {what}", file=sys.stderr, flush=True)

    rows: list[Row] = []
    if only != "times":
        say("rows, host reads, text-encoder calls, bytes")
        rows += [*count_rows(50), *count_pair()]
    if only != "counts":
        size, steps, rounds = (SMALL, 4, 3) if quick else (MIDDLE, 6, 5)
        rows += time_loops(size, steps, rounds, say)
        say("the loops without networks")
        rows += time_stub(3)
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    parser = bench_parser(
        __doc__,
        output="outputs/benchmark.json",
        parts=("counts", "times"),
        quick="a small network and fewer rounds: half a minute",
    )
    options = parser.parse_args(arguments)
    claim(parser, options.output)
    torch.set_num_threads(1)
    with progress_bars(shown=False):
        rows = measure(options.only, quick=options.quick)
    return report(rows, options.output, {"quick": options.quick})
