"""A DiT-MoE in memory, and what each method means in terms of it."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray

from bridges.dit_moe.checkpoints import from_checkpoint
from bridges.dit_moe.network import DiTMoE
from bridges.dit_moe.pipeline import DiTMoEPipeline, build_scheduler
from bridges.dit_moe.settings import sampling_guidance
from w2sd_video.commands.families.base import Loading
from w2sd_video.commands.measuring import part_of
from w2sd_video.commands.method_settings import AS_THEY_SAMPLE, config_of, hosted_name
from w2sd_video.commands.plan import Plan
from w2sd_video.commands.rehearsing import methods_of
from w2sd_video.commands.rewards import Reward, RewardFailedError, load_reward
from w2sd_video.core import OnReflect
from w2sd_video.gaps.routing import routed
from w2sd_video.hosting import NonFiniteLatentError, reflected
from w2sd_video.latents.vaes import cause_of_nan
from w2sd_video.loading.describe import Weights
from w2sd_video.loading.files import local_only, read_json, weight_files
from w2sd_video.loading.parts import Told, check_header, progress_bars, reading
from w2sd_video.loading.pipelines import class_of
from w2sd_video.loading.placement import DTYPES, peak_memory
from w2sd_video.loading.rehearsal import check_schedule, check_vae
from w2sd_video.loading.streaming import trim
from w2sd_video.pair import ModelSpec
from w2sd_video.runs.runs import Made, NotMadeError, Report
from w2sd_video.runs.tasks import ALONE, SELECTING, Task, as_text

# oneDNN keeps a kernel for each number of tokens that an expert was given, 1024 of them by itself: at B/2 that came to
# .8 GB in 7 evaluations. 64 take .1 GB, and no more time.
KERNELS = "64"


def load_sampler(plan: Plan, run: Loading) -> Sampler:
    """Returns the network with its VAE and scheduler, placed, and the reward where a method needs one.

    Raises:
        UserError: what the files hold cannot be loaded.
    """
    before = run.kept.pop() if run.kept else None
    if isinstance(before, Sampler) and (again := before.again(plan, run)) is not None:
        return again
    del before  # its memory is wanted
    _noted(plan, run)
    reward = None
    if plan.reward is not None and SELECTING in run.methods:
        reward = load_reward(plan.reward, device=plan.device, allow_pickle=plan.allow_pickle)
    return Sampler(plan, load_pipeline(plan, bars=run.bars, told=run.read), reward)


def _noted(plan: Plan, run: Loading) -> None:
    if (before := run.record.get("batch", plan.batch)) != plan.batch:
        run.note(f"the batch was {before} before; pictures of {plan.batch} differ from those by rounding")
    run.amend(batch=plan.batch)
    if plan.total is not None and plan.shown is not None and plan.total > plan.shown:
        run.note(f"This page shows the first {plan.shown} of {plan.total} pictures of each method.")


def _files(plan: Plan) -> tuple[Any, ...]:
    """What of a plan says which models it needs, and where."""
    own = plan.own
    return plan.pair.strong.checkpoint, own.kind, own.vae, own.path, plan.dtype, plan.device, plan.memory


def rehearse(plan: Plan) -> None:
    """Raises `UserError` where the network's weights are not those that its config describes, or the methods cannot
    reflect on its levels.
    """
    own, given = plan.own, Path(str(plan.pair.strong.checkpoint)).expanduser()
    scheduler = None if own.path is None else build_scheduler(own.path)
    if given.is_dir():
        folder = given / "transformer" if own.kind == "pipeline" else given
        header = Weights(tuple(weight_files(folder))).header
        check_header(DiTMoE, read_json(folder / "config.json"), header, str(given), "network")
    vae = given / "vae" if own.vae is None else Path(own.vae).expanduser()
    if vae.is_dir() and (files := weight_files(vae)):
        check_vae(AutoencoderKL, read_json(vae / "config.json"), Weights(tuple(files)).header, str(vae))
    if own.kind == "pipeline":
        config = read_json(given / "scheduler" / "scheduler_config.json")
        scheduler = class_of(["diffusers", config.get("_class_name")], str(given)).from_config(config)
    check_schedule(scheduler, plan.steps, methods_of(plan, ("strong", "weak")))


def load_pipeline(plan: Plan, *, bars: bool = False, told: Told = lambda size, part: None) -> DiTMoEPipeline:
    """Returns the pipeline, placed; `bars` shows those of loading, `told` hears of bytes read, and of which part."""
    if plan.device == "cpu":
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", KERNELS)  # oneDNN looks when it makes its first kernel
    with progress_bars(shown=bars):
        pipe = _loaded(plan, DTYPES[plan.dtype], told)
    if plan.memory == "model-offload":
        pipe.enable_model_cpu_offload(device=plan.device)
    elif plan.memory == "sequential":
        pipe.enable_sequential_cpu_offload(device=plan.device)
    else:
        pipe.to(plan.device)
    trim()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _loaded(plan: Plan, dtype: torch.dtype, told: Told) -> DiTMoEPipeline:
    own, given = plan.own, plan.pair.strong.checkpoint
    assert given is not None
    path = Path(given).expanduser()
    vae = None if own.vae is None else _vae(own.vae, dtype, told)
    network = from_checkpoint(
        path, torch_dtype=dtype, allow_pickle=plan.allow_pickle, told=lambda size: told(size, "transformer")
    )
    if own.kind == "pipeline":
        more = {} if vae is None else {"vae": vae}
        with reading(given, "pipeline"):
            pipe = DiTMoEPipeline.from_pretrained(path, dtype=dtype, local_files_only=True, transformer=network, **more)
        if vae is None:
            _tell_vae(path / "vae", told)
        return pipe
    assert own.path is not None
    return DiTMoEPipeline(network, vae, build_scheduler(own.path))


def _vae(given: str, dtype: torch.dtype, told: Told) -> AutoencoderKL:
    local = Path(given).expanduser()
    source = local if local.is_dir() else given
    with reading(given, "VAE"):
        vae = AutoencoderKL.from_pretrained(source, dtype=dtype, local_files_only=local_only(given))
    _tell_vae(local, told)
    return vae


def _tell_vae(folder: Path, told: Told) -> None:
    if folder.is_dir():
        told(Weights(tuple(weight_files(folder))).nbytes, "vae")


@dataclass
class Sampler:
    """The loaded pipeline, making batches of pictures; `reward` is there where w2sd-auto is to be made, and `watch` is
    told of each reflection.
    """

    plan: Plan
    pipe: DiTMoEPipeline
    reward: Reward | None = None
    watch: OnReflect | None = None

    def make(self, tasks: Sequence[Task], report: Report) -> list[Made | NotMadeError]:
        """Returns a picture, or why there is none, for each task; all are of one method.

        `weak` and `strong` sample by themselves, `w2sd` reflects the strong routing with the weak one, `zero-gap` with
        itself, `swapped` the weak one with the strong; the re-sampling methods ask the sides as `w2sd` does,
        `autoguided` and `w2sd-auto` (a picture at a time: each has a reward of its own prompt) as they sample by
        themselves. Each picture's noise comes from a CPU generator of its own.
        """
        if tasks[0].method == SELECTING and len(tasks) > 1:
            return self._by_themselves(tasks, report)
        try:
            return list(self._sampled(tasks, report))
        except (NonFiniteLatentError, RewardFailedError) as error:
            if len(tasks) == 1:
                return [NotMadeError(str(error))]
            # One picture's NaN is the batch's: by itself each shows whose it was.
            return self._by_themselves(tasks, lambda behind, total: None)

    def again(self, plan: Plan, run: Loading) -> Sampler | None:
        """Returns the same models for another plan; None where that needs others, or a reward."""
        if _files(plan) != _files(self.plan) or SELECTING in run.methods:
            return None
        _noted(plan, run)
        return replace(self, plan=plan)

    def _by_themselves(self, tasks: Sequence[Task], report: Report) -> list[Made | NotMadeError]:
        parts = [part_of(report, number, len(tasks)) for number in range(len(tasks))]
        return [made for task, part in zip(tasks, parts, strict=True) for made in self.make([task], part)]

    def hosted(
        self, method: str, report: Report | None = None, prompt: str = ""
    ) -> tuple[AbstractContextManager, Any, float]:
        """What a method samples in: its routing, the reflection, and the guidance of the sampling side."""
        plan = self.plan
        own, other = ("weak", "strong") if method in ("weak", "swapped") else ("strong", "weak")
        side = routed(self.pipe.transformer, plan.own.weak_routing) if own == "weak" else nullcontext()
        guidance = sampling_guidance(plan, own)
        if method in ALONE:
            return side, reflected(self.pipe, num_reflections=0, progress=report), guidance
        settings: dict[str, Any] = {
            "method": hosted_name(method),
            "config": config_of(method, plan.reflection, ModelSpec(guidance=plan.side(own).guidance)),
        }
        if method == "zero-gap":
            settings["weak"] = "zero-gap"
        elif method != "resample":
            scale = sampling_guidance(plan, other) if method in AS_THEY_SAMPLE else plan.side(other).guidance
            settings["weak"] = ModelSpec(routing=plan.side(other).routing, guidance=scale)
        if method == SELECTING:
            assert plan.reward is not None and self.reward is not None
            settings["selection"] = plan.reward.selection(self.reward, prompt)
        return side, reflected(self.pipe, progress=report, on_reflect=self.watch, **settings), guidance

    def call(self, tasks: Sequence[Task], guidance: float, output_type: str) -> Any:
        """What the pipeline makes of the tasks' classes and noises."""
        return self.pipe(
            [self.plan.own.class_ids[task.prompt] for task in tasks],
            num_inference_steps=self.plan.steps_of(tasks[0].method),
            guidance_scale=guidance,
            guidance_channels=self.plan.own.guidance_channels,
            generator=[torch.Generator("cpu").manual_seed(task.seed) for task in tasks],
            output_type=output_type,
        ).images

    def _sampled(self, tasks: Sequence[Task], report: Report) -> Sequence[Made | NotMadeError]:
        cuda = self.plan.device.startswith("cuda")
        if cuda:
            torch.cuda.reset_peak_memory_stats(self.plan.device)
        side, hosted, guidance = self.hosted(tasks[0].method, report, tasks[0].prompt)
        begin = time.perf_counter()
        with side, hosted as run:
            pictures = self.call(tasks, guidance, "np")
        seconds = (time.perf_counter() - begin) / len(tasks)
        peak = torch.cuda.max_memory_allocated(self.plan.device) / 2**20 if cuda else peak_memory()

        def made(picture: NDArray[np.floating]) -> Made | NotMadeError:
            if not np.isfinite(picture).all():
                return NotMadeError(f"the picture is not finite: {cause_of_nan(self.plan.dtype)}")
            return Made(
                frames=np.rint(picture.clip(0, 1) * 255).astype(np.uint8)[None],
                num_evaluations=run.num_evaluations,
                num_forwards=run.num_forwards,  # calls of the network, which the pictures of a batch share
                num_rows=run.num_rows // len(tasks),
                seconds=seconds,
                peak_memory_mb=peak,
                choices=as_text(run.choices) if tasks[0].method == SELECTING else None,
            )

        return [made(picture) for picture in pictures]
