"""What each method takes of a plan's settings: its steps and flags, how it reflects, what it costs (no torch)."""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from w2sd_video.commands.request import Request
from w2sd_video.core.options import SETTINGS
from w2sd_video.core.trained_timesteps import trained_timesteps
from w2sd_video.errors import UserError
from w2sd_video.latents.noise_levels import is_flow
from w2sd_video.pair import ModelPair, ModelSpec, ReflectionConfig, gap
from w2sd_video.runs.tasks import ALONE, METHODS, SELECTING

REFLECTING = tuple(name for name, method in METHODS.items() if method.reflects)
GAPPED = ("w2sd", "swapped", "resample-aligned", "resample-opposed")  # of no use without a gap inside the reflection
AS_THEY_SAMPLE = (SELECTING, "autoguided")  # both sides are asked as they sample by themselves
REFINEMENTS = (
    *("every", "window", "fixed_point", "noise", "cap", "lag", "gap_every", "motion_strength", "draws", "guider"),
)
LEAST = 4  # evaluations; below, not even one step would be reflected
REWARD = ("reward", "reward_weights", "reward_threshold", "reward_frames")


def users_of(field: str) -> tuple[str, ...]:
    """Returns the methods that look at a setting of a reflection, or at a field of REWARD."""
    if field in REWARD:
        return (SELECTING,)
    return tuple(name for name in METHODS if name not in ALONE and field in SETTINGS[hosted_name(name)])


def check_used(request: Request, methods: Sequence[str]) -> None:
    """Raises `UserError` for a setting that is given and that none of the methods looks at."""
    for name in _unused(request, methods):
        raise UserError(
            f"--{name.replace('_', '-')} is given, and none of the methods asked for ({', '.join(methods)}) looks at "
            f"it; add one that does ({', '.join(users_of(name))}), or leave it out"
        )


def without_unused(request: Request, methods: Sequence[str]) -> Request:
    """Returns the request without the settings that none of the methods looks at."""
    return request.changed(**dict.fromkeys(_unused(request, methods)))


def _unused(request: Request, methods: Iterable[str]) -> list[str]:
    given = [name for name in (*REFINEMENTS, *REWARD) if request.asks(name)]
    return [name for name in given if not set(methods) & set(users_of(name))]


def chosen_mode(request: Request, own: str) -> str:
    """Returns the mode asked for, else the preset's `own`; a cached gap has but one."""
    return request.mode or ("fused" if request.get("gap_every") is not None else own)


def plan_reflection(request: Request, preset: ReflectionConfig, *, num_reflections: int, mode: str) -> ReflectionConfig:
    """Returns how a plan reflects: what is given, and for the rest what the preset has.

    Raises:
        UserError: a value that a reflection cannot have, or values that do not go together.
    """
    if request.get("fixed_point") and mode != "paper":
        raise UserError(
            f"--fixed-point {request.fixed_point} is given with --mode {mode}; it refines the inversion of mode paper, "
            "which other modes have not: leave one of the two out"
        )
    given = {name: request.get(name) for name in REFINEMENTS if name != "lag"}
    return replace(
        preset,
        num_reflections=num_reflections,
        mode=mode,
        strength=preset.strength if request.strength is None else request.strength,
        lag=bool(request.get("lag")) or preset.lag,
        **{name: value for name, value in given.items() if value is not None},
    )


def check_reflection(reflection: ReflectionConfig, methods: Sequence[str], steps: int) -> None:
    """Raises `UserError` for methods that cannot be made in this way, or settings that leave nothing to reflect."""
    no_release = (SELECTING, "resample-aligned", "resample-opposed")
    if reflection.mode == "release" and (asked := [name for name in no_release if name in methods]):
        raise UserError(
            f"--mode release repeats the published code, which has no {', '.join(asked)}; use --mode paper or fused, "
            "or leave the method out"
        )
    if reflection.guider == "fdg" and importlib.util.find_spec("kornia") is None:
        raise UserError(
            "--guider fdg is FrequencyDecoupledGuidance of diffusers, which needs the package kornia; install it (pip "
            "install kornia) or choose another guider"
        )
    if reflection.num_reflections and set(methods) & set(REFLECTING) and not reflected_steps(reflection, steps):
        first, end = reflection.window
        if reflection.gap_every is not None and config_of("w2sd", replace(reflection, gap_every=None)).steps(steps):
            raise UserError(
                "--gap-every leaves nothing to reflect: the first step of all has no gap before it; give more "
                "--reflections, or leave it out"
            )
        raise UserError(
            f"--window {first:g}:{end:g} holds none of the first {reflection.num_reflections} of {steps} steps, which "
            "are those that are reflected; choose a wider one, or more --reflections"
        )


def check_sides_alone(methods: Sequence[str], pair: ModelPair, guidance: Mapping[str, float], raw: Mapping) -> None:
    """Raises `UserError` for a method that asks both sides as they sample by themselves, where they do so alike.

    `guidance` is the scale that each side samples with, `raw` the weak side's prompts where they differ.
    """
    asked = [name for name in AS_THEY_SAMPLE if name in methods]
    sides = {
        role: replace(side, guidance=guidance[role]) for role, side in (("strong", pair.strong), ("weak", pair.weak))
    }
    if asked and not raw and not gap(sides["strong"], sides["weak"]):
        raise UserError(
            f"{' and '.join(asked)} ask both sides as they sample by themselves, and there both have guidance "
            f"{guidance['strong']:g} and differ in nothing; leave the method out, or make the pair one of checkpoints, "
            "LoRAs or prompts"
        )


def check_lag(
    reflection: ReflectionConfig,
    methods: Sequence[str],
    *,
    strong: tuple[float, float],
    weak: tuple[float, float],
    embedded: bool = False,
) -> None:
    """Raises `UserError` where `lag` would mix guidances: of each side the scale that it samples with, and reflects.

    A cached gap has both scales from one evaluation, unless guidance is `embedded`.
    """
    flag = "--lag" if reflection.lag else "--gap-every" if embedded and reflection.gap_every is not None else None
    for method, (sampling, inside), side in (
        ("w2sd", strong, "strong"),
        ("zero-gap", strong, "strong"),
        ("swapped", weak, "weak"),
    ):
        if flag is not None and method in methods and sampling != inside:
            raise UserError(
                f"{flag} takes the prediction of the main step, made at guidance {sampling:g}, for the one inside the "
                f"reflection, and there the {side} side of {method} has {inside:g}; give --{side}-guidance "
                f"{sampling:g}, or leave out {flag}"
            )


def check_levels(
    pair: ModelPair,
    reflection: ReflectionConfig,
    methods: Sequence[str],
    *,
    strong: Mapping[str, Any] | None,
    weak: Mapping[str, Any] | None,
) -> None:
    """Raises `UserError` for levels of a side that its path does not have, or methods that make no sense with them.

    `strong` and `weak` are the schedulers' configs, None where they are not known.
    """
    if pair.weak.levels is not None:
        alone = [name for name in ("weak", "swapped", SELECTING) if name in methods]
        if alone:
            raise UserError(
                f"{' and '.join(alone)} samples with the weak side, which --weak-levels says was trained at a few "
                f"levels only; leave the method out, or make it by itself: --strong WEAK --scheduler euler-trailing "
                "--steps N --methods strong"
            )
    if pair.strong.levels is not None and (reflection.lag or reflection.gap_every is not None):
        flag = "--lag" if reflection.lag else "--gap-every"
        raise UserError(
            f"{flag} takes the strong side's prediction from the sampling steps, and --strong-levels asks it at other "
            "levels; leave one of the two out"
        )
    for side, schedule in ((pair.strong, strong), (pair.weak, weak)):
        if side.levels is not None and schedule is not None:
            total = int(schedule.get("num_train_timesteps") or 1000)
            trained_timesteps(side.levels, flow=is_flow(schedule), total=total)


def config_of(method: str, reflection: ReflectionConfig, reflector: ModelSpec | None = None) -> ReflectionConfig:
    """Returns what a method takes of a plan's settings; `reflector` is its sampled side as it reflects, which with
    `lag` is as it samples.
    """
    if method in ALONE:
        return ReflectionConfig(num_reflections=0)
    settings = replace(reflection, reflector=None if reflection.lag else reflector)
    return settings.for_method(hosted_name(method))


def roles_of(methods: Collection[str]) -> list[str]:
    """Returns which sides' networks methods call, of a pair of two."""
    wanted = ["strong"] if set(methods) != {"weak"} else []
    return wanted + (["weak"] if set(methods) - {"strong", "zero-gap", "resample"} else [])


def hosted_name(method: str) -> str:
    """Returns the name that a method has for `reflected`, which tells those of Algorithm 1 apart by their sides."""
    return method if method in SETTINGS else "w2sd"


def num_evaluations(method: str, reflection: ReflectionConfig, num_steps: int) -> int:
    """Returns the evaluations of one picture or video."""
    return config_of(method, reflection).evaluations(num_steps, hosted_name(method))


def reflected_steps(reflection: ReflectionConfig, num_steps: int) -> tuple[int, ...]:
    """Returns the reflected ones of T steps, counted from 0."""
    return config_of("w2sd", reflection).steps(num_steps)


def crossing_steps(reflection: ReflectionConfig, num_steps: int) -> tuple[int, ...]:
    """Returns the steps at which both sides are compared: those reflected, or those that measure a cached gap."""
    config = config_of("w2sd", reflection)
    return config.steps(num_steps) if config.gap_every is None else config.gap_steps(num_steps)


def reflection_record(reflection: ReflectionConfig) -> dict[str, Any]:
    """Returns the settings beyond the paper's that are in force, as JSON data; nothing of one at its default."""
    plain = ReflectionConfig()
    changed = {
        name: getattr(reflection, name) for name in REFINEMENTS if getattr(reflection, name) != getattr(plain, name)
    }
    return {name: list(value) if name == "window" else value for name, value in changed.items()}


@dataclass(frozen=True)
class SideRows:
    """Batch rows of one evaluation of each side, as it samples by itself and inside a reflection.

    `together`: both sides come from the two rows of one call where they are asked at one latent. `strong_visit` and
    `weak_visit` are of one evaluation that gives a side in both ways, where that is more than either.
    """

    strong: int
    weak: int
    strong_inside: int
    weak_inside: int
    together: bool = False
    strong_visit: int = 0
    weak_visit: int = 0


def num_rows(method: str, reflection: ReflectionConfig, num_steps: int, sides: SideRows) -> int:
    """Returns the batch rows of one picture or video; where `rows_at_most` says so, the most there can be."""
    hosted, fixed = hosted_name(method), reflection.fixed_point
    steps = config_of(method, reflection).steps(num_steps, hosted)
    count, either = len(steps), max(sides.strong, sides.weak)
    both = 2 if sides.together else sides.strong + sides.weak
    if method == "autoguided":
        guided = len(config_of(method, reflection).guided_steps(num_steps))
        return guided * both + (num_steps - guided) * sides.strong
    if method == SELECTING and count:
        inverting = 0 if reflection.mode == "fused" else (1 + fixed) * either
        return num_steps * either + count * (both + inverting)
    own = num_steps * (sides.weak if method in ("weak", "swapped") else sides.strong)
    if method in ALONE:
        return own
    strong, weak = {
        "zero-gap": (sides.strong_inside, sides.strong_inside),
        "swapped": (sides.weak_inside, sides.strong_inside),
        "resample": (sides.strong_inside, 0),
    }.get(method, (sides.strong_inside, sides.weak_inside))
    if hosted == "w2sd" and reflection.gap_every is not None:
        visit = max(strong, sides.strong, sides.strong_visit)
        if method == "swapped":
            visit = max(strong, sides.weak, sides.weak_visit)
        more = 2 if sides.together and method != "zero-gap" else visit + (visit if method == "zero-gap" else weak)
        return own + len(config_of(method, reflection).gap_steps(num_steps)) * (more - own // num_steps)
    if method in ("w2sd", "swapped") and reflection.mode == "fused" and sides.together and not reflection.lag:
        return own + 2 * count
    if hosted != "w2sd":
        return own + count * (strong + weak)
    recalled = sum(step > 0 for step in steps) if reflection.lag else 0
    return own + (count - recalled) * strong + count * (1 + fixed) * weak


def rows_at_most(method: str, reflection: ReflectionConfig, sides: SideRows) -> bool:
    """Whether a cost is only known as "at most": a reward picks between sides that cost different rows, or fixed-point
    iterations are left out at levels where they cannot converge.
    """
    picked = method == SELECTING and sides.strong != sides.weak
    return bool(reflection.num_reflections) and (picked or config_of(method, reflection).fixed_point > 0)


@dataclass(frozen=True)
class Matched:
    """`steps` (T) and `reflections` (lambda) beside `plain_steps` of methods without reflections: T, or with a matched
    cost the N that they cost about as much as.
    """

    plain_steps: int
    steps: int
    reflections: int

    @property
    def evaluations(self) -> int:
        """T + 2 lambda: N, or one or two fewer, as both halvings round down."""
        return self.steps + 2 * self.reflections

    def sentence(self) -> str:
        """What a program says of its choice."""
        return (
            f"matched to {self.plain_steps} evaluations: T {self.steps} and lambda {self.reflections}, "
            f"{self.evaluations} evaluations; without reflections {self.plain_steps} steps"
        )


def match_evaluations(count: int) -> Matched:
    """Returns T = floor(N / 2) and lambda = floor(T / 2) for N = `count` evaluations of plain sampling.

    The paper's own example for N = 50 has T = 24 and lambda = 12 (48 evaluations); its formula gives T = 25 (49).

    Raises:
        UserError: fewer than 4, or no whole number.
    """
    if isinstance(count, bool) or not isinstance(count, int) or count < LEAST:
        raise UserError(
            f"match evaluations is {count!r}; give the steps of plain sampling to match, a whole number from {LEAST} on"
        )
    steps = count // 2
    return Matched(count, steps, steps // 2)


def settled_steps(request: Request, own_steps: int, own: int | None = None, *, spare: int = 0) -> Matched:
    """Returns T and lambda, and the steps of methods without reflections: what is given, or chosen to match a cost,
    else the preset's T (`own_steps`) and its share of the steps (`own` of them; None for all but one).

    The last `spare` steps cannot be reflected.

    Raises:
        UserError: more reflections than there can be, or given numbers that matching chooses.
    """
    if request.match_evaluations is not None:
        if request.get("gap_every") is not None:
            raise UserError(
                "--match-evaluations counts two evaluations a reflection, and --gap-every has fewer; give --steps and "
                "--reflections in its place (--dry-run shows the cost)"
            )
        for flag, given in (("--steps", request.steps), ("--reflections", request.reflections)):
            if given is not None:
                raise UserError(
                    f"--match-evaluations chooses {flag} itself, and {flag} {given} is given; leave one out"
                )
        return match_evaluations(request.match_evaluations)
    steps, given = request.steps or own_steps, request.reflections
    most = steps - spare
    if given is None:
        given = min(most, steps - 1, round((1.0 if own is None else own / own_steps) * steps))
    if given > most:
        why = f" ({steps - 1} by default: most schedules end without noise, and such a step cannot be inverted)"
        raise UserError(
            f"reflections is {given} with {steps} steps; use a whole number from 0 to {most}{why * (steps > 1)}"
        )
    return Matched(steps, steps, given)
