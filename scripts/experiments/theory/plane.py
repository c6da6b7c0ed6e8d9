"""Four modes in the plane: how they are filled, and which way each model points (Figures 6 and 27)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from experiments.theory.drawing import AWAY, COLOURS, NAMES, NOUNS, Made, finished, level, style, subplots, verdict
from experiments.theory.mixtures import Mixture
from experiments.theory.testbed import SCHEDULES, Testbed, divergence, mixtures_testbed, mode_shares, noise, run
from w2sd_video.core import Level

MEANS = ((-4.0, -4.0), (-4.0, 4.0), (4.0, -4.0), (4.0, 4.0))
IDEAL = Mixture(MEANS, (0.25, 0.25, 0.25, 0.25))
STRONG = Mixture(MEANS, (0.08, 0.24, 0.24, 0.44))
CLEAN = Level(0, 1.0, 0.0)
STEPS, SAMPLES = 20, 4000
METHODS = ("weak", "strong", "w2sd", "swapped", "autoguided", "ideal")


def squared(mixture: Mixture) -> Mixture:
    """The weak model: weights as its squares over the ideal's (all equal), as for the mixtures on a line."""
    weights = [weight**2 for weight in mixture.weights]
    return Mixture(mixture.means, tuple(weight / sum(weights) for weight in weights), mixture.std)


WEAK = squared(STRONG)


def bed(name: str) -> Testbed:
    return mixtures_testbed(name, IDEAL, STRONG, WEAK)


def grid(extent: float = 8.0, points: int = 81) -> Tensor:
    """The coordinates of a square grid along one axis, [points]."""
    return torch.linspace(-extent, extent, points, dtype=torch.float64)


def density(mixture: Mixture, axis: Tensor) -> Tensor:
    """The density of clean data on the grid, [Y, X]."""
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return mixture.log_density(torch.stack([x, y], dim=-1), CLEAN).exp()


def smoothed(samples: Tensor, axis: Tensor, width: float = 0.5) -> Tensor:
    """A density of samples [N, 2] on the grid [Y, X]: a Gaussian of this width for each."""

    def kernel(values: Tensor) -> Tensor:
        offsets = (axis[:, None] - values) / width
        return torch.exp(-offsets.square() / 2) / (width * math.sqrt(2 * math.pi))  # [grid, N]

    return kernel(samples[:, 1]) @ kernel(samples[:, 0]).T / len(samples)


def sampled(name: str, method: str, count: int = SAMPLES) -> Tensor:
    """Samples [count, 2] of a method; W2SD fused."""
    return run(bed(name), method, noise(count, 2), STEPS).final


def plane_numbers(schedules: Sequence[str] = SCHEDULES) -> dict[str, Any]:
    """Shares of the modes and their divergence from the ideal's, by schedule and method, T 20, 4000 samples."""
    found: dict[str, Any] = {"steps": STEPS, "samples": SAMPLES, "means": [list(mean) for mean in MEANS]}
    for name in schedules:
        shares = {method: mode_shares(sampled(name, method), MEANS) for method in METHODS}
        found[name] = {
            method: {"shares": share, "divergence": divergence(share, IDEAL.weights)}
            for method, share in shares.items()
        }
    return found


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """The cosine of the angle between rows of a and b [N, D], [N]; 0 for a row of zeros."""
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1)).clamp_min(1e-300)


def angle_numbers(name: str, count: int = 1000) -> dict[str, Any]:
    """Per step of the strong model's own paths: how the weak-to-strong gap lies to the strong-to-ideal one.

    Also the angle of what each makes of a step to the ideal model's step from there, "gain": the share of samples
    whose step W2SD (fused) turns towards the ideal one. Steps where the two gaps vanish to 1e-9 have no angle.
    """
    here = bed(name)
    levels, path, latents = here.levels(STEPS), here.path, run(here, "strong", noise(count, 2), STEPS).latents
    rows: dict[str, list[float]] = {"mean": [], "low": [], "high": [], "positive": [], "closer": []}
    for i in range(STEPS):
        x, level = latents[i], levels[i]
        ideal, strong, weak = (model(x, level) for model in (here.ideal, here.strong, here.weak))
        gap, missing = strong - weak, ideal - strong
        seen = (gap.norm(dim=1) > 1e-9) & (missing.norm(dim=1) > 1e-9)
        cosine = cosines(gap, missing)[seen]
        angles = torch.rad2deg(torch.acos(cosine.clamp(-1, 1)))
        reflected = path.gap_coefficient(level, levels[i + 1]) * (weak - strong) + x
        steps = [path.step(reflected, here.strong(reflected, level), level, levels[i + 1])]
        steps += [path.step(x, prediction, level, levels[i + 1]) for prediction in (strong, ideal)]
        closer = (steps[0] - steps[2]).norm(dim=1) < (steps[1] - steps[2]).norm(dim=1)
        rows["mean"].append(angles.mean().item())
        rows["low"].append(angles.quantile(0.05).item())
        rows["high"].append(angles.quantile(0.95).item())
        rows["positive"].append((cosine > 0).double().mean().item())
        rows["closer"].append(closer[seen].double().mean().item())
    return {"steps": STEPS, "angles": rows}


def directions(name: str, x: Tensor, step: int) -> dict[str, Tensor]:
    """The unit direction [N, 2] in which each model sees the clean sample from x [N, 2] at the level of a step.

    "w2sd" is what W2SD follows to first order: the strong model's prediction plus its difference to the weak one's.
    """
    here = bed(name)
    level, path = here.levels(STEPS)[step], here.path
    seen = {"ideal": here.ideal(x, level), "strong": here.strong(x, level), "weak": here.weak(x, level)}
    seen["w2sd"] = 2 * seen["strong"] - seen["weak"]
    ways = {method: path.clean(x, prediction, level) - x for method, prediction in seen.items()}
    return {method: way / way.norm(dim=1, keepdim=True) for method, way in ways.items()}


# --- figures ----------------------------------------------------------------------------------------------------------

START = (-0.5, -1.0)  # where the models disagree
AT = {"ddpm": 8, "flow": 3}  # the step from which directions are drawn


@style()
def figure_6() -> Made:
    numbers = plane_numbers()
    name, axis = "ddpm", grid()
    mixtures = {"weak": WEAK, "strong": STRONG, "ideal": IDEAL}
    title = "Figure 6: in the plane W2SD fills the neglected bottom-left mode (noise path)"
    figure, (contours, walks) = subplots(2, 4, size=(3.2, 3.1), title=title)
    for above, below, method in zip(contours, walks, ("weak", "strong", "w2sd", "ideal"), strict=True):
        drawn = smoothed(sampled(name, "w2sd"), axis) if method == "w2sd" else density(mixtures[method], axis)
        heights = [0.0015, 0.004, 0.008, 0.016, 0.03, 0.05]
        above.contour(axis, axis, drawn, heights, colors=COLOURS[method], alpha=0.9, linewidths=1.2)
        above.text(-7.6, -7.4, f"bottom left {numbers[name][method]['shares'][0]:.2f}")
        above.set_title("samples of W2SD, smoothed" if method == "w2sd" else f"density of the {NOUNS[method]}")
        latents = run(bed(name), method, noise(70, 2, seed=3), STEPS).latents
        rare = (latents[-1] < 0).all(1)
        for chosen, colour, label in (
            (~rare, AWAY, "ends elsewhere"),
            (rare, COLOURS[method], f"{NOUNS[method]}, ends bottom left"),
        ):
            if bool(chosen.any()):
                lines = below.plot(latents[:, chosen, 0], latents[:, chosen, 1], color=colour, alpha=0.75, linewidth=1)
                lines[0].set_label(label)
        below.plot(latents[-1, :, 0], latents[-1, :, 1], ".", color="#555555", markersize=4, label="sample")
        below.set_title(f"paths: {NOUNS[method]}")
        for axes in (above, below):
            axes.set(xlim=(-8, 8), ylim=(-8, 8), xticks=(-4, 0, 4), yticks=(-4, 0, 4), xlabel="x", ylabel="y")
    told = "; ".join(
        f"{NAMES[key]} {mine['strong']['divergence']:.3f} to {mine['w2sd']['divergence']:.3f} (swapped "
        f"{mine['swapped']['divergence']:.3f})"
        for key, mine in numbers.items()
        if key in NAMES
    )
    measured = f"Divergence of the modes' shares from the ideal ones, strong model to W2SD at T 20: {told}."
    holds = [
        numbers[key]["w2sd"]["divergence"] < numbers[key]["strong"]["divergence"] / 2
        and numbers[key]["w2sd"]["shares"][0] > numbers[key]["strong"]["shares"][0]
        for key in NAMES
    ]
    return Made(numbers, finished(figure, columns=6), measured, verdict(*holds))


@style()
def figure_27() -> Made:
    numbers = {name: angle_numbers(name) for name in ("ddpm", "sdxl", "flow")}
    title = "Figure 27: the weak-to-strong gap points where the strong-to-ideal gap points"
    figure, (walks, angles) = subplots(2, 2, size=(4.8, 3.6), title=title)
    for above, below, name in zip(walks, angles, ("ddpm", "flow"), strict=True):
        _walks(above, name)
        rows, steps = numbers[name]["angles"], list(range(STEPS))
        below.plot(steps, rows["mean"], color=COLOURS["w2sd"], marker="o", label="mean angle")
        below.fill_between(steps, rows["low"], rows["high"], color=COLOURS["w2sd"], alpha=0.18, label="5 to 95 %")
        level(below, 90.0, COLOURS["strong"], "90 degrees")
        below.set(title=f"angle between the two gaps, {NAMES[name]}", xlabel="step of the strong model's path")
        below.set(ylabel="degrees", ylim=(0, 120), yticks=(0, 30, 60, 90, 120), xticks=range(0, 20, 4))
    least = {name: min(numbers[name]["angles"]["positive"]) for name in numbers}
    worst = {name: max(numbers[name]["angles"]["mean"]) for name in numbers}
    closer = {name: sum(numbers[name]["angles"]["closer"]) / STEPS for name in numbers}
    always = "for every sample" if min(least.values()) == 1 else f"for at least {100 * min(least.values()):.1f} %"
    measured = (
        "The angle between the two gaps along the strong model's paths is at most "
        f"{max(worst.values()):.0f} degrees on average, at any step of any schedule, and below 90 {always}. "
        "W2SD's step ends nearer to the ideal model's than the strong model's own does in at least "
        f"{100 * min(closer.values()):.0f} % of the cases."
    )
    holds = (max(worst.values()) < 90, min(least.values()) == 1.0, min(closer.values()) > 0.5)
    return Made(numbers, finished(figure), measured, verdict(*holds))


def _walks(axes: Any, name: str) -> None:
    """Each model's path from one noise, and along W2SD's where each of them points."""
    start = torch.tensor([START], dtype=torch.float64)
    walked = {m: run(bed(name), m, start, STEPS).latents[:, 0] for m in ("weak", "strong", "ideal", "w2sd")}
    for method, latents in walked.items():
        axes.plot(latents[:, 0], latents[:, 1], "--", color=COLOURS[method], label=NOUNS[method])
    x = walked["w2sd"][AT[name]]
    for method, way in directions(name, x[None], AT[name]).items():
        arrow = {"arrowstyle": "-|>", "color": COLOURS[method], "linewidth": 2.2}
        axes.annotate("", (x + 1.5 * way[0]).tolist(), x.tolist(), arrowprops=arrow)
    axes.plot(*x.tolist(), "o", color="black", label="arrows: where each model points from here")
    axes.set(title=f"paths from one noise, {NAMES[name]}", xlabel="x", ylabel="y", xlim=(-4.5, 3.5), ylim=(-4.7, 1.3))
