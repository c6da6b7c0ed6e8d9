"""Pipelines with DPMSolverMultistepScheduler: its own second-order steps, with and without reflections beside them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, StableDiffusionImg2ImgPipeline
from torch import Tensor

from tests.support import tiny
from tests.support.tiny_loras import add_lora
from w2sd_video import ModelSpec, reflected
from w2sd_video.core import DPMSolverMultistep, Level
from w2sd_video.errors import UserError
from w2sd_video.latents.schedules import check_scheduler, read_schedule, to_native

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
KARRAS = {"use_karras_sigmas": True}
FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
STEPS = 8  # the paper's Figure 19
CALL: dict[str, Any] = {"num_inference_steps": STEPS, "output_type": "latent"}


def dpm(**options: Any) -> DPMSolverMultistepScheduler:
    return DPMSolverMultistepScheduler(**BETAS, **options)


# -- the grid and the orders, on a denoiser in closed form ------------------------------------------------------------


def predicted(kind: str, x: Tensor, level: Level) -> Tensor:
    """What a network of this kind is to predict where the data are N(0.7, 0.5^2)."""
    a, s = level.alpha, level.sigma
    eps = s * (x - a * 0.7) / (a * a * 0.25 + s * s)
    x0 = 0.7 + 0.25 * a * (x - a * 0.7) / (a * a * 0.25 + s * s)
    return {"epsilon": eps, "sample": x0, "v_prediction": a * eps - s * x0, "flow": eps - x0}[kind]


# The scheduler's coefficients are float32 (some 6e-8 each, a few per step), its latents too; 20 steps of first order on
# values of size 1 (14 for the v and x0 forms near pure noise) stay under 2e-5. Extrapolating by half the ratio of two
# intervals, here up to 4 times one another, makes the rounding of an estimate up to 3 times as large.
SAME = 6e-5


@pytest.mark.parametrize(
    "options",
    [
        {},
        KARRAS,
        {"use_lu_lambdas": True},
        {"timestep_spacing": "trailing"},
        {"prediction_type": "v_prediction"},
        {"prediction_type": "sample", **KARRAS},
        {"final_sigmas_type": "sigma_min"},
        {"final_sigmas_type": "sigma_min", "lower_order_final": False, **KARRAS},
        {"final_sigmas_type": "sigma_min", "euler_at_final": True},
        {"lower_order_final": False},
        FLOW,
    ],
    ids=lambda options: ", ".join(f"{name} {value}" for name, value in options.items()) or "default",
)
@pytest.mark.parametrize("steps", [1, 2, 8, 14, 15, 20])
def test_the_schedulers_own_steps_are_made_on_its_own_levels(options, steps):
    scheduler = dpm(**options)
    scheduler.set_timesteps(steps)
    schedule = read_schedule(scheduler)
    x = stock = torch.randn(64, generator=tiny.generator(3), dtype=torch.float64)
    solver = DPMSolverMultistep(schedule.path, schedule.orders)
    state = solver.init()
    for i, step in enumerate(schedule.steps):
        if step is None:  # it ends where it starts
            output = predicted(schedule.prediction, stock, schedule.levels[-1])
            stock = scheduler.step(output, scheduler.timesteps[i], stock, return_dict=False)[0].double()
            continue
        start, end = schedule.levels[step : step + 2]
        output = predicted(schedule.prediction, stock, start)
        stock = scheduler.step(output, scheduler.timesteps[i], stock, return_dict=False)[0].double()
        native = to_native(schedule.prediction, predicted(schedule.prediction, x, start), x, start)
        x, state = solver.step(x, native, start, end, state)
    torch.testing.assert_close(x, stock, atol=SAME, rtol=0)


@pytest.mark.parametrize(
    ("options", "steps", "orders"),
    [
        ({}, 8, "12222221"),  # final_sigmas_type "zero"
        ({}, 1, "1"),
        ({}, 2, "11"),
        ({"lower_order_final": False}, 3, "121"),
        ({"final_sigmas_type": "sigma_min"}, 14, "1222222222222" + "1"),
        ({"final_sigmas_type": "sigma_min"}, 15, "12222222222222" + "2"),
        ({"final_sigmas_type": "sigma_min", "euler_at_final": True}, 15, "12222222222222" + "1"),
        ({"solver_order": 1}, 3, "111"),
    ],
)
def test_steps_are_of_the_order_the_scheduler_gives_them(options, steps, orders):
    scheduler = dpm(**options)
    scheduler.set_timesteps(steps)
    assert "".join(map(str, read_schedule(scheduler).orders)) == orders
    assert set(read_schedule(scheduler, first_order=True).orders) == {1}


def test_a_loop_that_starts_later_has_no_history_at_its_own_first_step():
    scheduler = dpm()
    scheduler.set_timesteps(8)
    assert read_schedule(scheduler, start=3).orders == (1, 2, 2, 2, 1)
    assert read_schedule(scheduler, start=3, count=2).orders == (1, 2)


@pytest.mark.parametrize("steps", range(2, 40, 3))
def test_a_last_step_that_goes_nowhere_is_left_out_as_it_does_nothing_in_the_scheduler(steps):
    scheduler = dpm(final_sigmas_type="sigma_min", **KARRAS)  # the last of Karras' sigmas is the smallest already
    scheduler.set_timesteps(steps)
    schedule = read_schedule(scheduler)
    assert schedule.steps == (*range(steps - 1), None) and schedule.levels[-1].sigma > 0
    plain = read_schedule(scheduler, first_order=True)
    assert plain.num_steps == steps and plain.levels[-1].sigma == 0  # there it ends at clean data


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"algorithm_type": "sde-dpmsolver++"}, "draws noise"),
        ({"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}, "algorithm_type='dpmsolver'"),
        ({"thresholding": True}, "thresholding=True"),
        ({"solver_order": 3}, "solver_order=3"),
        ({"solver_type": "heun"}, "solver_type='heun'"),
    ],
)
def test_other_solvers_are_refused_by_name_with_what_can_be_had(options, words):
    scheduler = dpm(**options)
    with pytest.raises(UserError, match=words) as refusal:
        check_scheduler(scheduler)
    assert "DPMSolverMultistepScheduler" in str(refusal.value) and "from_config" in str(refusal.value)
    pipe = tiny.sd15(scheduler=scheduler)
    with pytest.raises(UserError, match=words), reflected(pipe, ModelSpec(guidance=1.0)):
        pass


# -- whole pipelines --------------------------------------------------------------------------------------------------


FAMILIES: dict[str, tuple[Callable[..., Any], dict[str, Any], dict[str, Any]]] = {
    "sd15": (tiny.sd15, {**tiny.IMAGE_CALL, "guidance_scale": 3.0}, {}),
    "sdxl": (tiny.sdxl, {**tiny.IMAGE_CALL, "guidance_scale": 3.0}, KARRAS),
    "sdxl to a smallest sigma": (
        tiny.sdxl,
        {**tiny.IMAGE_CALL, "guidance_scale": 3.0},
        {"final_sigmas_type": "sigma_min", "lower_order_final": False},
    ),
    "a turbo model": (tiny.sdxl, {**tiny.IMAGE_CALL, "guidance_scale": 0.0}, {"timestep_spacing": "trailing"}),
    "animatediff": (tiny.animatediff_sdxl, {**tiny.ANIMATEDIFF_CALL, "guidance_scale": 3.0}, KARRAS),
    "wan": (tiny.wan, {**tiny.WAN_CALL, "guidance_scale": 3.0}, FLOW),
}


def made(family: str) -> tuple[Any, Callable[[], Tensor]]:
    build, arguments, options = FAMILIES[family]
    pipe = build()
    pipe.scheduler = dpm(**options)
    return pipe, lambda: pipe("a red cat", generator=tiny.generator(), **arguments, **CALL)[0]


@pytest.mark.parametrize("family", list(FAMILIES))
def test_no_reflections_equal_the_stock_pipeline(family):
    pipe, call = made(family)
    stock = call()
    with reflected(pipe, num_reflections=0) as run:
        hosted = call()
    # Eight steps, in each some five float32 roundings (6e-8 of the largest value) that differ, doubled by guidance 3
    # and by extrapolating.
    tolerance = STEPS * 5 * 4 * 6e-8 * float(stock.abs().max())
    assert (stock - hosted).abs().max() <= tolerance
    assert run.num_evaluations == STEPS
    with reflected(pipe, num_reflections=0, first_order=True):
        plain = call()
    assert (plain - stock).abs().max() > 100 * tolerance  # these are not steps of first order


@pytest.mark.parametrize("family", ["sdxl", "wan"])
def test_a_zero_gap_leaves_fused_sampling_as_it_is_bit_for_bit(family):
    pipe, call = made(family)
    with reflected(pipe, num_reflections=0):
        plain = call()
    with reflected(pipe, "zero-gap", mode="fused") as run:
        fused = call()
    assert torch.equal(plain, fused)
    assert run.num_evaluations == STEPS + 2 * (STEPS - 1)


def test_image_to_image_starts_without_a_history():
    parts = {**tiny.sd15().components, "scheduler": dpm()}
    pipe = StableDiffusionImg2ImgPipeline(**parts, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    picture = torch.rand(1, 3, 16, 16, generator=tiny.generator(4))

    def call() -> Tensor:
        return pipe("a cat", picture, strength=0.5, guidance_scale=3.0, generator=tiny.generator(), **CALL)[0]

    stock = call()
    with reflected(pipe, num_reflections=0) as run:
        hosted = call()
    assert run.num_steps == STEPS // 2
    assert (stock - hosted).abs().max() <= STEPS * 5 * 4 * 6e-8 * float(stock.abs().max())


def karras_grid() -> tuple[list[int], list[float], list[float]]:
    """Timesteps, alphas and sigmas of eight steps, from the betas and Karras et al. 2022, Eq. 5."""
    alpha_bar = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=np.float64) ** 2)
    kappas = np.sqrt((1 - alpha_bar) / alpha_bar)
    ends = kappas[-1] ** (1 / 7), kappas[0] ** (1 / 7)
    grid = [(ends[0] + k / (STEPS - 1) * (ends[1] - ends[0])) ** 7 for k in range(STEPS)]
    told = [round(float(np.interp(math.log(kappa), np.log(kappas), np.arange(1000)))) for kappa in grid]
    norms = [math.hypot(1, kappa) for kappa in grid]
    return told, [*(1 / n for n in norms), 1.0], [*(k / n for k, n in zip(grid, norms, strict=True)), 0.0]


@pytest.mark.parametrize("lam", [1, 7])
@torch.no_grad()
def test_eight_steps_equal_algorithm_1_with_the_networks_called_by_hand(lam):
    """Reflections of first order (Alg. 1 lines 6 and 7) before main steps of Alg. 2 of Lu et al., both in float64."""
    pipe, weak = tiny.sd15(scheduler=dpm(**KARRAS)), tiny.sd15_unet(2)
    text, without = pipe.encode_prompt("a red cat", "cpu", 1, True)
    told, alphas, sigmas = karras_grid()

    def evaluation(unet: Any, scale: float) -> Callable[[Tensor, int], Tensor]:
        def eps(x: Tensor, i: int) -> Tensor:
            both = [
                unet(x.float(), torch.tensor(told[i]), encoder_hidden_states=h)[0].double() for h in (without, text)
            ]
            return both[0] + scale * (both[1] - both[0])

        return eps

    strong, weakly = evaluation(pipe.unet, 3.0), evaluation(weak, 1.0)
    noise = torch.randn(1, 4, 8, 8, generator=tiny.generator(5))
    x, before = noise.double(), torch.zeros(())
    lambdas = [math.log(a / s) for a, s in zip(alphas[:-1], sigmas[:-1], strict=True)]
    for i in range(STEPS):
        keep = alphas[i + 1] / alphas[i]
        if i < lam:
            lower = keep * x + (sigmas[i + 1] - keep * sigmas[i]) * strong(x, i)
            x = lower / keep + (sigmas[i] - sigmas[i + 1] / keep) * weakly(lower, i)
        clean = (x - sigmas[i] * strong(x, i)) / alphas[i]
        if i in (0, STEPS - 1):  # no history, and no noise left
            x = alphas[i + 1] * clean + sigmas[i + 1] * (x - alphas[i] * clean) / sigmas[i]
        else:
            h = lambdas[i + 1] - lambdas[i]
            r = (lambdas[i] - lambdas[i - 1]) / h
            estimate = (1 + 1 / (2 * r)) * clean - 1 / (2 * r) * before
            x = sigmas[i + 1] / sigmas[i] * x - alphas[i + 1] * (math.exp(-h) - 1) * estimate
        before = clean

    def call() -> Tensor:
        return pipe("a red cat", guidance_scale=3.0, latents=noise, **tiny.IMAGE_CALL, **CALL)[0]

    stock = call()
    with reflected(pipe, (weak, ModelSpec(guidance=1.0)), num_reflections=lam) as run:
        got = call()
    # Each evaluation rounds its latent and its prediction to 6e-8 of the largest value; guidance 3 passes a difference
    # on up to five-fold, extrapolating twice that.
    tolerance = (STEPS + 2 * lam) * 2 * 5 * 2 * 6e-8 * float(max(x.abs().max(), 14.0))
    assert (got - x).abs().max() <= tolerance
    assert (stock - x).abs().max() > 1000 * tolerance  # the reflections did something
    assert run.num_evaluations == STEPS + 2 * lam
    assert run.num_rows == 2 * STEPS + (2 + 1) * lam


@pytest.mark.parametrize(("mode", "forwards"), [("paper", STEPS + 2 * 7), ("fused", STEPS + 7)])
def test_a_turbo_model_reflects_a_lora_gap_in_eight_steps(mode, forwards):
    pipe, call = made("a turbo model")
    add_lora(pipe.unet, "style")
    pipe.set_adapters(["style"], [0.8])
    stock = call()
    with reflected(pipe, ModelSpec(loras=(("style", -1.5),)), mode=mode) as run:
        moved = call()
    assert (run.num_evaluations, run.num_forwards, run.num_rows) == (STEPS + 2 * 7, forwards, STEPS + 2 * 7)
    assert moved.isfinite().all() and (moved - stock).abs().max() > 1e-2
    assert torch.equal(call(), stock)


def test_auto_guidance_steps_as_its_scheduler_does():
    pipe, call = made("sdxl")
    with reflected(pipe, num_reflections=0):
        plain = call()
    with reflected(pipe, ModelSpec(guidance=1.0), method="autoguided", strength=0.0):
        weightless = call()
    assert torch.equal(plain, weightless)
    # good + w (good - bad) of guidances 3 and 1 is guidance 3 + 2 w, in each prediction and so in each step.
    with reflected(pipe, ModelSpec(guidance=1.0), method="autoguided", strength=1.0) as run:
        guided = call()
    assert (run.num_evaluations, run.num_forwards, run.num_rows) == (
        2 * STEPS,
        STEPS,
        2 * STEPS,
    )
    wanted = pipe("a red cat", generator=tiny.generator(), **{**tiny.IMAGE_CALL, "guidance_scale": 5.0}, **CALL)[0]
    tolerance = STEPS * 5 * 2 * (2 * 5 - 1) * 6e-8 * float(wanted.abs().max())  # as above, with guidance 5
    assert (guided - wanted).abs().max() <= tolerance
    assert (guided - plain).abs().max() > 100 * tolerance


def test_a_changed_latent_is_stepped_on_from_as_in_the_stock_pipeline():
    pipe, _ = made("sd15")
    fresh = torch.randn(1, 4, 8, 8, generator=tiny.generator(6))

    def change(_pipe: Any, step: int, _t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        return {"latents": tensors["latents"] + 0.1 * fresh} if step == 2 else {}

    def call() -> Tensor:
        settings = {**tiny.IMAGE_CALL, **CALL, "guidance_scale": 3.0, "callback_on_step_end": change}
        return pipe("a red cat", generator=tiny.generator(), **settings)[0]

    stock = call()
    with reflected(pipe, num_reflections=0):
        hosted = call()
    assert (stock - hosted).abs().max() <= STEPS * 5 * 4 * 6e-8 * float(stock.abs().max())


def test_the_remedies_named_do_help():
    for options, better in (
        ({"solver_order": 3}, {"solver_order": 2}),
        ({"solver_type": "heun"}, {"solver_type": "midpoint"}),
        ({"thresholding": True}, {"thresholding": False}),
        ({"algorithm_type": "dpmsolver"}, {"algorithm_type": "dpmsolver++"}),
    ):
        config = {**dpm().config, **options}
        check_scheduler(DPMSolverMultistepScheduler.from_config(config, **better))
    check_scheduler(DDIMScheduler.from_config(dpm(algorithm_type="sde-dpmsolver++").config, clip_sample=False))
