"""Reflection in pairs: both models estimate one picture under noise of their own, and no map relates the two spaces.

On the exact mixtures of `bridging`; figures are in pixels, and tolerances are four standard errors of the draws.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from experiments.theory.mixtures import left_mass
from torch import Tensor

from bridges.pixel.bridged import bridged
from bridges.pixel.noise_maps import Paired
from bridges.pixel.step import Bridge, reflect_in_pairs
from tests.bridges.test_bridge_analytic import FLOW, LEVELS, NOISE, WITHOUT_DETAIL, plainly, spaces, through_pixels
from tests.support import tiny
from tests.support.bridging import (
    FLOW_TABLE,
    STEPS,
    STRONG_LEFT,
    UNGUIDED,
    VP_TABLE,
    WEAK_LEFT,
    Linear,
    PictureModel,
    Space,
    WeakSide,
    bridged_sample,
    call,
    orthogonal,
    pipeline,
    rotation,
    rounding,
    shift,
    starts,
)
from w2sd_video import ModelSpec, ReflectionConfig, reflected
from w2sd_video.core import Level, Path, sample
from w2sd_video.core.algorithms import W2SD
from w2sd_video.errors import UserError


@dataclass
class Noises:
    """Draws from one generator: quicker than `Paired`, whose noise is of each picture's own seed."""

    count: int = 2
    scale: float | None = None
    antithetic: bool = True
    shared: bool = False

    def __post_init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)

    def begin(self, ours: Tensor, theirs: Tensor) -> Sequence[tuple[Tensor, Tensor]]:
        pairs: list[tuple[Tensor, Tensor]] = []
        for draw in range(self.count):
            if draw % 2 and self.antithetic:
                pairs.append((-pairs[-1][0], -pairs[-1][1]))
            else:
                one, other = (torch.randn(g.shape, generator=self.generator, dtype=g.dtype) for g in (ours, theirs))
                pairs.append((one, one if self.shared else other))
        return pairs


@dataclass(frozen=True)
class Native(WeakSide):
    """A weak side that answers as a network does: with its path's own prediction."""

    def clean(self, grid: Tensor, level: Level) -> Tensor:
        x = grid[:, :, 0, 0]
        return self.path.clean(x, self.model.denoiser(self.path)(x, level), level)[:, :, None, None]


def in_pairs(a: Space, b: Space, weak: Any, noises: Any, *, strength: float = 1.0, **settings: Any) -> Tensor:
    """Pictures of the run reflected in pairs."""
    reflect = functools.partial(reflect_in_pairs, strength=strength)
    bridge = Bridge(a, b, noises, one_space=getattr(noises, "shared", False))
    strong = PictureModel(a, STRONG_LEFT).denoiser(FLOW)
    x, _ = bridged_sample(starts(len(a.basis)), LEVELS, strong, weak, FLOW, bridge, reflect=reflect, **settings)
    return a.pixels(x)


def gaps(
    a: Space,
    b: Space,
    left: float,
    noises: Any,
    *,
    step: int = 6,
    times: int = 1,
    n: int = 512,
    one_space: bool = False,
) -> Tensor:
    """What moves latents of one noise level, `times` over: g [times, n, pixels]."""
    strong = PictureModel(a, STRONG_LEFT).denoiser(FLOW)
    halfway: dict[int, Tensor] = {}
    sample(starts(len(a.basis), n), LEVELS, strong, FLOW, callback=lambda i, x: halfway.__setitem__(i + 1, x))
    x, (start, end) = halfway[step], LEVELS[step : step + 2]
    weak = WeakSide(PictureModel(b, left), FLOW, FLOW_TABLE) if one_space else WeakSide(PictureModel(b, left), NOISE)
    bridge = Bridge(a, b, noises, one_space=one_space)
    moves = [reflect_in_pairs(x, start, end, strong, weak, FLOW, bridge=bridge).latent - x for _ in range(times)]
    return torch.stack([a.pixels(move) for move in moves]) / FLOW.clean_coefficient(start, end)


def size(moves: Tensor) -> float:
    return moves.square().sum(-1).mean().sqrt().item()


# -- what the gap is --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "table"), [(FLOW, FLOW_TABLE), (NOISE, VP_TABLE)], ids=["flow", "noise"])
def test_equal_models_of_one_space_move_nothing_bit_for_bit(path: Path, table: Any) -> None:
    a, _ = spaces()
    levels = LEVELS if path is FLOW else [replace(VP_TABLE.levels[t]) for t in range(999, 0, -40)]
    strong, weak = PictureModel(a, STRONG_LEFT).denoiser(path), Native(PictureModel(a, STRONG_LEFT), path, table)
    bridge = Bridge(a, a, Paired(3, shared=True), one_space=True)
    plain = sample(starts(n=64), levels, strong, path)
    got, skipped = bridged_sample(starts(n=64), levels, strong, weak, path, bridge, reflect=reflect_in_pairs)
    assert torch.equal(got, plain) and skipped == []
    apart, _ = bridged_sample(
        starts(n=64), levels, strong, weak, path, replace(bridge, noise=Noises(3)), reflect=reflect_in_pairs
    )
    assert not torch.equal(apart, plain)  # noise of their own moves equal models


@pytest.mark.parametrize("after", ["lossless", "paler", "blurred"])
def test_equal_models_in_two_spaces_have_no_gap_in_expectation(after: str) -> None:
    """Where the weak answers alone are off by what fresh noise does to any estimate."""
    a, b = spaces(after)
    moves = gaps(a, b, STRONG_LEFT, Noises(2), times=64)
    error = moves.std(0).square().sum(-1).mean().sqrt().item() / 8
    assert size(moves.mean(0)) < 2 * error < 0.1
    alone = replace(a, after=lambda pixels: pixels)
    strong = PictureModel(alone, STRONG_LEFT)
    x, start = starts(2, 512), LEVELS[6]
    estimate = strong.clean(x, start)
    noises = Noises(256).begin(estimate, estimate)
    regressed = sum(strong.clean(estimate * start.alpha + n * start.sigma, start) for n, _ in noises) / 256
    assert size(a.pixels(regressed - estimate)) > 0.3


def test_the_gap_is_that_of_one_space_smoothed_by_the_noise_of_the_level() -> None:
    """Flow over SDXL's levels in another space estimates what two flows in one space do, and most of the gap at x."""
    a, b = spaces()
    across = gaps(a, b, WEAK_LEFT, Noises(64), step=5).mean(0)
    within = gaps(a, a, WEAK_LEFT, Noises(64, shared=True), step=5, one_space=True).mean(0)
    assert size(across - within) < 0.05 * size(within)
    plain = {}
    strong, weak = (PictureModel(a, left) for left in (STRONG_LEFT, WEAK_LEFT))
    sample(starts(2, 512), LEVELS, strong.denoiser(FLOW), FLOW, callback=lambda i, x: plain.__setitem__(i + 1, x))
    there = a.pixels(weak.clean(plain[5], LEVELS[5]) - strong.clean(plain[5], LEVELS[5]))
    slope = ((within * there).sum() / (there * there).sum()).item()
    assert slope == pytest.approx(0.92, abs=0.03)  # so strength 1.1 makes up for it at sigma .8


def test_its_variance_falls_with_the_draws_and_most_of_it_cancels_in_a_pair() -> None:
    a, b = spaces()

    def spread(count: int, antithetic: bool = True, step: int = 6) -> float:
        moves = gaps(a, b, STRONG_LEFT, Noises(count, antithetic=antithetic), step=step, times=16, n=256)
        return moves.std(0).square().sum(-1).mean().sqrt().item()

    two = spread(2)
    assert two / spread(8) == pytest.approx(2, rel=0.15)
    assert spread(2, antithetic=False) > 2.5 * two
    assert spread(2, antithetic=False, step=2) > 8 * spread(2, step=2)  # the noisier, the more linear


def test_the_strong_answers_are_what_makes_it_unbiased(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of equal models moves less the more draws there are; without the strong answers it is off whatever K."""
    a, b = spaces()
    plain, weak, half = plainly(a), WeakSide(PictureModel(b, STRONG_LEFT), NOISE), {"num_reflections": 12}
    moved = [shift(in_pairs(a, b, weak, Noises(count), **half), plain) for count in (2, 16)]
    assert moved[1] < 0.5 * moved[0] < 0.2
    monkeypatch.setattr(Bridge, "there", lambda self, grid, seen=[]: _first(self, grid, seen))
    alone = [shift(in_pairs(a, b, weak, Noises(count), **half), plain) for count in (2, 16)]
    assert min(alone) > 0.6


def _first(bridge: Any, grid: Tensor, seen: list[Tensor]) -> Tensor:
    """b in the place of the strong answers: every second crossing gives what the one before it gave."""
    if len(seen) % 2 == 0:
        seen.append(bridge.theirs.encode(bridge.ours.decode(grid)))
    else:
        seen.append(seen[-1])
    return seen[-1]


def test_the_gain_is_most_of_the_mapped_one_and_strength_makes_up_for_the_smoothing() -> None:
    """Twelve reflections of 25."""
    a, b = spaces()
    weak = WeakSide(PictureModel(b, WEAK_LEFT), NOISE)
    gain = [in_pairs(a, b, weak, Noises(2), strength=strength, num_reflections=12) for strength in (1.0, 2.0)]
    mapped_gain, _ = through_pixels(a, b, weak, num_reflections=12)
    plain, once, carried, twice = (left_mass(each[:, 0]) for each in (plainly(a), gain[0], mapped_gain, gain[1]))
    assert plain + 0.05 < once < carried < twice < carried + 0.07


@pytest.mark.parametrize(("scale", "least", "most"), [(2.0, 0.0, 0.1), (1.6, 0.0, 0.1), (0.5, 0.3, 1.0)])
def test_the_weak_level_need_not_be_exact_but_of_the_right_order(scale: float, least: float, most: float) -> None:
    """A space of twice the scale: right is w 2. The bias of equal models over 64 pairs."""
    a, b = spaces()
    b.scale = 2 * a.scale
    moves = gaps(a, b, STRONG_LEFT, Noises(64, scale), times=4, n=256).mean(0)
    assert least <= size(moves) < most


# -- codecs -----------------------------------------------------------------------------------------------------------


def test_detail_that_the_weak_space_does_not_know_is_left_alone() -> None:
    """Four of six dimensions; without the strong answers' round trip it would be smoothed away (.43 to .29)."""
    a, b = Space(orthogonal(6, 0)), Space(WITHOUT_DETAIL)
    plain = plainly(a)
    for left in (STRONG_LEFT, WEAK_LEFT):
        pictures = in_pairs(a, b, WeakSide(PictureModel(b, left), NOISE), Noises(2))
        assert shift(pictures[:, 2:], plain[:, 2:]) < 1e-10
    assert left_mass(pictures[:, 0]) > left_mass(plain[:, 0]) + 0.08


@pytest.mark.parametrize("after", ["paler", "blurred", "distorted"])
def test_what_the_weak_sides_codec_does_to_a_picture_cancels(after: str) -> None:
    lossless, half = spaces(), {"num_reflections": 12}
    a, b = spaces(after)
    weak = WeakSide(PictureModel(b, STRONG_LEFT), NOISE)
    alike = in_pairs(*lossless, WeakSide(PictureModel(lossless[1], STRONG_LEFT), NOISE), Noises(2), **half)
    assert shift(in_pairs(a, b, weak, Noises(2), **half), alike) < 0.1  # the draws' own noise is in both


@dataclass
class Swirled(Space):
    """A space bent smoothly against the picture's: latents are turned by an angle that grows with their square."""

    swirl: float = 0.0

    def encode(self, pixels: Tensor) -> Tensor:
        return self._turned(super().encode(pixels), self.swirl)

    def decode(self, grid: Tensor) -> Tensor:
        return super().decode(self._turned(grid, -self.swirl))

    def _turned(self, grid: Tensor, swirl: float) -> Tensor:
        angle = swirl * grid.square().sum(1)
        one, other = grid.unbind(1)
        return torch.stack([one * angle.cos() - other * angle.sin(), one * angle.sin() + other * angle.cos()], 1)


@dataclass(frozen=True)
class Remembered:
    """The exact model, in any space, of 400 pictures drawn from `PictureModel`'s mixture."""

    space: Space
    left: float

    def estimate(self, x: Tensor, level: Level) -> Tensor:
        """E[x0 | x at level]."""
        pixels = torch.randn(400, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        pixels[::2, 0] -= 4
        pixels[1::2, 0] += 4
        latents = self.space.encode(pixels[:, :, None, None])[:, :, 0, 0]
        weights = torch.tensor([self.left, 1 - self.left], dtype=torch.float64).log().repeat(200)
        return (weights - torch.cdist(x, level.alpha * latents).square() / (2 * level.sigma**2)).softmax(1) @ latents

    def velocity(self, x: Tensor, level: Level) -> Tensor:
        return (x - self.estimate(x, level)) / level.sigma

    def nearest(self, kappa: float) -> Level | None:
        return VP_TABLE.nearest(kappa)

    def clean(self, grid: Tensor, level: Level) -> Tensor:
        return self.estimate(grid[:, :, 0, 0], level)[:, :, None, None]


def test_a_smooth_warp_adds_a_bias_of_equal_models_and_leaves_what_a_gap_adds_as_it_is() -> None:
    """Pairs do not undo a warp: equal models are off in proportion to it, about as through the best linear map."""
    a, flat = spaces()
    strong, halfway = Remembered(a, STRONG_LEFT), {}
    sample(starts(2, 128), LEVELS, strong.velocity, FLOW, callback=lambda i, x: halfway.__setitem__(i + 1, x))
    x, (start, end) = halfway[4], LEVELS[4:6]
    true = a.pixels(Remembered(a, WEAK_LEFT).estimate(x, start) - strong.estimate(x, start))
    bias = {}
    for swirl in (0.0, 0.2, 0.4):
        b = Swirled(flat.basis, swirl=swirl)
        moves = []
        for left in (STRONG_LEFT, WEAK_LEFT):
            bridge, sides = Bridge(a, b, Noises(16)), (strong.velocity, Remembered(b, left))
            x_tilde = reflect_in_pairs(x, start, end, *sides, FLOW, bridge=bridge).latent
            moves.append(a.pixels(x_tilde - x) / FLOW.clean_coefficient(start, end))
        bias[swirl], added = size(moves[0]), moves[1] - moves[0]
        assert size(added) == pytest.approx(size(true), rel=0.1)
        assert (added * true).sum() > 0.95 * added.norm() * true.norm()
    assert bias[0.0] < 0.1 * size(true) < 0.2 * size(true) < bias[0.2] < 0.4 * size(true)
    assert bias[0.4] == pytest.approx(2 * bias[0.2], rel=0.1)


def test_no_map_is_needed_and_a_wrong_one_moves_equal_models_far() -> None:
    a, b = spaces()
    plain, weak = plainly(a), WeakSide(PictureModel(b, STRONG_LEFT), NOISE)
    wrong, _ = through_pixels(a, b, weak, Linear(rotation(0.0), 1.0))
    assert shift(in_pairs(a, b, weak, Noises(4)), plain) < 0.6 < 2 < shift(wrong, plain)


# -- in a pipeline's call ---------------------------------------------------------------------------------------------


def test_a_picture_has_the_noise_of_its_seed_in_any_batch_and_a_video_one_for_all_frames() -> None:
    ours, theirs = torch.zeros(6, 4, 3, 3), torch.zeros(6, 8, 2, 2)
    noises = Paired(3, seed=5)
    first, second = noises.begin(ours, theirs), noises.begin(ours, theirs)
    assert [(one.shape, other.shape) for one, other in first] == [(ours.shape, theirs.shape)] * 3
    for (one, other), (later, _) in zip(first, second, strict=True):
        assert not torch.equal(one, later) and one.std() > 0.8 and other.std() > 0.8
    assert torch.equal(first[0][0], -first[1][0]) and torch.equal(first[0][1], -first[1][1])
    assert not torch.equal(first[0][0], first[2][0])
    alone = Paired(3, seed=7).begin(ours[:1], theirs[:1])  # the third picture's
    assert all(torch.equal(one[2:3], each) for one, each in zip(first[2], alone[2], strict=True))
    video = Paired(1, seed=5, frames=3).begin(ours, theirs)[0][0]
    assert torch.equal(video[0], video[2]) and torch.equal(video[0], first[0][0][0])
    assert torch.equal(video[3], first[0][0][1])


def test_a_pair_of_two_spaces_runs_is_counted_and_told_of_as_planned() -> None:
    strong, weak, told = pipeline("flux"), pipeline("sdxl", 2), []
    plain = call(strong, "flux")
    settings = {"num_reflections": 3, "progress": lambda *done: told.append(done)}
    with bridged(strong, (weak, UNGUIDED), noise="paired", draws=2, **settings) as run:
        got, again = call(strong, "flux"), call(strong, "flux")
    assert torch.equal(got, again) and (got - plain).abs().max() > 1e-3
    made = run.num_reflections
    assert (made, run.num_skipped) == (2, 1) and run.num_evaluations == STEPS + 5 * made
    assert (run.num_encodes, run.num_decodes) == (4 * made, 4 * made)
    assert told[-1] == (STEPS + 15, STEPS + 15)
    for other in ({}, {"noise": "paired", "draws": 4}, {"noise": "paired", "seed": 1}):
        with bridged(strong, (weak, UNGUIDED), num_reflections=3, **other):
            assert torch.equal(call(strong, "flux"), got) == (not other)  # it is the default


def test_pictures_of_a_batch_are_those_made_alone() -> None:
    strong, weak, spec = pipeline("flux"), pipeline("sdxl", 2), ModelSpec(guidance=3.0)
    noise = torch.randn(3, 16, 16, generator=tiny.generator(5))
    settings = {"num_reflections": 4, "noise": "paired"}
    with bridged(strong, (weak, spec), seed=8, **settings) as run:
        batch = call(strong, "flux", "a red cat", num_images_per_prompt=3, latents=noise)
    with bridged(strong, (weak, spec), seed=10, **settings):
        alone = call(strong, "flux", "a red cat", latents=noise[2:])
    assert (batch[2:] - alone).abs().max() <= rounding(batch, run.num_evaluations, 3.0)
    with bridged(strong, (weak, spec), seed=8, **settings):
        assert (call(strong, "flux", "a red cat", latents=noise[2:]) - alone).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["flux", "sdxl"])
def test_a_pipeline_over_itself_moves_nothing_and_the_control_of_two_spaces_does(kind: str) -> None:
    pipe, arguments = pipeline(kind), {} if kind == "flux" else {"guidance_scale": 1.0}
    with reflected(pipe, num_reflections=0):
        plain = call(pipe, kind, **arguments)
    same = ModelSpec() if kind == "flux" else UNGUIDED
    with bridged(pipe, (pipe, same), num_reflections=4, noise="paired", force=True) as run:
        assert torch.equal(call(pipe, kind, **arguments), plain)
    assert run.gaps == [0.0] * 4 and run.num_encodes == run.num_decodes == 0
    with bridged(pipe, "zero-gap", num_reflections=4, noise="paired") as run:
        assert (call(pipe, kind, **arguments) - plain).abs().max() > 1e-3
    assert run.num_evaluations == STEPS + 20 and run.num_encodes == 16


def test_draws_are_refused_where_nothing_crosses() -> None:
    with (
        pytest.raises(UserError, match=r"draws is 2; .* leave draws out"),
        reflected(pipeline("sdxl"), UNGUIDED, config=ReflectionConfig(draws=2)),
    ):
        pass
    with pytest.raises(UserError, match="leave draws out"):
        W2SD(LEVELS, *[PictureModel(spaces()[0], 0.5).denoiser(FLOW)] * 2, FLOW, ReflectionConfig(2, "fused", draws=1))


def test_a_gap_of_pairs_is_cached_as_any_other_and_measured_at_sampling_steps() -> None:
    """Two of three measurements, of 2 K evaluations each beside the sampling step's own, serve three reflections."""
    strong, weak = pipeline("sdxl"), pipeline("flux", 2)
    config = ReflectionConfig(num_reflections=4, mode="fused", gap_every=2, draws=3)
    with bridged(strong, (weak, ModelSpec()), config=config) as run:
        got = call(strong, "sdxl")
    assert run.num_reflections == 3 and run.num_evaluations == STEPS + 2 * 6 == config.evaluations(STEPS)
    assert run.num_encodes == run.num_decodes == 8
    assert (got - call(strong, "sdxl")).abs().max() > 1e-3
