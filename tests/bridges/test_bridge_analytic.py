"""What a reflection through pixels does on exact models in two latent spaces: the numbers of a numerical study.

The bed is that of `bridging`: the strong model on a flow in space A (left mass .25), the weak one on SDXL's levels
in space B (left mass .1, or .25 where there is to be no gap), T 25, lambda 24. Distances are in pixels, whose standard
deviation is 4.1. Tolerances are the study's.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from experiments.theory.mixtures import left_mass, schedule
from torch import Tensor

from bridges.pixel.noise_maps import Fixed, Fresh, Mapped, fit
from bridges.pixel.step import Bridge, reflect_through_pixels
from tests.support.bridging import (
    FLOW_TABLE,
    STRONG_LEFT,
    VP_TABLE,
    WEAK_LEFT,
    Clamped,
    Echo,
    Linear,
    PictureModel,
    Space,
    WeakSide,
    bridged_sample,
    orthogonal,
    rotation,
    sdxl_levels,
    shift,
    starts,
    true_map,
)
from w2sd_video.core import CustomReflection, FlowPath, Level, NoisePath, Path, reflect_fused, sample

FLOW, NOISE = FlowPath(), NoisePath()
LEVELS = schedule("flow", 25)
WITHOUT_DETAIL = torch.cat([rotation(-1.1), torch.zeros(2, 4, dtype=torch.float64)], 1)  # two pixels of six
MIXED = torch.tensor([[0.98, 0.02], [0.02, 0.98]], dtype=torch.float64)
DECODERS: dict[str, Callable[[Tensor], Tensor]] = {
    "lossless": lambda pixels: pixels,
    "paler": lambda pixels: 0.98 * pixels,
    "blurred": lambda pixels: torch.einsum("qp,nphw->nqhw", MIXED, pixels),
    "distorted": lambda pixels: pixels + 0.1 * torch.sin(pixels),
}


def spaces(after: str = "lossless") -> tuple[Space, Space]:
    return Space(rotation(0.7)), Space(rotation(-1.1), after=DECODERS[after])


def plainly(a: Space, path: Path = FLOW, levels: list[Level] = LEVELS) -> Tensor:
    """Pictures of the strong model alone."""
    return a.pixels(sample(starts(len(a.basis)), levels, PictureModel(a, STRONG_LEFT).denoiser(path), path))


def through_pixels(a: Space, b: Space, weak, noise_map=None, path: Path = FLOW, levels=LEVELS, **settings):
    """Pictures of the bridged run, and the steps left out."""
    strong = PictureModel(a, STRONG_LEFT).denoiser(path)
    bridge = Bridge(a, b, noise_map or true_map(a, b))
    x, skipped = bridged_sample(starts(len(a.basis)), levels, strong, weak, path, bridge, **settings)
    return a.pixels(x), skipped


def in_one_space(a: Space, left: float, skipped: list[int], path: Path = FLOW, levels: list[Level] = LEVELS) -> Tensor:
    """Pictures of W2SD in mode "fused" with both models in A, those steps left out."""
    strong, weak = (PictureModel(a, mass).denoiser(path) for mass in (STRONG_LEFT, left))

    def reflected(x: Tensor, start: Level, end: Level) -> Tensor | None:
        return None if levels.index(start) in skipped else reflect_fused(x, start, end, strong, weak, path)

    reflection = CustomReflection(levels, reflected)
    return a.pixels(sample(starts(len(a.basis)), levels, strong, path, reflect=reflection))


def naive(x, start, end, strong, weak, path, *, bridge):
    """The counter-example: moving by E_A(D_B(x0_w)) - x0_s, where what the autoencoders lose is taken for a gap."""
    ours, theirs = bridge.ours, bridge.theirs
    level = weak.nearest(start.kappa * bridge.noise.scale)
    if level is None:
        return None
    prediction = strong(x, start)
    estimate, noise = path.clean(x, prediction, start), ours.layout.grid(path.noise(x, prediction, start))
    b = theirs.encode(ours.decode(ours.layout.grid(estimate)))
    answer = weak.clean(b * level.alpha + bridge.noise(noise, b.shape) * level.sigma, level)
    gap = ours.layout.latents(ours.encode(theirs.decode(answer))) - estimate
    return SimpleNamespace(latent=x + path.clean_coefficient(start, end) * gap)


def test_the_strong_model_alone_has_its_biased_mass():
    pictures = plainly(spaces()[0])
    assert left_mass(pictures[:, 0]) == pytest.approx(0.246, abs=0.005)
    assert pictures[:, 1].std().item() == pytest.approx(0.93, abs=0.02)


@pytest.mark.parametrize(("kind", "num_skipped", "most"), [(WeakSide, 2, 0.01), (Clamped, 0, 0.05)])
def test_equal_models_in_two_lossless_spaces_move_almost_nothing(kind, num_skipped, most):
    """.003 px, and .03 px where the weak model stands in with its noisiest level for the two it does not know."""
    a, b = spaces()
    pictures, skipped = through_pixels(a, b, kind(PictureModel(b, STRONG_LEFT), NOISE))
    assert len(skipped) == num_skipped
    assert shift(pictures, plainly(a)) < most


@pytest.mark.parametrize(("kind", "left"), [(WeakSide, 0.401), (Clamped, 0.414)])
def test_the_gain_is_that_of_a_reflection_in_one_space(kind, left):
    a, b = spaces()
    pictures, skipped = through_pixels(a, b, kind(PictureModel(b, WEAK_LEFT), NOISE))
    alike = in_one_space(a, WEAK_LEFT, skipped)
    assert left_mass(pictures[:, 0]) == pytest.approx(left, abs=0.01)
    assert left_mass(pictures[:, 0]) == pytest.approx(left_mass(alike[:, 0]), abs=0.002)
    assert left_mass(plainly(a)[:, 0]) < 0.25


PAIRS = {
    "two flows": (FLOW, LEVELS, FLOW, FLOW_TABLE),
    "two noise paths": (NOISE, schedule("sdxl", 25), NOISE, VP_TABLE),
    "noise over flow": (NOISE, schedule("sdxl", 25), FLOW, FLOW_TABLE),
}


@pytest.mark.parametrize("pair", list(PAIRS))
def test_where_the_weak_model_knows_the_very_level_the_bridge_is_reflection_in_one_space(pair):
    """Only rounding is left: float64, amplified between the modes by some 1e3 over 25 steps."""
    path, levels, weak_path, table = PAIRS[pair]
    a, b = spaces()
    for left in (STRONG_LEFT, WEAK_LEFT):
        weak = WeakSide(PictureModel(b, left), weak_path, table)
        pictures, skipped = through_pixels(a, b, weak, path=path, levels=levels)
        assert skipped == []
        assert (pictures - in_one_space(a, left, [], path, levels)).abs().max() < 1e-9
    assert shift(pictures, plainly(a, path, levels)) > 1  # the last one has a gap


@pytest.mark.parametrize("decoder", list(DECODERS))
def test_a_weak_model_that_answers_its_own_b_moves_nothing_at_all(decoder):
    """Over a whole run, bit for bit, however lossy the codec; the naive form drifts by what the codec loses."""
    a, b = spaces(decoder)
    plain, weak = plainly(a), Echo(b)
    pictures, skipped = through_pixels(a, b, weak)
    assert torch.equal(pictures, plain)
    assert skipped == [0, 1]
    drifted, _ = through_pixels(a, b, weak, reflect=naive)
    assert (shift(drifted, plain) > 0.1) == (decoder != "lossless")


@pytest.mark.parametrize("decoder", ["paler", "blurred", "distorted"])
def test_what_the_weak_sides_codec_does_to_a_picture_cancels(decoder):
    a, b = spaces(decoder)
    plain, weak = plainly(a), WeakSide(PictureModel(b, STRONG_LEFT), NOISE)
    assert shift(through_pixels(a, b, weak)[0], plain) < 0.05
    assert shift(through_pixels(a, b, weak, reflect=naive)[0], plain) > 0.15


def test_blur_in_both_codecs_cancels_but_for_the_blurred_b_that_the_weak_model_sees():
    a, b = spaces("blurred")
    a = replace(a, after=DECODERS["blurred"])
    plain, weak = plainly(a), WeakSide(PictureModel(b, STRONG_LEFT), NOISE)
    residual, drifted = (
        shift(through_pixels(a, b, weak, reflect=form)[0], plain) for form in (reflect_through_pixels, naive)
    )
    assert residual < 0.15 < 0.3 < drifted


def test_detail_that_the_weak_space_does_not_know_is_left_alone():
    """A is 2 pixels of content and 4 of detail, turned among each other; B is the content alone."""
    a, b = Space(orthogonal(6, 0)), Space(WITHOUT_DETAIL)
    plain = plainly(a)
    for left in (STRONG_LEFT, WEAK_LEFT):
        weak = WeakSide(PictureModel(b, left), NOISE)
        pictures, _ = through_pixels(a, b, weak)
        drifted, _ = through_pixels(a, b, weak, reflect=naive)
        assert shift(pictures[:, 2:], plain[:, 2:]) < 1e-10
        assert drifted[:, 2:].std() > 1.5 * plain[:, 2:].std()
        if left == STRONG_LEFT:
            assert shift(pictures[:, :2], plain[:, :2]) < 0.05
        else:
            alike = in_one_space(a, left, [0, 1])
            assert left_mass(pictures[:, 0]) == pytest.approx(left_mass(alike[:, 0]), abs=0.002)


def test_a_weak_space_with_more_dimensions_gets_noise_of_its_own_there():
    a, b = Space(WITHOUT_DETAIL), Space(orthogonal(6, 0))
    noise_map = Mapped(true_map(a, b).matrix, 1.0)
    pictures, _ = through_pixels(a, b, WeakSide(PictureModel(b, STRONG_LEFT), NOISE), noise_map)
    assert shift(pictures, plainly(a)) < 0.05


@pytest.mark.parametrize(
    ("noise_map", "least"),
    [(Fresh(0), 1.0), (Fixed(0), 2.0), (Linear(rotation(0.0), 1.0), 2.0)],
    ids=["fresh", "fixed", "not the map of these spaces"],
)
def test_other_noise_than_the_strong_models_shifts_samples_without_a_gap(noise_map, least):
    a, b = spaces()
    pictures, _ = through_pixels(a, b, WeakSide(PictureModel(b, STRONG_LEFT), NOISE), noise_map)
    assert shift(pictures, plainly(a)) > least


@pytest.mark.parametrize(
    ("scale", "least", "most"), [(2.0, 0.0, 0.1), (None, 0.0, 0.1), (1.0, 1.0, 2.0), (4.0, 1.0, 2.0)]
)
def test_a_weak_space_of_twice_the_scale_needs_w_2_which_is_also_what_is_measured(scale, least, most):
    a, b = spaces()
    b.scale = 2 * a.scale
    noise_map = Linear(true_map(a, b).matrix, scale)
    pictures, _ = through_pixels(a, b, WeakSide(PictureModel(b, STRONG_LEFT), NOISE), noise_map)
    assert least < shift(pictures, plainly(a)) < most


def test_the_measured_w_is_the_scale_of_the_map():
    a, b = spaces()
    b.scale = 2 * a.scale
    strong, weak = PictureModel(a, STRONG_LEFT).denoiser(FLOW), WeakSide(PictureModel(b, STRONG_LEFT), NOISE)
    bridge = Bridge(a, b, Linear(true_map(a, b).matrix, None))
    crossing = reflect_through_pixels(starts(), LEVELS[5], LEVELS[6], strong, weak, FLOW, bridge=bridge)
    assert crossing.scale == pytest.approx(2.0, rel=1e-12)
    assert crossing.level == VP_TABLE.nearest(2 * LEVELS[5].kappa)


@pytest.mark.parametrize(("num_pictures", "error", "most"), [(200, 0.0, 0.05), (3000, 0.05, 0.3)])
def test_a_fitted_map_serves_as_the_true_one_does(num_pictures, error, most):
    """Fitted to latents of the same pictures, in the second case with a codec's error of 5 %."""
    a, b = spaces()
    b.scale = 2 * a.scale
    generator = torch.Generator().manual_seed(0)
    modes = 8.0 * (torch.rand(num_pictures, generator=generator) > STRONG_LEFT).double() - 4
    pixels = torch.randn(num_pictures, 2, generator=generator, dtype=torch.float64)
    pixels[:, 0] += modes
    grids = [space.encode(pixels[:, :, None, None]) for space in (a, b)]
    noisy = [
        grid + error * grid.std() * torch.randn(grid.shape, generator=generator, dtype=torch.float64) for grid in grids
    ]
    fitted = fit((noisy[0], noisy[1]))
    assert fitted.scale == pytest.approx(2.0, rel=0.01)
    pictures, _ = through_pixels(a, b, WeakSide(PictureModel(b, STRONG_LEFT), NOISE), fitted)
    assert shift(pictures, plainly(a)) < most
    pictures, skipped = through_pixels(a, b, WeakSide(PictureModel(b, WEAK_LEFT), NOISE), fitted)
    alike = in_one_space(a, WEAK_LEFT, skipped)
    assert left_mass(pictures[:, 0]) == pytest.approx(left_mass(alike[:, 0]), abs=0.01)


@pytest.mark.parametrize(("num_steps", "shifted", "count"), [(25, 1.0, 2), (50, 1.0, 4), (25, 3.16, 5), (50, 3.16, 9)])
def test_steps_noisier_than_the_weak_model_knows_are_left_out(num_steps, shifted, count):
    times = [shifted * t / (1 + (shifted - 1) * t) for t in (1 - i / num_steps for i in range(num_steps))]
    unknown = [t for t in times if VP_TABLE.nearest(Level(t, 1 - t, t).kappa) is None]
    assert [t for t in unknown if t > 0.5] == times[:count]
    assert all(t < 0.028 for t in unknown if t <= 0.5)  # cleaner than it knows: a step that is hardly ever reflected
    assert VP_TABLE.noisiest == pytest.approx(14.6, abs=0.05)


def test_a_step_left_out_costs_no_evaluation():
    a, b = spaces()

    def never(*_):
        raise AssertionError

    bridge = Bridge(a, b, true_map(a, b))
    assert reflect_through_pixels(starts(), LEVELS[1], LEVELS[2], never, Echo(b), FLOW, bridge=bridge) is None


def test_the_level_is_the_nearest_in_log_noise_to_signal():
    logs = torch.tensor([math.log(level.kappa) for level in sdxl_levels()])
    for kappa in torch.logspace(-1.5, 1.1, 500, dtype=torch.float64).tolist():
        nearest = VP_TABLE.nearest(kappa)
        assert nearest is not None and nearest.timestep == (logs - math.log(kappa)).abs().argmin()
    one, other = sdxl_levels()[:2]  # 41 % apart
    between = math.sqrt(one.kappa * other.kappa)
    assert (VP_TABLE.nearest(between * 0.999), VP_TABLE.nearest(between * 1.001)) == (one, other)
    assert VP_TABLE.nearest(one.kappa / 2) is None


@pytest.mark.parametrize("kappa", [0.01, 1.0, 37.0, math.inf])
def test_a_flow_knows_every_level(kappa):
    level = FLOW_TABLE.nearest(kappa)
    assert level.alpha + level.sigma == 1 and level.timestep == 1000 * level.sigma
    assert level.kappa == pytest.approx(kappa, rel=1e-12)


@pytest.mark.parametrize("name", ["flow", "sdxl", "ddpm"])
def test_the_coefficient_of_clean_estimates_is_the_reflections_own(name):
    path: Path = FLOW if name == "flow" else NOISE
    generator = torch.Generator().manual_seed(0)
    x, one, other = torch.randn(3, 100, generator=generator, dtype=torch.float64)
    for start, end in itertools.pairwise(schedule(name, 20)):
        if name == "flow":
            assert path.clean_coefficient(start, end) == pytest.approx(
                -(start.sigma - end.sigma) / start.sigma, abs=1e-14
            )
        else:
            expected = start.alpha - start.alpha**2 * end.sigma / (end.alpha * start.sigma)
            assert path.clean_coefficient(start, end) == pytest.approx(-expected, abs=1e-14)
        fused = reflect_fused(x, start, end, lambda *_: one, lambda *_: other, path)
        gap = path.clean(x, other, start) - path.clean(x, one, start)
        torch.testing.assert_close(x + path.clean_coefficient(start, end) * gap, fused, rtol=0, atol=2e-14)
        noise = path.noise(x, one, start)
        torch.testing.assert_close(path.renoise(path.clean(x, one, start), noise, start), x, rtol=0, atol=1e-14)


def test_strength_multiplies_the_move():
    a, b = spaces()
    strong, weak = PictureModel(a, STRONG_LEFT).denoiser(FLOW), WeakSide(PictureModel(b, WEAK_LEFT), NOISE)
    bridge, x = Bridge(a, b, true_map(a, b)), starts()
    moves = {
        strength: reflect_through_pixels(
            x, LEVELS[5], LEVELS[6], strong, weak, FLOW, bridge=bridge, strength=strength
        ).latent
        - x
        for strength in (0.0, 0.5, 1.0)
    }
    assert moves[1.0].abs().max() > 0.01
    assert torch.equal(moves[0.0], torch.zeros_like(x))
    torch.testing.assert_close(2 * moves[0.5], moves[1.0], rtol=0, atol=1e-14)
