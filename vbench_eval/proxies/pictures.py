"""Proxies of picture quality, measured on each frame at its own size and averaged over frames.

They are facts about pixels, not judgements: noise is sharp and a blurred picture is free of noise. Read them together.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vbench_eval.profiles import Profile
from vbench_eval.proxies.streaming import OfFrames, luma

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
