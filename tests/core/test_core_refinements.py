"""What may differ in a reflection: which steps have one, how far it moves, what it adds; and what is refused."""

import dataclasses
import itertools
import math
from fractions import Fraction
from typing import Any

import pytest
import torch
from experiments.theory.mixtures import (
    IDEAL,
    PATHS,
    STRONG,
    Mixture,
    logit_weak,
    normal_quantiles,
    ratio_weak,
    schedule,
    wasserstein,
)
from torch import Tensor

from tests.support.sampled import by_w2sd
from w2sd_video.core import (
    MODES,
    W2SD,
    Denoiser,
    Level,
    NoiseSampler,
    ReflectionConfig,
    sample,
    w2sd,
)
from w2sd_video.core.options import METHODS, SETTINGS
from w2sd_video.errors import UserError


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def seeded(seed: int) -> NoiseSampler:
    generator = torch.Generator().manual_seed(seed)
    return lambda x: torch.randn(x.shape, generator=generator, dtype=x.dtype)


def gaussian(variance: float, mean: float = 0.0) -> Mixture:
    return Mixture(means=((mean,),), weights=(1.0,), std=variance**0.5)


def reflections(
    name: str = "sdxl", num_steps: int = 6, **settings: Any
) -> tuple[list[tuple[int, Tensor, Tensor]], int]:
    """The (i, x, x~) of a run between two real mixtures, and how often models were asked."""
    path, calls = PATHS[name], []
    seen: list[tuple[int, Tensor, Tensor]] = []

    def counted(mixture: Mixture) -> Denoiser:
        def denoiser(x: Tensor, level: Level) -> Tensor:
            calls.append(level)
            return mixture.denoiser(path)(x, level)

        return denoiser

    settings["on_reflect"] = lambda *reflection: seen.append(reflection)
    levels, models = schedule(name, num_steps), (counted(STRONG), counted(logit_weak(2)))
    by_w2sd(2 * normal_quantiles(9), levels, *models, path, **settings)
    return seen, len(calls)


@pytest.mark.parametrize("every", [1, 2, 3, 7])
@pytest.mark.parametrize("window", ["0 1", "0 0.5", "0.28 0.7", "0.1 0.3", "0.5 1", "0.05 0.15", "0.33 0.34"])
@pytest.mark.parametrize(("num_steps", "lam"), [(20, 19), (20, 10), (10, 10), (7, 3), (50, 49)])
def test_the_steps_reflected_are_every_kth_of_those_in_the_window(
    every: int, window: str, num_steps: int, lam: int
) -> None:
    # In exact fractions: 0.28 * 50 is above 14 in floating point, yet step 14 of 50 is in a window from 0.28 on.
    low, high = (Fraction(edge) for edge in window.split())
    within = [i for i in range(num_steps) if low <= Fraction(i, num_steps) < high and i < lam]
    assert ReflectionConfig(lam, every=every, window=(float(low), float(high))).steps(num_steps) == tuple(
        within[::every]
    )
    assert ReflectionConfig(lam).steps(num_steps) == tuple(range(lam))


def test_parts_of_the_window_share_out_the_steps_and_leave_none_twice() -> None:
    for num_steps in range(1, 60):
        parts = [ReflectionConfig(num_steps, window=(k / 10, (k + 1) / 10)).steps(num_steps) for k in range(10)]
        assert list(itertools.chain(*parts)) == list(range(num_steps))


@pytest.mark.parametrize("mode", MODES)
def test_only_these_steps_are_reflected_and_paid_for(mode: str) -> None:
    seen, calls = reflections(num_steps=8, mode=mode, num_reflections=6, every=2, window=(0.25, 1.0))
    assert [i for i, _, _ in seen] == [2, 4] and calls == 8 + 2 * 2


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(5, 4), (3, 4, 2, 2), (6,)])
def test_a_cap_shortens_longer_moves_to_it_exactly_and_leaves_shorter_ones_bit_for_bit(
    mode: str, shape: tuple[int, ...]
) -> None:
    path, levels, x = PATHS["sdxl"], schedule("sdxl", 6), randn(*shape)
    gap = torch.arange(shape[0], dtype=torch.float64).reshape(-1, *[1] * (len(shape) - 1)) * (1 + x.cos())
    models: tuple[Denoiser, Denoiser] = (lambda x, _: 0 * x), (lambda x, _: gap + 0.01 * x)

    def reflected(cap: float | None) -> Tensor:
        options = ReflectionConfig(mode=mode, strength=1.5, cap=cap)
        return W2SD(levels[1:4], *models, path, options).reflect(0, x)

    free, sizes = reflected(None), []
    for sample_, tilde in zip(x, free, strict=True):
        sizes.append((tilde - sample_).square().mean().sqrt().item())
    cap = sorted(sizes)[len(sizes) // 2] * 1.001
    capped = reflected(cap)
    assert 0 < sum(size > cap for size in sizes) < len(sizes)
    for sample_, tilde, under, size in zip(x, free, capped, sizes, strict=True):
        if size <= cap:
            assert torch.equal(under, tilde)
        else:
            assert (under - sample_).square().mean().sqrt().item() == pytest.approx(cap, rel=1e-12)
            torch.testing.assert_close(under - sample_, (tilde - sample_) * (cap / size), rtol=0, atol=1e-13)
    assert torch.equal(reflected(max(sizes) * 1.001), free)


@pytest.mark.parametrize(("name", "mode"), [("ddpm", "fused"), ("ddpm", "paper"), ("flow", "fused"), ("flow", "paper")])
def test_a_cap_holds_what_a_weak_model_that_has_lost_the_mode_would_throw_away(name: str, mode: str) -> None:
    # Its score has no bound on the left, so the study found W2 from 4.1 to 4.5 although the left mass looks right.
    path, levels = PATHS[name], schedule(name, 50)
    models = STRONG.denoiser(path), gaussian(1.0, mean=4.0).denoiser(path)

    def run(cap: float | None) -> tuple[float, float]:
        x = by_w2sd(normal_quantiles(), levels, *models, path, mode=mode, cap=cap)
        return (x < -8).double().mean().item(), wasserstein(x, IDEAL, 2)  # -8 is 4 deviations out of the mode

    free, capped = run(None), run(0.05)
    assert free[0] > 0.4 and 4.1 <= free[1] <= 4.5
    assert capped[0] < 0.03 and capped[1] < free[1] / 2.5


def test_noise_is_added_after_the_cap_in_exactly_its_standard_deviation() -> None:
    path, levels, x = PATHS["sdxl"], schedule("sdxl", 6), randn(2000, 10, seed=1)
    models = STRONG.denoiser(path), logit_weak(2).denoiser(path)
    drawn = randn(2000, 10, seed=2)

    def reflected(**settings: Any) -> Tensor:
        options = ReflectionConfig(**settings)
        noise_sampler = lambda x: drawn.reshape(x.shape)  # noqa: E731
        reflection = W2SD(levels[1:4], *models, path, options, noise_sampler=noise_sampler)
        return reflection.reflect(0, x.reshape(-1, 1))

    for cap in (None, 0.05):
        added = reflected(noise=0.3, cap=cap) - reflected(cap=cap)
        torch.testing.assert_close(added, 0.3 * drawn.reshape(-1, 1), rtol=0, atol=1e-14)
    # Drawn by itself: a standard deviation of n values is known to 1 / sqrt(2 n) of itself.
    same = STRONG.denoiser(path)
    free, noisy = (
        W2SD(levels[1:4], same, same, path, ReflectionConfig(noise=k)).reflect(0, x[..., None]) for k in (0.0, 0.3)
    )
    assert (noisy - free).std().item() == pytest.approx(0.3, rel=4 / math.sqrt(2 * x.numel()))


def test_the_noise_of_all_reflections_arrives_as_the_steps_carry_it() -> None:
    path, levels, n, k = PATHS["ddpm"], schedule("ddpm", 20), 20000, 0.2
    model, one = gaussian(0.5).denoiser(path), torch.ones(1, 1, dtype=torch.float64)
    shares = [sample(one, levels[i:], model, path).item() for i in range(20)]  # moves are linear
    settings: dict[str, Any] = {"noise": k, "every": 2, "window": (0.2, 0.9)}
    steps = range(4, 18, 2)
    expected = shares[0] ** 2 + k**2 * sum(shares[i] ** 2 for i in steps)
    x = normal_quantiles(n) / normal_quantiles(n).std(correction=0)
    end = by_w2sd(x, levels, model, model, path, mode="fused", noise_sampler=seeded(0), **settings)
    assert end.std().item() == pytest.approx(math.sqrt(expected), rel=4 / math.sqrt(2 * n))
    assert math.sqrt(expected) > 1.05 * shares[0]


def test_little_noise_costs_nothing_and_much_costs_the_gain() -> None:
    # The study, ratio 2, T 50: W2 .41 at k up to .01, 1.23 at .3 and 5.7 at 1, against 3.10 without reflections.
    path, levels = PATHS["ddpm"], schedule("ddpm", 50)
    strong = STRONG.denoiser(path)
    weak = ratio_weak(2, strong, IDEAL.denoiser(path))

    def distance(k: float) -> float:
        x = normal_quantiles(6000)
        x = by_w2sd(x, levels, strong, weak, path, mode="fused", noise=k, noise_sampler=seeded(0))
        return wasserstein(x, IDEAL, 2)

    exact = distance(0.0)
    assert exact == pytest.approx(0.41, abs=0.01)
    assert distance(0.01) == pytest.approx(exact, abs=0.01)
    assert 2 * exact < distance(0.3) < 3.10 < distance(1.0)


def test_no_noise_is_no_draw() -> None:
    def refuse(x: Tensor) -> Tensor:
        raise AssertionError("drawn")

    seen, _ = reflections(noise=0.0, cap=0.5, fixed_point=1, noise_sampler=refuse)
    assert len(seen) == 5
    with pytest.raises(AssertionError, match="drawn"):
        reflections(noise=1e-9, noise_sampler=refuse)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"mode": "exact"}, r"mode is 'exact'; choose one of paper, fused, release"),
    ({"strength": "2"}, r"strength is '2'; it must be a finite number"),
    ({"strength": math.inf}, r"strength is inf"),
    ({"num_reflections": -1}, r"num_reflections is -1; it must be a whole number from 0"),
    ({"num_reflections": 2.5}, r"num_reflections is 2\.5;"),
    ({"every": 0}, r"every is 0; .* 1 \(all of them\) or more"),
    ({"every": 2.0}, r"every is 2\.0; it must be a whole number"),
    ({"every": True}, r"every is True;"),
    ({"window": (0.5, 0.5)}, r"window is \(0\.5, 0\.5\); it must be two fractions"),
    ({"window": (-0.1, 0.5)}, r"window is"),
    ({"window": (0.0, 1.01)}, r"window is"),
    ({"window": (0.0, 0.5, 1.0)}, r"window is"),
    ({"window": (float("nan"), 1.0)}, r"window is"),
    ({"window": 0.5}, r"window is 0\.5"),
    ({"fixed_point": 3}, r"fixed_point is 3; it must be 0, 1 or 2"),
    ({"fixed_point": True}, r"fixed_point is True;"),
    ({"fixed_point": 1.0}, r"fixed_point is 1\.0;"),
    (
        {"fixed_point": 1, "mode": "fused"},
        r"fixed_point is 1 in mode 'fused'; it refines .*\"paper\".*leave fixed_point",
    ),
    ({"fixed_point": 1, "mode": "release"}, r"fixed_point is 1 in mode 'release'"),
    ({"noise": -0.1}, r"noise is -0\.1; it must be a standard deviation in latent units, 0 or more"),
    ({"noise": math.inf}, r"noise is inf;"),
    ({"cap": 0.0}, r"cap is 0\.0; .* above 0, or None"),
    ({"cap": -1.0}, r"cap is -1\.0;"),
    ({"cap": math.nan}, r"cap is nan;"),
    ({"draws": 65}, r"draws is 65; it must be a whole number from 1 to 64"),
    ({"lag": 1}, r"lag is 1; it must be True or False"),
    ({"motion_strength": 10.5}, r"motion_strength is 10\.5; it must be a number from -10 to 10"),
    ({"motion_strength": math.nan}, r"motion_strength is nan;"),
    ({"gap_every": -1, "mode": "fused"}, r"gap_every is -1; it must be a whole number: 1 measures"),
    ({"gap_every": True, "mode": "fused"}, r"gap_every is True;"),
    ({"gap_every": (3, 1), "mode": "fused"}, r"gap_every is \(3, 1\); as a list .* in order"),
    ({"gap_every": (), "mode": "fused"}, r"gap_every is \(\); as a list"),
    ({"gap_every": "often", "mode": "fused"}, r"gap_every is 'often'; .* or auto"),
    ({"gap_every": 2}, r"gap_every is 2 in mode 'paper'; .*choose that mode"),
    ({"gap_every": 2, "mode": "fused", "lag": True}, r"gap_every and lag both save .*leave one"),
]


@pytest.mark.parametrize(("settings", "said"), REFUSED, ids=[str(settings) for settings, _ in REFUSED])
def test_a_setting_outside_its_range_is_refused_with_the_range(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        ReflectionConfig(**settings)


OTHERS: dict[str, Any] = {
    "num_reflections": 2,
    "mode": "fused",
    "strength": 0.5,
    "reflector": object(),
    "every": 2,
    "window": (0.2, 1.0),
    "fixed_point": 2,
    "noise": 0.1,
    "cap": 0.02,
    "lag": True,
    "gap_every": 2,
    "motion_strength": 0.5,
    "draws": 2,
    "guider": "apg",
}  # none at its default


@pytest.mark.parametrize("method", METHODS)
def test_a_method_takes_its_own_settings_and_refuses_each_other_one_by_name(method: str) -> None:
    assert OTHERS.keys() == {field.name for field in dataclasses.fields(ReflectionConfig)}
    for setting, value in OTHERS.items():
        taken = setting in SETTINGS[method]
        if setting == "gap_every" and not taken and "mode" not in SETTINGS[method]:
            continue  # it needs mode "fused", which is refused first
        options = ReflectionConfig(**{**({"mode": "fused"} if setting == "gap_every" else {}), setting: value})
        assert (options.for_method(method) == options) == taken
        if taken:
            options.check_method(method)
        else:
            with pytest.raises(UserError, match=f"^{setting} is .*; leave {setting} out$"):
                options.check_method(method)


def test_an_unknown_method_and_one_that_the_published_code_has_not_are_refused() -> None:
    with pytest.raises(UserError, match=r"method is 'w2s'; choose one of w2sd, w2sd-auto"):
        ReflectionConfig().check_method("w2s")
    for method in ("w2sd-auto", "resample-aligned", "resample-opposed"):
        with pytest.raises(UserError, match=rf'"release" .* has no {method}; choose mode "paper" or "fused"'):
            ReflectionConfig(mode="release").check_method(method)


def test_settings_that_do_not_go_together_are_refused_before_any_evaluation() -> None:
    def never(x: Tensor, level: Level) -> Tensor:
        raise AssertionError("evaluated")

    run = randn(4), schedule("sdxl", 6), never, never, PATHS["sdxl"]
    lagging = ReflectionConfig(lag=True)
    for other in ({"reflector": never}, {"joint": never}):
        with pytest.raises(ValueError, match="leave reflector and joint out"):
            w2sd(*run, options=lagging, **other)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="either options or"):
        w2sd(*run, options=lagging, strength=2.0)
    assert ReflectionConfig(window=[0, 0.5]) == ReflectionConfig(window=(0, 0.5))  # type: ignore[arg-type]


def test_a_gap_is_measured_before_every_kth_reflection_or_once_and_the_first_step_of_all_has_none() -> None:
    def plan(gap_every: Any, **settings: Any) -> tuple[tuple[int, ...], tuple[int, ...], int]:
        options = ReflectionConfig(mode="fused", gap_every=gap_every, **settings)
        return options.gap_steps(12), options.steps(12), options.evaluations(12)

    assert plan(1, num_reflections=5) == ((0, 1, 2, 3), (1, 2, 3, 4), 16)
    assert plan(2, num_reflections=6) == ((0, 2, 4), (1, 2, 3, 4, 5), 15)
    assert plan(0, num_reflections=6) == ((0,), (1, 2, 3, 4, 5), 13)
    assert plan(1, num_reflections=8, window=(0.25, 1.0), every=2) == ((2, 4, 6), (3, 5, 7), 15)
    assert plan(2, num_reflections=8, window=(0.25, 1.0), every=2) == ((2, 6), (3, 5, 7), 14)
    assert plan((0, 1, 3), num_reflections=6) == ((0, 1, 3), (1, 2, 3, 4, 5), 15), "at the steps that are named"
    assert plan((2, 4, 9), num_reflections=6) == ((2, 4), (3, 4, 5), 14), (
        "no reflection without a gap, none for nothing"
    )
    assert plan(3, num_reflections=1) == plan(0, num_reflections=0) == ((), (), 12)
    assert plan("auto", num_reflections=6) == plan(2, num_reflections=6), "as many, whose places are found later"
    assert ReflectionConfig(5).gap_steps(12) == ()


@pytest.mark.parametrize("num_steps", [1, 2, 7, 50])
def test_a_cached_prediction_saves_one_evaluation_of_each_reflection_but_at_the_first_step(num_steps: int) -> None:
    for every, window, lam in itertools.product(
        (1, 2, 5), ((0.0, 1.0), (0.25, 0.5), (1 / 3, 2 / 3)), (None, 0, num_steps)
    ):
        options = ReflectionConfig(lam, every=every, window=window)
        steps = options.steps(num_steps)
        assert options.evaluations(num_steps) == num_steps + 2 * len(steps)
        lagging = ReflectionConfig(lam, every=every, window=window, lag=True)
        assert lagging.evaluations(num_steps) == num_steps + 2 * len(steps) - sum(step > 0 for step in steps)
