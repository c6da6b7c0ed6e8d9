"""The measurement of a pair from start to end: load, measure, name what fails, recommend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from w2sd_video.diagnosis.asking import Question, planned, steps_of_run
from w2sd_video.diagnosis.failure_modes import failures, thresholds
from w2sd_video.diagnosis.in_memory import loaded
from w2sd_video.diagnosis.measuring import evaluations, measure, together
from w2sd_video.diagnosis.plotting import draw_gap
from w2sd_video.diagnosis.recommending import recommend
from w2sd_video.diagnosis.summarising import describe_measured, measured_text
from w2sd_video.diagnosis.thresholds import calibration
from w2sd_video.errors import UserError
from w2sd_video.hosting import NonFiniteLatentError
from w2sd_video.report import figures
from w2sd_video.runs.progress import Progress


@dataclass(frozen=True)
class Treated:
    """What a measurement came to; `flags` are the recommended setting's, `finished` False where it broke off."""

    report: dict[str, Any]
    text: str
    flags: tuple[str, ...] = ()
    picture: Any = None
    finished: bool = True


def treat(question: Question, progress: Progress) -> Treated:
    """Returns what a few prompts and seeds tell of a pair.

    Raises:
        UserError: as the commands that make its pictures or videos, or a number of steps or seeds that cannot be had.
    """
    seeds = 1 if question.arguments.seeds is None else question.arguments.seeds
    if seeds < 1:
        raise UserError(f"--seeds is {seeds}; give at least 1 noise per prompt")
    plan = planned(question, progress)
    if plan.steps < 3:
        raise UserError(f"--steps is {plan.steps}; give at least 3, so that there are levels to compare")
    count = len(plan.prompts) * seeds
    parts = []
    progress.started(count * evaluations(plan.steps), count)
    try:
        for prompt, seed, pair in loaded(plan, seeds, progress):
            progress.making(f"{prompt} (seed {seed})")
            parts.append(measure(pair))
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
    if question.arguments.output is not None and not figures.available():
        text += f"\n\nplot {figures.NOT_DRAWN}"
    elif question.arguments.output is not None:
        share = advice.reflections / advice.steps
        picture = draw_gap(measured, f"{plan.pair.name}: the gap by level", share, limits.similar_below)
    return Treated(report, text, advice.flags, picture)
