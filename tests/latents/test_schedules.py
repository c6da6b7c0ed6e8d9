"""The levels read from diffusers schedulers: exact chains, the scheduler's own steps, and what is refused."""

from __future__ import annotations

import itertools
import math

import diffusers
import pytest
import torch

from tests.support import tiny
from w2sd_video.core import FlowPath, Level, NoisePath, sample
from w2sd_video.errors import UserError
from w2sd_video.latents.schedules import check_scheduler, read_schedule, to_native

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
CENTRE = 0.7  # of the toy data


def data_prediction(kind: str):
    """A smooth denoiser in closed form: data N(0.7, 0.5^2), exact at every level."""

    def predict(x: torch.Tensor, level: Level) -> torch.Tensor:
        a, s = level.alpha, level.sigma
        eps = s * (x - a * CENTRE) / (a * a * 0.25 + s * s)
        x0 = (x - s * eps) / a if a > 1e-6 else torch.full_like(x, CENTRE)
        if kind.startswith("edm"):  # what EDM's preconditioning turns into x0
            name, data = kind.split(":")
            total = math.hypot(s / a, float(data))
            sign = 1 if name == "edm_epsilon" else -1
            return sign * (x0 - float(data) ** 2 / total**2 * x / a) * total / (s / a * float(data))
        flow = eps - x0
        return {"epsilon": eps, "sample": x0, "v_prediction": a * eps - s * x0, "flow": flow, "flow_reversed": -flow}[
            kind
        ]

    return predict


def run_stock(scheduler, kind: str, x: torch.Tensor, schedule) -> torch.Tensor:
    """The scheduler's own loop on the closed-form denoiser."""
    x = x * schedule.scales[0]
    for i, t in enumerate(scheduler.timesteps):
        level = schedule.levels[i]
        output = data_prediction(kind)(x / schedule.scales[i], level)
        if hasattr(scheduler, "scale_model_input"):
            scheduler.scale_model_input(x, t)
        x = scheduler.step(output, t, x, return_dict=False)[0]
    return x / schedule.scales[-1]


def run_ours(schedule, x: torch.Tensor) -> torch.Tensor:
    def denoise(x: torch.Tensor, level: Level) -> torch.Tensor:
        return to_native(schedule.prediction, data_prediction(schedule.prediction)(x, level), x, level)

    return sample(x, schedule.levels, denoise, schedule.path, solver=schedule.solver)


def noise() -> torch.Tensor:
    return torch.randn(64, generator=tiny.generator(3), dtype=torch.float64)


# Both loops do the same arithmetic, the scheduler's with float32 coefficients (relative error 6e-8 each, a few per
# step); 20 steps of values of size 1 (14 for the v and x0 forms near pure noise) stay under 2e-5.
SAME = 2e-5


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_ddim_levels_make_the_schedulers_own_steps(kind, spacing):
    scheduler = tiny.ddim(kind, timestep_spacing=spacing)
    scheduler.set_timesteps(20)
    schedule = read_schedule(scheduler)
    assert schedule.num_steps == 20 and isinstance(schedule.path, NoisePath)
    torch.testing.assert_close(
        run_ours(schedule, noise()), run_stock(scheduler, kind, noise(), schedule), atol=SAME, rtol=0
    )


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("options", [{}, {"use_karras_sigmas": True}, {"timestep_spacing": "trailing"}])
def test_euler_levels_make_the_schedulers_own_steps(kind, options):
    scheduler = diffusers.EulerDiscreteScheduler(**BETAS, prediction_type=kind, **options)
    scheduler.set_timesteps(20)
    schedule = read_schedule(scheduler)
    torch.testing.assert_close(
        run_ours(schedule, noise()), run_stock(scheduler, kind, noise(), schedule), atol=SAME, rtol=0
    )


@pytest.mark.parametrize("options", [{}, {"shift": 3.0}, {"use_karras_sigmas": True}])
def test_flow_levels_make_the_schedulers_own_steps(options):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(**options)
    scheduler.set_timesteps(20)
    schedule = read_schedule(scheduler)
    assert isinstance(schedule.path, FlowPath)
    torch.testing.assert_close(
        run_ours(schedule, noise()), run_stock(scheduler, "flow", noise(), schedule), atol=SAME, rtol=0
    )


FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}


@pytest.mark.parametrize("steps", [1, 2, 3, 20])
@pytest.mark.parametrize(
    "scheduler",
    [
        diffusers.UniPCMultistepScheduler(**BETAS),
        diffusers.UniPCMultistepScheduler(**BETAS, prediction_type="v_prediction", use_karras_sigmas=True),
        diffusers.UniPCMultistepScheduler(
            **BETAS, solver_type="bh1", disable_corrector=[0, 5], final_sigmas_type="sigma_min"
        ),
        diffusers.UniPCMultistepScheduler(**BETAS, solver_order=1),
        diffusers.UniPCMultistepScheduler(**FLOW),  # Wan's own
        diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
        diffusers.EDMEulerScheduler(),
        diffusers.EDMEulerScheduler(sigma_data=1.0, prediction_type="v_prediction", sigma_schedule="exponential"),
        diffusers.EDMDPMSolverMultistepScheduler(),
        diffusers.EDMDPMSolverMultistepScheduler(
            sigma_data=1.0, prediction_type="v_prediction", sigma_schedule="exponential", lower_order_final=False
        ),
        diffusers.EDMDPMSolverMultistepScheduler(solver_order=1),
    ],
    ids=lambda scheduler: type(scheduler).__name__,
)
def test_unipc_edm_and_reversed_flows_make_the_schedulers_own_steps(scheduler, steps):
    scheduler.set_timesteps(steps)
    schedule = read_schedule(scheduler)
    x = noise().reshape(2, 4, 8)
    stock = run_stock(scheduler, schedule.prediction, x, schedule)
    torch.testing.assert_close(run_ours(schedule, x), stock.double(), atol=2 * SAME, rtol=0)


def test_a_reflected_latent_is_not_undone_by_the_corrector():
    """A move of the latent before a step comes out of it as from the same step without a history."""
    scheduler = diffusers.UniPCMultistepScheduler(**FLOW)
    scheduler.set_timesteps(6)
    schedule = read_schedule(scheduler)
    solver, levels, ends = schedule.solver, schedule.levels, []
    for move in (0.0, 0.25):
        x, state = noise(), solver.init()
        for i in range(3):
            x = x + (move if i == 2 else 0.0)
            x, state = solver.step(x, torch.ones_like(x), levels[i], levels[i + 1], state)
        ends.append(x)
    # With predictions that do not change, x0 moves with x, and so do all later latents.
    torch.testing.assert_close(ends[1] - ends[0], torch.full_like(ends[0], 0.25), atol=0.1, rtol=0)


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("to_one", [True, False])
@pytest.mark.parametrize("steps", [1, 2, 7, 20, 30, 50, 999])
def test_ddim_levels_chain_on_every_grid(spacing, to_one, steps):
    scheduler = tiny.ddim(timestep_spacing=spacing, set_alpha_to_one=to_one, steps_offset=int(spacing == "leading"))
    scheduler.set_timesteps(steps)
    schedule = read_schedule(scheduler)
    kappas = [level.kappa for level in schedule.levels]
    assert schedule.num_steps == steps
    assert all(a > b for a, b in itertools.pairwise(kappas))
    assert [level.timestep for level in schedule.levels[:-1]] == scheduler.timesteps.tolist()


def test_a_last_ddim_step_that_goes_nowhere_leaves_the_latent_as_the_scheduler_does():
    # The last timestep is 0, and with set_alpha_to_one=False the scheduler's final alpha is that of timestep 0.
    scheduler = tiny.ddim(steps_offset=0, set_alpha_to_one=False)
    scheduler.set_timesteps(10)
    schedule, x = read_schedule(scheduler), noise()
    stock = run_stock(scheduler, "epsilon", x, schedule)
    assert schedule.num_steps == 10 and schedule.levels[-1].sigma > 0
    torch.testing.assert_close(run_ours(schedule, x), stock, atol=SAME, rtol=0)


def test_a_last_ddim_step_that_goes_nowhere_goes_to_clean_data_on_a_grid_that_does_not_chain():
    scheduler = tiny.ddim(timestep_spacing="linspace", set_alpha_to_one=False)
    scheduler.set_timesteps(10)
    assert read_schedule(scheduler).levels[-1].sigma == 0


def test_the_final_ddim_level_is_the_schedulers_final_alpha():
    for to_one in (True, False):
        scheduler = tiny.ddim(set_alpha_to_one=to_one)
        scheduler.set_timesteps(10)
        final = read_schedule(scheduler).levels[-1]
        assert math.isclose(final.alpha**2, float(scheduler.final_alpha_cumprod), rel_tol=1e-6)
        assert (final.sigma == 0) == to_one


def test_a_loop_that_starts_later_reads_only_its_own_levels():
    scheduler = tiny.ddim()
    scheduler.set_timesteps(10)
    whole, part = read_schedule(scheduler), read_schedule(scheduler, start=4, count=3)
    assert part.levels == whole.levels[4:8]
    euler = diffusers.EulerDiscreteScheduler(**BETAS)
    euler.set_timesteps(10)
    whole, part = read_schedule(euler), read_schedule(euler, start=4, count=3)
    assert part.levels == whole.levels[4:8] and part.scales == whole.scales[4:8]


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_zero_terminal_snr_is_taken_for_v_and_refused_for_noise_predictions(kind):
    scheduler = tiny.ddim(kind, timestep_spacing="trailing", rescale_betas_zero_snr=True)
    scheduler.set_timesteps(20)
    if kind == "epsilon":
        with pytest.raises(UserError, match="pure noise"):
            read_schedule(scheduler)
        return
    schedule = read_schedule(scheduler)
    assert schedule.starts_at_pure_noise and schedule.levels[0].alpha > 0
    # alpha 2^-12 multiplies float32 rounding (6e-8) by 4096 at the first step; the data's scale there is alpha_1 < 0.1.
    x = noise().float()
    torch.testing.assert_close(run_ours(schedule, x), run_stock(scheduler, kind, x, schedule), atol=1e-3, rtol=0)


OF_ORDER_1 = {
    "dpm": lambda: diffusers.DPMSolverMultistepScheduler(**BETAS, solver_order=1, final_sigmas_type="zero"),
    "dpm karras": lambda: diffusers.DPMSolverMultistepScheduler(**BETAS, solver_order=1, use_karras_sigmas=True),
}
MULTISTEP = {
    "dpm of order 3": lambda: diffusers.DPMSolverMultistepScheduler(**BETAS, solver_order=3),
    "dpm heun": lambda: diffusers.DPMSolverMultistepScheduler(**BETAS, solver_type="heun", use_karras_sigmas=True),
    "dpm on noise": lambda: diffusers.DPMSolverMultistepScheduler(
        **BETAS, algorithm_type="dpmsolver", final_sigmas_type="sigma_min"
    ),
    "deis": lambda: diffusers.DEISMultistepScheduler(**BETAS, solver_order=1),
    "unipc of order 3": lambda: diffusers.UniPCMultistepScheduler(**BETAS, solver_order=3),
    "unipc on noise": lambda: diffusers.UniPCMultistepScheduler(**BETAS, predict_x0=False),
    "lms": lambda: diffusers.LMSDiscreteScheduler(**BETAS),
    "heun": lambda: diffusers.HeunDiscreteScheduler(**BETAS),
    "kdpm2": lambda: diffusers.KDPM2DiscreteScheduler(**BETAS),
    "flow heun": lambda: diffusers.FlowMatchHeunDiscreteScheduler(shift=3.0),
    "singlestep": lambda: diffusers.DPMSolverSinglestepScheduler(**BETAS),
    "edm dpm of order 3": lambda: diffusers.EDMDPMSolverMultistepScheduler(solver_order=3),
    "ipndm": lambda: diffusers.IPNDMScheduler(),
    "pndm": lambda: diffusers.PNDMScheduler(**BETAS, skip_prk_steps=True, steps_offset=1),
}


@pytest.mark.parametrize("name", list(MULTISTEP))
def test_multistep_grids_need_to_be_asked_for(name):
    scheduler = MULTISTEP[name]()
    with pytest.raises(UserError, match=r"first_order=True") as refusal:
        check_scheduler(scheduler)
    own = name[:4] in ("dpm ", "unip", "edm ")  # has a form that can be reflected
    other = {"ipndm": "none", "flow heun": "FlowMatchEulerDiscreteScheduler"}.get(name, "DDIMScheduler")
    remedy = f"{type(scheduler).__name__ if own else other}.from_config"
    assert type(scheduler).__name__ in str(refusal.value)
    assert (remedy in str(refusal.value)) == (name != "ipndm")  # no other scheduler has its levels
    scheduler.set_timesteps(12)
    schedule = read_schedule(scheduler, first_order=True)
    made = [step for step in schedule.steps if step is not None]
    assert made == list(range(12)) == list(range(schedule.num_steps))
    assert len(schedule.steps) == len(scheduler.timesteps)


def test_the_first_step_of_ipndm_has_no_history_and_is_of_order_one():
    scheduler = diffusers.IPNDMScheduler()
    scheduler.set_timesteps(6)
    schedule, x = read_schedule(scheduler, start=1, first_order=True), noise()
    scheduler.set_begin_index(1)
    output = data_prediction("v_prediction")(x, schedule.levels[0])
    stock = scheduler.step(output, scheduler.timesteps[1], x, return_dict=False)[0]
    native = to_native(schedule.prediction, output, x, schedule.levels[0])
    ours = schedule.path.step(x, native, *schedule.levels[:2])
    torch.testing.assert_close(ours, stock, atol=SAME, rtol=0)


@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize("name", list(OF_ORDER_1))
def test_first_order_steps_on_a_multistep_grid_are_its_own_steps_of_order_one(name, asked):
    # DPM-Solver++ of order 1 is DDIM (Lu et al. 2022, section 4); the last step to sigma 0 is the x0 estimate in both.
    scheduler = OF_ORDER_1[name]()
    scheduler.set_timesteps(12)
    schedule = read_schedule(scheduler, first_order=asked)  # it keeps no history, so it need not be asked for
    assert schedule.orders == (1,) * 12
    stock = run_stock(scheduler, "epsilon", noise(), schedule)
    torch.testing.assert_close(run_ours(schedule, noise()), stock, atol=SAME, rtol=0)


@pytest.mark.parametrize(
    ("scheduler", "words"),
    [
        (diffusers.EulerAncestralDiscreteScheduler(**BETAS), "draws noise"),
        (diffusers.DDPMScheduler(**BETAS), "draws noise"),
        (diffusers.LCMScheduler(**BETAS), "EulerDiscreteScheduler.*trailing"),
        (diffusers.SCMScheduler(), "no other scheduler has its noise levels"),
        (diffusers.DDIMInverseScheduler(**BETAS), "runs from clean to noisy"),
        (diffusers.EDMDPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++"), "EDMDPM.*algorithm_type="),
        (diffusers.DPMSolverMultistepScheduler(**BETAS, algorithm_type="sde-dpmsolver++"), "draws noise"),
        (diffusers.MiniMaxH3Scheduler(), "no reflection is known"),
        (diffusers.CogVideoXDPMScheduler(**BETAS), "CogVideoXDDIMScheduler"),
        (diffusers.DDIMScheduler(**BETAS), "clip_sample=True"),
        (diffusers.DDIMScheduler(**BETAS, clip_sample=False, thresholding=True), "thresholding=True"),
        (diffusers.FlowMatchEulerDiscreteScheduler(stochastic_sampling=True), "stochastic_sampling=True"),
        (diffusers.EulerDiscreteScheduler(**BETAS, prediction_type="flow"), "prediction_type='flow'"),
        (diffusers.PNDMScheduler(**BETAS), "skip_prk_steps=False"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else value,
)
def test_what_cannot_be_reflected_is_refused_by_name(scheduler, words):
    with pytest.raises(UserError, match=words) as refusal:
        check_scheduler(scheduler, first_order=True)
    assert type(scheduler).__name__ in str(refusal.value)
