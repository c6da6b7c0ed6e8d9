"""Every setting of a reflection once: its range, which methods take it, which steps are reflected and what they cost.

Imports no torch.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from w2sd_video.core.levels import Level
from w2sd_video.errors import UserError

MODES = ("paper", "fused", "release")
_MOVE = ("every", "window", "fixed_point", "noise", "cap", "motion_strength")
SETTINGS: Mapping[str, tuple[str, ...]] = {
    "w2sd": ("num_reflections", "mode", "strength", "reflector", *_MOVE, "lag", "gap_every", "draws"),  # Alg. 1
    "w2sd-auto": ("num_reflections", "mode", "strength", *_MOVE),  # Alg. 2
    "resample": ("num_reflections", "reflector", "every", "window"),  # Alg. 3
    "resample-aligned": ("num_reflections", "mode", "reflector", "every", "window"),  # Alg. 4
    "resample-opposed": ("num_reflections", "mode", "reflector", "every", "window"),  # its control, Table 15
    "autoguided": ("strength", "window", "guider"),  # App. E.5
}
"""Of each method, the fields of `ReflectionConfig` that it takes."""

METHODS = tuple(SETTINGS)
MAX_DRAWS = 64
AUTO, AUTO_EVERY = "auto", 2  # of `ReflectionConfig.gap_every`: as many measurements as at every second step
GUIDERS = ("linear", "cfg-zero", "apg", "tcfg", "fdg")
"""How auto-guidance combines two predictions: linearly (Eq. 36-38), or by the rule of another kind of guidance."""

MOST_MOTION = 10.0  # of `ReflectionConfig.motion_strength`, either way


@dataclass(frozen=True)
class ReflectionConfig:
    """How a pair is used; as given here, Algorithm 1.

    Attributes:
        num_reflections: lambda, counted from the noisiest level; None is one fewer than the steps.
        mode: "paper" (Alg. 1), "fused" (Theorem 1, exactly) or "release" (the published code's coefficients).
        strength: multiplies the move of each reflection; of auto-guidance, its weight.
        reflector: a `ModelSpec`, how the strong side differs inside the reflection from how it samples (App. C.1
            reflects at guidance 1.0 and samples at 5.5); for `reflected` only.
        every: reflect each k-th of the steps that would be reflected, from the noisiest on; saves 2 evaluations a step
            left out.
        window: the part of the sampling steps that may be reflected, as fractions from the noisiest (0) to the end (1);
            step i of T counts as i / T. Early reflections decide what a sample becomes.
        fixed_point: iterations, 0 to 2, that bring an inversion of mode "paper" nearer to exact, an evaluation
            each; below about 20 steps they may do harm.
        noise: standard deviation, in latent units, of noise added to each reflected latent. It is the k of Eq. 35,
            absolute: that equation multiplies k by a coefficient so small that the k of Table 14 could not matter.
        cap: the most that a reflection may move a sample, as a root mean square in latent units; None for no cap. For
            weak models whose score has no bound where the strong model's samples are.
        lag: the strong prediction of the sampling step before (cached) stands in for the strong model's own in each
            reflection: an approximation that saves an evaluation. The strong side must reflect as it samples.
        gap_every: the gap weak - strong is measured at sampling steps, where the strong side is asked anyway, and the
            reflections that follow move by that cached gap (mode "fused"): at every k-th of the steps that come
            before a reflection, 0 for the first of them alone, or at the steps of a tuple, counted from 0. "auto" is
            as many as of k = AUTO_EVERY, placed where an old gap would miss most: dense where the gap turns, as
            measured on a few samples before (`core.placing`); the commands do so, and all else takes the steps found.
            None measures it anew in each reflection. T + lambda / k evaluations instead of T + 2 lambda, and equal
            sides move nothing. The strong side may reflect at another classifier-free guidance than it samples at, and
            else as it samples.
        motion_strength: of videos: multiplies what a move has beside its mean over the frames, -10 to 10. At 1 as
            printed; at 0 each reflection moves all frames alike and leaves their differences to the strong model.
        draws: K, of a bridge between latent spaces only: both models estimate the same picture anew under K draws of
            noise of their own, 1 + 2 K evaluations a reflection. 0, the default, is one evaluation of each model.
        guider: of auto-guidance, one of GUIDERS. Its `window` is the part of the steps that is guided (a limited
            interval, arXiv 2404.07724); the others cost one evaluation. With a weak side at guidance 0 it is
            classifier-free guidance at the scale 1 + strength.

    Raises:
        UserError: a value outside these ranges, or fixed points in a mode whose inversion has none.
    """

    num_reflections: int | None = None
    mode: str = "paper"
    strength: float = 1.0
    reflector: Any = None
    every: int = 1
    window: tuple[float, float] = (0.0, 1.0)
    fixed_point: int = 0
    noise: float = 0.0
    cap: float | None = None
    lag: bool = False
    gap_every: int | tuple[int, ...] | str | None = None
    motion_strength: float = 1.0
    draws: int = 0
    guider: str = "linear"

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UserError(f"mode is {self.mode!r}; choose one of {', '.join(MODES)}")
        if not is_finite(self.strength):
            raise UserError(f"strength is {self.strength!r}; it must be a finite number (1 is the paper's)")
        lam = self.num_reflections
        if lam is not None and not (is_whole(lam) and lam >= 0):
            raise UserError(f"num_reflections is {lam!r}; it must be a whole number from 0 to the number of steps - 1")
        if not (is_whole(self.every) and self.every >= 1):
            raise UserError(f"every is {self.every!r}; it must be a whole number of steps, 1 (all of them) or more")
        if not (is_finite(self.noise) and self.noise >= 0):
            raise UserError(f"noise is {self.noise!r}; it must be a standard deviation in latent units, 0 or more")
        if self.cap is not None and not (is_finite(self.cap) and self.cap > 0):
            raise UserError(
                f"cap is {self.cap!r}; it must be a root mean square in latent units above 0, or None for no cap"
            )
        if not isinstance(self.lag, bool):
            raise UserError(f"lag is {self.lag!r}; it must be True or False")
        if not (is_finite(self.motion_strength) and abs(self.motion_strength) <= MOST_MOTION):
            raise UserError(
                f"motion_strength is {self.motion_strength!r}; it must be a number from {-MOST_MOTION:g} to "
                f"{MOST_MOTION:g}: 1 moves a video as printed, 0 moves all of its frames alike"
            )
        if not (is_whole(self.draws) and 0 <= self.draws <= MAX_DRAWS):
            raise UserError(
                f"draws is {self.draws!r}; it must be a whole number from 1 to {MAX_DRAWS}, or 0 where noise is mapped"
            )
        if self.guider not in GUIDERS:
            raise UserError(f"guider is {self.guider!r}; choose one of {', '.join(GUIDERS)}")
        self._check_window()
        self._check_fixed_point()
        self._check_gap_every()

    def _check_window(self) -> None:
        window = self.window
        pair = isinstance(window, tuple | list) and len(window) == 2 and all(map(is_finite, window))
        if not (pair and 0 <= window[0] < window[1] <= 1):
            raise UserError(
                f"window is {window!r}; it must be two fractions of the steps from 0 (the noisiest) to 1, the smaller "
                "one first, such as (0.0, 0.5)"
            )
        object.__setattr__(self, "window", (float(window[0]), float(window[1])))

    def _check_fixed_point(self) -> None:
        if not (is_whole(self.fixed_point) and 0 <= self.fixed_point <= 2):
            raise UserError(f"fixed_point is {self.fixed_point!r}; it must be 0, 1 or 2 iterations")
        if self.fixed_point and self.mode != "paper":
            raise UserError(
                f'fixed_point is {self.fixed_point} in mode {self.mode!r}; it refines the inversion of mode "paper", '
                "which the others have not: choose that mode, or leave fixed_point at 0"
            )

    def _check_gap_every(self) -> None:
        every = self.gap_every
        if every is None:
            return
        if isinstance(every, tuple | list):
            rising = all(map(is_whole, every)) and list(every) == sorted({*every}) and min(every, default=-1) >= 0
            if not rising:
                raise UserError(f"gap_every is {every!r}; as a list it must be steps from 0 on, each once and in order")
            object.__setattr__(self, "gap_every", tuple(every))
        elif every != AUTO and not (is_whole(every) and int(every) >= 0):
            raise UserError(
                f"gap_every is {every!r}; it must be a whole number: 1 measures the gap at every step before a "
                "reflection, 2 at every second, 0 once at the start (or a list of steps, or auto); None in the "
                "reflections themselves"
            )
        if self.mode != "fused":
            raise UserError(
                f'gap_every is {every} in mode {self.mode!r}; a cached gap moves the latent as mode "fused" does: '
                "choose that mode, or leave gap_every out"
            )
        if self.lag:
            raise UserError("gap_every and lag both save evaluations of the strong side; leave one of the two out")

    def check_method(self, method: str) -> None:
        """Raises `UserError` for an unknown method, or a setting that this method does not take."""
        if method not in SETTINGS:
            raise UserError(f"method is {method!r}; choose one of {', '.join(METHODS)}")
        taken = SETTINGS[method]
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name not in taken and value != field.default:
                shown = repr(value) if not dataclasses.is_dataclass(value) else "given"
                why = "makes no reflections" if method == "autoguided" else "has no such setting"
                raise UserError(
                    f"{field.name} is {shown}, and method {method!r} {why}: it takes {', '.join(taken)}; leave "
                    f"{field.name} out"
                )
        if self.mode == "release" and method != "w2sd":
            raise UserError(
                f'mode "release" repeats the published code, which has no {method}; choose mode "paper" or "fused"'
            )

    def for_method(self, method: str) -> ReflectionConfig:
        """The settings that this method takes, the others at their defaults."""
        return ReflectionConfig(**{name: getattr(self, name) for name in SETTINGS[method]})

    def check_levels(self, levels: Sequence[Level], method: str = "w2sd") -> None:
        """Raises `UserError` for more reflections than the steps between these T + 1 levels can have.

        T are allowed in mode "fused", where nothing is inverted (Alg. 3 inverts nothing either), and in mode "paper"
        where the last level keeps noise; else T - 1.
        """
        num_steps, lam = len(levels) - 1, self.num_reflections
        inverts = method != "resample" and self.mode != "fused"
        last = not inverts or (self.mode == "paper" and levels[-1].sigma > 0)
        most = num_steps if last else num_steps - 1
        if method != "autoguided" and lam is not None and lam > most:
            reason = "" if last else f" (the last one cannot be inverted in mode {self.mode!r} on this schedule)"
            raise UserError(
                f"num_reflections must be a whole number from 0 to {most} for {num_steps} steps{reason}; got {lam}"
            )

    def plain(self, method: str = "w2sd") -> bool:
        """Whether this is plain sampling, whatever the sides."""
        return self.num_reflections == 0 and method != "autoguided"

    def steps(self, num_steps: int, method: str = "w2sd") -> tuple[int, ...]:
        """The reflected ones of T steps, counted from 0: every k-th in the window, of the first lambda.

        With `gap_every` the steps that have no gap before them, such as the first of all, are not among them.
        """
        if method == "autoguided":
            return ()
        lam = num_steps - 1 if self.num_reflections is None else self.num_reflections
        first, end = self._ends(num_steps)
        steps = tuple(range(first, min(end, lam, num_steps), self.every))
        if self.gap_every is None:
            return steps
        measured = self.gap_every[0] if isinstance(self.gap_every, tuple) else 0
        return tuple(step for step in steps if step > measured)

    def guided_steps(self, num_steps: int) -> range:
        """The steps of T that auto-guidance guides: those in the window."""
        first, end = self._ends(num_steps)
        return range(first, min(end, num_steps))

    def _ends(self, num_steps: int) -> tuple[int, int]:
        first, end = (math.ceil(edge * num_steps - 1e-9) for edge in self.window)
        return first, end

    def gap_steps(self, num_steps: int, method: str = "w2sd") -> tuple[int, ...]:
        """The steps at which a cached gap is measured: every k-th before a reflection, the first, or those named.

        Of "auto" they are not known before they are `placed`; their number is.
        """
        if self.gap_every is None:
            return ()
        before = tuple(step - 1 for step in self.steps(num_steps, method))
        if isinstance(self.gap_every, tuple):
            return tuple(step for step in self.gap_every if before and step <= before[-1])
        every = AUTO_EVERY if isinstance(self.gap_every, str) else self.gap_every
        return before[::every] if every else before[:1]

    def with_fresh_gaps(self, num_steps: int) -> ReflectionConfig:
        """What places the measurements of "auto": every step of T reflected by a gap of its own, up to the last step
        that this configuration reflects, without noise and cap.
        """
        last = max(self.steps(num_steps), default=-1)
        free = {"every": 1, "window": (0.0, 1.0), "noise": 0.0, "cap": None, "gap_every": None}
        return dataclasses.replace(self, num_reflections=last + 1, **free)  # type: ignore[arg-type]

    def costs(self, num_steps: int, method: str = "w2sd") -> list[int]:
        """The evaluations (NFE; a guided one counts once) of each of T steps; their sum is T + 2 lambda for Alg. 1.

        A step whose inversion cannot be refined has fewer, and one in which the samples of a batch choose different
        sides ("w2sd-auto") more.
        """
        reflected, measured = self.steps(num_steps, method), self.gap_steps(num_steps, method)
        if self.gap_every is not None:
            return [1 + (2 * self.draws or 1) * (i in measured) for i in range(num_steps)]
        if method == "autoguided":
            return [1 + (i in self.guided_steps(num_steps)) for i in range(num_steps)]
        return [1 + (self._reflection_cost(i, method) if i in reflected else 0) for i in range(num_steps)]

    def evaluations(self, num_steps: int, method: str = "w2sd") -> int:
        """The evaluations of T steps, all in all: the sum of `costs`."""
        return sum(self.costs(num_steps, method))

    def _reflection_cost(self, step: int, method: str) -> int:
        if method == "resample":
            return 1
        if method == "w2sd-auto":
            return 3 + self.fixed_point if self.mode == "paper" else 2
        if self.draws:
            return 1 + 2 * self.draws
        return 2 + self.fixed_point - (self.lag and step > 0)


def gap_steps(given: str | float) -> int | tuple[int, ...] | str:
    """Returns what a text says of `gap_every`: k, the steps of a list such as "0,1,3", or "auto"."""
    if str(given).strip() == AUTO:
        return AUTO
    parts = [part.strip() for part in str(given).removesuffix(".0").split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise UserError(f"gap every is {given!r}; give a whole number from 0 on, steps such as 0,1,3, or auto")
    found = tuple(map(int, parts))
    return found if len(found) > 1 else found[0]


def is_finite(value: Any) -> bool:
    """Whether a value is a finite number, and no bool."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_whole(value: Any) -> bool:
    """Whether a value is an int, and no bool."""
    return isinstance(value, int) and not isinstance(value, bool)


AS_PRINTED = ReflectionConfig()
