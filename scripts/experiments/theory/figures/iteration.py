"""Figure 28 and Table 15, and Algorithm 2."""

from __future__ import annotations

import itertools

import torch

from experiments.theory.bed import logit_bed, noise, run
from experiments.theory.experiments import iteration
from experiments.theory.experiments.one_dimension import histogram
from experiments.theory.made import COLOURS, NAMES, Made, verdict
from experiments.theory.mixtures import STRONG
from w2sd_video.report.plotting import Area, Axis, Bars, Line, Panel, Rule, Sheet

LOOKS = {
    "resample": ("Re-Sampling (Alg. 3)", COLOURS["weak"], False),
    "resample-aligned": ("aligned (Alg. 4)", COLOURS["autoguided"], False),
    "resample-opposed": ("opposed (Table 15's control)", COLOURS["release"], True),
    "w2sd": ("W2SD, fused", COLOURS["w2sd"], False),
}
AUTO = {
    "model 1": COLOURS["weak"],
    "model 2": COLOURS["paper"],
    "W2SD, 1 strong": COLOURS["strong"],
    "W2SD, 2 strong": COLOURS["release"],
    "auto": COLOURS["w2sd"],
}
WORDS = {"auto": "roles by reward (Alg. 2)"}


def figure_28() -> Made:
    numbers = iteration.resampling_numbers()
    grouped, reflected = [], []
    for name in ("ddpm", "flow"):
        mine = numbers[name]
        grouped.append(
            Panel(
                f"plain Re-Sampling, fifths of the samples, {NAMES[name]}",
                Axis("cosine of the noise drawn with W2SD's move (mean over steps)"),
                Axis("share of the neglected mode", 0.0, None),
                [
                    Line(
                        mine["aligned"][bed]["cosine"],
                        mine["aligned"][bed]["share"],
                        colour,
                        words,
                        dots=True,
                        dashed=dash,
                    )
                    for bed, words, colour, dash in (
                        ("line", "two modes on a line (strong .25)", "#332288", False),
                        ("plane", "four modes in the plane (strong .08)", "#882255", True),
                    )
                ],
            )
        )
        reflected.append(
            Panel(
                f"on a line, T 20, {NAMES[name]}",
                Axis("lambda (reflected steps)", 0, 19, ticks=[(lam, str(lam)) for lam in (0, 3, 5, 8, 12, 19)]),
                Axis("share of the left mode", 0.0, 1.04),
                [
                    Rule(COLOURS["ideal"], y=0.5, label="ideal"),
                    *(
                        Line(
                            numbers["reflections"],
                            mine["by_reflections"][method],
                            colour,
                            words,
                            dashed=dashed,
                            dots=True,
                        )
                        for method, (words, colour, dashed) in LOOKS.items()
                    ),
                ],
            )
        )
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
    title = "Figure 28: Re-Sampling does better where its noise agrees with W2SD; choosing the noise overshoots"
    return Made(numbers, Sheet(title, [grouped, reflected], (480, 330)), measured, verdict(*rising, nearer))


def algorithm_3() -> Made:
    numbers = iteration.misprint_numbers()
    x = torch.linspace(-9, 9, 300, dtype=torch.float64)
    panels = []
    for name in ("ddpm", "flow"):
        bed, start = logit_bed(name), noise(iteration.SAMPLES, 1)
        drawn = {
            "noised back (Alg. 3 as meant)": (run(bed, "resample", start, iteration.STEPS).final, COLOURS["weak"]),
            "as printed: Add_Noise(x_t)": (
                iteration.literal_resampling(bed, start, iteration.STEPS),
                COLOURS["release"],
            ),
        }
        panels.append(
            Panel(
                NAMES[name],
                Axis("x", -9, 9, ticks=[(v, str(v)) for v in (-8, -4, 0, 4, 8)]),
                Axis("density", 0.0, 0.7),
                [
                    Area(
                        x,
                        STRONG.log_density(x[:, None], iteration.CLEAN).exp(),
                        COLOURS["strong"],
                        "strong model's data",
                    ),
                    *(
                        Line(*histogram(final, -9, 9, 72), colour, words, dashed="printed" in words)
                        for words, (final, colour) in drawn.items()
                    ),
                ],
            )
        )
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
    title = "Algorithm 3 taken at its word noises x_t a second time"
    return Made(numbers, Sheet(title, [panels], (480, 350)), measured, verdict(*holds))


def algorithm_2() -> Made:
    numbers = iteration.auto_numbers()
    rows = []
    for key, label, low, high in (
        ("left", "share of the left mode", 0.0, 1.0),
        ("reward", "mean log density (the reward)", -2.6, -1.8),
    ):
        row = []
        for pair, words in (("same bias", "left shares .25 and .1"), ("complementary", "left shares .8 and .2")):
            bars = [
                Bars(
                    [k + 0.16 * (j - 2) for k in range(2)],
                    [numbers[name][pair][method][key] for name in ("ddpm", "flow")],
                    colour,
                    WORDS.get(method, method),
                    0.14,
                    low,
                )
                for j, (method, colour) in enumerate(AUTO.items())
            ]
            row.append(
                Panel(
                    f"{pair}: {words}",
                    Axis("", -0.55, 1.55, ticks=[(0, NAMES["ddpm"]), (1, NAMES["flow"])]),
                    Axis(label, low, high),
                    [*bars, *([Rule(COLOURS["ideal"], y=0.5, label="ideal")] if key == "left" else [])],
                )
            )
        rows.append(row)
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
    title = "Algorithm 2: a reward picks the strong side"
    return Made(numbers, Sheet(title, rows, (470, 310)), measured, verdict(*raised, nearer))
