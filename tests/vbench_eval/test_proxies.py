"""The proxies against closed forms, and the flow without weights that some follow."""

import gc
import importlib.util
import math

import numpy
import pytest
import torch

from vbench_eval.dimensions import OFFICIAL, Measured
from vbench_eval.errors import UserError
from vbench_eval.profiles import PROFILES, get_profile
from vbench_eval.protocols import FlowEstimator
from vbench_eval.proxies import OFFICIAL_STAND_INS, PROXIES, SHOWN_BESIDE
from vbench_eval.proxies.flow import HornSchunck, resized_flow, sampled
from vbench_eval.proxies.flow_measures import midpoint, shared_fields, trusted_pixels
from vbench_eval.proxies.opencv import OpenCVFlow
from vbench_eval.video_info import VideoInfo

# float32 luma of 8-bit colours: three products and two sums, each rounded to half of 2^-23 of at most 255
LUMA_ROUNDING = 5 * 255 * 2**-24
PER_FRAME = ("sharpness", "exposure", "colourfulness", "contrast", "noise_sigma", "blockiness")


def measure(name, video, estimator=None, *, chunk=None, profile="vbench", overwrite=False, fps=8.0) -> Measured:
    info = VideoInfo("x", fps, video.shape[2], video.shape[1], len(video), "memory", "raw", "memory")
    proxy = PROXIES[name]
    accumulator = (proxy(get_profile(profile), estimator) if estimator else proxy(get_profile(profile))).start(info)
    for part in video.split(chunk or len(video)):
        given = part.clone()
        accumulator.add(given)
        if overwrite:
            given.fill_(7)
    return accumulator.finish()


def grey(picture) -> torch.Tensor:
    """A frame [H, W, 3] of a grey picture [H, W]."""
    return torch.as_tensor(picture).to(torch.uint8)[..., None].expand(-1, -1, 3)


def levels(*values, side=32) -> torch.Tensor:
    """A video of uniform frames."""
    return torch.stack([grey(torch.full((side, side), value)) for value in values])


def noise_video(frames=7, height=48, width=40, seed=0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (frames, height, width, 3), generator=generator, dtype=torch.uint8)


def test_acceleration_is_zero_on_a_ramp_and_jerk_on_a_parabola():
    ramp, parabola, cubic = ([f(t) for t in range(6)] for f in (lambda t: 10 + 3 * t, lambda t: t * t, lambda t: t**3))
    assert measure("acceleration", levels(*ramp)).value == measure("jerk", levels(*parabola)).value == 0
    assert measure("acceleration", levels(*parabola)).value == pytest.approx(2 / 255, rel=1e-15)
    assert measure("jerk", levels(*cubic)).value == pytest.approx(6 / 255, rel=1e-15)
    assert measure("jerk", levels(255, 0, 255, 0)).value == pytest.approx(4 * 2 * 255 / 2 / 255, rel=1e-15)  # in int16


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((10, 12, 14, 16, 18), 1.0),
        ((0, 100, 0, 100, 0), 155 / 255),
        ((0, 0, 1), 1.0),  # the half is cut off
        ((255, 255, 254), (255 - 1) / 255),
        ((0, 30, 20, 99), (255 - 20) / 255),  # the last odd frame has no right neighbour
    ],
)
def test_linear_interpolation_foretells_odd_frames_from_even_ones(values, expected):
    assert measure("interp_smoothness_linear", levels(*values)).value == expected


def test_frozen_frames_are_those_that_differ_by_less_than_half_a_level():
    half = levels(100, 100)
    half[1, :16] += 1  # half of the pixels by one level: exactly the bound, which is motion
    assert measure("frozen_frames", half).value == 0
    half[1, 0] -= 1
    assert measure("frozen_frames", half).value == 1
    assert measure("frozen_frames", levels(1, 1, 9, 9, 9)).value == 3 / 4


def test_pixel_consistency_is_the_correlation_of_thumbnails():
    x = torch.arange(32).expand(32, 32) * (2 * math.pi / 8)
    wave, turned = 128 + 100 * torch.cos(x), 128 + 100 * torch.cos(x - math.pi / 3)
    flat = torch.full((32, 32), 128)

    def value(*pictures):
        return measure("pixel_consistency", torch.stack([grey(picture) for picture in pictures])).value

    assert value(wave, wave, wave) == pytest.approx(1, abs=1e-12)
    assert value(wave, 256 - wave) == 0  # an opposite counts as nothing, not as less
    assert value(flat, flat - 50) == 1
    assert value(flat, wave) == 0
    # Cutting to whole levels errs by at most 1 of an amplitude of 100, in either picture.
    assert value(wave, turned) == pytest.approx(math.cos(math.pi / 3), abs=0.02)
    assert value(wave, 14 + wave / 2) == pytest.approx(1, abs=0.02)
    # Frame 2 is like frame 0 and half like frame 1; frame 1 is half like frame 0.
    assert value(wave, turned, wave) == pytest.approx((0.5 + (0.5 + 1) / 2) / 2, abs=0.02)


def test_sharpness_of_a_checkerboard_and_of_a_ramp():
    y, x = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    board = measure("sharpness", grey(100 + 10 * ((x + y) % 2))[None])
    # The Laplacian is +-4 steps everywhere: a variance of 16 steps squared; each of its 5 luma terms is rounded.
    assert board.value == pytest.approx(16 * 10**2, abs=2 * 40 * 8 * LUMA_ROUNDING)
    assert board.extras["high_frequency_share"] == pytest.approx(1, abs=1e-5)
    assert board.extras["tenengrad"] == pytest.approx(0, abs=(8 * LUMA_ROUNDING) ** 2)
    ramp = measure("sharpness", grey(3 * x)[None])
    assert ramp.extras["tenengrad"] == pytest.approx((8 * 3) ** 2, abs=2 * 24 * 8 * LUMA_ROUNDING)
    assert ramp.value == pytest.approx(0, abs=(8 * LUMA_ROUNDING) ** 2)


def test_slow_waves_have_no_high_frequencies_and_fast_ones_nothing_else():
    x = torch.arange(64).expand(64, 64)

    def share(cycles):
        wave = (128 + 100 * torch.cos(2 * math.pi * cycles / 64 * x)).round()
        return measure("sharpness", grey(wave)[None]).extras["high_frequency_share"]

    # Rounding adds energy of 1/12 to one of 100^2/2, and a Hann window leaks less than 1e-6 twelve bins away.
    assert share(4) < 1e-4
    assert share(28) > 1 - 1e-4
    assert measure("sharpness", levels(200)).extras["high_frequency_share"] == 0


@pytest.mark.parametrize(("height", "width"), [(24, 32), (33, 31)])
def test_the_share_of_high_frequencies_is_that_of_the_whole_spectrum(height, width):
    frame = noise_video(1, height, width)[0]
    picture = (frame.double() @ torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)).numpy()
    window = numpy.outer(numpy.hanning(height), numpy.hanning(width))
    energy = numpy.abs(numpy.fft.fft2((picture - picture.mean()) * window)) ** 2
    fast = numpy.hypot(numpy.fft.fftfreq(height)[:, None], numpy.fft.fftfreq(width)) > 0.25
    share = measure("sharpness", frame[None]).extras["high_frequency_share"]
    assert share == pytest.approx(energy[fast].sum() / energy.sum(), rel=1e-5)  # float32 sums of about 1000 terms


def test_exposure_counts_pixels_whose_channels_are_all_clipped():
    frame = levels(100)
    frame[0, :8], frame[0, 8:12] = 1, 254
    frame[0, 12:20, :, 0] = 255  # red alone clips: a colour, not a lost highlight
    result = measure("exposure", frame)
    assert (result.value, result.extras) == (3 / 8, {"black": 1 / 4, "white": 1 / 8})


def test_colourfulness_of_two_colours_and_of_grey():
    frame = torch.zeros(1, 16, 16, 3, dtype=torch.uint8)
    frame[:, :8, :, 0] = frame[:, 8:, :, 1] = 255  # red and green: rg = +-255, yb = 127.5
    assert measure("colourfulness", frame).value == 255 + 0.3 * 127.5
    assert measure("colourfulness", levels(77)).value == 0


def test_contrast_is_the_standard_deviation_over_full_range():
    frame = levels(0)
    frame[0, :16] = 100
    assert measure("contrast", frame).value == pytest.approx(50 / 255, abs=LUMA_ROUNDING / 255)


def test_noise_sigma_finds_the_noise_and_no_planes():
    side, sigma, frames = 128, 10.0, 4
    generator = torch.Generator().manual_seed(3)
    noisy = (128 + sigma * torch.randn(frames, side, side, generator=generator)).round()
    result = measure("noise_sigma", torch.stack([grey(frame) for frame in noisy]))
    # Two normal numbers of correlation r have |.| of covariance (2/pi) (sqrt(1 - r^2) + r asin r - 1) sd^2; the mask's
    # autocorrelation is the outer product of this with itself.
    line = torch.tensor([1.0, -4.0, 6.0, -4.0, 1.0], dtype=torch.float64) / 6
    r = (line[:, None] * line).clamp(-1, 1)
    total = float(((1 - r**2).sqrt() + r * r.asin() - 1).sum())
    spread = sigma * math.sqrt(total / (frames * (side - 2) ** 2))  # in sd: sqrt(pi/2) and sqrt(2/pi) cancel
    expected = math.sqrt(sigma**2 + 1 / 12)  # rounding to whole levels
    assert result.value == pytest.approx(expected, abs=4 * spread)
    assert spread < 0.1  # the claim above is not empty
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    assert measure("noise_sigma", grey(x + 2 * y)[None]).value < 16 / 6 * 1.26 * LUMA_ROUNDING


def test_blockiness_sees_the_8x8_grid_and_only_it():
    y, x = torch.meshgrid(torch.arange(40), torch.arange(48), indexing="ij")
    blocks = 100 + 12 * ((x // 8 + y // 8) % 2)
    assert measure("blockiness", grey(blocks)[None]).value == pytest.approx(12 + 1, abs=4 * LUMA_ROUNDING)
    # Steps of 2 across and 1 down: 5 of 47 column steps and 4 of 39 row steps are at borders.
    border = (2 * 40 * 5 + 48 * 4) / (40 * 5 + 48 * 4)
    inside = (2 * 40 * 42 + 48 * 35) / (40 * 42 + 48 * 35)
    ramp = measure("blockiness", grey(2 * x + y)[None]).value
    assert ramp == pytest.approx((border + 1) / (inside + 1), abs=4 * LUMA_ROUNDING)
    assert measure("blockiness", grey(100 + 12 * (((x + 4) // 8 + (y + 4) // 8) % 2))[None]).value < 1
    assert measure("blockiness", levels(50)).value == 1


@pytest.mark.parametrize("name", PROXIES)
def test_the_cut_into_chunks_changes_nothing_bit_for_bit(name):
    video = noise_video()
    whole = measure(name, video)
    for chunk in (1, 2, 3):
        assert measure(name, video, chunk=chunk, overwrite=True) == whole


def test_taking_every_third_frame_does_not_depend_on_the_chunks():
    whole = measure("flow_dynamic", noise_video(10), fps=24.0)
    assert whole.extras["n"] == 4
    for chunk in (1, 2, 4):
        assert measure("flow_dynamic", noise_video(10), fps=24.0, chunk=chunk, overwrite=True) == whole


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("name", PROXIES)
def test_one_frame_has_a_picture_but_no_time(name, profile):
    result = measure(name, noise_video(1), profile=profile)
    if name in PER_FRAME:
        assert math.isfinite(result.value) and result.reason is None
    else:
        assert result.value is None and result.score is None and result.weight == 0
        assert "frames" in result.reason


@pytest.mark.parametrize("name", PROXIES)
@pytest.mark.parametrize("kind", ["still", "black", "noise"])
def test_every_number_is_finite_json(name, kind):
    video = {"still": levels(90, 90, 90, 90), "black": levels(0, 0, 0, 0), "noise": noise_video(4, 32, 33)}[kind]
    result = measure(name, video)
    numbers = [result.value, result.score]
    for extra in result.extras.values():
        numbers += extra if isinstance(extra, list) else [extra]
    assert all(type(number) in (int, float, bool) and math.isfinite(number) for number in numbers)


@pytest.mark.parametrize("name", PROXIES)
def test_a_tiny_frame_gives_a_value_or_a_reason(name):
    result = measure(name, noise_video(4, 2, 2))
    assert (result.value is None) == (result.reason is not None)
    assert result.value is None or math.isfinite(result.value)


def test_stand_ins_are_on_the_official_scale():
    for official, name in OFFICIAL_STAND_INS.items():
        assert official in OFFICIAL and name in SHOWN_BESIDE[official]
        assert PROXIES[name].better == 1
        for video in (noise_video(4), levels(0, 255, 0, 255), levels(9, 9, 9)):
            assert 0 <= measure(name, video).score <= 1
    assert not set(PROXIES) & set(OFFICIAL)
    assert set(SHOWN_BESIDE) == set(OFFICIAL[:6]) and all(SHOWN_BESIDE.values())


FLOW_NAMES = ("flow_dynamic", "interp_smoothness_flow", "warp_error")


class Constant:
    """A hand-made estimator: the same motion everywhere, or its opposite for pairs that `backward` says are so."""

    name, pad_multiple = "constant", 1

    def __init__(self, dx, dy=0.0, backward=None):
        self.motion, self.backward, self.pairs = torch.tensor([dx, dy]), backward, 0

    def provenance(self):
        return {"id": self.name}

    def flow(self, a, b):
        self.pairs += len(a)
        signs = torch.tensor(
            [-1.0 if self.backward and self.backward(*pair) else 1.0 for pair in zip(a, b, strict=True)]
        )
        return (signs[:, None] * self.motion)[..., None, None].expand(-1, -1, *a.shape[-2:]).clone()


def texture(side, seed=0, power=1.5) -> torch.Tensor:
    """A picture [side, side] in 0..1 whose amplitudes fall as 1/frequency^power; it tiles the plane."""
    noise = torch.randn(side, side, generator=torch.Generator().manual_seed(seed))
    k = torch.fft.fftfreq(side)
    radius = (k[:, None] ** 2 + k**2).sqrt()
    radius[0, 0] = math.inf
    picture = torch.fft.ifft2(torch.fft.fft2(noise) / radius**power).real
    return (0.5 + 0.15 * picture / picture.std()).clamp(0, 1)


def moving(dx, dy, *, frames=2, side=64, seed=0, power=1.5) -> torch.Tensor:
    """A video [T, side, side, 3], uint8, of a texture moving by whole pixels per frame."""
    world = texture(4 * side, seed, power)
    views = [world.roll((t * dy, t * dx), (0, 1))[side : 2 * side, side : 2 * side] for t in range(frames)]
    return (torch.stack(views) * 255).round().byte()[..., None].expand(-1, -1, -1, 3).contiguous()


def pictures(video) -> torch.Tensor:
    return video.permute(0, 3, 1, 2).float()


def inside(flow, margin=12):
    return flow[..., margin:-margin, margin:-margin]


@pytest.mark.parametrize(("dx", "dy"), [(2, 1), (-3, 5), (0, -8), (11, 0)])
def test_a_shift_is_found_with_its_direction(dx, dy):
    a, b = pictures(moving(dx, dy, side=128)).split(1)
    flow = inside(HornSchunck().flow(a, b)[0], 16)
    found = flow.flatten(1).median(1).values
    # The rule it serves compares with 3 pixels on frames of this size: a tenth of a pixel is 3 % of that.
    assert found.tolist() == pytest.approx([dx, dy], abs=0.1)
    back = inside(HornSchunck().flow(b, a)[0], 16)
    assert back.flatten(1).median(1).values.tolist() == pytest.approx([-dx, -dy], abs=0.1)


def test_fine_texture_does_not_make_the_updates_overshoot():
    a, b = pictures(moving(2, 1, side=128, power=1.0)).split(1)
    found = inside(HornSchunck().flow(a, b)[0], 16).flatten(1).median(1).values
    assert found.tolist() == pytest.approx([2, 1], abs=0.1)
    spread = (inside(HornSchunck().flow(a, b)[0], 16) - torch.tensor([2.0, 1.0]).view(2, 1, 1)).norm(dim=0).median()
    assert spread < 0.1  # a diverging estimate strays by pixels


def test_equal_frames_have_exactly_no_flow_beside_frames_that_move():
    still, moved = pictures(moving(2, 0)).split(1)
    flow = HornSchunck().flow(torch.cat([still, still]), torch.cat([still, moved]))
    assert not flow[0].any()
    assert flow[1].any()


def test_a_pair_does_not_depend_on_the_pairs_beside_it():
    frames = pictures(moving(2, 1, frames=4))
    together = HornSchunck().flow(frames[:-1], frames[1:])
    alone = torch.cat(
        [HornSchunck().flow(a, b) for a, b in zip(frames[:-1].split(1), frames[1:].split(1), strict=True)]
    )
    assert torch.equal(together, alone)


def test_a_shrunk_frame_gives_motion_in_its_own_pixels():
    a, b = pictures(moving(6, -4, side=128)).split(1)
    flow = HornSchunck(side=64).flow(a, b)
    assert flow.shape == (1, 2, 128, 128)
    # It is found to a tenth of a pixel of the small frame, which is two of these.
    assert inside(flow[0], 16).flatten(1).median(1).values.tolist() == pytest.approx([6, -4], abs=0.2)


def test_resizing_a_flow_rescales_each_component_by_its_axis():
    flow = torch.tensor([3.0, 5.0]).view(1, 2, 1, 1).expand(-1, -1, 10, 20)
    larger = resized_flow(flow, (40, 30))
    assert larger.shape == (1, 2, 40, 30)
    assert torch.allclose(larger, torch.tensor([4.5, 20.0]).view(1, 2, 1, 1).expand_as(larger), rtol=1e-6)


def test_the_estimators_are_what_the_protocol_asks():
    assert isinstance(HornSchunck(), FlowEstimator) and HornSchunck().provenance()["id"] == "proxy:horn-schunck"


def test_sampling_along_a_whole_shift_undoes_it():
    a, b = pictures(moving(3, -2)).split(1)
    flow = torch.tensor([3.0, -2.0]).view(1, 2, 1, 1).expand(-1, -1, 64, 64)
    # Coordinates pass through -1..1 in float32: off by up to 64 * 2^-23 pixels, on steps of at most 255 levels.
    assert inside(sampled(b, flow) - a, 3).abs().max() < 4 * 255 * 64 * 2**-23


def test_the_midpoint_of_a_shift_is_the_frame_between():
    before, real, after = pictures(moving(2, -1, frames=3)).split(1)
    flow = torch.tensor([4.0, -2.0]).view(1, 2, 1, 1).expand(-1, -1, 64, 64)
    assert inside(midpoint(before, after, flow) - real, 4).abs().max() < 4 * 255 * 64 * 2**-23


def test_flow_is_trusted_where_it_leads_back_and_stays_inside():
    there = torch.zeros(1, 2, 40, 40)
    there[:, 0] = 3.0
    good = trusted_pixels(there, -there)
    assert good[..., :37].all() and not good[..., 37:].any()  # the last 3 columns leave the frame
    assert not trusted_pixels(there, there).any()
    gap = torch.zeros(1, 2, 40, 40)
    gap[:, 1] = 0.6  # 0.36 of at most 0.5 pixels squared
    assert trusted_pixels(torch.zeros_like(gap), gap).all()
    assert not trusted_pixels(torch.zeros_like(gap), gap * 1.2).any()  # 0.52 > 0.5 + 0.01 * 0.52


@pytest.mark.parametrize(("height", "width"), [(64, 96), (512, 512), (96, 64)])
def test_motion_at_the_threshold_does_not_count_and_above_it_does(height, width):
    video = torch.randint(0, 256, (16, height, width, 3), dtype=torch.uint8)
    threshold = 6 * min(height, width) / 256  # in the frame's pixels
    small = min(1.0, 256 / min(height, width))
    at = measure("flow_dynamic", video, Constant(threshold * small))
    assert at.value is False and at.extras["count"] == 0 and at.extras["thres"] == threshold
    above = measure("flow_dynamic", video, Constant(threshold * small * 1.001))
    assert above.value is True and above.score == 1.0 and above.extras["count"] == 15
    assert above.extras["max_flow"] == pytest.approx([threshold * 1.001] * 15, rel=1e-6)


def test_frames_are_taken_about_8_times_a_second():
    video = torch.randint(0, 256, (16, 32, 32, 3), dtype=torch.uint8)
    assert measure("flow_dynamic", video, Constant(9.0), fps=24.0).extras["n"] == 6
    assert measure("flow_dynamic", video, Constant(9.0), fps=12.0).extras["n"] == 8  # 1.5 rounds to 2
    scaled = measure("flow_dynamic", video, Constant(9.0), fps=12.0, profile="fixed").extras["max_flow"]
    assert scaled == pytest.approx([9.0 * 6 / 8] * 7, rel=1e-6)  # 6 pairs a second were seen, motion is told per 1/8
    short = measure("flow_dynamic", video[:3], Constant(9.0), fps=24.0)
    assert short.value is None and "one in 3" in short.reason


def test_two_still_frames_are_dynamic_only_by_the_letter_of_vbench():
    video = torch.zeros(2, 32, 32, 3, dtype=torch.uint8)
    assert measure("flow_dynamic", video, Constant(0.0)).value is True
    assert measure("flow_dynamic", video, Constant(0.0), profile="fixed").value is False


def test_true_motion_foretells_every_other_frame():
    video = moving(2, 1, frames=5)
    result = measure("interp_smoothness_flow", video, Constant(4.0, 2.0))
    assert result.value == 1.0 and result.extras["count"] == 2
    assert measure("interp_smoothness_flow", video, Constant(0.0)).value < 1.0


def test_warp_error_is_what_motion_does_not_explain():
    video = moving(3, 0, frames=3)
    frames = [frame.clone() for frame in pictures(video)]

    def backward(a, b):
        return [torch.equal(a, f) for f in frames].index(True) > [torch.equal(b, f) for f in frames].index(True)

    explained = measure("warp_error", video, Constant(3.0, backward=backward))
    assert explained.value < 4 * 64 * 2**-23  # rounding of coordinates, as above
    flash = torch.stack([torch.full((40, 40, 3), value, dtype=torch.uint8) for value in (50, 60, 50)])
    result = measure("warp_error", flash, Constant(0.0))
    assert result.value == pytest.approx(10 / 255, rel=1e-5) and result.extras["trusted_share"] == 1
    senseless = measure("warp_error", video, Constant(3.0))  # back and forth the same way: nowhere consistent
    assert senseless.value is None and "trusted" in senseless.reason


def test_each_pair_is_estimated_once_for_all_measures_of_a_pass_and_then_forgotten():
    video, estimator = torch.randint(0, 256, (16, 32, 32, 3), dtype=torch.uint8), Constant(0.0)
    info = VideoInfo("x", 8.0, 32, 32, 16, "memory", "raw", "memory")
    running = [PROXIES[name](get_profile("vbench"), estimator).start(info) for name in FLOW_NAMES]
    for chunk in video.split(5):
        for accumulator in running:
            accumulator.add(chunk)
    fields = shared_fields(estimator)
    assert estimator.pairs == 15 + 15 + 7  # forth, back, and over two frames
    assert len(fields._held) > 0
    for accumulator in running:
        accumulator.finish()
    gc.collect()
    assert len(fields._held) == 0


def test_equal_settings_share_their_flows_and_an_estimator_need_not_be_hashable():
    class Unhashable(Constant):
        __hash__ = None

    first, second = Unhashable(0.0), Unhashable(0.0)
    held = [shared_fields(estimator) for estimator in (first, second, HornSchunck(), HornSchunck(side=64))]
    assert shared_fields(first) is held[0] and held[0] is not held[1]
    assert shared_fields(HornSchunck()) is held[2] and held[2] is not held[3]


def test_the_bundled_flow_tells_motion_from_stillness():
    fast, still = moving(4, 2, frames=4), moving(0, 0, frames=4)
    assert measure("flow_dynamic", fast).value is True
    dynamic = measure("flow_dynamic", still)
    assert dynamic.value is False and dynamic.extras["max_flow"] == [0.0] * 3
    assert measure("warp_error", still).value < 255 * 64 * 2**-23
    assert measure("interp_smoothness_flow", still).value == 1.0
    plain = (fast[1:].float() - fast[:-1].float()).abs().mean().item() / 255
    moved = measure("warp_error", fast)
    assert moved.value < plain / 4 and moved.extras["trusted_share"] > 0.5
    assert measure("interp_smoothness_flow", fast).value > measure("interp_smoothness_linear", fast).value


def test_frames_too_small_for_flow_are_refused_with_the_size():
    for name in FLOW_NAMES:
        result = measure(name, torch.zeros(4, 31, 80, 3, dtype=torch.uint8))
        assert result.value is None and "80x31" in result.reason


def test_opencv_is_used_only_if_named_and_says_what_is_missing():
    with pytest.raises(UserError, match="dis, farneback"):
        OpenCVFlow("magic")
    if importlib.util.find_spec("cv2") is None:
        with pytest.raises(UserError, match="opencv-python-headless"):
            OpenCVFlow()
        return
    a, b = pictures(moving(3, -2, side=128)).split(1)
    for method in ("dis", "farneback"):
        flow = inside(OpenCVFlow(method).flow(a, b)[0], 16)
        assert flow.flatten(1).median(1).values.tolist() == pytest.approx([3, -2], abs=0.2)
