"""What holds for every method of a hosted call: exact counts, lambda 0, seeds, batches, what can be observed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support import tiny
from tests.support.written_out import OTHER_SETTINGS
from w2sd_video import ModelSpec, ReflectionConfig, Selection, reflected
from w2sd_video.core.options import METHODS, SETTINGS

STEPS = 5
UNGUIDED = ModelSpec(guidance=1.0)
REFLECTING = tuple(method for method in METHODS if method != "autoguided")
DRAWING = ("resample", "resample-aligned", "resample-opposed")


def redness(frames: Any, prompt: str | None) -> float:
    return float(frames[..., 0].mean()) * (-1 if prompt == "two dogs" else 1)


def asked(method: str, **more: Any) -> dict[str, Any]:
    """The arguments of `reflected` that a method needs."""
    return {"method": method, **({"selection": Selection(redness)} if method == "w2sd-auto" else {}), **more}


def call(pipe: Any, prompt: Any = "a red cat", seeds: Any = 0, **more: Any) -> Tensor:
    generators = [tiny.generator(s) for s in seeds] if isinstance(seeds, list) else tiny.generator(seeds)
    settings = {**tiny.IMAGE_CALL, "num_inference_steps": STEPS, "guidance_scale": 3.0, "output_type": "latent"}
    return torch.as_tensor(pipe(prompt, generator=generators, **{**settings, **more})[0])


# -- counts ---------------------------------------------------------------------------------------------------------

COUNTS: list[tuple[str, dict[str, Any], int]] = [
    # method, settings, evaluations of 5 steps
    ("w2sd", {}, 5 + 2 * 4),
    ("w2sd", {"mode": "fused", "num_reflections": 5}, 5 + 2 * 5),
    ("w2sd", {"mode": "release", "num_reflections": 2, "lag": True}, 5 + 2 * 2 - 1),
    ("w2sd", {"every": 2}, 5 + 2 * 2),  # steps 0 and 2
    ("w2sd", {"every": 3, "window": (0.2, 1.0), "num_reflections": 5}, 5 + 2 * 2),  # steps 1 and 4
    ("w2sd", {"window": (0.0, 0.3), "fixed_point": 2}, 5 + (2 + 2) * 2),  # steps 0 and 1, at 0 and a fifth
    ("w2sd", {"fixed_point": 1, "noise": 0.1, "cap": 0.1}, 5 + (2 + 1) * 4),
    ("w2sd", {"lag": True}, 5 + 2 * 4 - 3),  # the first step has none before it
    ("w2sd", {"lag": True, "window": (0.4, 1.0)}, 5 + 2 * 2 - 2),
    ("w2sd", {"mode": "fused", "gap_every": 1}, 5 + 3),
    ("w2sd", {"mode": "fused", "gap_every": 2, "num_reflections": 5}, 5 + 2),
    ("w2sd", {"mode": "fused", "gap_every": 0, "window": (0.4, 1.0), "cap": 0.1}, 5 + 1),
    ("w2sd-auto", {}, 5 + 3 * 4),
    ("w2sd-auto", {"fixed_point": 2, "every": 2}, 5 + (3 + 2) * 2),
    ("w2sd-auto", {"mode": "fused", "window": (0.0, 0.6), "cap": 0.1}, 5 + 2 * 3),
    ("resample", {}, 5 + 4),
    ("resample", {"num_reflections": 5, "every": 2}, 5 + 3),
    ("resample-aligned", {}, 5 + 2 * 4),
    ("resample-opposed", {"mode": "fused", "window": (0.5, 1.0)}, 5 + 2),  # step 3
    ("autoguided", {"strength": 2.0}, 2 * 5),
    ("autoguided", {"window": (0.2, 0.8), "guider": "apg"}, 5 + 3),
]


@pytest.mark.parametrize(("method", "settings", "evaluations"), COUNTS)
def test_evaluations_are_counted_exactly_and_known_before(method, settings, evaluations):
    pipe, told = tiny.sdxl(), []
    calls: list[int] = []
    for network in (weak := tiny.sdxl_unet(2), pipe.unet):
        network.register_forward_pre_hook(lambda *_: calls.append(1))
    config = ReflectionConfig(**settings)
    report = lambda done, total: told.append((done, total))  # noqa: E731
    with reflected(pipe, weak, config=config, progress=report, **asked(method)) as run:
        call(pipe)
    assert run.num_evaluations == evaluations == len(calls)
    assert config.evaluations(STEPS, method) == evaluations
    assert told == [(done, evaluations) for done in range(1, evaluations + 1)]
    reflections = len(config.steps(STEPS, method))
    assert run.num_reflections == len(run.gaps) == reflections
    assert len(run.choices) == (reflections if method == "w2sd-auto" else 0)


def test_progress_ends_at_its_total_where_more_or_fewer_evaluations_are_made_than_could_be_known():
    """Flux starts at pure noise, from where no fixed point is tried; two samples that choose differently cost more."""
    told: list[tuple[int, int]] = []
    report = lambda done, total: told.append((done, total))  # noqa: E731
    pipe, config = tiny.flux(), ReflectionConfig(fixed_point=2)
    with reflected(pipe, tiny.flux_transformer(2), config=config, progress=report) as run:
        call(pipe, **tiny.FLUX_CALL)
    assert run.num_evaluations == 5 + 2 * 4 + 2 * 3 and told[-1] == (21, 21)
    told.clear()
    pipe = tiny.sdxl()
    with reflected(pipe, tiny.sdxl_unet(2), progress=report, **asked("w2sd-auto")) as run:
        call(pipe, ["a red cat", "two dogs"], [0, 1])
    assert any(one != other for one, other in run.choices)
    assert run.num_evaluations > 17 and told == [(done, 17) for done in range(1, 18)]


# -- lambda 0 -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "arguments"),
    [(tiny.sdxl, {}), (tiny.animatediff_sdxl, tiny.ANIMATEDIFF_CALL), (tiny.flux, tiny.FLUX_CALL)],
)
def test_lambda_0_of_every_method_is_the_stock_pipeline_and_costs_what_it_costs(build, arguments):
    pipe = build()
    stock = call(pipe, **arguments)
    # As for `num_reflections=0` of W2SD: three float32 roundings a step, doubled by guidance 3.
    rounding = STEPS * 3 * 2 * 6e-8 * float(stock.abs().max())
    found = []
    for method in REFLECTING:
        for weak in (None, UNGUIDED):
            with reflected(pipe, weak, num_reflections=0, **asked(method)) as run:
                found.append(call(pipe, **arguments))
            assert run.num_evaluations == STEPS and run.num_reflections == 0 and run.choices == []
    assert all(torch.equal(latents, found[0]) for latents in found)
    assert (found[0] - stock).abs().max() <= rounding


def test_auto_guidance_of_weight_0_is_the_stock_pipeline_too():
    pipe = tiny.sdxl()
    with reflected(pipe, tiny.sdxl_unet(2), method="autoguided", strength=0.0):
        hosted = call(pipe)
    stock = call(pipe)
    assert (hosted - stock).abs().max() <= STEPS * 3 * 2 * 6e-8 * float(stock.abs().max())


def test_one_step_of_auto_selection_has_nothing_to_select():
    pipe = tiny.sdxl()
    with reflected(pipe, UNGUIDED, **asked("w2sd-auto")) as run:
        call(pipe, num_inference_steps=1)
    assert run.num_evaluations == 1 and run.choices == []


def test_the_zero_gap_control_of_fused_auto_selection_is_plain_sampling_with_nothing_to_choose():
    pipe = tiny.sdxl()
    with reflected(pipe, num_reflections=0):
        plain = call(pipe)
    with reflected(pipe, "zero-gap", mode="fused", **asked("w2sd-auto")) as run:
        assert torch.equal(call(pipe), plain)
    assert run.choices == [[False]] * 4 and run.num_evaluations == 5 + 2 * 4


# -- seeds and batches ----------------------------------------------------------------------------------------------

NOISY = [(method, {}) for method in DRAWING] + [("w2sd", {"noise": 0.5}), ("w2sd-auto", {"noise": 0.5})]


@pytest.mark.parametrize(("method", "settings"), NOISY)
def test_noise_is_the_generators_and_so_the_same_seed_gives_the_same_latents(method, settings):
    pipe, start = tiny.sdxl(), torch.randn(1, 4, 8, 8, generator=tiny.generator(5))
    with reflected(pipe, tiny.sdxl_unet(2), config=ReflectionConfig(**settings), **asked(method)):
        torch.manual_seed(0)
        one = call(pipe, latents=start)
        torch.manual_seed(1)  # torch's own generator has no part in it
        again, other = call(pipe, latents=start), call(pipe, latents=start, seeds=1)
    assert torch.equal(one, again)
    assert (one - other).abs().max() > 0.1


def test_without_a_generator_noise_is_torchs_own():
    pipe, start = tiny.sdxl(), torch.randn(1, 4, 8, 8, generator=tiny.generator(5))

    def drawn(seed: int) -> Tensor:
        torch.manual_seed(seed)
        with reflected(pipe, method="resample"):
            return pipe("a cat", **tiny.IMAGE_CALL, num_inference_steps=3, latents=start, output_type="latent")[0]

    with torch.random.fork_rng(devices=[]):
        assert torch.equal(drawn(3), drawn(3))
        assert not torch.equal(drawn(3), drawn(4))


@pytest.mark.parametrize(("method", "settings"), [*NOISY, ("w2sd", {"cap": 0.05, "fixed_point": 2, "lag": True})])
def test_a_batch_with_a_generator_each_equals_its_single_runs(method, settings):
    pipe, prompts, seeds = tiny.sdxl(), ["a red cat", "two dogs", "a blue boat"], [3, 4, 5]
    with reflected(pipe, tiny.sdxl_unet(2), config=ReflectionConfig(**settings), **asked(method)) as run:
        batch, choices = call(pipe, prompts, seeds), run.choices
        singles, chosen = [], []
        for prompt, seed in zip(prompts, seeds, strict=True):
            singles.append(call(pipe, prompt, [seed]))
            chosen.append([each for (each,) in run.choices])
    if method == "w2sd-auto":
        assert choices == [list(each) for each in zip(*chosen, strict=True)]
        assert len({tuple(each) for each in chosen}) > 1  # the samples did choose differently
    # Kernels of other batch sizes round otherwise: per evaluation the latent and the prediction, to 6e-8 of the largest
    # value, which guidance 3 passes on up to 5-fold.
    rounding = (STEPS + 4 * 4) * 2 * 5 * 6e-8 * float(batch.abs().max())
    assert (batch - torch.cat(singles)).abs().max() <= rounding
    assert (batch[0] - batch[1]).abs().max() > 0.1


def test_a_batch_of_videos_with_a_generator_each_equals_its_single_runs():
    pipe, prompts, seeds = tiny.animatediff_sdxl(), ["a red cat", "two dogs"], [3, 4]
    made: list[Tensor] = []
    with reflected(pipe, tiny.motion_unet(2), **asked("w2sd-auto", config=ReflectionConfig(noise=0.2))) as run:
        batch = call(pipe, prompts, seeds, num_inference_steps=3, **tiny.ANIMATEDIFF_CALL)
        choices, single = run.choices, []
        for prompt, seed in zip(prompts, seeds, strict=True):
            made.append(call(pipe, prompt, [seed], num_inference_steps=3, **tiny.ANIMATEDIFF_CALL))
            single.append([each for (each,) in run.choices])
    assert choices == [list(each) for each in zip(*single, strict=True)]
    assert (batch - torch.cat(made)).abs().max() <= (3 + 4 * 2) * 2 * 5 * 6e-8 * float(batch.abs().max())


# -- what can be observed -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", REFLECTING)
def test_an_observer_sees_each_reflection_and_changes_nothing(method):
    pipe, seen = tiny.sdxl().to(torch.float64), []
    config = ReflectionConfig(window=(0.2, 0.8))

    def run_it(**more: Any) -> tuple[Tensor, Any]:
        with reflected(pipe, UNGUIDED, config=config, **asked(method), **more) as run:
            return call(pipe), run

    plain, _ = run_it()
    watched, run = run_it(on_reflect=lambda i, x, tilde: seen.append((i, x, tilde)))
    assert torch.equal(plain, watched)
    assert [i for i, _, _ in seen] == [1, 2, 3]
    assert all(x.shape == tilde.shape == plain.shape for _, x, tilde in seen)
    moves = [float((tilde - x).norm()) for _, x, tilde in seen]
    assert moves == pytest.approx(run.gaps, rel=1e-12)


def test_an_observer_is_told_latents_in_float32_whatever_the_networks_dtype():
    pipe, seen = tiny.sdxl().to(torch.bfloat16), []
    with reflected(pipe, UNGUIDED, on_reflect=lambda i, x, tilde: seen.append((x.dtype, tilde.dtype))):
        call(pipe)
    assert seen == [(torch.float32, torch.float32)] * 4


def test_the_cap_bounds_each_sample_of_each_reflection():
    pipe, cap, sizes = tiny.sdxl(), 0.02, []

    def measure(i: int, x: Tensor, tilde: Tensor) -> None:
        sizes.extend((tilde - x).flatten(1).pow(2).mean(1).sqrt().tolist())

    with reflected(pipe, tiny.sdxl_unet(2), config=ReflectionConfig(cap=cap), on_reflect=measure):
        call(pipe, ["a red cat", "two dogs"])
    # x + move rounds each value to 6e-8 of itself
    assert len(sizes) == 8 and max(sizes) == pytest.approx(cap, abs=1e-6)


@pytest.mark.parametrize("settings", [{"mode": "paper"}, {"mode": "fused", "gap_every": 1}])
@pytest.mark.parametrize("family", ["animatediff", "wan"])
def test_at_motion_strength_0_all_frames_of_a_video_move_alike(family, settings):
    pipe, weak = (
        (tiny.animatediff_sdxl(), tiny.motion_unet(2))
        if family == "animatediff"
        else (tiny.wan(), tiny.wan_transformer(2))
    )
    arguments = tiny.ANIMATEDIFF_CALL if family == "animatediff" else tiny.WAN_CALL

    def moves(strength: float) -> list[Tensor]:
        seen: list[Tensor] = []
        config = ReflectionConfig(num_reflections=2, motion_strength=strength, **settings)
        with reflected(pipe, weak, config=config, on_reflect=lambda i, x, tilde: seen.append(tilde - x)):
            call(pipe, num_inference_steps=3, guidance_scale=1.0, **arguments)
        return seen

    def motion(move: Tensor) -> Tensor:
        return move - move.mean(2, keepdim=True)

    assert all(motion(move).abs().max() < 1e-5 < move.abs().max() / 100 for move in moves(0.0))
    printed, twice = moves(1.0)[0], moves(2.0)[0]  # of the first, made at one latent
    assert motion(printed).abs().max() > 1e-3
    assert (twice - printed - motion(printed)).abs().max() < 1e-5  # which rounds a latent of size 4 to 2e-7


def test_aligned_noise_moves_along_the_gap_and_opposed_noise_against_it():
    pipe, weak = tiny.sdxl(), tiny.sdxl_unet(2)
    start = torch.randn(1, 4, 8, 8, generator=tiny.generator(5))
    first: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[int, Tensor, Tensor], None]:
        return lambda i, x, tilde: first.update({name: tilde - x})

    for method in ("w2sd", "resample-aligned", "resample-opposed"):
        with reflected(pipe, weak, method=method, num_reflections=1, mode="fused", on_reflect=keep(method)):
            call(pipe, latents=start)
    # One draw, turned: what the two have in common is the shift of the step; half their difference is the noise.
    noise = (first["resample-aligned"] - first["resample-opposed"]) / 2
    drawn = torch.randn(1, 4, 8, 8, generator=tiny.generator(0))
    assert float((noise * first["w2sd"]).sum()) > 0
    assert abs(float(torch.cosine_similarity(noise.flatten(), drawn.flatten(), 0))) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_every_setting_a_method_says_it_has_changes_what_it_makes(method):
    pipe, weak = tiny.sdxl(), tiny.sdxl_unet(2)
    values = {**OTHER_SETTINGS, "num_reflections": 1}
    with reflected(pipe, weak, **asked(method)):
        usual = call(pipe, num_inference_steps=3)
    for setting in SETTINGS[method]:
        if setting in ("motion_strength", "draws"):
            continue  # of videos; of pairs of two latent spaces
        if setting == "mode" and method in ("resample-aligned", "resample-opposed"):
            continue  # of the move only its direction counts: one half of space for both, mostly
        mode = {"mode": "fused"} if setting == "gap_every" else {}
        with reflected(pipe, weak, config=ReflectionConfig(**{**mode, setting: values[setting]}), **asked(method)):
            assert (call(pipe, num_inference_steps=3) - usual).abs().max() > 1e-3, setting
