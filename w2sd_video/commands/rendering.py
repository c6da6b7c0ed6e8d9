"""One video of a loaded pair by one method: what each method means in terms of `reflected`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from w2sd_video.commands.method_settings import AS_THEY_SAMPLE, config_of, hosted_name
from w2sd_video.commands.request import Plan
from w2sd_video.hosting import reflected
from w2sd_video.hosting.finite import NonFiniteLatentError
from w2sd_video.loading.pairs import LoadedPair, PromptInputs
from w2sd_video.pair import ModelSpec, Selection
from w2sd_video.runs.choices import as_text
from w2sd_video.runs.tasks import SELECTING

Report = Callable[[int, int], None]
"""Called after each evaluation with how many are behind and how many there are in all."""


@dataclass(frozen=True)
class Rendered:
    """A video's frames `[F, H, W, 3]` uint8 RGB, what they cost, and the choices made (`choices.as_text`)."""

    frames: NDArray[np.uint8]
    num_evaluations: int
    num_forwards: int
    num_rows: int
    seconds: float
    peak_memory_mb: float
    choices: str | None = None


def render(
    pair: LoadedPair,
    plan: Plan,
    method: str,
    inputs: PromptInputs,
    seed: int,
    report: Report,
    *,
    selection: Selection | None = None,
) -> Rendered:
    """Returns one video of the pair.

    `weak` and `strong` sample one network alone with the plan's sampling guidance; `w2sd` reflects the strong side
    with the weak one; `zero-gap` reflects the strong side with itself; `swapped` samples the weak network and
    exchanges the two sides inside the reflection, each with its own guidance there. The re-sampling methods ask the
    sides as `w2sd` does; `w2sd-auto`, which needs the `selection`, and `autoguided` ask both as they sample alone. The
    initial noise, and all that follows, comes from a CPU generator seeded `seed`, so it is the same for all methods.

    Raises NonFiniteLatentError, naming the step and the likely cause, if a latent or the decoded frames are not finite.
    """
    strong, weak = (ModelSpec(guidance=scale) for scale in (plan.strong_guidance, plan.weak_guidance))
    alone = ModelSpec(guidance=plan.guidance)
    own, other = inputs.strong, inputs.weak or inputs.strong
    settings: dict[str, Any] = {"method": hosted_name(method)}
    settings["config"] = config_of(method, plan.reflection, weak if method == "swapped" else strong)
    if method in ("strong", "resample"):
        return _run(pair.pipe, own, plan, method, seed, report, **settings)
    if method == "zero-gap":
        return _run(pair.pipe, own, plan, method, seed, report, weak="zero-gap", **settings)
    if method == "weak":
        with _sampling(pair.pipe, pair.weak_unet):
            return _run(pair.pipe, other, plan, method, seed, report, **settings)
    if method != "swapped":
        side = (pair.weak, alone if method in AS_THEY_SAMPLE else weak)
        settings |= {"weak": side, "weak_inputs": inputs.weak}
        if method == SELECTING:
            settings["selection"] = selection
        return _run(pair.pipe, own, plan, method, seed, report, **settings)
    settings["weak_inputs"] = own if inputs.weak is not None else None
    if pair.weak is not pair.weak_unet:  # two text encoders: each side is a pipeline
        return _run(pair.weak, other, plan, method, seed, report, weak=(pair.pipe, strong), **settings)
    network = pair.pipe.unet
    with _sampling(pair.pipe, pair.weak_unet):
        return _run(pair.pipe, other, plan, method, seed, report, weak=(network, strong), **settings)


def compile_networks(pair: LoadedPair) -> None:
    """Makes torch compile the repeated blocks of both networks (whole ones take minutes and gain little more).

    Raises dynamo's limit of recompilations for this process: one block has more widths in a UNet than the usual 8.
    """
    import torch._dynamo

    torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
    repeated = ("BasicTransformerBlock", "ResnetBlock2D", "AnimateDiffTransformer3D")
    for network in (pair.pipe.unet, pair.weak_unet):
        for module in network.modules():
            if type(module).__name__ in repeated:
                module.compile()


def _run(
    pipe: Any, inputs: dict[str, Tensor], plan: Plan, way: str, seed: int, report: Report, **reflection: Any
) -> Rendered:
    pipe.set_progress_bar_config(disable=True)
    cuda = plan.device.startswith("cuda")
    if cuda:
        torch.cuda.reset_peak_memory_stats(plan.device)
    steps = plan.steps_of(way)
    begin = time.perf_counter()
    with reflected(pipe, progress=report, **reflection) as run:
        output = pipe(
            **inputs,
            num_frames=plan.num_frames,
            height=plan.height,
            width=plan.width,
            num_inference_steps=steps,
            guidance_scale=plan.guidance,
            generator=torch.Generator("cpu").manual_seed(seed),
            output_type="np",
        )
    pictures = np.asarray(output.frames)[0]  # [F, H, W, 3] in 0..1
    seconds = time.perf_counter() - begin
    if not np.isfinite(pictures).all():
        raise NonFiniteLatentError(
            steps, steps, "the decoding that follows", f"the VAE overflows in {plan.dtype}: use float32"
        )
    return Rendered(
        frames=np.rint(pictures.clip(0, 1) * 255).astype(np.uint8),
        num_evaluations=run.num_evaluations,
        num_forwards=run.num_forwards,
        num_rows=run.num_rows,
        seconds=seconds,
        peak_memory_mb=peak_memory() if not cuda else torch.cuda.max_memory_allocated(plan.device) / 2**20,
        choices=as_text(run.choices) if way == SELECTING else None,
    )


@contextmanager
def _sampling(pipe: Any, network: Any) -> Iterator[None]:
    """Inside, the pipeline's network is this one."""
    own = pipe.unet
    pipe.unet = network
    try:
        yield
    finally:
        pipe.unet = own


def peak_memory() -> float:
    """The most memory this process has held so far, in MiB (0 where the system does not tell)."""
    try:
        import resource
    except ImportError:
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
