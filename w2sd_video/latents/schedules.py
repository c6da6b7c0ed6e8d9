"""From a diffusers scheduler to noise levels and a path; refuses by name what cannot be reflected.

The levels are made from the scheduler's own list of timesteps or sigmas, so they chain exactly on every grid. (Stock
DDIM steps by a fixed stride instead, which misses its own grid with "linspace" spacing, and with "trailing" spacing
unless the number of steps divides the number of training steps.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from w2sd_video.core.levels import Level, check_chain
from w2sd_video.core.paths import FlowPath, NoisePath, Path
from w2sd_video.core.solvers import DPMSolverMultistep, Euler, Solver, UniPC
from w2sd_video.core.trained_levels import TrainedLevels
from w2sd_video.core.trained_timesteps import Timesteps, trained_timesteps
from w2sd_video.errors import UserError

GRID = ("DDIMScheduler", "DDIMParallelScheduler", "CogVideoXDDIMScheduler")
EULER = ("EulerDiscreteScheduler",)
EDM_DPM = "EDMDPMSolverMultistepScheduler"
EDM = ("EDMEulerScheduler", EDM_DPM)
FLOW = ("FlowMatchEulerDiscreteScheduler",)
# Usable for their grid alone, with steps of first order, when asked for.
MULTISTEP_GRID = ("PNDMScheduler",)
IPNDM = "IPNDMScheduler"  # its levels are angles, alpha = cos, and its network predicts v
DPM = "DPMSolverMultistepScheduler"  # DPM-Solver++(2M) has steps of its own order, as UniPC has
UNIPC = "UniPCMultistepScheduler"
MULTISTEP_SIGMAS = (
    DPM,
    "DPMSolverSinglestepScheduler",
    UNIPC,
    "DEISMultistepScheduler",
)
# The same of grids on the sigmas that Euler has; each timestep but the first comes twice where two evaluations a step
# are made.
MULTISTEP_EULER = ("LMSDiscreteScheduler",)
TWICE = ("HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
STOCHASTIC = (
    "DDPMScheduler",
    "DDPMParallelScheduler",
    "EulerAncestralDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "DPMSolverSDEScheduler",
    "LCMScheduler",
    "TCDScheduler",
    "SASolverScheduler",
    "CogVideoXDPMScheduler",
    "FlowMatchLCMScheduler",
    "LTXEulerAncestralRFScheduler",
    "CMStochasticIterativeScheduler",
    "CosineDPMSolverMultistepScheduler",
    "SCMScheduler",
    "DDPMWuerstchenScheduler",
    "UnCLIPScheduler",
    "RePaintScheduler",
)
# What else is no diffusion step from noisy to clean: why, and what to do.
OTHER_STEPS = {
    **dict.fromkeys(
        ("DDIMInverseScheduler", "DPMSolverMultistepInverseScheduler"),
        "runs from clean to noisy; a reflection inverts by itself: use DDIMScheduler or DPMSolverMultistepScheduler",
    ),
    **dict.fromkeys(
        ("BlockRefinementScheduler", "DiscreteDDIMScheduler", "EntropyBoundScheduler", "AmusedScheduler"),
        "samples discrete tokens, which have no noise level to go back to; use a model of continuous latents",
    ),
    "FlowMapEulerDiscreteScheduler": "is of a flow map, whose network is told where a step ends, which no reflection "
    "can repeat; use the many-step model that it was distilled from",
    "PiflowScheduler": "follows a policy of its network's for a whole segment, which is no single prediction; use the "
    "many-step model that it was distilled from",
}
PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v_prediction", "sample": "sample"}
REMEDY = (
    "use pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False), "
    "EulerDiscreteScheduler, or FlowMatchEulerDiscreteScheduler for a flow-matching model"
)
SECOND_ORDER = (
    f"use DPM-Solver++(2M), pipe.scheduler = {DPM}.from_config(pipe.scheduler.config, "
    'algorithm_type="dpmsolver++") (of the programs: --scheduler dpm-solver++)'
)
BEST_REMEDIES = {
    "CogVideoXDPMScheduler": "use pipe.scheduler = CogVideoXDDIMScheduler.from_config(pipe.scheduler.config, "
    "clip_sample=False) (plain DDIM has other noise levels)",
    **dict.fromkeys(
        ("FlowMatchLCMScheduler", "FlowMatchHeunDiscreteScheduler", "LTXEulerAncestralRFScheduler"),
        "use pipe.scheduler = FlowMatchEulerDiscreteScheduler.from_config(pipe.scheduler.config)",
    ),
    **dict.fromkeys(
        ("LCMScheduler", "TCDScheduler"),
        'use pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing"), '
        "whose steps have the predicted noise in place of new noise; or sample with the model's many-step base, and "
        "have this one as the weak side: ModelSpec(levels=...)",
    ),
    **dict.fromkeys(
        ("DDPMScheduler", "DDPMParallelScheduler"),
        "use pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False), its steps without "
        "the noise",
    ),
    **dict.fromkeys(
        ("EulerAncestralDiscreteScheduler", "KDPM2AncestralDiscreteScheduler"),
        "use pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config), the same grid without the "
        "noise",
    ),
    **dict.fromkeys(
        (
            "CMStochasticIterativeScheduler",
            "CosineDPMSolverMultistepScheduler",
            "SCMScheduler",
            "DDPMWuerstchenScheduler",
            "UnCLIPScheduler",
        ),
        "no other scheduler has its noise levels: use another model",
    ),
    "RePaintScheduler": "use a pipeline for inpainting with DDIMScheduler, clip_sample=False",
}
# Where alpha_bar of pure noise is put (by EulerDiscreteScheduler too), as eps alone cannot leave alpha 0.
SMALLEST_ALPHA_BAR = 2.0**-24


@dataclass(frozen=True)
class Grid:
    """The noise levels of one sampling run, T + 1 of them, noisiest first, and their path."""

    levels: Sequence[Level]
    path: Path

    @property
    def num_steps(self) -> int:
        return len(self.levels) - 1

    @property
    def starts_at_pure_noise(self) -> bool:
        """Whether the first level has (almost) no signal left: betas rescaled to zero terminal SNR."""
        return isinstance(self.path, NoisePath) and self.levels[0].alpha < 1e-3


@dataclass(frozen=True)
class Schedule(Grid):
    """The levels of one run of a scheduler, and what they are to its pipeline.

    Attributes:
        levels: T + 1 of them; on a noise path alpha^2 + sigma^2 = 1, on a flow path alpha + sigma = 1.
        path: what the native prediction is held to mean.
        prediction: what the network gives: "epsilon", "v_prediction", "sample" or "flow".
        scales: the pipeline's latent at level i is scales[i] times ours (not 1 only for Euler, whose alpha is 1).
        solver: makes the steps as the scheduler does.
        steps: for each timestep of the pipeline's loop the index of the step made there, None where none is (a repeated
            timestep, a last step that goes nowhere).
        orders: of each step as it samples: 1, or 2 (DPM-Solver++) where the step before it is of this run too.
    """

    levels: tuple[Level, ...]
    path: NoisePath | FlowPath
    prediction: str
    scales: tuple[float, ...]
    steps: tuple[int | None, ...]
    orders: tuple[int, ...]
    solver: Solver


def check_scheduler(scheduler: Any, *, first_order: bool = False) -> None:
    """Raises `UserError` for a scheduler whose steps cannot be reflected, saying which can."""
    name = type(scheduler).__name__
    multistep = (*MULTISTEP_GRID, IPNDM, *MULTISTEP_SIGMAS, *MULTISTEP_EULER, *TWICE)
    config = scheduler.config
    sde = name in (*MULTISTEP_SIGMAS, EDM_DPM) and str(config.get("algorithm_type", "")).startswith(
        "sde"
    )  # not a leftover in DDIM
    if name in STOCHASTIC or sde:
        nearest = f"{SECOND_ORDER}; or {REMEDY}" if sde or name == "DPMSolverSDEScheduler" else REMEDY
        if sde and name in (DPM, EDM_DPM):  # of this very class, as the grid is its own
            nearest = f'use {name}.from_config(pipe.scheduler.config, algorithm_type="dpmsolver++")'
        nearest = BEST_REMEDIES.get(name, nearest)
        raise UserError(f"{name} draws noise at every step, which an inversion cannot take back; {nearest}")
    if name in OTHER_STEPS:
        raise UserError(f"{name} {OTHER_STEPS[name]}")
    if name in (DPM, EDM_DPM) and not first_order:
        _check_dpm(name, config)
    elif name == UNIPC and not first_order:
        _check_unipc(scheduler)
    elif name in multistep and not first_order:
        others = "" if name == IPNDM else f"{SECOND_ORDER}; or {REMEDY}; or "  # no other has its levels
        others = f"{BEST_REMEDIES[name]}; or " if name in BEST_REMEDIES else others
        raise UserError(
            f"{name} makes its steps from several predictions, which do not hold for a reflected latent; "
            f"{others}give first_order=True for steps of first order on its grid"
        )
    if name not in GRID + EULER + EDM + FLOW + multistep:
        raise UserError(f"no reflection is known for {name}; {REMEDY}")
    if name == "PNDMScheduler" and not config.skip_prk_steps:
        raise UserError(f"PNDMScheduler with skip_prk_steps=False has a grid with half steps; {REMEDY}")
    for flag in ("clip_sample", "thresholding"):
        if config.get(flag, False):
            raise UserError(
                f"{name} has {flag}=True: a clipped step is not invertible; "
                f"use {name}.from_config(pipe.scheduler.config, {flag}=False)"
            )
    if config.get("stochastic_sampling", False):
        raise UserError(
            f"{name} has stochastic_sampling=True and draws noise at every step, which an inversion cannot take back; "
            f"use {name}.from_config(pipe.scheduler.config, stochastic_sampling=False)"
        )
    prediction_of(scheduler)


def _check_dpm(kind: str, config: Any) -> None:
    """Raises `UserError` for a DPM-Solver other than DPM-Solver++ of order 1 or 2 in its midpoint form."""
    for name, allowed in (("algorithm_type", "dpmsolver++"), ("solver_type", "midpoint"), ("solver_order", "1 or 2")):
        if str(config[name]) not in allowed.split(" or "):
            raise UserError(
                f"{kind} has {name}={config[name]!r}, whose history is not known to hold beside reflections; use {kind}"
                f".from_config(pipe.scheduler.config, {name}={'2' if name == 'solver_order' else repr(allowed)}), "
                f"or give first_order=True for steps of first order on its grid"
            )


def _check_unipc(scheduler: Any) -> None:
    """Raises `UserError` for a UniPC other than that of order 1 or 2 on clean estimates, as it is by default."""
    config = scheduler.config
    better: dict[str, Any] = {}
    if config.solver_order not in (1, 2):
        better["solver_order"] = 2
    if not config.predict_x0:
        better["predict_x0"] = True
    if scheduler.solver_p is not None:
        better["solver_p"] = None
    if better:
        said = ", ".join(f"{name}={config.get(name)!r}" for name in better)
        asked = ", ".join(f"{name}={value!r}" for name, value in better.items())
        raise UserError(
            f"{UNIPC} has {said}, whose steps are not known; use {UNIPC}.from_config(pipe.scheduler.config, {asked}), "
            "or give first_order=True for steps of first order on its grid"
        )


def prediction_of(scheduler: Any) -> str:
    """Returns what a network made for this scheduler predicts.

    "epsilon", "v_prediction", "sample", "flow", "flow_reversed" (its sign turned, as time runs the other way), or
    "edm_epsilon" and "edm_v_prediction" (the output that EDM's preconditioning is still to be applied to) with the
    standard deviation of the data behind a colon.
    """
    config, name = scheduler.config, type(scheduler).__name__
    if name in FLOW or name == "FlowMatchHeunDiscreteScheduler":
        return "flow_reversed" if config.get("invert_sigmas", False) else "flow"
    if name in EDM:
        if config.prediction_type not in ("epsilon", "v_prediction"):
            kind = f"prediction_type={config.prediction_type!r}"
            raise UserError(f"{name} has {kind}; it must be 'epsilon' or 'v_prediction'")
        return f"edm_{config.prediction_type}:{float(config.sigma_data)}"
    given = "v_prediction" if name == IPNDM else config.get("prediction_type", "epsilon")
    flow = bool(config.get("use_flow_sigmas", False))
    if flow and given == "flow_prediction":
        return "flow"
    if flow or given not in PREDICTIONS:
        kind = f"prediction_type={given!r}" + (" with use_flow_sigmas=True" if flow else "")
        raise UserError(
            f"{type(scheduler).__name__} has {kind}; it must be 'epsilon', 'v_prediction' or 'sample', "
            "or 'flow_prediction' with use_flow_sigmas=True"
        )
    return PREDICTIONS[given]


def read_schedule(scheduler: Any, *, start: int = 0, count: int | None = None, first_order: bool = False) -> Schedule:
    """Returns the levels of a scheduler whose timesteps are set, as the pipeline's loop will go through them.

    Args:
        scheduler: a diffusers scheduler after `set_timesteps`.
        start: index of the loop's first timestep (image-to-image calls start later than 0).
        count: how many timesteps the loop has; None for all that are left.
        first_order: allow any multistep scheduler, for its grid only.

    Raises:
        UserError: the scheduler cannot be reflected, or its levels do not run from noisy to clean.
    """
    check_scheduler(scheduler, first_order=first_order)
    name = type(scheduler).__name__
    timesteps = scheduler.timesteps.tolist()  # the one host read, once per call
    stop = len(timesteps) if count is None else min(start + count, len(timesteps))
    if name in GRID + MULTISTEP_GRID:
        steps, levels = _grid_levels(scheduler, timesteps, start, stop)
        path: NoisePath | FlowPath = NoisePath()
    elif name == IPNDM:
        steps, path = list(range(stop - start)), NoisePath()
        ends = zip([*timesteps, 0], scheduler.alphas.tolist(), scheduler.betas.tolist(), strict=True)
        levels = [Level(*end) for end in list(ends)[start : stop + 1]]
    elif name in TWICE:
        steps, levels = _twice_levels(scheduler, timesteps, start, stop)
        path = FlowPath() if is_flow(scheduler) else NoisePath()
    else:
        flow = is_flow(scheduler)
        path = FlowPath() if flow else NoisePath()
        sigmas = scheduler.sigmas[start : stop + 1].tolist()
        if scheduler.config.get("invert_sigmas", False):
            sigmas = [1.0 - sigma for sigma in sigmas]
        told = [*timesteps[start:stop], *timesteps[stop:], 0][: len(sigmas)]
        levels = [_sigma_level(t, sigma, flow) for t, sigma in zip(told, sigmas, strict=True)]
        steps = list(range(stop - start))
    own_order = name in (DPM, EDM_DPM, UNIPC) and not first_order
    if own_order and len(levels) > 2 and _goes_nowhere(levels):  # Karras sigmas and final_sigmas_type="sigma_min"
        levels, steps[-1] = levels[:-1], None
    stays = name in GRID and scheduler.config.timestep_spacing != "linspace"  # its own steps are the grid's
    levels = _ended(levels, stays=stays)
    prediction = prediction_of(scheduler)
    if levels[0].alpha == 0 and isinstance(path, NoisePath):
        if prediction == "epsilon":
            raise UserError(
                f"{name} starts at pure noise (rescale_betas_zero_snr=True), where a noise prediction says nothing; "
                "use a scheduler with rescale_betas_zero_snr=False, or a v-prediction network"
            )
        levels[0] = _grid_level(levels[0].timestep, SMALLEST_ALPHA_BAR)
    try:
        check_chain(levels)
        path.check(levels)
    except ValueError as error:
        raise UserError(f"{name} has a grid that cannot be reflected: {error}; or {REMEDY}") from error
    euler = name in EULER + EDM + MULTISTEP_EULER or (name in TWICE and isinstance(path, NoisePath))
    scales = tuple(1.0 / level.alpha if euler else 1.0 for level in levels)
    made = len(levels) - 1
    orders: tuple[int, ...] = (1,) * made
    solver: Solver = Euler(path)
    if own_order and name != UNIPC:
        orders = _dpm_orders(scheduler, start, made)
        solver = DPMSolverMultistep(path, orders) if 2 in orders else solver
    elif own_order:
        orders, solver = _unipc_steps(scheduler, path, start, made)
    return Schedule(tuple(levels), path, prediction, scales, tuple(steps), orders, solver)


def _unipc_steps(scheduler: Any, path: Path, start: int, count: int) -> tuple[tuple[int, ...], Solver]:
    """The orders of `count` steps from the scheduler's timestep `start` on, by its own rules, and their solver."""
    config, total = scheduler.config, len(scheduler.timesteps)
    orders = []
    for i in range(count):  # the first step of a loop has no history
        most = min(config.solver_order, total - start - i) if config.lower_order_final else config.solver_order
        orders.append(min(most, i + 1))
    corrected = [i > 0 and start + i - 1 not in scheduler.disable_corrector for i in range(count)]
    return tuple(orders), UniPC(path, orders, corrected, exponential=config.solver_type == "bh2")


def _dpm_orders(scheduler: Any, start: int, count: int) -> tuple[int, ...]:
    """The order of each of `count` steps from the scheduler's timestep `start` on, by its own rules."""
    config, last = scheduler.config, len(scheduler.timesteps) - 1
    few = config.lower_order_final and last < 14  # under 15 steps
    ends_at_first = config.euler_at_final or few or config.final_sigmas_type == "zero"
    seconds = range(start + 1, last if ends_at_first else last + 1)  # the first step has no history
    return tuple(2 if config.solver_order == 2 and i in seconds else 1 for i in range(start, start + count))


def training_levels(scheduler: Any) -> tuple[tuple[Level, ...] | None, NoisePath | FlowPath]:
    """Returns the levels a network was trained at, from clean to noisy, and their path; None for a flow: all of them.

    How the scheduler steps does not matter here, so any with a noise schedule will do.

    Raises:
        UserError: it has no noise schedule that is known.
    """
    prediction_of(scheduler)
    if is_flow(scheduler):
        return None, FlowPath()
    table = getattr(scheduler, "alphas_cumprod", None)
    if not isinstance(table, Tensor):
        raise UserError(f"{type(scheduler).__name__} has no table of noise levels (alphas_cumprod); {REMEDY}")
    # What rescaling to zero terminal SNR leaves at the end is no signal at all: from there eps says nothing.
    alpha_bar = [a for a in table.double().tolist() if a > SMALLEST_ALPHA_BAR]
    return tuple(_grid_level(t, a) for t, a in enumerate(alpha_bar)), NoisePath()


def trained_levels(levels: Timesteps, scheduler: Any) -> TrainedLevels:
    """Returns the noise levels of a network of this scheduler that was trained at some timesteps only.

    Raises:
        UserError: timesteps that the scheduler does not have, or one whose noise levels are not known.
    """
    known, path = training_levels(scheduler)
    total = int(scheduler.config.num_train_timesteps)
    told = trained_timesteps(levels, flow=known is None, total=total)
    if told is None:
        return TrainedLevels(known, path, total)
    if known is None:
        allowed, found = f"from above 0 to {total}", [t for t in told if 0 < t <= total]
    else:
        allowed = f"a whole number from 0 to {len(known) - 1}"
        found = [t for t in told if float(t).is_integer() and t < len(known)]
    if len(found) < len(told):
        wrong = ", ".join(f"{t:g}" for t in told if t not in found)
        raise UserError(
            f"levels has timestep {wrong}, and a timestep of this {type(scheduler).__name__} is {allowed}; give those "
            "that the network was trained at"
        )
    if known is None:
        return TrainedLevels(tuple(Level(t, 1.0 - t / total, t / total) for t in told), path, total)
    return TrainedLevels(tuple(known[int(t)] for t in told), path, total)


def at_all_steps(trained: TrainedLevels, schedule: Grid) -> bool:
    """Whether a network was trained at every level that a run asks about, under the timestep that it has there."""
    asked = [(trained.nearest(level), level) for level in schedule.levels[:-1]]
    alike = all(math.isclose(near.timestep, level.timestep, rel_tol=1e-4) for near, level in asked)
    return trained.path == schedule.path and alike and all(trained.has(level) for _, level in asked)


def to_native(kind: str, prediction: Tensor, x: Tensor, level: Level) -> Tensor:
    """Returns the path's native prediction (eps, or v on a flow) for a network output of kind `kind` at (x, level).

    The level is the one the network was told. Shapes are all that of `x`; float32 or better.
    """
    if kind == "v_prediction":
        return torch.add(prediction * level.alpha, x, alpha=level.sigma)
    if kind == "sample":
        return torch.sub(x, prediction, alpha=level.alpha) / level.sigma
    if kind == "flow_reversed":
        return -prediction
    if kind.startswith("edm_"):
        return _from_edm(kind, prediction, x, level)
    return prediction


def _from_edm(kind: str, output: Tensor, x: Tensor, level: Level) -> Tensor:
    """The noise predicted by a network before EDM's preconditioning (Karras et al. 2022, Table 1)."""
    data = float(kind.partition(":")[2])
    total = math.hypot(level.kappa, data)
    skip, out = data * data / (total * total), level.kappa * data / total
    sign = 1.0 if kind.startswith("edm_epsilon") else -1.0
    noisy = x / level.alpha
    clean = torch.add(noisy * skip, output, alpha=sign * out)
    return (noisy - clean) / level.kappa


def is_flow(scheduler: Any) -> bool:
    """Whether the scheduler steps along a flow (alpha = 1 - sigma)."""
    return type(scheduler).__name__.startswith("FlowMatch") or bool(scheduler.config.get("use_flow_sigmas", False))


def _twice_levels(scheduler: Any, timesteps: list, start: int, stop: int) -> tuple[list[int | None], list[Level]]:
    """Levels of a grid each of whose timesteps but the first comes twice; the second visit of one makes the step."""
    flow, sigmas = is_flow(scheduler), scheduler.sigmas.tolist()
    kept = [k for k in range(start, stop) if (k - start) % 2 == 0]
    steps = [(k - start) // 2 if (k - start) % 2 == 0 else None for k in range(start, stop)]
    after = min(stop if (stop - start) % 2 == 0 else stop + 1, len(sigmas) - 1)
    told = [timesteps[k] for k in kept] + [timesteps[after] if after < len(timesteps) else 0]
    return steps, [_sigma_level(t, sigmas[k], flow) for t, k in zip(told, [*kept, after], strict=True)]


def _grid_levels(scheduler: Any, timesteps: list, start: int, stop: int) -> tuple[list[int | None], list[Level]]:
    """Levels at the timesteps; the last step ends where the scheduler's own last step ends."""
    alpha_bar = scheduler.alphas_cumprod.tolist()
    told: list[int] = []
    steps: list[int | None] = []
    for t in timesteps[start:stop]:  # PNDM visits its second timestep twice
        steps.append(None if told and told[-1] == t else len(told))
        told += [] if steps[-1] is None else [t]
    after = timesteps[stop] if stop < len(timesteps) else None
    if after is None:
        after = told[-1] - scheduler.config.num_train_timesteps // scheduler.num_inference_steps
    final = alpha_bar[after] if after >= 0 else float(scheduler.final_alpha_cumprod)
    levels = [_grid_level(t, alpha_bar[t]) for t in told]
    return steps, [*levels, _grid_level(max(after, 0), final)]


def _grid_level(timestep: float, alpha_bar: float) -> Level:
    return Level(timestep, math.sqrt(alpha_bar), math.sqrt(1.0 - alpha_bar))


def _sigma_level(timestep: float, sigma: float, flow: bool) -> Level:
    """On a flow sigma is the noise's share; elsewhere it is noise over signal, put on alpha^2 + sigma^2 = 1."""
    if flow:
        return Level(timestep, 1.0 - sigma, sigma)
    norm = math.sqrt(sigma * sigma + 1.0)
    return Level(timestep, 1.0 / norm, sigma / norm)


def _ended(levels: list[Level], *, stays: bool) -> list[Level]:
    """The levels with the end of a last step that goes nowhere (set_alpha_to_one=False and a last timestep of 0).

    Where the scheduler's own steps chain (`stays`), that step leaves the latent as it is here too, to rounding: it ends
    less than 1e-12 below its start. On other grids it goes to clean data.
    """
    if len(levels) < 2 or not _goes_nowhere(levels):
        return levels
    start = levels[-2]
    end = (start.alpha, start.sigma * (1 - 2.0**-40)) if stays else (1.0, 0.0)
    return [*levels[:-1], Level(levels[-1].timestep, *end)]


def _goes_nowhere(levels: list[Level]) -> bool:
    """Whether the last step ends at the level where it starts, but for rounding in float32."""
    return math.isclose(levels[-1].kappa, levels[-2].kappa, rel_tol=1e-5)
