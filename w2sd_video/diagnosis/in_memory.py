"""A planned pair loaded once, as something that can be measured: one prompt and seed at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from w2sd_video.commands.app import family_named
from w2sd_video.commands.engine import on_device
from w2sd_video.commands.families.base import Loading
from w2sd_video.commands.plan import Plan
from w2sd_video.core import OnReflect
from w2sd_video.diagnosis.measuring import Grid, Pair
from w2sd_video.hosting import reflected
from w2sd_video.latents.schedules import read_schedule
from w2sd_video.pair import ModelSpec
from w2sd_video.runs.progress import Progress


@dataclass
class SampledPair:
    """One prompt and seed of a loaded pair. `partners` are what `reflected` takes as the weak side, by name; `own` are
    the pipeline's call arguments; `standing` makes a context in which its networks are as the strong side samples.
    """

    pipe: Any
    own: dict[str, Any]
    seed: int
    weak: Any
    weak_inputs: dict[str, Any] | None
    reflector: ModelSpec
    progress: Progress
    standing: Callable[[], Any]

    def sample(self, partner: str | None, mode: str, num_reflections: int | None, watch: OnReflect | None) -> Tensor:
        done = 0

        def report(behind: int, _: int) -> None:
            nonlocal done
            self.progress.evaluated(behind - done)
            done = behind

        self.pipe.set_progress_bar_config(disable=True)
        with (
            self.standing(),
            reflected(
                self.pipe,
                self.weak if partner == "weak" else partner,
                num_reflections=num_reflections,
                mode=mode,
                reflector=self.reflector,
                weak_inputs=self.weak_inputs if partner == "weak" else None,
                on_reflect=watch,
                first_order=True,
                progress=report,
            ),
        ):
            generator = torch.Generator("cpu").manual_seed(self.seed)
            made = self.pipe(**self.own, generator=generator, output_type="latent", return_dict=False)[0]
        return made.detach()

    def grid(self) -> Grid:
        return grid_of(self.pipe)


def grid_of(pipe: Any) -> Grid:
    """The levels of a pipeline's last call."""
    schedule = read_schedule(pipe.scheduler, first_order=True)
    return Grid(schedule.levels, schedule.path)


def loaded(plan: Plan, seeds: int, progress: Progress) -> Iterator[tuple[str, int, Pair]]:
    """Loads the pair and yields (prompt, seed, pair) for each prompt of the plan and each of `seeds` noises.

    Raises:
        UserError: as the commands that make pictures or videos.
    """
    plan = on_device(plan)[0]
    pending = [task for group in plan.groups() for task in group]
    run = Loading(pending, note=progress.note, say=progress.note, bars=progress.bars)
    held: Any = family_named(plan.family).load(plan, run)
    strong = plan.pair.strong
    for prompt in plan.prompts:
        weak, inputs = held.other_side("weak", prompt, plan.pair.weak.guidance)
        own = {
            **held.text("strong", prompt),
            **held.extra,
            "height": plan.height,
            "width": plan.width,
            "num_inference_steps": plan.steps,
            "guidance_scale": plan.sampling_guidance("strong"),
        }
        if plan.num_frames is not None:
            own["num_frames"] = plan.num_frames
        if strong.control is not None:
            own["controlnet_conditioning_scale"] = strong.control["scale"]
        for seed in range(plan.seed, plan.seed + seeds):
            reflector = ModelSpec(guidance=strong.guidance)
            standing = lambda: held.standing("strong")  # noqa: E731
            yield prompt, seed, SampledPair(held.strong, own, seed, weak, inputs or None, reflector, progress, standing)
