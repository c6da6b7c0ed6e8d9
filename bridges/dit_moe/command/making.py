"""A DiT-MoE in memory, and what each method means in terms of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray

from bridges.dit_moe.checkpoints import from_checkpoint
from bridges.dit_moe.command.request import SamplePlan
from bridges.dit_moe.pipeline import DiTMoEPipeline, build_scheduler
from w2sd_video.commands.making import peak_memory
from w2sd_video.errors import UserError
from w2sd_video.gaps.routing import routed
from w2sd_video.hosting import NonFiniteLatentError, reflected
from w2sd_video.loading.parts import progress_bars
from w2sd_video.loading.placement import DTYPES
from w2sd_video.pair import ModelSpec
from w2sd_video.runs.runs import Made, NotMadeError, Report
from w2sd_video.runs.tasks import Task


def load_pipeline(plan: SamplePlan, *, bars: bool = False) -> DiTMoEPipeline:
    """The network with its VAE and scheduler, on the plan's device; `bars` shows those of loading.

    Raises:
        UserError: what the files hold cannot be loaded.
    """
    with progress_bars(shown=bars):
        pipe = _loaded(plan, DTYPES[plan.dtype])
    pipe.to(plan.device)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _loaded(plan: SamplePlan, dtype: torch.dtype) -> DiTMoEPipeline:
    path = Path(plan.checkpoint).expanduser()
    vae = None if plan.vae is None else _vae(plan.vae, dtype)
    if plan.checkpoint_kind == "pipeline":
        given = {} if vae is None else {"vae": vae}
        try:
            return DiTMoEPipeline.from_pretrained(path, dtype=dtype, local_files_only=True, **given)
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(f"cannot read the pipeline in {path}: {error}") from error
    network = from_checkpoint(path, torch_dtype=dtype, allow_pickle=plan.allow_pickle)
    assert plan.path is not None
    return DiTMoEPipeline(network, vae, build_scheduler(plan.path))


def _vae(given: str, dtype: torch.dtype) -> AutoencoderKL:
    local = Path(given).expanduser()
    source = local if local.is_dir() else given
    try:
        return AutoencoderKL.from_pretrained(source, dtype=dtype, local_files_only=local.is_dir())
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"cannot read the VAE {given}: {error}") from error


@dataclass
class Sampler:
    """The loaded pipeline, making batches of pictures."""

    plan: SamplePlan
    pipe: DiTMoEPipeline

    def make(self, tasks: Sequence[Task], report: Report) -> list[Made | NotMadeError]:
        """Returns a picture, or why there is none, for each task; all are of one method.

        `weak` and `strong` sample by themselves, `w2sd` reflects the strong routing with the weak one, `zero-gap` with
        itself, `swapped` the weak one with the strong. Each picture's noise comes from a CPU generator of its own.
        """
        try:
            return list(self._sampled(tasks, report))
        except NonFiniteLatentError as error:
            if len(tasks) == 1:
                return [NotMadeError(str(error))]
            # One picture's NaN is the batch's: by itself each shows whose it was.
            return [made for task in tasks for made in self.make([task], lambda behind, total: None)]

    def hosted(self, method: str, report: Report | None = None) -> tuple[AbstractContextManager, Any, float]:
        """What a method samples in: its routing, the reflection, and the guidance of the sampling side."""
        plan = self.plan
        settings: dict[str, Any] = {"num_reflections": plan.reflections, "mode": plan.mode, "strength": plan.strength}
        weak_samples = method in ("weak", "swapped")
        side: AbstractContextManager = (
            routed(self.pipe.transformer, plan.weak_routing) if weak_samples else nullcontext()
        )
        if method in ("weak", "strong"):
            run = reflected(self.pipe, num_reflections=0, progress=report)
        elif method == "w2sd":
            weak = ModelSpec(routing=plan.weak_routing, guidance=plan.weak_guidance)
            run = reflected(self.pipe, weak, progress=report, **settings)
        elif method == "swapped":
            strong = ModelSpec(routing=plan.routing, guidance=plan.guidance)
            run = reflected(self.pipe, strong, progress=report, **settings)
        else:
            assert method == "zero-gap", method
            run = reflected(self.pipe, "zero-gap", progress=report, **settings)
        return side, run, plan.weak_guidance if weak_samples else plan.guidance

    def call(self, tasks: Sequence[Task], guidance: float, output_type: str) -> Any:
        """What the pipeline makes of the tasks' classes and noises."""
        return self.pipe(
            [self.plan.class_ids[task.prompt] for task in tasks],
            num_inference_steps=self.plan.steps,
            guidance_scale=guidance,
            guidance_channels=self.plan.guidance_channels,
            generator=[torch.Generator("cpu").manual_seed(task.seed) for task in tasks],
            output_type=output_type,
        ).images

    def _sampled(self, tasks: Sequence[Task], report: Report) -> Sequence[Made | NotMadeError]:
        cuda = self.plan.device.startswith("cuda")
        if cuda:
            torch.cuda.reset_peak_memory_stats(self.plan.device)
        side, hosted, guidance = self.hosted(tasks[0].method, report)
        begin = time.perf_counter()
        with side, hosted as run:
            pictures = self.call(tasks, guidance, "np")
        seconds = (time.perf_counter() - begin) / len(tasks)
        peak = torch.cuda.max_memory_allocated(self.plan.device) / 2**20 if cuda else peak_memory()

        def made(picture: NDArray[np.floating]) -> Made | NotMadeError:
            if not np.isfinite(picture).all():
                return NotMadeError(f"the picture is not finite: the VAE overflows in {self.plan.dtype}; use float32")
            return Made(
                frames=np.rint(picture.clip(0, 1) * 255).astype(np.uint8)[None],
                num_evaluations=run.num_evaluations,
                num_forwards=run.num_forwards,  # calls of the network, which the pictures of a batch share
                num_rows=run.num_rows // len(tasks),
                seconds=seconds,
                peak_memory_mb=peak,
            )

        return [made(picture) for picture in pictures]
