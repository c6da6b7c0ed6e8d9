"""Each setting of a reflection: strength, every, window, fixed_point, noise, cap and lag."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from experiments.theory import testbed
from experiments.theory.drawing import (
    COLOURS,
    GREY,
    NAMES,
    PATH_LOOKS,
    W2,
    Made,
    finished,
    level,
    log_x,
    style,
    subplots,
    verdict,
)
from experiments.theory.line import histogram
from experiments.theory.mixtures import IDEAL, STRONG, left_mass, normal_quantiles, two_modes, wasserstein
from experiments.theory.sizes import measured
from experiments.theory.testbed import (
    BOTH,
    SCHEDULES,
    Testbed,
    in_mode_std,
    logit_testbed,
    mixtures_testbed,
    mode_shares,
    options,
    ratio_testbed,
    run,
)

STEPS = 20
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0)
EVERY = (1, 2, 3, 4, 6, 8)
WINDOWS = ((0.0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0))
FIXED_POINTS, FIXED_STEPS = (0, 1, 2), (5, 8, 12, 20, 35, 50)
NOISES = (0.0, 0.005, 0.01, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
CAPS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, None)
LAG_STEPS = (5, 8, 12, 20, 35, 50)
LOST = two_modes(0.0)  # a weak model that has lost the left mode altogether: its score there has no bound


def strength_numbers(schedules: Sequence[str] = SCHEDULES) -> dict[str, Any]:
    """The left mass and the distance over the strength, for a real mixture and for an exact ratio of 2; fused."""
    beds = {"mixture": logit_testbed, "exact": ratio_testbed}
    return {
        "strengths": list(STRENGTHS),
        "steps": STEPS,
        **{
            name: {
                weak: [measured(make(name), "w2sd", STEPS, options(strength=strength)) for strength in STRENGTHS]
                for weak, make in beds.items()
            }
            for name in schedules
        },
    }


def thinning_numbers(schedules: Sequence[str] = SCHEDULES) -> dict[str, Any]:
    """Every k-th reflection, also k times as strong, and reflections in one quarter of the steps; exact ratio of 2."""
    found: dict[str, Any] = {"every": list(EVERY), "windows": [list(window) for window in WINDOWS], "steps": STEPS}
    for name in schedules:
        bed = ratio_testbed(name)

        def outcome(bed: Testbed = bed, **settings: Any) -> dict[str, float]:
            return measured(bed, "w2sd", STEPS, options(**settings))

        found[name] = {
            "strong": measured(bed, "strong", STEPS),
            "every": [outcome(every=k) for k in EVERY],
            "every, strength k": [outcome(every=k, strength=k) for k in EVERY],
            "windows": [outcome(window=window) for window in WINDOWS],
        }
    return found


def fixed_point_numbers(schedules: Sequence[str] = SCHEDULES) -> dict[str, Any]:
    """The distance over the steps for each number of fixed-point iterations, mode "paper"; exact ratio of 2."""
    return {
        "steps": list(FIXED_STEPS),
        **{
            name: {
                **{
                    str(n): [
                        measured(
                            ratio_testbed(name),
                            "w2sd",
                            steps,
                            options("paper", fixed_point=n),
                        )
                        for steps in FIXED_STEPS
                    ]
                    for n in FIXED_POINTS
                },
                "fused": [measured(ratio_testbed(name), "w2sd", steps) for steps in FIXED_STEPS],
            }
            for name in schedules
        },
    }


def noise_numbers(count: int = 4000, schedules: Sequence[str] = BOTH) -> dict[str, Any]:
    """Table 14 in miniature: distance and spread over k, the standard deviation of noise added to each x~ (T 50)."""
    found: dict[str, Any] = {"noises": list(NOISES), "steps": 50, "samples": count}
    x = testbed.noise(count, 1)
    for name in schedules:
        bed = ratio_testbed(name)
        finals = [run(bed, "w2sd", x, 50, options(noise=k)).final for k in NOISES]
        found[name] = {
            "strong": wasserstein(run(bed, "strong", x, 50).final, IDEAL, 2),
            "distance": [wasserstein(final, IDEAL, 2) for final in finals],
            "std": [in_mode_std(final, IDEAL.means) for final in finals],
            "left": [left_mass(final) for final in finals],
        }
    return found


def lost_testbed(name: str) -> Testbed:
    return mixtures_testbed(name, IDEAL, STRONG, LOST)


def cap_numbers(schedules: Sequence[str] = SCHEDULES) -> dict[str, Any]:
    """A weak model without the left mode: where the samples go, by cap (None: no cap), fused, T 50.

    "beyond" is the share of samples below -7, three standard deviations past the left mode; the ideal has .0007.
    """
    found: dict[str, Any] = {"caps": list(CAPS), "steps": 50}
    x = normal_quantiles()
    for name in schedules:
        bed = lost_testbed(name)
        finals = [run(bed, "w2sd", x, 50, options(cap=cap)).final for cap in CAPS]
        found[name] = {
            "strong": measured(bed, "strong", 50),
            "left": [left_mass(final) for final in finals],
            "distance": [wasserstein(final, IDEAL, 2) for final in finals],
            "beyond": [(final < -7).double().mean().item() for final in finals],
        }
    return found


def lag_numbers(schedules: Sequence[str] = SCHEDULES) -> dict[str, Any]:
    """Lagging beside plain W2SD over its own evaluations, and what either does where there is no gap (T 50)."""
    settings = {"fused": options(), "paper": options("paper")}
    found: dict[str, Any] = {"steps": list(LAG_STEPS)}
    x = normal_quantiles()
    for name in schedules:
        bed, same = ratio_testbed(name), ratio_testbed(name, 1.0)
        plain = run(same, "strong", x, 50).final
        found[name] = {}
        for mode, setting in settings.items():
            for label, chosen in ((mode, setting), (f"{mode}, lag", replace(setting, lag=True))):
                found[name][label] = [measured(bed, "w2sd", steps, chosen) for steps in LAG_STEPS]
                idle = run(same, "w2sd", x, 50, chosen).final
                found[name][f"{label}, no gap"] = {
                    "left": mode_shares(idle, IDEAL.means)[0],
                    "shift": torch.sqrt((idle - plain).square().mean()).item(),
                }
    return found


# --- figures ----------------------------------------------------------------------------------------------------------

SHOWN = 0.05  # the cap whose samples are drawn
ZERO = 0.003  # where k = 0 stands on a log axis
KINDS = {"mixture": "weak model a real mixture", "exact": "weak model of exactly twice the bias"}
QUARTERS = ("noisiest", "second", "third", "last")


@style()
def strength() -> Made:
    numbers = strength_numbers()
    strengths = numbers["strengths"]
    title = "strength: a factor on the move of each reflection (fused, T 20)"
    figure, rows = subplots(2, 2, size=(4.9, 3.1), title=title, sharex=True)
    measures = (("left", "share of the left mode", 0.2, 0.9), ("distance", W2, 0.0, 4.6))
    for row, (key, label, low, high) in zip(rows, measures, strict=True):
        for axes, (weak, words) in zip(row, KINDS.items(), strict=True):
            axes.axvline(1.0, color=GREY, linewidth=1)
            if key == "left":
                level(axes, 0.5, COLOURS["ideal"], "ideal")
            for name in SCHEDULES:
                axes.plot(strengths, [point[key] for point in numbers[name][weak]], **PATH_LOOKS[name])
            axes.set(title=words, ylabel=label, ylim=(low, high))
    for axes in rows[1]:
        axes.set_xlabel("strength (1: W2SD, 0: the strong model)")
    best = {
        weak: {
            name: min(zip(strengths, numbers[name][weak], strict=True), key=lambda pair: pair[1]["distance"])
            for name in SCHEDULES
        }
        for weak in KINDS
    }
    at_1 = strengths.index(1.0)
    told = ", ".join(
        f"{NAMES[name]} {best['mixture'][name][0]:g} (W2 {best['mixture'][name][1]['distance']:.2f}, at 1 "
        f"{numbers[name]['mixture'][at_1]['distance']:.2f})"
        for name in SCHEDULES
    )
    exact = sorted({best["exact"][name][0] for name in SCHEDULES})
    measured = (
        f"Best strength for a real mixture: {told}; for a weak model of exactly twice the bias "
        f"{' or '.join(f'{value:g}' for value in exact)}. Too much overshoots on every path."
    )
    holds = (
        all(best["mixture"][name][0] > 1 for name in SCHEDULES),
        all(numbers[name][weak][-1]["left"] > 0.5 for name in SCHEDULES for weak in KINDS),
    )
    return Made(numbers, finished(figure), measured, verdict(*holds))


@style()
def thinning() -> Made:
    numbers = thinning_numbers()
    title = "every and window: fewer reflections, and which of them matter (fused)"
    figure, ((curves, bars),) = subplots(1, 2, size=(5.2, 3.8), title=title)
    for j, name in enumerate(SCHEDULES):
        for key, words, line in (("every", "", "-"), ("every, strength k", ", strength k", ":")):
            points = numbers[name][key]
            looks = {**PATH_LOOKS[name], "linestyle": line, "label": NAMES[name] + words}
            curves.plot([p["evaluations"] for p in points], [p["distance"] for p in points], **looks)
        gains = [numbers[name]["strong"]["distance"] - p["distance"] for p in numbers[name]["windows"]]
        bars.bar([k + 0.26 * (j - 1) for k in range(4)], gains, 0.24, color=PATH_LOOKS[name]["color"])
    curves.set(title="every k-th step reflected (k = 1, 2, 3, 4, 6, 8 from the right)", xlabel="evaluations, T 20")
    curves.set(ylabel=W2, ylim=(0.0, 3.4))
    bars.set(title="reflections in one quarter of the steps only", xlabel="quarter of the steps", ylim=(0.0, 2.5))
    bars.set(ylabel="W2 gained over the strong model")
    bars.set_xticks(range(4), QUARTERS)
    late = max(1 - numbers[name]["windows"][3]["distance"] / numbers[name]["strong"]["distance"] for name in SCHEDULES)
    quarters = {name: [p["distance"] for p in numbers[name]["windows"]] for name in SCHEDULES}
    firsts = {name: distances.index(min(distances)) for name, distances in quarters.items()}
    second = EVERY.index(2)
    told = ", ".join(
        f"{NAMES[name]} {numbers[name]['every'][0]['distance']:.2f}, {numbers[name]['every'][second]['distance']:.2f}, "
        f"{numbers[name]['every, strength k'][second]['distance']:.2f}"
        for name in SCHEDULES
    )
    measured = (
        f"W2 with every step, every second, every second at strength 2: {told}; so half of the reflections do half of "
        "the work, unless they are twice as strong. Most is gained in the "
        + ", ".join(f"{QUARTERS[firsts[name]]} quarter ({NAMES[name]})" for name in SCHEDULES)
        + f"; the last quarter gains {100 * late:.1f} % at most."
    )
    holds = (
        late < 0.01,
        all(firsts[name] <= 1 for name in SCHEDULES),
        all(
            numbers[name]["every, strength k"][second]["distance"] < numbers[name]["every"][second]["distance"]
            for name in SCHEDULES
        ),
    )
    return Made(numbers, finished(figure, columns=3), measured, verdict(*holds))


@style()
def fixed_point() -> Made:
    numbers = fixed_point_numbers()
    looks = {
        "0": ("paper (Eq. 4)", COLOURS["paper"], "o-"),
        "1": ("1 iteration", COLOURS["weak"], "o-"),
        "2": ("2 iterations", COLOURS["ideal"], "o-"),
        "fused": ("fused", COLOURS["fused"], "o--"),
    }
    title = "fixed_point: iterations that make the inversion exact, from about 20 steps on"
    figure, (row,) = subplots(1, 3, size=(4.2, 3.6), title=title)
    for axes, name in zip(row, SCHEDULES, strict=True):
        for n, (words, colour, line) in looks.items():
            distances = [point["distance"] for point in numbers[name][n]]
            axes.plot(numbers["steps"], distances, line, color=colour, label=words)
        axes.set(title=NAMES[name], xlabel="sampling steps T", ylabel=W2, ylim=(0.0, 4.0))
        log_x(axes, numbers["steps"])
    at = {steps: k for k, steps in enumerate(numbers["steps"])}
    pairs = {name: (numbers[name]["0"][at[20]], numbers[name]["2"][at[20]]) for name in SCHEDULES}
    told = ", ".join(
        f"{NAMES[name]} {none['distance']:.2f} to {two['distance']:.2f} "
        f"({none['evaluations']:.0f} to {two['evaluations']:.0f} evaluations)"
        for name, (none, two) in pairs.items()
    )
    few = {name: numbers[name]["2"][at[5]]["distance"] < numbers[name]["0"][at[5]]["distance"] for name in SCHEDULES}
    worse = [NAMES[name] for name in SCHEDULES if not few[name]]
    measured = (
        f"W2 with 0 and 2 iterations at T 20: {told}. "
        + (f"At T 5 they do harm on the {', '.join(worse)}" if worse else "At T 5 they help too")
        + f"; one iteration on the flow path gives {numbers['flow']['1'][at[5]]['distance']:.2f} there, against "
        f"{numbers['flow']['0'][at[5]]['distance']:.2f} without."
    )
    from_20 = [
        numbers[name]["2"][k]["distance"] < numbers[name]["0"][k]["distance"]
        for name in SCHEDULES
        for k in range(at[20], len(at))
    ]
    return Made(numbers, finished(figure), measured, verdict(all(from_20), bool(worse)))


@style()
def noise() -> Made:
    numbers = noise_numbers()
    places = [max(k, ZERO) for k in numbers["noises"]]
    title = "noise k: errors of inversion as noise on each reflected latent (Eq. 35, Table 14; fused, T 50)"
    figure, (row,) = subplots(1, 3, size=(4.2, 3.6), title=title)
    measures = (
        ("distance", W2, 7.5, None),
        ("std", "standard deviation within a mode", 6.5, 1.0),
        ("left", "share of the left mode", 1.0, 0.5),
    )
    for axes, (key, label, high, ideal) in zip(row, measures, strict=True):
        if ideal is not None:
            level(axes, ideal, COLOURS["ideal"], "ideal")
        for name in BOTH:
            if key == "distance":
                level(axes, numbers[name]["strong"], PATH_LOOKS[name]["color"], "strong model alone (both paths)")
            axes.plot(places, numbers[name][key], **PATH_LOOKS[name])
        axes.set(title=label, xlabel="k (standard deviation; the data's is 4.1)", ylabel=label, ylim=(0.0, high))
        log_x(axes, (ZERO, 0.01, 0.03, 0.1, 0.3, 1.0), ("0", ".01", ".03", ".1", ".3", "1"))
    lost = {
        name: next(
            k for k, d in zip(numbers["noises"], numbers[name]["distance"], strict=True) if d > numbers[name]["strong"]
        )
        for name in BOTH
    }
    at = {k: i for i, k in enumerate(numbers["noises"])}
    mine = numbers["ddpm"]
    measured = (
        f"W2 stays at {mine['distance'][at[0.01]]:.2f} for k .01 ({mine['distance'][0]:.2f} without noise), rises to "
        f"{mine['distance'][at[0.1]]:.2f} at .1 and {mine['distance'][at[0.3]]:.2f} at .3; nothing is left of the gain "
        f"from k {lost['ddpm']:g} on (flow {lost['flow']:g}). What is lost is sharpness, not balance: the left share "
        "stays at one half. In these units, absolute ones, the paper's k of .01 does no harm."
    )
    holds = (
        mine["distance"][at[0.3]] > 2 * mine["distance"][0],
        mine["distance"][at[0.01]] > mine["strong"],  # Table 14's collapse at k .01
    )
    return Made(numbers, finished(figure), measured, verdict(*holds))


@style()
def cap() -> Made:
    numbers = cap_numbers()
    caps = [value for value in numbers["caps"] if value is not None]
    x, bed = normal_quantiles(4000), lost_testbed("ddpm")
    title = "cap: a weak model that has lost the left mode throws samples beyond it (fused, T 50)"
    figure, ((samples, distances),) = subplots(1, 2, size=(5.2, 3.8), title=title)
    ideal = histogram(run(bed, "ideal", x, 50).final, -16, 8, 120)
    samples.fill_between(*ideal, color=COLOURS["ideal"], alpha=0.3, label="ideal model")
    for label, method, setting, colour, line in (
        ("without a cap", "w2sd", options(), COLOURS["fused"], "-"),
        (f"cap {SHOWN}", "w2sd", options(cap=SHOWN), COLOURS["w2sd"], "-"),
        ("strong model", "strong", options(), COLOURS["strong"], "--"),
    ):
        centres, heights = histogram(run(bed, method, x, 50, setting).final, -16, 8, 120)
        samples.plot(centres, heights, line, color=colour, label=label)
    samples.set(title="samples, noise path (DDPM)", xlabel="x", ylabel="density", xlim=(-16, 8), ylim=(0.0, 0.35))
    for name in SCHEDULES:
        distances.plot(caps, numbers[name]["distance"][:-1], **PATH_LOOKS[name])
    level(distances, numbers["ddpm"]["strong"]["distance"], COLOURS["strong"], "strong model alone (DDPM)")
    distances.set(
        title="distance over the cap", xlabel="cap on the move (root mean square)", ylabel=W2, ylim=(0.0, 5.0)
    )
    log_x(distances, caps)
    best = {name: min(zip(numbers[name]["distance"], caps, strict=False)) for name in SCHEDULES}
    none = numbers["ddpm"]
    measured = (
        f"Without a cap the left share is right ({none['left'][-1]:.2f}) but {100 * none['beyond'][-1]:.0f} % of all "
        f"samples lie below -7 and W2 is {none['distance'][-1]:.2f} (strong model {none['strong']['distance']:.2f}); "
        + ", ".join(f"{NAMES[n]} best at cap {c:g} (W2 {d:.2f})" for n, (d, c) in best.items())
        + "."
    )
    holds = [best[name][0] < numbers[name]["strong"]["distance"] < numbers[name]["distance"][-1] for name in SCHEDULES]
    return Made(numbers, finished(figure), measured, verdict(*holds))


@style()
def lag() -> Made:
    numbers = lag_numbers()
    looks = {
        "paper": (COLOURS["paper"], "o-"),
        "paper, lag": (COLOURS["paper"], "o--"),
        "fused": (COLOURS["fused"], "o-"),
        "fused, lag": (COLOURS["fused"], "o--"),
    }
    title = "lag: the previous step's strong prediction in the reflection, for a third fewer evaluations"
    figure, (row,) = subplots(1, 3, size=(4.2, 3.6), title=title)
    for axes, name in zip(row, SCHEDULES, strict=True):
        for label, (colour, line) in looks.items():
            points = numbers[name][label]
            places = [point["evaluations"] for point in points]
            axes.plot(places, [point["distance"] for point in points], line, color=colour, label=label)
        axes.set(title=NAMES[name], xlabel="evaluations", ylabel=W2, ylim=(0.0, 4.0))
        log_x(axes, (10, 20, 50, 100))
    at = numbers["steps"].index(50)
    pairs = {name: [numbers[name][label][at]["distance"] for label in ("fused", "fused, lag")] for name in SCHEDULES}
    told = ", ".join(f"{NAMES[name]} {without:.2f} to {lagging:.2f}" for name, (without, lagging) in pairs.items())
    counts = [int(numbers["ddpm"][label][at]["evaluations"]) for label in ("fused", "fused, lag")]
    shifts = [numbers[name]["fused, lag, no gap"]["shift"] for name in SCHEDULES]
    measured = (
        f"W2 at T 50, fused, without and with lag ({counts[0]} and {counts[1]} evaluations): {told}. It helps where "
        f"the lagging prediction happens to push the right way and harms elsewhere; equal models then move samples by "
        f"{min(shifts):.2f} to {max(shifts):.2f}, where fused moves them by 0."
    )
    cheaper = counts[1] < 0.7 * counts[0]
    as_good = [lagging <= 1.1 * without for without, lagging in pairs.values()]
    return Made(numbers, finished(figure), measured, verdict(cheaper, all(as_good)))
