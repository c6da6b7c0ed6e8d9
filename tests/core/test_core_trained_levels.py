"""A side trained at a few noise levels, asked at the nearest one: what its prediction and the move come to."""

from __future__ import annotations

import math

import pytest
import torch
from experiments.theory.mixtures import (
    PATHS,
    STRONG,
    Mixture,
    left_mass,
    logit_weak,
    normal_quantiles,
    schedule,
    slope,
)
from torch import Tensor

from w2sd_video.core import (
    W2SD,
    FlowPath,
    Level,
    NoisePath,
    Path,
    ReflectionConfig,
    TrainedLevels,
    at_trained_levels,
    reflect_fused,
    sample,
    w2sd,
)
from w2sd_video.core.trained_timesteps import checked_timesteps, read_timesteps, trained_timesteps
from w2sd_video.errors import UserError
from w2sd_video.pair import ModelSpec, gap

WHITE = Mixture(means=((0.0,),), weights=(1.0,))
UNIT = Mixture(means=((-0.9,), (0.9,)), weights=(0.25, 0.75), std=0.4)  # of about variance 1, as latents are
X = torch.linspace(-2.5, 2.5, 41, dtype=torch.float64)[:, None]


def trained(name: str, count: int) -> TrainedLevels:
    """`count` levels evenly spaced in log(sigma / alpha), on the path of that name."""
    ends = schedule(name, 50)[2], schedule(name, 50)[45]
    first, last = (math.log(level.kappa) for level in ends)
    kappas = [math.exp(first + (last - first) * k / (count - 1)) for k in range(count)]
    if name == "flow":
        levels = [Level(k / (1 + k), 1 / (1 + k), k / (1 + k)) for k in kappas]
    else:
        levels = [Level(k, 1 / math.hypot(1, k), k / math.hypot(1, k)) for k in kappas]
    return TrainedLevels(tuple(levels), PATHS[name])


def recording(mixture: Mixture, path: Path, asked: list[Level]):
    def denoiser(x: Tensor, level: Level) -> Tensor:
        asked.append(level)
        return mixture.denoiser(path)(x, level)

    return denoiser


@pytest.mark.parametrize("name", ["sdxl", "flow"])
def test_on_its_own_levels_it_is_its_own_answer_bit_for_bit_and_elsewhere_only_those_are_asked(name: str) -> None:
    table, path, asked = trained(name, 5), PATHS[name], list[Level]()
    side = at_trained_levels(recording(UNIT, path, asked), table, path)
    assert table.levels is not None
    for level in table.levels:
        assert torch.equal(side(X, level), UNIT.denoiser(path)(X, level))
    for level in schedule(name, 50)[:-1]:
        side(X, level)
        nearest = min(table.levels, key=lambda known: abs(known.log_snr - level.log_snr))
        assert asked[-1] == nearest


@pytest.mark.parametrize("own", ["sdxl", "flow"])
@pytest.mark.parametrize("name", ["sdxl", "flow"])
def test_of_white_data_it_is_exact_however_far_the_level_is_on_either_path(name: str, own: str) -> None:
    path, table = PATHS[name], trained(own, 2)
    side = at_trained_levels(WHITE.denoiser(table.path), table, path)
    for level in schedule(name, 10)[:-1]:
        torch.testing.assert_close(side(X, level), WHITE.denoiser(path)(X, level), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("name", "own"), [("sdxl", "sdxl"), ("flow", "flow"), ("flow", "sdxl"), ("sdxl", "flow")])
def test_the_move_is_that_of_the_exact_sides_but_for_a_term_of_first_order_in_the_levels_distance(
    name: str, own: str
) -> None:
    """Few levels below a strong model of many steps, the two being of one path or of two."""
    path, weak = PATHS[name], logit_weak(2)
    start, end = schedule(name, 50)[10:12]
    strong = STRONG.denoiser(path)
    exact = reflect_fused(X, start, end, strong, weak.denoiser(path), path)

    def error(distance: float) -> float:
        """Of the move, where the nearest level is that far away in log(sigma / alpha)."""
        kappa = start.kappa * math.exp(distance)
        at = Level(0, 1 / (1 + kappa), kappa / (1 + kappa))
        if own != "flow":
            at = Level(0, 1 / math.hypot(1, kappa), kappa / math.hypot(1, kappa))
        table = TrainedLevels((at,), PATHS[own])
        side = at_trained_levels(weak.denoiser(table.path), table, path)
        moved = reflect_fused(X, start, end, strong, side, path)
        # The move itself: the coefficient of Eq. 5 times the difference of what the two sides predict.
        c = path.gap_coefficient(start, end)
        torch.testing.assert_close(moved - X, c * (side(X, start) - strong(X, start)), rtol=0, atol=1e-12)
        return float((moved - exact).abs().max())

    assert error(0.0) < 1e-12
    assert slope(error, 0.05, 4)[-1] == pytest.approx(1.0, abs=0.05)
    assert error(0.05) < 0.25 * float((exact - X).abs().max())


def test_a_few_step_strong_side_asks_a_many_step_weak_one_at_its_nearest_level() -> None:
    """Four steps of a flow over a noise schedule of 1000 levels: the other way, with the paths differing."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    products = (1 - betas).cumprod(0).tolist()
    table = TrainedLevels(tuple(Level(t, p**0.5, (1 - p) ** 0.5) for t, p in enumerate(products)), NoisePath())
    asked: list[Level] = []
    side = at_trained_levels(recording(UNIT, NoisePath(), asked), table, FlowPath())
    for sigma in (0.9, 0.75, 0.5, 0.25):
        level = Level(sigma * 1000, 1 - sigma, sigma)
        torch.testing.assert_close(side(X, level), UNIT.denoiser(FlowPath())(X, level), rtol=0, atol=5e-3)
        assert abs(asked[-1].log_snr - level.log_snr) < 0.02
    side(X, Level(1000, 0.0, 1.0))  # beyond its noisiest level: that one
    assert asked[-1].timestep == 999


@pytest.mark.parametrize("name", ["ddpm", "flow"])
def test_both_sides_asked_at_few_levels_move_nothing_where_they_are_one_and_gain_where_they_are_not(name: str) -> None:
    path, levels, table, x = PATHS[name], schedule(name, 50), trained(name, 8), normal_quantiles()
    strong = STRONG.denoiser(path)
    few = at_trained_levels(strong, table, path)
    weak = at_trained_levels(logit_weak(2).denoiser(path), table, path)
    start, end = levels[10:12]
    assert torch.equal(reflect_fused(x, start, end, few, few, path), x)
    plain = w2sd(x, levels, strong, strong, path, mode="fused")
    # The strong side reflects at the few levels, and samples at all of its own.
    reflection = W2SD(levels, few, weak, path, ReflectionConfig(mode="fused"))
    gained = sample(x, levels, strong, path, reflect=reflection)
    assert left_mass(plain) + 0.08 < left_mass(gained) < 0.5  # with the weak model at every level 0.40 and 0.41


def test_words_say_the_levels_of_each_kind() -> None:
    assert trained_timesteps("lightning-4", flow=False) == (999, 749, 499, 249)
    assert trained_timesteps("turbo", flow=False) == trained_timesteps("dmd", flow=False) == (999, 749, 499, 249)
    assert trained_timesteps("hyper-8", flow=False)[-1] == 124  # type: ignore[index]
    lcm = trained_timesteps("lcm", flow=False)
    assert lcm is not None and (len(lcm), lcm[0], lcm[-1]) == (50, 999, 19)
    shifted = trained_timesteps("lightning-4:5", flow=True)
    assert shifted == pytest.approx((1000, 937.5, 1000 * 5 / 6, 625))
    assert trained_timesteps("own", flow=True) is None
    assert read_timesteps("249, 999,499") == (999, 499, 249) and read_timesteps("turbo") == "turbo-4"
    assert checked_timesteps("lightning-4:5.0") == "lightning-4:5"
    spec = ModelSpec(levels="turbo")
    assert gap(ModelSpec(levels="turbo-4"), spec) == {}
    assert gap(ModelSpec(), spec) == {"levels": (None, "turbo-4")}
    assert ModelSpec(levels=[249, 999]).levels == (999, 249)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "given", ["", "fast", "lightning-", "lightning-0", "lightning-4:", "lightning-4:0", "own-3", (), (1, 1), (-1,), 4]
)
def test_other_levels_are_refused_with_what_is_allowed(given: object) -> None:
    with pytest.raises(UserError, match=r"levels is .*999,749,499,249.*lightning-4:5"):
        ModelSpec(levels=given)  # type: ignore[arg-type]


def test_a_word_without_its_shift_is_refused_of_a_flow_and_one_with_it_of_a_noise_path() -> None:
    with pytest.raises(UserError, match=r"turbo-4:5 \(1 for none\)"):
        trained_timesteps("turbo-4", flow=True)
    with pytest.raises(UserError, match="a shift is of flows"):
        trained_timesteps("turbo-4:3", flow=False)
