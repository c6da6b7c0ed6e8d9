"""Proxies of single frames and of runs of frames, without motion: what they stream through, and their measures."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vbench_eval.dimensions import Measured
from vbench_eval.dimensions.formulas import finite_mean, mean_absolute_difference, unmeasured
from vbench_eval.profiles import Profile
from vbench_eval.video_info import VideoInfo

LUMA = (0.299, 0.587, 0.114)  # of BT.601, as grey pictures are commonly made


def luma(frame: Tensor) -> Tensor:
    """Returns the grey picture `[H, W]`, float32, 0..255, of a frame `[H, W, 3]`, uint8 RGB."""
    return frame.float() @ torch.tensor(LUMA)


class OfFrames:
    """The mean over all frames of a measure of one frame.

    `measure` takes a frame `[H, W, 3]` uint8 and returns numbers by name; the one named "value" is the video's value,
    the others become details. `least_side` is the shortest side it can work on.
    """

    backbone = None

    def __init__(self, name: str, measure: Callable[[Tensor], Mapping[str, float]], *, least_side: int = 1) -> None:
        self.name, self.measure, self.least_side = name, measure, least_side

    def start(self, info: VideoInfo) -> _Frames:
        return _Frames(self)


class _Frames:
    def __init__(self, dimension: OfFrames) -> None:
        self._dimension = dimension
        self._numbers: dict[str, list[float]] = {}
        self._too_small: tuple[int, int] | None = None

    @torch.no_grad()
    def add(self, frames: Tensor) -> None:
        height, width = frames.shape[1:3]
        if min(height, width) < self._dimension.least_side:
            self._too_small = (height, width)
            return
        for frame in frames:
            for name, number in self._dimension.measure(frame).items():
                self._numbers.setdefault(name, []).append(number)

    def finish(self) -> Measured:
        if self._too_small is not None:
            return too_small(self._dimension.name, self._dimension.least_side, self._too_small)
        if not self._numbers:
            return unmeasured("the video has no frame")
        details = {name: finite_mean(numbers) for name, numbers in self._numbers.items()}
        value = details.pop("value")
        if value is None:
            return unmeasured(f"{self._dimension.name} of a frame is not a finite number")
        return Measured(value, value, extras=details)


class OfRuns:
    """A measure of every run of `span` neighbouring frames, the runs starting `step` frames apart.

    `measure` takes the run's frames, each `[H, W, 3]` uint8, and returns a number; `conclude` turns the numbers of the
    whole video, at least one, into its value. A video shorter than `span` has no value.
    """

    backbone = None

    def __init__(
        self,
        name: str,
        span: int,
        measure: Callable[[Sequence[Tensor]], float],
        conclude: Callable[[Sequence[float]], Measured],
        *,
        step: int = 1,
    ) -> None:
        self.name, self.span, self.step = name, span, step
        self.measure, self.conclude = measure, conclude

    def start(self, info: VideoInfo) -> _Runs:
        return _Runs(self)


class _Runs:
    def __init__(self, dimension: OfRuns) -> None:
        self._dimension = dimension
        self._run: deque[Tensor] = deque(maxlen=dimension.span)
        self._seen = 0
        self._numbers: list[float] = []

    @torch.no_grad()
    def add(self, frames: Tensor) -> None:
        dimension = self._dimension
        for frame in frames:
            self._run.append(frame)
            self._seen += 1
            beyond = self._seen - dimension.span
            if beyond >= 0 and beyond % dimension.step == 0:
                self._numbers.append(dimension.measure(tuple(self._run)))
        if len(self._run) == dimension.span:
            self._run.popleft()  # every run ahead starts later
        self._run = deque((frame.clone() for frame in self._run), dimension.span)  # the chunk is not ours to keep

    def finish(self) -> Measured:
        if not self._numbers:
            return too_short(self._dimension.name, self._dimension.span, self._seen)
        return self._dimension.conclude(self._numbers)


def too_short(name: str, needed: int, frames: int) -> Measured:
    """Returns the result of a video of too few frames."""
    return unmeasured(f"{name} needs {needed} frames, the video has {frames}")


def too_small(name: str, needed: int, size: tuple[int, int]) -> Measured:
    """Returns the result of a video of too small frames; `size` is (height, width)."""
    return unmeasured(f"{name} needs frames of at least {needed}x{needed} pixels, these are {size[1]}x{size[0]}")


def mean_of(numbers: Sequence[float]) -> Measured:
    """Returns the plain mean as the value."""
    value = finite_mean(numbers)
    return Measured(value, value, extras={"worst": max(numbers)})


def share_of_likeness(differences: Sequence[float]) -> Measured:
    """Returns (255 - mean difference) / 255, for differences in grey levels, as motion_smoothness has it."""
    mean = finite_mean(differences)
    assert mean is not None  # means of absolute differences of integers are finite
    score = (255.0 - mean) / 255.0
    extras = {"mean_difference": mean, "worst_difference": max(differences), "count": len(differences)}
    return Measured(score, score, extras=extras)


BLOCK = 8  # pixels, the transform block of JPEG and of the MPEG family's older members
NEAR_CLIPPING = 2  # grey levels from the end that still count as clipped: coding moves 0 and 255 by that much


def sharpness(name: str, profile: Profile) -> OfFrames:
    """Returns the measure: the variance of the Laplacian of the luma; as details, `tenengrad` (the mean squared Sobel
    gradient) and `high_frequency_share` (of the spectral energy, above half the Nyquist frequency).
    """
    return OfFrames(name, _sharpness, least_side=3)


def exposure(name: str, profile: Profile) -> OfFrames:
    """Returns the measure: the share of pixels whose three channels are all black or all white, within 2 levels."""
    return OfFrames(name, _clipped)


def colourfulness(name: str, profile: Profile) -> OfFrames:
    """Returns the measure of Hasler and Susstrunk (2003): with rg = R - G and yb = (R + G) / 2 - B,
    sqrt(var rg + var yb) + 0.3 sqrt(mean(rg)^2 + mean(yb)^2).
    """
    return OfFrames(name, _colourfulness)


def contrast(name: str, profile: Profile) -> OfFrames:
    """Returns the measure: the standard deviation of the luma over the frame, divided by 255."""
    return OfFrames(name, lambda frame: {"value": math.sqrt(_variance(luma(frame))) / 255.0})


def noise_sigma(name: str, profile: Profile) -> OfFrames:
    """Returns the estimator of Immerkaer (1996): sqrt(pi/2) / 6 times the mean |luma * N|, N being the outer product of
    (1, -2, 1) with itself, which is blind to planes and to straight edges along the axes. Fine texture counts as noise.
    """
    return OfFrames(name, _noise, least_side=3)


def blockiness(name: str, profile: Profile) -> OfFrames:
    """Returns the measure: (B + 1) / (I + 1), B and I being the mean |step| of the luma to the next pixel across the
    borders of the 8x8 grid and inside its blocks, rows and columns together. The ones are a grey level each; they keep
    flat blocks finite.
    """
    return OfFrames(name, _blockiness, least_side=BLOCK + 1)


def _sharpness(frame: Tensor) -> dict[str, float]:
    grey = luma(frame)
    sides = grey[1:-1, :-2] + grey[1:-1, 2:]
    laplacian = sides.add_(grey[:-2, 1:-1]).add_(grey[2:, 1:-1]).sub_(grey[1:-1, 1:-1], alpha=4)
    across, down = grey[:, 2:] - grey[:, :-2], grey[2:] - grey[:-2]
    sobel_x = across[:-2] + 2 * across[1:-1] + across[2:]
    sobel_y = down[:, :-2] + 2 * down[:, 1:-1] + down[:, 2:]
    return {
        "value": _variance(laplacian),
        "tenengrad": float(sobel_x.square_().mean()) + float(sobel_y.square_().mean()),
        "high_frequency_share": high_frequency_share(grey),
    }


def high_frequency_share(grey: Tensor) -> float:
    """Returns the share of the energy, the mean set aside, at more than a quarter cycle per pixel in any direction.

    A Hann window keeps the jump between opposite borders from counting. A flat picture has a share of 0.
    """
    height, width = grey.shape
    window = torch.hann_window(height, periodic=False)[:, None] * torch.hann_window(width, periodic=False)
    spectrum = torch.fft.rfft2((grey - grey.mean()) * window)
    energy = torch.view_as_real(spectrum).square_().sum(-1)
    # The half spectrum leaves out the mirror images of all columns but the first and, of an even width, the last.
    energy[:, 1 : (width + 1) // 2] *= 2
    frequency = torch.fft.fftfreq(height).square()[:, None] + torch.fft.rfftfreq(width).square()
    total = float(energy.sum())
    # Below a millionth of a grey level squared per pixel there is only the rounding of the mean.
    if total < 1e-6 * float(height * width) * float(window.square().sum()):
        return 0.0
    return float(energy[frequency > 0.25**2].sum()) / total


def _clipped(frame: Tensor) -> dict[str, float]:
    red, green, blue = frame.unbind(-1)
    darkest = torch.minimum(torch.minimum(red, green), blue)
    brightest = torch.maximum(torch.maximum(red, green), blue)
    black = int((brightest <= NEAR_CLIPPING).sum()) / darkest.numel()
    white = int((darkest >= 255 - NEAR_CLIPPING).sum()) / darkest.numel()
    return {"value": black + white, "black": black, "white": white}


def _colourfulness(frame: Tensor) -> dict[str, float]:
    red, green, blue = frame.permute(2, 0, 1).float()
    red_green, yellow_blue = red - green, (red + green) / 2 - blue
    spread = math.sqrt(_variance(red_green) + _variance(yellow_blue))
    offset = math.hypot(float(red_green.mean()), float(yellow_blue.mean()))
    return {"value": spread + 0.3 * offset}


def _noise(frame: Tensor) -> dict[str, float]:
    rows = luma(frame)
    rows = rows[:-2] + rows[2:] - 2 * rows[1:-1]
    mask = rows[:, :-2] + rows[:, 2:] - 2 * rows[:, 1:-1]
    return {"value": math.sqrt(math.pi / 2) / 6 * float(mask.abs_().mean())}


def _blockiness(frame: Tensor) -> dict[str, float]:
    grey = luma(frame)
    border = total = 0.0
    border_count = count = 0
    for steps in ((grey[:, 1:] - grey[:, :-1]).abs_(), (grey[1:] - grey[:-1]).abs_().T):
        across = steps[:, BLOCK - 1 :: BLOCK]
        border, border_count = border + float(across.sum()), border_count + across.numel()
        total, count = total + float(steps.sum()), count + steps.numel()
    border_mean = border / border_count
    inside_mean = max(0.0, total - border) / (count - border_count)  # rounding may leave less than nothing
    return {"value": (border_mean + 1) / (inside_mean + 1), "border": border_mean, "inside": inside_mean}


def _variance(picture: Tensor) -> float:
    """Returns the mean squared deviation from the mean."""
    return float((picture - picture.mean()).square_().mean())


THUMBNAIL = 32
FLAT = 1e-3  # grey levels; below it the spread of a thumbnail is rounding (float32 luma of 255: 5e-5)
FROZEN = 0.5  # grey levels


def pixel_consistency(name: str, profile: Profile) -> PixelConsistency:
    """Returns the measure: s_t = (max(0, corr(F_{t-1}, F_t)) + max(0, corr(F_0, F_t))) / 2 of thumbnails, averaged."""
    return PixelConsistency(name)


def interp_smoothness_linear(name: str, profile: Profile) -> OfRuns:
    """Returns the measure: motion_smoothness with the mean of the two neighbours for a prediction."""
    return OfRuns(name, 3, _interpolation_error, share_of_likeness, step=2)


def acceleration(name: str, profile: Profile) -> OfRuns:
    """Returns the measure: mean |F_{t+1} - 2 F_t + F_{t-1}| / 255."""
    return OfRuns(name, 3, _second_difference, mean_of)


def jerk(name: str, profile: Profile) -> OfRuns:
    """Returns the measure: mean |F_{t+2} - 3 F_{t+1} + 3 F_t - F_{t-1}| / 255."""
    return OfRuns(name, 4, _third_difference, mean_of)


def frozen_frames(name: str, profile: Profile) -> OfRuns:
    """Returns the measure: the share of neighbours whose mean absolute difference is below half a grey level."""
    return OfRuns(name, 2, lambda run: mean_absolute_difference(run[0], run[1]), _share_below)


def _interpolation_error(run: Sequence[Tensor]) -> float:
    before, real, after = run
    # (a + b) // 2 without leaving uint8: what both have, and half of what one of them has. It cuts off the half, as
    # VBench does with a predicted frame.
    middle = (before & after) + ((before ^ after) >> 1)
    return mean_absolute_difference(middle, real)


def _second_difference(run: Sequence[Tensor]) -> float:
    a, b, c = (frame.short() for frame in run)
    return _mean_magnitude(a - 2 * b + c)


def _third_difference(run: Sequence[Tensor]) -> float:
    a, b, c, d = (frame.short() for frame in run)
    return _mean_magnitude(d - a + 3 * (b - c))


def _mean_magnitude(difference: Tensor) -> float:
    """Returns mean |difference| / 255 of integers, summed exactly."""
    return int(difference.abs_().sum(dtype=torch.int64)) / difference.numel() / 255.0


def _share_below(differences: Sequence[float]) -> Measured:
    share = sum(difference < FROZEN for difference in differences) / len(differences)
    return Measured(share, share, extras={"least_difference": min(differences), "count": len(differences)})


class PixelConsistency:
    """How alike the frames are as grey thumbnails of 32x32, by correlation, so that brightness alone does not count."""

    backbone = None

    def __init__(self, name: str) -> None:
        self.name = name

    def start(self, info: VideoInfo) -> _Thumbnails:
        return _Thumbnails(self.name)


class _Thumbnails:
    def __init__(self, name: str) -> None:
        self._name = name
        self._first: Tensor | None = None
        self._last: Tensor | None = None
        self._similarities: list[float] = []

    @torch.no_grad()
    def add(self, frames: Tensor) -> None:
        for frame in frames:
            current = thumbnail(frame)
            if self._first is None or self._last is None:
                self._first = current
            else:
                to_last, to_first = correlation(self._last, current), correlation(self._first, current)
                self._similarities.append((max(0.0, to_last) + max(0.0, to_first)) / 2)
            self._last = current

    def finish(self) -> Measured:
        if not self._similarities:
            return too_short(self._name, 2, 0 if self._first is None else 1)
        value = finite_mean(self._similarities)
        return Measured(value, value, extras={"lowest_pair": min(self._similarities)})


def thumbnail(frame: Tensor) -> Tensor:
    """Returns 32x32 local means of the luma, less their mean, as `[1024]`, float64."""
    small = F.adaptive_avg_pool2d(luma(frame)[None], THUMBNAIL).double().flatten()
    return small - small.mean()


def correlation(a: Tensor, b: Tensor) -> float:
    """Returns the cosine of two thumbnails; 1 if both are flat (they show the same nothing), 0 if only one is."""
    flat = FLAT * math.sqrt(a.numel())
    lengths = float(a.norm()), float(b.norm())
    if min(lengths) < flat:
        return float(max(lengths) < flat)
    return float(a @ b) / (lengths[0] * lengths[1])
