"""The figures by name, and what the paper (or our own documentation) claims of each. Imports no torch."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from w2sd_video.errors import UserError

if TYPE_CHECKING:
    from experiments.theory.drawing import Made


@dataclass(frozen=True)
class Entry:
    """A figure: where it comes from, what is claimed, and the function that makes it ("module:function")."""

    source: str
    claim: str
    maker: str

    def make(self) -> Made:
        module, _, function = self.maker.partition(":")
        make: Callable[[], Made] = getattr(importlib.import_module(f"experiments.theory.{module}"), function)
        return make()


ENTRIES: dict[str, Entry] = {
    "theorem-1": Entry(
        "Theorem 1",
        "A reflection moves a latent by sigma^2t dt times the weak-to-strong gap, for small steps.",
        "theorems:theorem_1",
    ),
    "theorem-2": Entry(
        "Theorem 2",
        "The weak-to-strong gap differs from the strong-to-ideal one by at most C(x) epsilon times the latter.",
        "theorems:theorem_2",
    ),
    "figure-3": Entry(
        "Figure 3, Theorems 2 and 3",
        "A small epsilon (weak model of about twice the strong one's bias) makes the one gap a stand-in for the other.",
        "theorems:figure_3",
    ),
    "figure-4": Entry(
        "Figure 4",
        "On two modes W2SD shifts the samples towards the one that the strong model lacks.",
        "line:figure_4",
    ),
    "figure-5": Entry(
        "Figure 5",
        "Reflections draw the paths of samples closer to the mode that both models neglect.",
        "line:figure_5",
    ),
    "figure-6": Entry(
        "Figure 6",
        "In the plane W2SD boosts the bottom-left mode and brings the samples closer to the real data.",
        "plane:figure_6",
    ),
    "figure-12": Entry(
        "Figures 12 and 13",
        "A positive gap gives gains, none gives plain sampling, a negative one losses.",
        "sizes:figure_12",
    ),
    "figure-14": Entry(
        "Figure 14",
        "At equal evaluations (half the steps, half of those reflected) W2SD beats standard sampling throughout.",
        "sizes:figure_14",
    ),
    "table-16": Entry(
        "Table 16, App. E.5",
        "Reflection reaches more than auto-guidance with weight 1, its interpolation in latents.",
        "sizes:table_16",
    ),
    "figure-21": Entry(
        "Figure 21",
        "Paths of 5 steps are less smooth, and W2SD still steers them well, as it does at 20.",
        "line:figure_21",
    ),
    "figure-22": Entry(
        "Figure 22",
        "Failure 1, conflict: with opposed biases the gap contradicts the direction that is wanted.",
        "failures:figure_22",
    ),
    "figure-23": Entry(
        "Figure 23",
        "Failure 2, over-similarity: with a bias ratio near 1 gains are weak and inconsistent.",
        "failures:figure_23",
    ),
    "figure-25": Entry(
        "Figure 25",
        "W2SD corrects the paths of other pairs on a line too.",
        "line:figure_25",
    ),
    "figure-27": Entry(
        "Figure 27",
        "The angle between the two gaps stays within 90 degrees, and W2SD points closer to the ideal direction.",
        "plane:figure_27",
    ),
    "figure-28": Entry(
        "Figure 28, Table 15",
        "Re-Sampling does better where its noise agrees with W2SD's move, and Algorithm 4 makes use of that.",
        "iteration:figure_28",
    ),
    "algorithm-3": Entry(
        "Algorithms 3 and 4, line 6",
        "A reflection by noise gives the latent x_t new noise: Add_Noise(x_t, noise, t).",
        "iteration:algorithm_3",
    ),
    "algorithm-2": Entry(
        "Algorithm 2, Table 13",
        "Letting a reward pick the strong side at each step beats both models and both fixed choices.",
        "iteration:algorithm_2",
    ),
    "zero-gap": Entry(
        "App. E.3",
        "With a small step the error of inversion is about zero, so equal models leave a latent as it is.",
        "zero_gap:zero_gap",
    ),
    "noise": Entry(
        "Table 14, setting noise",
        "A larger error of inversion costs more of the gain; at k .01 all of it, and more.",
        "settings:noise",
    ),
    "strength": Entry(
        "setting strength (ours)",
        "A factor above 1 makes up for a weak model that is too little worse; too much overshoots.",
        "settings:strength",
    ),
    "thinning": Entry(
        "settings every and window (ours)",
        "Early reflections do the work; fewer of them can be made up for by strength.",
        "settings:thinning",
    ),
    "fixed-point": Entry(
        "setting fixed_point (ours)",
        "Two iterations take the error out of the inversion from about 20 steps on, and may do harm below.",
        "settings:fixed_point",
    ),
    "cap": Entry(
        "setting cap (ours)",
        "Keeps a weak model that has lost a mode from throwing samples beyond it.",
        "settings:cap",
    ),
    "lag": Entry(
        "setting lag (ours)",
        "A third fewer evaluations for about the same result.",
        "settings:lag",
    ),
}


SLIPS = (  # where the printed text does not hold as it stands: place, what is printed, what holds, the figure
    (
        "Eq. 1, 4 and 5",
        "a step moves a latent by sigma^2t dt times the score",
        "half of that, for the deterministic steps in use (DDIM)",
        "theorem-1",
    ),
    (
        "Eq. 17 and 18",
        "the gaps are minus Sigma^-1 times a difference of means",
        "plus: the score is -Sigma^-1 (x - E[mu | x]); the bound does not feel the sign",
        "theorem-2",
    ),
    (
        "Eq. 27, last step",
        "the bound holds for any covariance",
        "for round components; for others times up to their condition number",
        "theorem-2",
    ),
    (
        "Alg. 2",
        "the second model is the strong one unless the first is better",
        "ties then always go to the second, at the pure noise of a flow for every sample; here a tie keeps what was "
        "chosen before",
        "algorithm-2",
    ),
    (
        "Alg. 3 and 4, Add_Noise(x_t)",
        "x_t is given noise",
        "x_t-1 is noised back to the level of x_t; x_t has its noise already",
        "algorithm-3",
    ),
    (
        "Time efficiency, Figure 14",
        "T_std 50 gives 24 + 24 = 48 evaluations",
        "floor(50 / 2) is 25 steps, so 25 + 2 * 12 = 49",
        "figure-14",
    ),
    (
        "App. E.2",
        "Delta_1 is ideal minus strong",
        "in the theorems that is Delta_2, and Delta_1 strong minus weak",
        "figure-27",
    ),
    (
        "Eq. 35, Table 14",
        "k multiplies noise inside the coefficient of the step",
        "so small a coefficient that the k of the table could not matter; here k is a standard deviation in latents",
        "noise",
    ),
)


def chosen(names: list[str] | None) -> dict[str, Entry]:
    """Returns the figures of these names in the catalogue's order, all of them for None; UserError for another."""
    if names is None:
        return ENTRIES
    if unknown := [name for name in names if name not in ENTRIES]:
        raise UserError(f"there is no figure {unknown[0]!r}; choose from {', '.join(ENTRIES)}")
    return {name: entry for name, entry in ENTRIES.items() if name in names}
