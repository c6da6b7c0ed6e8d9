"""The measurement of a pair from start to end: load, measure, name what fails, recommend, draw."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from w2sd_video.commands.app import family_named
from w2sd_video.commands.engine import settled
from w2sd_video.commands.families.base import Loading
from w2sd_video.commands.plan import Plan
from w2sd_video.core import OnReflect
from w2sd_video.diagnosis.asking import Question, seeds_of, steps_of_run
from w2sd_video.diagnosis.blocks import BlockGaps, blocks_text
from w2sd_video.diagnosis.judging import calibration, failures, recommend, thresholds
from w2sd_video.diagnosis.measuring import Array, Measured, Pair, evaluations, measure, together
from w2sd_video.diagnosis.reporting import describe_measured, measured_text
from w2sd_video.hosting import NonFiniteLatentError, reflected
from w2sd_video.latents.schedules import Grid, read_schedule
from w2sd_video.pair import ModelSpec
from w2sd_video.report import figures
from w2sd_video.report.figures import GREY, METHOD_COLOURS, interval_line, log_scale, shared_legend, style, subplots
from w2sd_video.runs.progress import Progress

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOVE, GAP, OTHER, LIMIT = (METHOD_COLOURS[name] for name in ("w2sd, fused", "w2sd", "strong", "ideal"))


@dataclass(frozen=True)
class Treated:
    """What a measurement came to; `flags` are the recommended setting's, `finished` False where it broke off."""

    report: dict[str, Any]
    text: str
    flags: tuple[str, ...] = ()
    picture: Any = None
    finished: bool = True


def treat(question: Question, plan: Plan, progress: Progress) -> Treated:
    """Returns what the prompts of a plan (`asking.planned`), each from a few seeds, tell of a pair.

    Raises:
        UserError: the pair cannot be loaded.
    """
    seeds = seeds_of(question)
    count = len(plan.prompts) * seeds
    parts, blocks = [], BlockGaps()
    progress.started(count * evaluations(plan.steps), count)
    try:
        for prompt, seed, pair in loaded(plan, seeds, progress):
            progress.making(f"{prompt} (seed {seed})")
            parts.append(measure(pair))
            if question.arguments.blocks:
                blocks.add(pair, max(1, plan.steps // 2))
    except NonFiniteLatentError as error:
        message = f"the measurement broke off: {error}"
        return Treated({"failed": str(error)}, message, finished=False)
    finally:
        progress.close()
    measured = together(parts)
    gap, growth = float(measured.clean_gap.mean()), float(measured.growth.mean())
    limits = thresholds()
    failing = failures(gap, growth, limits)
    advice = recommend(measured, failing, steps=steps_of_run(question))
    asked = {"samples": count, "prompts": len(plan.prompts), "steps": plan.steps, "prompt_texts": list(plan.prompts)}
    report = describe_measured(measured, failing, limits, calibration(), advice, asked)
    picture, text = None, measured_text(report)
    if question.arguments.blocks:
        report["blocks"] = blocks.record()
        text += f"\n\n{blocks_text(report['blocks'])}"
    if question.arguments.output is not None and not figures.available():
        text += f"\n\nplot {figures.NOT_DRAWN}"
    elif question.arguments.output is not None:
        share = advice.reflections / advice.steps
        picture = draw_gap(measured, f"{plan.pair.name}: the gap by level", share, limits.similar_below)
    return Treated(report, text, advice.flags, picture)


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
        return read_schedule(self.pipe.scheduler, first_order=True)


def loaded(plan: Plan, seeds: int, progress: Progress) -> Iterator[tuple[str, int, Pair]]:
    """Loads the pair and yields (prompt, seed, pair) for each prompt of the plan and each of `seeds` noises.

    Raises:
        UserError: as the commands that make pictures or videos.
    """
    plan, _ = settled(family_named(plan.family), plan)
    pending = [task for group in plan.groups() for task in group]
    run = Loading(pending, note=progress.note, say=progress.note, bars=progress.bars)
    held: Any = family_named(plan.family).load(plan, run)
    strong = plan.pair.strong
    for prompt in plan.prompts:
        weak, inputs = held.other_side("weak", [prompt], plan.pair.weak.guidance)
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


@style()
def draw_gap(measured: Measured, title: str, reflections: float, similar_below: float) -> Figure:
    """The mean over samples by level, bands of a standard deviation; `reflections` is the recommended share of steps.

    `similar_below` is the threshold of over-similarity.
    """
    count = measured.move.shape[1] + 1
    x = np.arange(count - 1)
    figure, ((moves, sizes, directions),) = subplots(1, 3, size=(4.2, 3.6), title=title)
    _line(moves, x, measured.move, MOVE, "move of a reflection (fused)")
    if np.isfinite(measured.error).all():
        _line(moves, x, measured.error, GREY, "error of the inversion (zero-gap)")
    moves.set(title="What a reflection moves", ylabel="rms, latent units")
    log_scale(moves, "y")
    _line(sizes, x, measured.clean_gap, GAP, "gap of clean estimates / sample")
    _line(sizes, x, measured.gap, OTHER, "gap / prediction")
    sizes.axhline(similar_below, color=GREY, linestyle="--", label="too similar below (mean over levels)")
    sizes.set(title="Size of the gap", ylabel="relative")
    log_scale(sizes, "y")
    _line(directions, x[1:], measured.cosine[:, 1:], GAP, None)
    lowest = min(0.0, float(np.nanmin(measured.cosine))) - 0.05
    directions.set(title="Direction of successive gaps", ylabel="cosine", ylim=(lowest, 1.05))
    for axes in (moves, sizes, directions):
        axes.axvline(reflections * count - 0.5, color=LIMIT, linestyle="--", label="recommended lambda")
        axes.set(xlabel="sampling step, noisiest first", xlim=(-0.5, count - 1.5))
        axes.xaxis.get_major_locator().set_params(integer=True)
    shared_legend(figure, columns=5)
    return figure


def _line(axes: Any, x: Array, values: Array, colour: str, label: str | None) -> None:
    mean, spread = values.mean(0), values.std(0)
    low = np.maximum(mean - spread, 0.2 * mean) if (mean > 0).all() else mean - spread
    interval_line(axes, x.tolist(), list(zip(mean, low, mean + spread, strict=True)), color=colour, label=label)
