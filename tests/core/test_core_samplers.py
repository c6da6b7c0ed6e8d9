"""The samplers as programs: what is evaluated and counted, callbacks, refusals, dtypes, ranks, no host reads."""

import itertools
from typing import Any

import pytest
import torch
from benchmarks.measuring import HostReads
from experiments.theory.mixtures import PATHS, schedule
from torch import Tensor

from tests.support.sampled import by_autoguidance
from w2sd_video.core import (
    MODES,
    Level,
    NoisePath,
    sample,
    w2sd,
)

LEVELS, PATH = schedule("sdxl", 6), NoisePath()


def strong(x: Tensor, level: Level) -> Tensor:
    return (x * 0.9).sin() + 0.1 * level.sigma


def weak(x: Tensor, level: Level) -> Tensor:
    return (x * 0.7).sin() - 0.1 * level.sigma


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


class Recorder:
    """A denoiser that writes down its role and the level it was told."""

    def __init__(self, role: str, log: list[tuple[str, float]]) -> None:
        self.role, self.log = role, log

    def __call__(self, x: Tensor, level: Level) -> Tensor:
        self.log.append((self.role, level.timestep))
        return strong(x, level) if self.role != "weak" else weak(x, level)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("lam", [0, 1, 3, 5])
def test_w2sd_evaluates_t_plus_two_lambda_times(mode: str, lam: int) -> None:
    log: list[tuple[str, float]] = []
    w2sd(noise(4), LEVELS, Recorder("strong", log), Recorder("weak", log), PATH, num_reflections=lam, mode=mode)
    assert len(log) == 6 + 2 * lam
    assert sum(role == "weak" for role, _ in log) == lam


def test_sampling_evaluates_t_times_and_autoguidance_twice_as_often() -> None:
    log: list[tuple[str, float]] = []
    sample(noise(4), LEVELS, Recorder("strong", log), PATH)
    assert log == [("strong", level.timestep) for level in LEVELS[:-1]]
    log.clear()
    by_autoguidance(noise(4), LEVELS, Recorder("strong", log), Recorder("weak", log), PATH)
    assert len(log) == 12


@pytest.mark.parametrize("mode", ["paper", "release"])
def test_a_reflected_step_denoises_inverts_and_denoises_all_told_the_level_of_x(mode: str) -> None:
    log: list[tuple[str, float]] = []
    roles = {role: Recorder(role, log) for role in ("strong", "weak", "reflector")}
    w2sd(
        noise(4),
        LEVELS,
        roles["strong"],
        roles["weak"],
        PATH,
        num_reflections=2,
        mode=mode,
        reflector=roles["reflector"],
    )
    t = [level.timestep for level in LEVELS]
    reflected = [(role, t[i]) for i in (0, 1) for role in ("reflector", "weak", "strong")]
    assert log == reflected + [("strong", t[i]) for i in (2, 3, 4, 5)]


def test_the_default_number_of_reflections_is_all_but_the_last_step() -> None:
    log: list[tuple[str, float]] = []
    w2sd(noise(4), LEVELS, Recorder("strong", log), Recorder("weak", log), PATH)
    assert len(log) == 6 + 2 * 5


def test_algorithm_1_written_out_by_hand_is_what_w2sd_computes() -> None:
    x = expected = noise(4, 3)
    for i, (t, s) in enumerate(itertools.pairwise(LEVELS)):
        r = s.alpha / t.alpha
        if i < 3:
            lower = r * expected + (s.sigma - r * t.sigma) * strong(expected, t)
            expected = lower / r + (t.sigma - s.sigma / r) * weak(lower, t)
        expected = r * expected + (s.sigma - r * t.sigma) * strong(expected, t)
    actual = w2sd(x, LEVELS, strong, weak, PATH, num_reflections=3)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["sdxl", "flow"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_fused_w2sd_of_equal_models_is_plain_sampling_bit_for_bit(name: str, dtype: torch.dtype) -> None:
    def network(x: Tensor, level: Level) -> Tensor:
        return strong(x.to(dtype), level)

    x, levels, path = noise(2, 4, 8, dtype=dtype), schedule(name, 6), PATHS[name]
    fused = w2sd(x, levels, network, network, path, mode="fused", num_reflections=6)
    assert torch.equal(fused, sample(x, levels, network, path))
    assert torch.equal(by_autoguidance(x, levels, network, network, path), sample(x, levels, network, path))


@pytest.mark.parametrize("mode", MODES)
def test_strength_multiplies_the_reflection(mode: str) -> None:
    def first_move(strength: float) -> Tensor:
        gaps: list[Tensor] = []
        settings: dict[str, Any] = {"num_reflections": 1, "mode": mode, "strength": strength}
        w2sd(noise(4, 3), LEVELS, strong, weak, PATH, on_reflect=lambda i, x, tilde: gaps.append(tilde - x), **settings)
        return gaps[0]

    torch.testing.assert_close(first_move(0.5), first_move(1.0) * 0.5, rtol=0, atol=1e-12)
    torch.testing.assert_close(first_move(2.0), first_move(1.0) * 2.0, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["sdxl", "flow"])
@pytest.mark.parametrize("mode", ["paper", "fused", "release"])
def test_more_reflections_than_can_be_had_are_refused_with_the_limit(name: str, mode: str) -> None:
    levels, path = schedule(name, 6), PATHS[name]
    # The SDXL grid ends at alpha_bar[0], which keeps noise; a flow ends clean, where inversion has nothing to go by.
    most = 6 if mode == "fused" or (mode == "paper" and name == "sdxl") else 5
    result = w2sd(noise(4), levels, strong, weak, path, num_reflections=most, mode=mode)
    assert result.isfinite().all()
    for lam in (most + 1, 7):
        with pytest.raises(ValueError, match=f"from 0 to {most} for 6 steps.*got {lam}"):
            w2sd(noise(4), levels, strong, weak, path, num_reflections=lam, mode=mode)


def test_bad_settings_are_refused_before_any_evaluation() -> None:
    log: list[tuple[str, float]] = []
    network = Recorder("strong", log)
    with pytest.raises(ValueError, match=r"'exact'; choose one of paper, fused, release"):
        w2sd(noise(4), LEVELS, network, network, PATH, mode="exact")
    with pytest.raises(ValueError, match="strictly decreasing"):
        sample(noise(4), LEVELS[::-1], network, PATH)
    with pytest.raises(ValueError, match=r"floating-point.*int64"):
        sample(torch.zeros(4, dtype=torch.int64), LEVELS, network, PATH)
    with pytest.raises(ValueError, match="alpha 0"):
        by_autoguidance(noise(4), schedule("flow", 6), network, network, PATH)
    assert log == []


@pytest.mark.parametrize("shape", [(), (5,), (2, 5), (1, 2, 5), (1, 2, 1, 5), (1, 2, 3, 2, 5), (1, 1, 2, 1, 3, 5)])
def test_a_latent_of_any_rank_is_sampled_alike(shape: tuple[int, ...]) -> None:
    x = noise(*shape)
    result = w2sd(x, LEVELS, strong, weak, PATH)
    assert result.shape == x.shape
    flat = w2sd(x.reshape(-1), LEVELS, strong, weak, PATH).reshape(shape)
    torch.testing.assert_close(result, flat, rtol=1e-12, atol=1e-12)


def test_the_callback_sees_every_latent_and_may_replace_it() -> None:
    seen: list[tuple[int, Tensor]] = []
    x = noise(4)
    result = sample(x, LEVELS, strong, PATH, callback=lambda i, x: seen.append((i, x)))
    assert [i for i, _ in seen] == [0, 1, 2, 3, 4, 5]
    assert torch.equal(seen[-1][1], result)
    fresh = noise(4, seed=9)
    replaced = w2sd(x, LEVELS, strong, weak, PATH, callback=lambda i, x: fresh if i == 2 else None)
    torch.testing.assert_close(replaced, w2sd(fresh, LEVELS[3:], strong, weak, PATH), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["sdxl", "flow"])
def test_no_sampler_reads_from_the_device_inside_its_loop(name: str) -> None:
    x, levels, path = noise(4, 3), schedule(name, 6), PATHS[name]
    with HostReads() as reads:
        x.sum().item()
    assert reads.total == 1, "the counter itself works"
    with HostReads() as reads:
        sample(x, levels, strong, path)
        for mode in MODES:
            w2sd(x, levels, strong, weak, path, mode=mode, strength=0.5)
        by_autoguidance(x, levels, strong, weak, path)
    assert reads.total == 0
