"""Settings of a reflection: strength, every, window, fixed_point."""

from __future__ import annotations

from experiments.theory.bed import SCHEDULES
from experiments.theory.experiments import refinements
from experiments.theory.made import COLOURS, NAMES, Made, verdict
from w2sd_video.report.plotting import Axis, Bars, Line, Mark, Panel, Rule, Sheet

PATHS = {"ddpm": (COLOURS["weak"], False), "sdxl": (COLOURS["paper"], False), "flow": (COLOURS["release"], True)}
WEAK = {"mixture": "weak model a real mixture", "exact": "weak model of exactly twice the bias"}


def strength() -> Made:
    numbers = refinements.strength_numbers()
    strengths = numbers["strengths"]
    rows = [
        [
            Panel(
                words,
                Axis("strength (1: W2SD, 0: the strong model)"),
                Axis(label, low, high),
                [
                    Rule("#999999", x=1.0, width=1.0),
                    *([Rule(COLOURS["ideal"], y=0.5, label="ideal")] if key == "left" else []),
                    *(
                        Line(
                            strengths,
                            [p[key] for p in numbers[name][weak]],
                            colour,
                            NAMES[name],
                            dashed=dashed,
                            dots=True,
                        )
                        for name, (colour, dashed) in PATHS.items()
                    ),
                ],
            )
            for weak, words in WEAK.items()
        ]
        for key, label, low, high in (
            ("left", "share of the left mode", 0.2, 0.9),
            ("distance", "W2 distance to the ideal data", 0.0, 4.6),
        )
    ]
    best = {
        weak: {
            name: min(zip(strengths, numbers[name][weak], strict=True), key=lambda pair: pair[1]["distance"])
            for name in SCHEDULES
        }
        for weak in WEAK
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
        all(numbers[name][weak][-1]["left"] > 0.5 for name in SCHEDULES for weak in WEAK),
    )
    sheet = Sheet("strength: a factor on the move of each reflection (fused, T 20)", rows, (470, 310))
    return Made(numbers, sheet, measured, verdict(*holds))


def thinning() -> Made:
    numbers = refinements.thinning_numbers()
    curves: list[Mark] = []
    bars: list[Mark] = []
    for j, (name, (colour, _)) in enumerate(PATHS.items()):
        plain, stronger = numbers[name]["every"], numbers[name]["every, strength k"]
        curves.append(
            Line([p["evaluations"] for p in plain], [p["distance"] for p in plain], colour, NAMES[name], dots=True)
        )
        curves.append(
            Line(
                [p["evaluations"] for p in stronger],
                [p["distance"] for p in stronger],
                colour,
                f"{NAMES[name]}, strength k",
                1.6,
                True,
                True,
            )
        )
        gains = [numbers[name]["strong"]["distance"] - p["distance"] for p in numbers[name]["windows"]]
        bars.append(Bars([k + 0.26 * (j - 1) for k in range(4)], gains, colour, None, 0.24))
    windows = ["noisiest", "second", "third", "last"]
    panels = [
        Panel(
            "every k-th step reflected (k = 1, 2, 3, 4, 6, 8 from the right)",
            Axis("evaluations, T 20"),
            Axis("W2 distance to the ideal data", 0.0, 3.4),
            curves,
        ),
        Panel(
            "reflections in one quarter of the steps only",
            Axis("quarter of the steps", -0.5, 3.5, ticks=list(enumerate(windows))),
            Axis("W2 gained over the strong model", 0.0, 2.5),
            bars,
        ),
    ]
    late = max(1 - numbers[name]["windows"][3]["distance"] / numbers[name]["strong"]["distance"] for name in SCHEDULES)
    quarters = {name: [p["distance"] for p in numbers[name]["windows"]] for name in SCHEDULES}
    firsts = {name: distances.index(min(distances)) for name, distances in quarters.items()}
    second = refinements.EVERY.index(2)
    told = ", ".join(
        f"{NAMES[name]} {numbers[name]['every'][0]['distance']:.2f}, {numbers[name]['every'][second]['distance']:.2f}, "
        f"{numbers[name]['every, strength k'][second]['distance']:.2f}"
        for name in SCHEDULES
    )
    measured = (
        f"W2 with every step, every second, every second at strength 2: {told}; so half of the reflections do half of "
        "the work, unless they are twice as strong. Most is gained in the "
        + ", ".join(f"{windows[firsts[name]]} quarter ({NAMES[name]})" for name in SCHEDULES)
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
    sheet = Sheet("every and window: fewer reflections, and which of them matter (fused)", [panels], (500, 360))
    return Made(numbers, sheet, measured, verdict(*holds))


def fixed_point() -> Made:
    numbers = refinements.fixed_point_numbers()
    looks = {
        "0": ("paper (Eq. 4)", COLOURS["paper"], False),
        "1": ("1 iteration", COLOURS["release"], False),
        "2": ("2 iterations", COLOURS["ideal"], False),
        "fused": ("fused", COLOURS["w2sd"], True),
    }
    panels = [
        Panel(
            NAMES[name],
            Axis("sampling steps T", log=True, ticks=[(t, str(t)) for t in numbers["steps"]]),
            Axis("W2 distance to the ideal data", 0.0, 4.0),
            [
                Line(
                    numbers["steps"], [p["distance"] for p in numbers[name][n]], colour, words, dashed=dashed, dots=True
                )
                for n, (words, colour, dashed) in looks.items()
            ],
        )
        for name in SCHEDULES
    ]
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
    sheet = Sheet("fixed_point: iterations that make the inversion exact, from about 20 steps on", [panels], (410, 340))
    return Made(numbers, sheet, measured, verdict(all(from_20), bool(worse)))
