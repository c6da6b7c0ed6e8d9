"""What a reflection does where the weak model is the strong one: nothing, but for the error of its inversion."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from experiments.theory.drawing import (
    COLOURS,
    GREY,
    NAMES,
    Made,
    finished,
    level,
    log_scale,
    log_x,
    style,
    subplots,
    verdict,
)
from experiments.theory.mixtures import PATHS, Mixture, normal_quantiles, schedule
from experiments.theory.testbed import SCHEDULES
from w2sd_video.core import (
    Denoiser,
    Level,
    NoisePath,
    Path,
    invert,
    reflect,
    reflect_fused,
    reflect_release,
)

STEPS = (5, 8, 12, 20, 35, 50)
VARIANCES = (0.001, 0.003, 0.01, 0.05, 0.2, 1.0, 4.0)
REFLECTIONS = ("release", "paper", "lower level", "fixed point 2", "fused")
# Unit variance, as latents have: two narrow modes.
DATA = Mixture(means=(((1 - 0.25**2) ** 0.5,), (-((1 - 0.25**2) ** 0.5),)), weights=(0.5, 0.5), std=0.25)

Reflect = Callable[[Tensor, int], Tensor]


def reflections(kind: str, levels: list[Level], model: Denoiser, path: Path) -> Reflect:
    """The reflection of one model with itself, of x at levels[i]; "lower level" tells the inversion the level below."""

    def reflected(x: Tensor, i: int) -> Tensor:
        start, end = levels[i], levels[i + 1]
        if kind == "release":
            return reflect_release(x, start, end, levels[i + 2], model, model, path)
        if kind == "fused":
            return reflect_fused(x, start, end, model, model, path)
        if kind == "lower level":
            return invert(path.step(x, model(x, start), start, end), start, end, lambda x, _: model(x, end), path)
        return reflect(x, start, end, model, model, path, fixed_point=2 if kind == "fixed point 2" else 0)

    return reflected


def step_errors(name: str, num_steps: int, kind: str) -> list[float]:
    """The size of x~ - x over that of x, for each step but the last along a sampling run."""
    levels, path = schedule(name, num_steps), PATHS[name]
    model = DATA.denoiser(path)
    reflected, x, errors = reflections(kind, levels, model, path), normal_quantiles(), []
    for i, (start, end) in enumerate(itertools.pairwise(levels)):
        if i < num_steps - 1:
            errors.append(((reflected(x, i) - x).norm() / x.norm()).item())
        x = path.step(x, model(x, start), start, end)
    return errors


def kept_std(name: str, num_steps: int, kind: str, variances: Sequence[float]) -> list[float]:
    """The standard deviation of samples with T - 1 reflections over that of plain ones, of Gaussian data."""
    levels, path = schedule(name, num_steps), PATHS[name]
    variance = torch.tensor(variances, dtype=torch.float64)[:, None]

    def model(x: Tensor, level: Level) -> Tensor:
        clean = level.alpha * variance / (level.alpha**2 * variance + level.sigma**2) * x
        return (x - (level.alpha * clean if isinstance(path, NoisePath) else clean)) / level.sigma

    reflected = reflections(kind, levels, model, path)
    plain = mirrored = torch.ones_like(variance)  # all is linear: one number carries the deviation
    for i, (start, end) in enumerate(itertools.pairwise(levels)):
        plain = path.step(plain, model(plain, start), start, end)
        mirrored = reflected(mirrored, i) if i < num_steps - 1 else mirrored
        mirrored = path.step(mirrored, model(mirrored, start), start, end)
    return (mirrored / plain).flatten().tolist()


def zero_gap_numbers(schedules: Sequence[str] = SCHEDULES) -> dict[str, Any]:
    """Errors per step over T and the spread of the samples over the variance of the data, by schedule and reflection.

    A flow has no levels whose coefficients the release could get wrong, so "release" is "paper" there and left out.
    """
    found: dict[str, Any] = {"steps": list(STEPS), "variances": list(VARIANCES), "spread_steps": 50}
    for name in schedules:
        kinds = [kind for kind in REFLECTIONS if (name, kind) != ("flow", "release")]
        errors = {kind: [step_errors(name, steps, kind) for steps in STEPS] for kind in kinds}
        found[name] = {
            "mean_error": {kind: [sum(e) / len(e) for e in lists] for kind, lists in errors.items()},
            "largest_error": {kind: [max(e) for e in lists] for kind, lists in errors.items()},
            "kept_std": {kind: kept_std(name, 50, kind, VARIANCES) for kind in kinds},
        }
    return found


# --- figures ----------------------------------------------------------------------------------------------------------

LOOKS = {
    "release": ("release (coefficients one level off)", COLOURS["release"], "-"),
    "paper": ("paper (Eq. 4)", COLOURS["paper"], "-"),
    "lower level": ("paper, weak model at the lower level's timestep", COLOURS["weak"], "--"),
    "fixed point 2": ("paper, 2 fixed-point iterations", COLOURS["ideal"], "-"),
    "fused": ("fused (exactly 0)", COLOURS["fused"], "-"),
}
FLOOR = 1e-5  # where "exactly 0" is drawn on a log axis


@style()
def zero_gap() -> Made:
    numbers = zero_gap_numbers()
    title = "Reflection with no gap at all: the error of inversion alone"
    figure, (errors, spreads) = subplots(2, 2, size=(4.9, 3.2), title=title)
    for above, below, name in zip(errors, spreads, ("sdxl", "flow"), strict=True):
        mine = numbers[name]
        for kind, (label, colour, line) in LOOKS.items():
            if kind in mine["mean_error"]:
                looks = {"color": colour, "linestyle": line, "marker": "o", "label": label}
                above.plot(numbers["steps"], [max(error, FLOOR) for error in mine["mean_error"][kind]], **looks)
                below.plot(numbers["variances"], mine["kept_std"][kind], **looks)
        above.set(title=f"error of one reflection, {NAMES[name]}", xlabel="sampling steps T")
        log_scale(above, "y")
        above.set(ylabel="|x~ - x| / |x|, mean over steps", ylim=(FLOOR / 1.3, 1.0))
        log_x(above, numbers["steps"])
        level(below, 1.0, GREY)
        below.set(title=f"spread of the samples, T 50, {NAMES[name]}", ylim=(0.3, 1.15))
        below.set(xlabel="variance of the data along a direction", ylabel="std with reflections / without")
        log_scale(below, "x")
    sdxl = numbers["sdxl"]
    at_50, at_8 = numbers["steps"].index(50), numbers["steps"].index(8)
    detail = dict(zip(numbers["variances"], sdxl["kept_std"]["paper"], strict=True))
    measured = (
        f"With equal models one reflection moves a latent by {100 * sdxl['mean_error']['paper'][at_50]:.2f} % at T 50 "
        f"but {100 * sdxl['mean_error']['paper'][at_8]:.1f} % at T 8 (SDXL schedule); 49 of them leave "
        f"{100 * detail[0.01]:.0f} % of the spread of fine detail (variance .01). The fused form moves nothing."
    )
    small = sdxl["mean_error"]["paper"][at_50] < 0.01
    harmless = min(sdxl["kept_std"]["paper"]) > 0.95
    return Made(numbers, finished(figure, columns=3), measured, verdict(small, harmless))
