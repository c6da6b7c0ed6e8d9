"""Re-Sampling as a reflection by noise (Figure 28, Table 15), and models whose roles a reward picks (Algorithm 2)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from experiments.theory import plane
from experiments.theory.drawing import COLOURS, NAMES, Made, finished, level, style, subplots, verdict
from experiments.theory.line import histogram
from experiments.theory.mixtures import IDEAL, STRONG, Mixture, left_mass, two_modes, wasserstein
from experiments.theory.plane import cosines
from experiments.theory.testbed import (
    BOTH,
    Testbed,
    drawing,
    logit_testbed,
    mixtures_testbed,
    mode_shares,
    noise,
    options,
    run,
)
from w2sd_video.core import AutoSelect, CustomReflection, Level, Observed, Resample, Selector, sample

STEPS, SAMPLES, GROUPS = 20, 4000, 5
REFLECTIONS = (0, 1, 2, 3, 5, 8, 12, 19)
METHODS = ("resample", "resample-aligned", "resample-opposed", "w2sd")
PAIRS = {"same bias": (STRONG, two_modes(0.1)), "complementary": (two_modes(0.8), two_modes(0.2))}
CLEAN = Level(0, 1.0, 0.0)


def rare_share(bed: Testbed, x: Tensor) -> float:
    """The share of the mode that both models neglect: the first."""
    return mode_shares(x, bed.target.means)[0]


def alignment_numbers(bed: Testbed, dimensions: int) -> dict[str, list[float]]:
    """Plain Re-Sampling (Alg. 3), samples grouped by how well their noise happened to agree with W2SD's move.

    Agreement is the mean cosine over all reflected steps between the noise drawn and the fused move at that latent.
    Returns, for `GROUPS` equal groups: the mean cosine and the share that ends in the neglected mode.
    """
    levels, path = bed.levels(STEPS), bed.path
    drawn: list[Tensor] = []
    cosine: list[Tensor] = []
    draw = drawing(1)

    def kept(x: Tensor) -> Tensor:
        drawn.append(draw(x))
        return drawn[-1]

    def compared(i: int, x: Tensor, _: Tensor) -> None:
        gap = bed.weak(x, levels[i]) - bed.strong(x, levels[i])
        cosine.append(cosines(drawn[-1], path.gap_coefficient(levels[i], levels[i + 1]) * gap))

    reflection = Observed(Resample(levels, bed.strong, path, noise_sampler=kept), compared)
    final = sample(noise(SAMPLES, dimensions), levels, bed.strong, path, reflect=reflection)
    mean = torch.stack(cosine).mean(0)
    order = mean.argsort().chunk(GROUPS)
    return {
        "cosine": [mean[group].mean().item() for group in order],
        "share": [rare_share(bed, final[group]) for group in order],
    }


def resampling_numbers(schedules: Sequence[str] = BOTH) -> dict[str, Any]:
    """Figure 28's claim within Alg. 3, and what Alg. 3 and 4, its control and W2SD make of lambda reflections."""
    found: dict[str, Any] = {"steps": STEPS, "samples": SAMPLES, "reflections": list(REFLECTIONS)}
    for name in schedules:
        line = logit_testbed(name)
        found[name] = {
            "aligned": {"line": alignment_numbers(line, 1), "plane": alignment_numbers(plane.bed(name), 2)},
            "strong": rare_share(line, run(line, "strong", noise(SAMPLES, 1), STEPS).final),
            "by_reflections": {
                method: [
                    rare_share(line, run(line, method, noise(SAMPLES, 1), STEPS, options(num_reflections=lam)).final)
                    for lam in REFLECTIONS
                ]
                for method in METHODS
            },
        }
    return found


def literal_resampling(bed: Testbed, x: Tensor, num_steps: int) -> Tensor:
    """Alg. 3 as printed: what Add_Noise gets is x_t, which holds its noise already."""
    levels, noise_sampler = bed.levels(num_steps), drawing(0)
    printed = CustomReflection(levels, lambda x, start, _: bed.path.renoise(x, noise_sampler(x), start))
    return sample(x, levels, bed.strong, bed.path, reflect=printed)


def misprint_numbers(schedules: Sequence[str] = BOTH) -> dict[str, Any]:
    """Spread and distance to the strong model's data: Alg. 3 noising x_{t-1} back, and as printed."""
    x = noise(SAMPLES, 1)
    found: dict[str, Any] = {"steps": STEPS, "samples": SAMPLES}
    for name in schedules:
        bed = logit_testbed(name)
        finals = {
            "sampled once": sample(x, bed.levels(STEPS), bed.strong, bed.path),
            "noised back": run(bed, "resample", x, STEPS).final,
            "as printed": literal_resampling(bed, x, STEPS),
        }
        found[name] = {
            label: {"std": final.std().item(), "distance": wasserstein(final, STRONG, 2)}
            for label, final in finals.items()
        }
    return found


def reward(x: Tensor) -> Tensor:
    """The log density of clean samples [N, 1] under the ideal mixture."""
    return IDEAL.log_density(x, CLEAN)


def auto_numbers(schedules: Sequence[str] = BOTH) -> dict[str, Any]:
    """Algorithm 2 with the log density as reward, beside each model alone and both fixed choices of roles.

    For two pairs: both models lack the left mode; or each lacks another one. `second` is the share of choices that took
    the second model as the strong one.
    """
    found: dict[str, Any] = {"steps": STEPS, "samples": SAMPLES}
    for name in schedules:
        found[name] = {label: _auto(name, *pair) for label, pair in PAIRS.items()}
    return found


def _auto(name: str, first: Mixture, second: Mixture) -> dict[str, Any]:
    bed, x = mixtures_testbed(name, IDEAL, first, second), noise(SAMPLES, 1)
    turned = mixtures_testbed(name, IDEAL, second, first)
    levels, path, selector = bed.levels(STEPS), bed.path, Selector(reward)
    selecting = AutoSelect(levels, bed.strong, bed.weak, path, selector, options())
    finals = {
        "model 1": sample(x, levels, bed.strong, path),
        "model 2": sample(x, levels, bed.weak, path),
        "W2SD, 1 strong": run(bed, "w2sd", x, STEPS).final,
        "W2SD, 2 strong": run(turned, "w2sd", x, STEPS).final,
        "auto": sample(x, levels, selecting.strong, path, reflect=selecting),
    }
    outcomes: dict[str, Any] = {
        label: {
            "left": left_mass(final),
            "distance": wasserstein(final, IDEAL, 2),
            "reward": reward(final).mean().item(),
        }
        for label, final in finals.items()
    }
    return {**outcomes, "second": torch.stack(selector.choices).double().mean().item()}


# --- figures ----------------------------------------------------------------------------------------------------------

LOOKS: dict[str, dict[str, Any]] = {
    "resample": {"label": "Re-Sampling (Alg. 3)", "color": COLOURS["resample"]},
    "resample-aligned": {"label": "aligned (Alg. 4)", "color": COLOURS["resample-aligned"]},
    "resample-opposed": {
        "label": "opposed (Table 15's control)",
        "color": COLOURS["resample-opposed"],
        "linestyle": "--",
    },
    "w2sd": {"label": "W2SD, fused", "color": COLOURS["w2sd"]},
}
AUTO = {
    "model 1": COLOURS["strong"],
    "model 2": COLOURS["weak"],
    "W2SD, 1 strong": COLOURS["w2sd"],
    "W2SD, 2 strong": COLOURS["fused"],
    "auto": COLOURS["w2sd-auto"],
}


@style()
def figure_28() -> Made:
    numbers = resampling_numbers()
    title = "Figure 28: Re-Sampling does better where its noise agrees with W2SD; choosing the noise overshoots"
    figure, (above, below) = subplots(2, 2, size=(4.9, 3.2), title=title)
    beds = (
        ("line", "two modes on a line (strong .25)", "o-"),
        ("plane", "four modes in the plane (strong .08)", "s--"),
    )
    for grouped, reflected, name in zip(above, below, ("ddpm", "flow"), strict=True):
        mine = numbers[name]
        for bed, words, line in beds:
            grouped.plot(
                mine["aligned"][bed]["cosine"], mine["aligned"][bed]["share"], line, color="#332288", label=words
            )
        grouped.set(title=f"plain Re-Sampling, fifths of the samples, {NAMES[name]}", ylim=(0.0, None))
        grouped.set(xlabel="cosine of the noise with W2SD's move (mean over steps)", ylabel="share of neglected mode")
        level(reflected, 0.5, COLOURS["ideal"], "ideal")
        for method, looks in LOOKS.items():
            reflected.plot(numbers["reflections"], mine["by_reflections"][method], **{"marker": "o", **looks})
        reflected.set(
            title=f"on a line, T 20, {NAMES[name]}", xlabel="lambda (reflected steps)", xticks=(0, 3, 5, 8, 12, 19)
        )
        reflected.set(ylabel="share of the left mode", ylim=(0.0, 1.04))
    rising = [
        all(a < b for a, b in itertools.pairwise(mine["share"]))
        for name in ("ddpm", "flow")
        for mine in numbers[name]["aligned"].values()
    ]
    line = numbers["ddpm"]["aligned"]["line"]["share"]
    last = {method: numbers["ddpm"]["by_reflections"][method][-1] for method in LOOKS}
    early = numbers["ddpm"]["by_reflections"]["resample-aligned"][1]
    measured = (
        f"Among plain Re-Sampling runs the left share rises from {line[0]:.2f} in the fifth whose noise agrees least "
        f"with W2SD's move to {line[-1]:.2f} in the fifth that agrees most. As a whole Re-Sampling keeps the strong "
        f"model's share ({last['resample']:.2f}); choosing the noise overshoots "
        f"({last['resample-aligned']:.2f} aligned, {last['resample-opposed']:.2f} opposed after 19 reflections; "
        f"aligned {early:.2f} after one; W2SD {last['w2sd']:.2f}, ideal .5), since the push is the noise's "
        "whatever the gap."
    )
    nearer = abs(last["resample-aligned"] - 0.5) < abs(last["resample"] - 0.5)
    return Made(numbers, finished(figure, columns=3), measured, verdict(*rising, nearer))


@style()
def algorithm_3() -> Made:
    numbers = misprint_numbers()
    x = torch.linspace(-9, 9, 300, dtype=torch.float64)
    title = "Algorithm 3 taken at its word noises x_t a second time"
    figure, (row,) = subplots(1, 2, size=(4.9, 3.6), title=title, sharey=True)
    for axes, name in zip(row, ("ddpm", "flow"), strict=True):
        bed, start = logit_testbed(name), noise(SAMPLES, 1)
        data = STRONG.log_density(x[:, None], CLEAN).exp()
        axes.fill_between(x, data, color=COLOURS["strong"], alpha=0.2, label="strong model's data")
        meant, printed = run(bed, "resample", start, STEPS).final, literal_resampling(bed, start, STEPS)
        axes.plot(*histogram(meant, -9, 9, 72), color=COLOURS["resample"], label="noised back (Alg. 3 as meant)")
        axes.plot(*histogram(printed, -9, 9, 72), "--", color=COLOURS["release"], label="as printed: Add_Noise(x_t)")
        axes.set(title=NAMES[name], xlabel="x", xticks=(-8, -4, 0, 4, 8), ylabel="density", ylim=(0.0, 0.7))
    told = "; ".join(
        f"{mine['noised back']['distance']:.2f} when x_t-1 is noised back, {mine['as printed']['distance']:.2f} when "
        f"x_t is given noise as printed, whose spread is {mine['as printed']['std']:.2f} and not "
        f"{mine['sampled once']['std']:.2f} ({NAMES[name]})"
        for name, mine in numbers.items()
        if name in NAMES
    )
    measured = f"W2 distance to the strong model's own data after 19 reflections: {told}."
    holds = [
        numbers[name]["as printed"]["distance"] < 2 * numbers[name]["noised back"]["distance"]
        for name in numbers
        if name in NAMES
    ]
    return Made(numbers, finished(figure), measured, verdict(*holds))


@style()
def algorithm_2() -> Made:
    numbers = auto_numbers()
    pairs = (("same bias", "left shares .25 and .1"), ("complementary", "left shares .8 and .2"))
    measures = (("left", "share of the left mode", 0.0, 1.0), ("reward", "mean log density (the reward)", -2.6, -1.8))
    figure, rows = subplots(2, 2, size=(4.9, 3.1), title="Algorithm 2: a reward picks the strong side")
    for row, (key, label, low, high) in zip(rows, measures, strict=True):
        for axes, (pair, words) in zip(row, pairs, strict=True):
            if key == "left":
                level(axes, 0.5, COLOURS["ideal"], "ideal")
            for j, (method, colour) in enumerate(AUTO.items()):
                tops = [numbers[name][pair][method][key] - low for name in ("ddpm", "flow")]
                named = "roles by reward (Alg. 2)" if method == "auto" else method
                axes.bar([k + 0.16 * (j - 2) for k in range(2)], tops, 0.14, low, color=colour, label=named)
            axes.set(title=f"{pair}: {words}", ylabel=label, ylim=(low, high))
            axes.set_xticks([0, 1], [NAMES["ddpm"], NAMES["flow"]])
    same, other = numbers["ddpm"]["same bias"], numbers["ddpm"]["complementary"]
    measured = (
        "On the noise path the reward goes from "
        f"{same['model 1']['reward']:.2f} to {same['auto']['reward']:.2f} where both models have one bias, from "
        f"{other['model 1']['reward']:.2f} to {other['auto']['reward']:.2f} where they complement each other; "
        f"those come out balanced ({other['auto']['left']:.2f}; fixed roles {other['W2SD, 1 strong']['left']:.2f} and "
        f"{other['W2SD, 2 strong']['left']:.2f}). Of two models with one bias it takes the more peaked one, so the "
        f"left share falls from {same['model 1']['left']:.2f} to {same['auto']['left']:.2f}: it maximises the reward, "
        "not the likeness to the data."
    )
    raised = [
        mine["auto"]["reward"] > max(mine["model 1"]["reward"], mine["model 2"]["reward"])
        for name in ("ddpm", "flow")
        for mine in numbers[name].values()
    ]
    nearer = same["auto"]["distance"] < same["model 1"]["distance"]
    return Made(numbers, finished(figure, columns=3), measured, verdict(*raised, nearer))
