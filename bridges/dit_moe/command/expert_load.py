"""expert_load.png: the share of tokens that go to each expert, by layer and by level of noise."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bridges.dit_moe.command.request import SamplePlan, routing_text
from bridges.dit_moe.command.sheets import BACKGROUND
from w2sd_video.runs.picture_io import write_picture
from w2sd_video.runs.video_io import write_bytes

if TYPE_CHECKING:
    from bridges.dit_moe.command.making import Sampler

PICTURES_READ = 8  # what the loads are measured on
PICTURE, NUMBERS = "expert_load.png", "expert_load.npz"
_WIDTH, _HEIGHT, _GAP, _BAND = 140, 64, 14, 22  # of one map, at least, and of what is around it
_TEXT = (236, 238, 242)
_LOW, _HIGH = np.array([13, 27, 62.0]), np.array([255, 214, 92.0])


def write_expert_load(plan: SamplePlan, sampler: Callable[[], Sampler]) -> str:
    """Measures the loads of both routings on the run's first pictures, sampled by themselves, and writes the map and
    its numbers: "strong" and "weak" [levels, layers, experts], shares that sum to 1. Returns the map's path; what is
    there already is kept.
    """
    path = plan.output / PICTURE
    if path.exists() and (plan.output / NUMBERS).exists():
        return str(path)
    shares = {method: measure(plan, sampler(), method) for method in ("strong", "weak")}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **shares)  # type: ignore[arg-type]
    write_bytes(plan.output / NUMBERS, buffer.getvalue())
    titles = {"strong": routing_text(plan.routing), "weak": routing_text(plan.weak_routing)}
    picture = draw({f"{method}: {titles[method]}": share for method, share in shares.items()})
    write_picture(path, picture, {"pair": plan.pair_record(), "steps": plan.steps, "seed": plan.seed})
    return str(path)


def measure(plan: SamplePlan, sampler: Sampler, method: str) -> NDArray[np.float64]:
    """[levels, layers, experts]: the shares of picks at each step of plain sampling, noisiest first; each guidance
    half counts.
    """
    tasks = [group[0] for group in plan.groups()[: min(PICTURES_READ, plan.batch)]]
    side, hosted, guidance = sampler.hosted(method)
    with side, hosted, sampler.pipe.transformer.recording(probabilities=False) as recording:
        sampler.call(tasks, guidance, "latent")
    loads = recording.loads().double()
    return (loads / loads.sum(-1, keepdim=True)).cpu().numpy()


def draw(shares: dict[str, NDArray[np.float64]]) -> NDArray[np.uint8]:
    """A row of maps per entry, one map per expert: layers from top to bottom, levels from noise (left) to clean.

    Black blue is a share of 0, yellow the largest share of all maps, which the title names.
    """
    from PIL import Image, ImageDraw, ImageFont

    levels, layers, experts = next(iter(shares.values())).shape
    cell_height, cell_width = max(4, _HEIGHT // layers), max(1, math.ceil(_WIDTH / levels))
    width, height = levels * cell_width, layers * cell_height
    largest = max(float(share.max()) for share in shares.values())
    size = (max(4, experts) * (width + _GAP) + _GAP, len(shares) * (2 * _BAND + height + _GAP) + _BAND)
    image = Image.new("RGB", size, BACKGROUND)
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(13)
    for row, (title, share) in enumerate(shares.items()):
        top = row * (2 * _BAND + height + _GAP)
        pen.text((_GAP, top + 4), f"{title} (yellow: a share of {largest:.2f})", fill=_TEXT, font=font)
        for expert in range(experts):
            left = _GAP + expert * (width + _GAP)
            pen.text((left, top + _BAND), f"expert {expert}: {share[..., expert].mean():.2f}", fill=_TEXT, font=font)
            part = (share[..., expert].T / largest)[..., None]  # [layers, levels, 1]
            colours = np.rint(_LOW + (_HIGH - _LOW) * part).astype(np.uint8)
            block = colours.repeat(cell_height, 0).repeat(cell_width, 1)
            image.paste(Image.fromarray(block), (left, top + 2 * _BAND))
    text = f"down: layers; across: levels, noisiest left; an even load is {1 / experts:.2f} for every expert"
    pen.text((_GAP, size[1] - _BAND), text, fill=_TEXT, font=font)
    return np.array(image)
