"""The proxies that need no flow, against closed forms."""

import math
import subprocess
import sys

import numpy
import pytest
import torch

from vbench_eval.dimensions import OFFICIAL, Measured
from vbench_eval.profiles import PROFILES, get_profile
from vbench_eval.proxies import OFFICIAL_STAND_INS, PROXIES, SHOWN_BESIDE
from vbench_eval.video_info import VideoInfo

# float32 luma of 8-bit colours: three products and two sums, each rounded to half of 2^-23 of at most 255
LUMA_ROUNDING = 5 * 255 * 2**-24
PER_FRAME = ("sharpness", "exposure", "colourfulness", "contrast", "noise_sigma", "blockiness")


def measure(name, frames, *, chunk=None, profile="vbench", overwrite=False, fps=8.0) -> Measured:
    info = VideoInfo("x", fps, frames.shape[2], frames.shape[1], len(frames), "memory", "raw", "memory")
    accumulator = PROXIES[name](get_profile(profile)).start(info)
    for part in frames.split(chunk or len(frames)):
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
    assert measure("acceleration", levels(*ramp)).value == 0
    assert measure("acceleration", levels(*parabola)).value == pytest.approx(2 / 255, rel=1e-15)
    assert measure("jerk", levels(*parabola)).value == 0
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
    assert set(SHOWN_BESIDE) == set(OFFICIAL[:6]) and all(SHOWN_BESIDE.values())


def test_no_proxy_has_an_official_name():
    assert not set(PROXIES) & set(OFFICIAL)


def test_listing_the_proxies_loads_no_torch():
    code = "import sys, vbench_eval.proxies; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
