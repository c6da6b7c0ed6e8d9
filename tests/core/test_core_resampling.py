"""Algorithms 3 and 4: noise that takes a step back leaves a distribution alone, and on one side of the gap pushes."""

import itertools
import math
from typing import Any

import pytest
import torch
from experiments.theory.mixtures import (
    IDEAL,
    PATHS,
    STRONG,
    left_mass,
    logit_weak,
    normal_quantiles,
    schedule,
    wasserstein,
)
from torch import Tensor

from tests.support.sampled import by_resampling
from w2sd_video.core import (
    CustomReflection,
    Denoiser,
    Level,
    NoiseSampler,
    Path,
    renoised,
    sample,
)

LEVELS, PATH = schedule("sdxl", 6), PATHS["sdxl"]


def seeded(seed: int) -> NoiseSampler:
    generator = torch.Generator().manual_seed(seed)
    return lambda x: torch.randn(x.shape, generator=generator, dtype=x.dtype)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def strong(x: Tensor, level: Level) -> Tensor:
    return (0.9 * x).sin() + 0.1 * level.sigma


def weak(x: Tensor, level: Level) -> Tensor:
    return (0.7 * x).sin() - 0.1 * level.sigma


def refuse(x: Tensor, level: Level) -> Tensor:
    raise AssertionError("evaluated")


def spread(t: Level, s: Level) -> float:
    """The standard deviation of the noise that takes the step t -> s back."""
    return t.alpha * math.sqrt((t.sigma / t.alpha) ** 2 - (s.sigma / s.alpha) ** 2)


@pytest.mark.parametrize("name", ["ddpm", "sdxl", "flow"])
def test_noising_back_is_the_forward_process_between_two_levels(name: str) -> None:
    # A latent alpha x0 + sigma e at one level must come out as one at the other: the signal at the other alpha, and
    # its own noise and the new one together at the other sigma.
    one, none = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    for start, end in itertools.pairwise(schedule(name, 20)):
        keep = renoised(one, end, start, none).item()
        added = renoised(none, end, start, one).item()
        assert keep * end.alpha == pytest.approx(start.alpha, rel=1e-14)
        assert (keep * end.sigma) ** 2 + added**2 == pytest.approx(start.sigma**2, rel=1e-12)
        assert added >= 0


def test_between_neighbouring_timesteps_noising_back_is_the_chain_of_ddpm() -> None:
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    levels = [Level(t, p**0.5, (1 - p) ** 0.5) for t, p in enumerate((1 - betas).cumprod(0).tolist())]
    x, fresh = noise(5), noise(5, seed=1)
    for t in (1, 10, 500, 999):
        expected = (1 - betas[t]).sqrt() * x + betas[t].sqrt() * fresh
        torch.testing.assert_close(renoised(x, levels[t - 1], levels[t], fresh), expected, rtol=0, atol=1e-10)


def test_noise_of_another_shape_is_refused_rather_than_broadcast() -> None:
    with pytest.raises(ValueError, match=r"\(1, 3\).*\(4, 3\)"):
        renoised(noise(4, 3), LEVELS[1], LEVELS[0], noise(1, 3))
    with pytest.raises(ValueError, match=r"\(1, 3\).*\(4, 3\)"):
        by_resampling(noise(4, 3), LEVELS, strong, None, PATH, noise_sampler=lambda x: x[:1])


@pytest.mark.parametrize("name", ["sdxl", "flow"])
@pytest.mark.parametrize("lam", [0, 3, 6])
def test_algorithm_3_written_out_is_what_is_computed(name: str, lam: int) -> None:
    path, levels, x, draw = PATHS[name], schedule(name, 6), noise(4, 3), seeded(7)
    got = by_resampling(x, levels, strong, None, path, num_reflections=lam, reflector=weak, noise_sampler=seeded(7))
    for i, (t, s) in enumerate(itertools.pairwise(levels)):
        if i < lam:
            lower = path.step(x, weak(x, t), t, s)
            x = t.alpha / s.alpha * lower + (spread(t, s) if t.alpha else 1.0) * draw(x)
        x = path.step(x, strong(x, t), t, s)
    torch.testing.assert_close(got, x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["sdxl", "flow"])
@pytest.mark.parametrize("mode", ["paper", "fused"])
@pytest.mark.parametrize("opposed", [False, True])
def test_algorithm_4_written_out_is_what_is_computed(name: str, mode: str, opposed: bool) -> None:
    path, levels, x, draw = PATHS[name], schedule(name, 6), noise(40, 3), seeded(7)
    settings: dict[str, Any] = {"opposed": opposed, "mode": mode, "num_reflections": 3}
    got = by_resampling(x, levels, strong, weak, path, noise_sampler=seeded(7), **settings)
    flipped = 0
    for i, (t, s) in enumerate(itertools.pairwise(levels)):
        if i < 3:
            lower = path.step(x, strong(x, t), t, s)
            tilde = path.step(lower, weak(x if mode == "fused" else lower, t), s, t)
            fresh = draw(x)
            cosine = torch.cosine_similarity(tilde - x, fresh, dim=1)
            rejected = cosine > 0 if opposed else cosine < 0
            flipped += int(rejected.sum())
            fresh[rejected] *= -1
            x = t.alpha / s.alpha * lower + (spread(t, s) if t.alpha else 1.0) * fresh
        x = path.step(x, strong(x, t), t, s)
    assert 20 < flipped < 100  # of 120
    torch.testing.assert_close(got, x, rtol=0, atol=1e-12)


def kicks(n: int, gap: Tensor, seed: int = 0, **settings: Any) -> tuple[Tensor, float]:
    """The noise [n, D] of one aligned reflection of latents that are alike, and what multiplies it in the latent.

    ``gap`` [D] is weak - strong everywhere; both networks are constant, so both modes move along it.
    """
    x, seen, (t, s) = torch.full((n, len(gap)), 0.3, dtype=torch.float64), [], LEVELS[:2]
    run = by_resampling(
        *(x, LEVELS, lambda x, _: torch.ones_like(x), lambda x, _: 1 + gap.expand_as(x), PATH),
        **settings, num_reflections=1, noise_sampler=seeded(seed), on_reflect=lambda i, x, tilde: seen.append(tilde),
    )  # fmt: skip
    assert run.shape == x.shape
    lower = PATH.step(x, torch.ones_like(x), t, s)
    return (seen[0] - t.alpha / s.alpha * lower) / spread(t, s), spread(t, s)


def largest_distance(a: Tensor, b: Tensor) -> float:
    """Kolmogorov and Smirnov's: the largest difference of the distribution functions of two sets of numbers."""
    joined = torch.cat([a, b]).sort().values
    parts = [torch.searchsorted(part.sort().values, joined, right=True).double() / len(part) for part in (a, b)]
    return (parts[0] - parts[1]).abs().max().item()


@pytest.mark.parametrize("opposed", [False, True])
def test_a_sign_flip_is_the_rejection_loop_in_distribution(opposed: bool) -> None:
    n, gap = 20000, torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    flipped, _ = kicks(n, gap, opposed=opposed)
    # Rejected noise is drawn again until none is left, as Algorithm 4 prints it.
    side, generator = (-1 if opposed else 1), torch.Generator().manual_seed(1)
    looped = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    while (rejected := looped @ gap * side < 0).any():
        looped[rejected] = torch.randn(int(rejected.sum()), 3, generator=generator, dtype=torch.float64)
    # Two sets of n of one distribution are this far apart once in a million (Smirnov's bound).
    bound = math.sqrt(-math.log(1e-6 / 2) / 2) * math.sqrt(2 / n)
    for direction in (gap, torch.tensor([2.0, 1.0, 0.0]), torch.tensor([0.0, 1.0, 4.0]), torch.tensor([1.0, 0.0, 0.0])):
        along = direction.double() / direction.norm()
        assert largest_distance(flipped @ along, looped @ along) < bound
    free = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    assert largest_distance(flipped @ gap, free @ gap) > 10 * bound
    assert (flipped @ gap * side >= 0).all()


@pytest.mark.parametrize("mode", ["paper", "fused"])
def test_the_push_along_the_gap_is_that_of_the_noise_whatever_the_gaps_size(mode: str) -> None:
    n, direction = 20000, torch.tensor([0.6, -0.8], dtype=torch.float64)
    first, _ = kicks(n, direction, mode=mode)
    # A half-normal number is sqrt(2 / pi) on the mean, with a variance of 1 - 2 / pi.
    error = 4 * math.sqrt((1 - 2 / math.pi) / n)
    assert (first @ direction).mean().item() == pytest.approx(math.sqrt(2 / math.pi), abs=error)
    assert (first @ direction.flip(0).abs()).mean().item() == pytest.approx(0, abs=4 / math.sqrt(n))
    opposed, _ = kicks(n, direction, mode=mode, opposed=True)
    assert torch.equal(opposed, -first) or (opposed + first).abs().max() < 1e-12
    for size in (1e-6, 1e6):
        torch.testing.assert_close(kicks(n, size * direction, mode=mode)[0], first, rtol=0, atol=1e-9)


@pytest.mark.parametrize("shape", [(4,), (4, 3), (4, 2, 3, 2)])
@pytest.mark.parametrize("opposed", [False, True])
def test_without_a_gap_there_is_no_side_to_be_on_and_nothing_is_flipped(opposed: bool, shape: tuple[int, ...]) -> None:
    x, levels = noise(*shape), schedule("flow", 6)
    settings: dict[str, Any] = {"num_reflections": 5, "noise_sampler": seeded(3)}
    aligned = by_resampling(x, levels, strong, strong, PATHS["flow"], opposed=opposed, mode="fused", **settings)
    settings["noise_sampler"] = seeded(3)
    assert torch.equal(aligned, by_resampling(x, levels, strong, None, PATHS["flow"], **settings))


def printed(path: Path, levels: list[Level]) -> CustomReflection:
    """Alg. 3 as printed: what Add_Noise gets is x_t, which holds its noise already."""
    noise_sampler = seeded(0)
    return CustomReflection(levels, lambda x, start, _: path.renoise(x, noise_sampler(x), start))


@pytest.mark.parametrize("name", ["ddpm", "sdxl", "flow"])
def test_resampling_an_exact_model_leaves_its_distribution_and_noising_the_latent_itself_would_not(name: str) -> None:
    # The strong model: a left mass of .25, and a standard deviation of sqrt(1 + 16 (1 - (.75 - .25)^2)) = sqrt(13).
    path, levels, n, model = PATHS[name], schedule(name, 50), 6000, STRONG.denoiser(path := PATHS[name])
    x = by_resampling(normal_quantiles(n), levels, model, None, path, noise_sampler=seeded(0))
    counting = 3 * math.sqrt(0.25 * 0.75 / n)
    assert left_mass(x) == pytest.approx(0.25, abs=0.012 + counting)  # .012 is what 50 steps miss, see `sample`
    assert x.std().item() == pytest.approx(math.sqrt(13), rel=0.03)
    assert wasserstein(x, STRONG, 2) < 0.75

    literal = sample(normal_quantiles(n), levels, model, path, reflect=printed(path, levels))
    assert literal.std().item() < 1.6 and wasserstein(literal, STRONG, 2) > 2.5


@pytest.mark.parametrize(("name", "deviation"), [("ddpm", 1.90), ("flow", 0.645)])
def test_the_printed_noising_shrinks_the_data_as_the_study_found(name: str, deviation: float) -> None:
    path, levels = PATHS[name], schedule(name, 20)
    run = normal_quantiles(6000), levels, STRONG.denoiser(path)
    literal = sample(*run, path, reflect=printed(path, levels))
    assert literal.std().item() == pytest.approx(deviation, abs=0.03)
    assert 3.4 < by_resampling(*run, None, path, noise_sampler=seeded(0)).std().item() < math.sqrt(13)


@pytest.mark.parametrize("mode", ["paper", "fused"])
@pytest.mark.parametrize("name", ["ddpm", "flow"])
def test_aligned_noise_pushes_with_the_gap_to_the_end_and_opposed_noise_against_it(name: str, mode: str) -> None:
    path, levels = PATHS[name], schedule(name, 50)
    models = STRONG.denoiser(path), logit_weak(2).denoiser(path)
    left = [
        left_mass(
            by_resampling(
                normal_quantiles(), levels, *models, path, mode=mode, opposed=opposed, noise_sampler=seeded(0)
            )
        )
        for opposed in (False, True)
    ]
    assert left[0] > 0.99 and left[1] < 0.01  # a direction, and not nearer to the ideal .5


def test_the_gap_whose_side_is_taken_is_that_from_weak_to_strong() -> None:
    # With the ideal in the strong role and the strong one in the weak role, the push is to the ideal's side: left.
    path, levels = PATHS["ddpm"], schedule("ddpm", 50)
    models = IDEAL.denoiser(path), STRONG.denoiser(path)
    x = by_resampling(normal_quantiles(), levels, *models, path, mode="fused", noise_sampler=seeded(0))
    assert left_mass(x) > 0.99


@pytest.mark.parametrize("lam", [0, 1, 4])
def test_evaluations_are_t_plus_lambda_and_t_plus_two_lambda_in_this_order(lam: int) -> None:
    log: list[tuple[str, float | int]] = []

    def model(role: str) -> Denoiser:
        return lambda x, level: (log.append((role, level.timestep)), strong(x, level))[1]  # type: ignore[func-returns-value]

    x, told = noise(4, 2), [level.timestep for level in LEVELS[:-1]]
    for reflector, role in ((None, "s"), (model("r"), "r")):
        settings: dict[str, Any] = {"num_reflections": lam, "reflector": reflector}
        by_resampling(x, LEVELS, model("s"), None, PATH, **settings)
        assert log == [(part, t) for t in told[:lam] for part in (role, "s")] + [("s", t) for t in told[lam:]]
        assert len(log) == 6 + lam
        log.clear()
        for mode in ("paper", "fused"):
            by_resampling(x, LEVELS, model("s"), model("w"), PATH, mode=mode, **settings)
            assert log == [(part, t) for t in told[:lam] for part in (role, "w", "s")] + [("s", t) for t in told[lam:]]
            assert len(log) == 6 + 2 * lam
            log.clear()


def test_every_and_window_say_which_steps_are_taken_back() -> None:
    settings: dict[str, Any] = {"every": 2, "window": (0.3, 1.0)}
    seen: list[int] = []
    settings["on_reflect"] = lambda i, x, tilde: seen.append(i)
    by_resampling(noise(4, 2), LEVELS, strong, None, PATH, **settings)
    by_resampling(noise(4, 2), LEVELS, strong, weak, PATH, **settings)
    assert seen == [2, 4, 2, 4]


def test_what_cannot_be_had_is_refused_before_any_evaluation() -> None:
    x, flow = noise(4, 2), (schedule("flow", 6), refuse, refuse, PATHS["flow"])
    for weak_model, name in ((None, "resample"), (refuse, "resample-aligned")):
        for setting, value in (("noise", 0.1), ("cap", 1.0), ("fixed_point", 1)):
            with pytest.raises(ValueError, match=rf"{setting} is {value}, and method '{name}' has no such setting"):
                by_resampling(x, LEVELS, refuse, weak_model, PATH, **{setting: value})
    with pytest.raises(ValueError, match=r'"release" .* has no resample-opposed; choose mode "paper" or "fused"'):
        by_resampling(x, LEVELS, refuse, refuse, PATH, mode="release", opposed=True)
    with pytest.raises(ValueError, match=r"from 0 to 6 for 6 steps; got 7"):
        by_resampling(x, LEVELS, refuse, None, PATH, num_reflections=7)
    with pytest.raises(ValueError, match=r"from 0 to 5 for 6 steps .*'paper'.*got 6"):
        by_resampling(x, *flow, num_reflections=6)


def test_by_default_all_steps_but_the_last_are_taken_back() -> None:
    seen: list[int] = []
    by_resampling(noise(4, 2), LEVELS, strong, None, PATH, on_reflect=lambda i, x, tilde: seen.append(i))
    assert seen == [0, 1, 2, 3, 4]
