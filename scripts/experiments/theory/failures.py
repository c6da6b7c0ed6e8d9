"""The two ways in which a pair fails: models that contradict each other, and models too alike (Figures 22 and 23)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from experiments.theory import plane
from experiments.theory.drawing import COLOURS, GREY, NAMES, PATH_LOOKS, Made, finished, level, style, subplots, verdict
from experiments.theory.line import density, histogram
from experiments.theory.mixtures import IDEAL, STRONG, Mixture, logit_weak, normal_quantiles
from experiments.theory.sizes import measured
from experiments.theory.testbed import (
    BOTH,
    SCHEDULES,
    divergence,
    logit_testbed,
    mixtures_testbed,
    mode_shares,
    noise,
    options,
    ratio_testbed,
    run,
)

# The four modes of the plane as styles: ink to the right, Disney upwards; both together is the goal.
STYLES = ("neither", "Disney", "ink", "both")
DISNEY = Mixture(plane.MEANS, (0.1, 0.7, 0.1, 0.1))
INK = Mixture(plane.MEANS, (0.1, 0.1, 0.7, 0.1))
GOAL = Mixture(plane.MEANS, (0.01, 0.01, 0.01, 0.97))
OPPOSED = -1.0  # the weak model's bias over the strong one's: as large, the other way

RATIOS = (1.0, 1.05, 1.1, 1.2, 1.35, 1.5, 1.75, 2.0)
STEPS = 20
SPREADS = (0.03, 0.1, 0.3, 1.0)
PAIRS, PAIR_SAMPLES, PAIR_STEPS = 40, 400, 10


def conflict_numbers(schedules: Sequence[str] = SCHEDULES) -> dict[str, Any]:
    """Shares of the styles for both models and for W2SD with either as the strong one; and opposed biases on a line."""
    found: dict[str, Any] = {"styles": list(STYLES), "opposed_ratio": OPPOSED}
    for name in schedules:
        x = noise(2000, 2)
        first, second = mixtures_testbed(name, GOAL, DISNEY, INK), mixtures_testbed(name, GOAL, INK, DISNEY)
        shares = {
            "Disney model": run(first, "strong", x, STEPS),
            "ink model": run(second, "strong", x, STEPS),
            "W2SD, Disney strong": run(first, "w2sd", x, STEPS),
            "W2SD, ink strong": run(second, "w2sd", x, STEPS),
        }
        line = logit_testbed(name, OPPOSED)
        found[name] = {
            "shares": {label: mode_shares(done.final, plane.MEANS) for label, done in shares.items()},
            "line": {method: measured(line, method, 50) for method in ("weak", "strong", "w2sd")},
        }
    return found


def move_over_error(name: str, ratio: float) -> float:
    """The size of the gap's move over that of the inversion's error, mean over the reflected steps of a run."""
    bed = ratio_testbed(name, ratio)
    settings = options("paper")
    moved, idle = run(bed, "w2sd", normal_quantiles(), STEPS, settings), None
    sizes, errors = [], []
    same = ratio_testbed(name, 1.0)
    levels = bed.levels(STEPS)
    for i, (x, _) in moved.moves.items():
        strong, weak = bed.strong(x, levels[i]), bed.weak(x, levels[i])
        sizes.append((bed.path.gap_coefficient(levels[i], levels[i + 1]) * (weak - strong)).norm())
    idle = run(same, "w2sd", normal_quantiles(), STEPS, settings)
    errors = [(tilde - x).norm() for x, tilde in idle.moves.values()]
    return (torch.stack(sizes).mean() / torch.stack(errors).mean()).item()


def random_pair(spread: float, seed: int) -> Mixture:
    """A weak model like the strong one of the plane, but for log weights off by noise of this standard deviation."""
    generator = torch.Generator().manual_seed(seed)
    shift = spread * torch.randn(4, generator=generator, dtype=torch.float64)
    weights = torch.softmax(torch.tensor(plane.STRONG.weights, dtype=torch.float64).log() + shift, 0)
    return Mixture(plane.MEANS, tuple(weights.tolist()))


def similarity_numbers(schedules: Sequence[str] = BOTH) -> dict[str, Any]:
    """What little a similar weak model gives: along the ideal direction, and in random ones.

    Random ones: how the divergence of the modes' shares from the ideal changes from the strong model to W2SD, for
    pairs whose weights differ at random; the same 400 starting points for all.
    """
    found: dict[str, Any] = {"ratios": list(RATIOS), "steps": STEPS, "spreads": list(SPREADS), "pairs": PAIRS}
    for name in schedules:
        found[name] = {
            "strong": measured(ratio_testbed(name), "strong", STEPS),
            **{
                mode: [measured(ratio_testbed(name, ratio), "w2sd", STEPS, options(mode)) for ratio in RATIOS]
                for mode in ("paper", "fused")
            },
            "move_over_error": [move_over_error(name, ratio) for ratio in RATIOS],
        }
    x = noise(PAIR_SAMPLES, 2)

    def spoiled(final: Tensor) -> float:
        return divergence(mode_shares(final, plane.MEANS), plane.IDEAL.weights)

    strong = spoiled(run(plane.bed("ddpm"), "strong", x, PAIR_STEPS).final)
    found["random"] = {
        str(spread): [
            spoiled(
                run(
                    mixtures_testbed("ddpm", plane.IDEAL, plane.STRONG, random_pair(spread, seed)),
                    "w2sd",
                    x,
                    PAIR_STEPS,
                ).final
            )
            - strong
            for seed in range(PAIRS)
        ]
        for spread in SPREADS
    }
    return found


# --- figures ----------------------------------------------------------------------------------------------------------

MODES = {"paper": "W2SD, paper (Eq. 4)", "fused": "W2SD, fused"}
BARS = {
    "Disney model": COLOURS["strong"],
    "ink model": COLOURS["weak"],
    "W2SD, Disney strong": COLOURS["w2sd"],
    "W2SD, ink strong": COLOURS["fused"],
}


@style()
def figure_22() -> Made:
    numbers = conflict_numbers()
    axis = plane.grid(points=61)
    title = "Figure 22: models in conflict; W2SD moves away from what was wanted"
    figure, ((styles, bars, opposed),) = subplots(1, 3, size=(4.2, 3.7), title=title)
    for label, model in (("Disney model", DISNEY), ("ink model", INK)):
        heights = [0.002, 0.006, 0.015, 0.03, 0.06]
        styles.contour(
            axis,
            axis,
            plane.density(model, axis),
            heights,
            colors=BARS[label],
            linestyles="-" if model is DISNEY else ":",
        )
    for (x, y), words in zip(plane.MEANS, STYLES, strict=True):
        styles.text(x, y - 3.4, words, ha="center")
    styles.set(title="two models, goal: both styles", xlabel="ink", ylabel="Disney", xlim=(-8, 8), ylim=(-8, 8))
    styles.set(xticks=(-4, 0, 4), yticks=(-4, 0, 4))
    for j, (label, colour) in enumerate(BARS.items()):
        places = [k + 0.2 * (j - 1.5) for k in range(4)]
        bars.bar(places, numbers["ddpm"]["shares"][label], 0.18, color=colour, label=label)
    bars.set(title="what is sampled (noise path)", ylabel="share of samples", ylim=(0, 1))
    bars.set_xticks(range(4), STYLES)
    samples = run(logit_testbed("ddpm", OPPOSED), "w2sd", normal_quantiles(4000), 50).final
    opposed.fill_between(*histogram(samples, -8, 8, 80), color=COLOURS["w2sd"], alpha=0.25, label="samples of W2SD")
    places_x = torch.linspace(-8, 8, 400, dtype=torch.float64)
    for model, colour, words, dash in (
        (logit_weak(OPPOSED), COLOURS["weak"], "weak model (left .75)", "-"),
        (STRONG, COLOURS["strong"], "strong model (left .25)", "-"),
        (IDEAL, COLOURS["ideal"], "ideal (left .5)", "--"),
    ):
        opposed.plot(places_x, density(model, places_x), dash, color=colour, label=words)
    opposed.set(
        title="opposed biases on a line", xlabel="x", xticks=(-8, -4, 0, 4, 8), ylabel="density", ylim=(0, 0.52)
    )
    goal = {name: {label: share[3] for label, share in numbers[name]["shares"].items()} for name in SCHEDULES}
    left = {name: numbers[name]["line"] for name in SCHEDULES}
    measured = (
        "Of two models that know one style each, W2SD makes both styles in "
        f"{100 * goal['ddpm']['W2SD, Disney strong']:.1f} and {100 * goal['ddpm']['W2SD, ink strong']:.1f} % of the "
        "samples, by whichever is the strong one, where the models alone do "
        f"in {100 * goal['ddpm']['Disney model']:.1f} %. With opposed biases the left share falls "
        f"from {left['ddpm']['strong']['left']:.2f} to {left['ddpm']['w2sd']['left']:.2f} (ideal .5)."
    )
    holds = [
        max(goal[name]["W2SD, Disney strong"], goal[name]["W2SD, ink strong"])
        < min(goal[name]["Disney model"], goal[name]["ink model"])
        and left[name]["w2sd"]["distance"] > left[name]["strong"]["distance"]
        for name in SCHEDULES
    ]
    return Made(numbers, finished(figure), measured, verdict(*holds))


@style()
def figure_23() -> Made:
    numbers = similarity_numbers()
    ratios = numbers["ratios"]
    title = "Figure 23: models too alike; the move drowns in the error of inversion, or points anywhere"
    figure, (shares, (signal, random)) = subplots(2, 2, size=(4.9, 3.2), title=title)
    about = "weak model's bias / strong model's (1: equal)"
    for axes, name in zip(shares, ("ddpm", "flow"), strict=True):
        for mode, words in MODES.items():
            left = [point["left"] for point in numbers[name][mode]]
            axes.plot(ratios, left, "o-", color=COLOURS[mode], label=words)
        level(axes, numbers[name]["strong"]["left"], COLOURS["strong"], "strong model alone")
        level(axes, 0.5, COLOURS["ideal"], "ideal")
        axes.set(title=f"along the right direction, {NAMES[name]}", xlabel=about, ylim=(0.2, 0.6))
        axes.set_ylabel("share of the left mode")
        signal.plot(ratios, numbers[name]["move_over_error"], **PATH_LOOKS[name])
    level(signal, 1.0, GREY, "as large as the error")
    signal.set(title="signal over error of the inversion, T 20", xlabel=about, ylim=(0.0, None))
    signal.set_ylabel("move of the gap / inversion error")
    spreads = list(numbers["random"])
    for k, spread in enumerate(spreads):
        places = [k + 0.5 * (j / (numbers["pairs"] - 1) - 0.5) for j in range(numbers["pairs"])]
        random.plot(places, numbers["random"][spread], ".", color="#332288", alpha=0.6, label="one random pair")
    level(random, 0.0, COLOURS["strong"])
    random.set(title="random directions, four modes", xlabel="spread of the pairs' log weights")
    random.set_ylabel("change of divergence (below 0: better)")
    random.set_xticks(range(len(spreads)), spreads)
    strong = numbers["ddpm"]["strong"]["left"]
    near = ratios.index(1.1)
    gains = {mode: numbers["ddpm"][mode][near]["left"] - strong for mode in MODES}
    full = numbers["ddpm"]["fused"][-1]["left"] - strong
    better = {spread: sum(change < 0 for change in changes) for spread, changes in numbers["random"].items()}
    worst = {spread: max(map(abs, changes)) for spread, changes in numbers["random"].items()}
    first, last = spreads[0], spreads[-1]
    measured = (
        f"At 1.1 times the strong model's bias the left share changes by {gains['fused']:+.3f} fused and "
        f"{gains['paper']:+.3f} as printed (noise path, T 20), at twice by {full:+.3f}. Pairs that differ at random by "
        f"{first} in log weight change the divergence by at most {worst[first]:.3f}, {better[first]} of "
        f"{numbers['pairs']} for the better; by {last}, by up to {worst[last]:.2f}, {better[last]} for the better."
    )
    holds = (abs(gains["fused"]) < 0.2 * full, 0.2 < better[first] / numbers["pairs"] < 0.8)
    return Made(numbers, finished(figure), measured, verdict(*holds))
