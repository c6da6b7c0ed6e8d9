"""RAFT (Teed and Deng, ECCV 2020), the large network, as VBench's dynamic_degree uses it: the last of 20 iterations.

Correlations of every place of one frame with every place of the other, two encoders to an eighth of the sides, and a
recurrent update. It is written out here, since torchvision, which has one, cannot be depended on: it must match torch's
build, and many machines have none.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vbench_eval.backbones.loading import load_state, load_strictly, origin, placed
from vbench_eval.backbones.weights import WEIGHTS
from vbench_eval.errors import UserError
from vbench_eval.video_info import VideoError

MEMORY = 4 << 30  # bytes a pyramid may take: that of frames of 1024x1024 takes 1.4 GB
CHUNK = 64 << 20  # bytes that features read for one chunk of windows may take


class Correlations(Protocol):
    def lookup(self, centres: Tensor, radius: int) -> Tensor:
        """Returns `[1, levels * (2 * radius + 1)^2, h, w]`: per level the window around where each place went.

        `centres` is `[1, 2, h, w]`, (x, y) in the second map. Within a window the slow index moves x and the fast one
        y: the published weights were trained on this order.
        """
        ...


def correlations(first: Tensor, second: Tensor, *, levels: int, memory: int = MEMORY) -> Correlations:
    """Returns the correlations of two feature maps `[1, C, h, w]`, as a pyramid, or on demand if that exceeds `memory`.

    The numbers agree to rounding: averaging products over places is the product with the averaged features.
    """
    # 1/sqrt(256) is a power of two, so that scaling before the product is exact and keeps halves from overflowing.
    first = first * first.shape[1] ** -0.5
    places = first.shape[-2] * first.shape[-1]
    if places**2 * first.element_size() * 4 // 3 > memory:
        return CorrelationOnDemand(first, second, levels)
    return CorrelationPyramid(first, second, levels)


class CorrelationPyramid:
    """All products, the second map's places averaged 2x2 from level to level; 4/3 (hw)^2 numbers."""

    def __init__(self, first: Tensor, second: Tensor, levels: int) -> None:
        _, _, height, width = first.shape
        products = first.flatten(2)[0].T @ second.flatten(2)[0]
        self._levels = _halved(products.view(height * width, 1, *second.shape[-2:]), levels)  # [hw, 1, h2, w2] each

    def lookup(self, centres: Tensor, radius: int) -> Tensor:
        points = centres[0].flatten(1).T  # [hw, 2]
        found = []
        for i, level in enumerate(self._levels):
            maps = level[:, 0]
            window = Window(points / 2**i, maps.shape[-2:], radius)
            found.append(window.blend(maps.flatten(1).gather(1, window.index.flatten(1)).view_as(window.index)))
        return torch.cat(found, dim=1).T.reshape(1, -1, *centres.shape[-2:])


class CorrelationOnDemand:
    """The features alone; products are made for the places that are looked at, a chunk of windows at a time."""

    def __init__(self, first: Tensor, second: Tensor, levels: int) -> None:
        self._first = first.flatten(2)[0].T  # [hw, C]
        self._levels = _halved(second, levels)  # [1, C, h2, w2] each

    def lookup(self, centres: Tensor, radius: int) -> Tensor:
        points = centres[0].flatten(1).T
        per_window = self._first.shape[1] * (2 * radius + 2) ** 2 * self._first.element_size()
        size = max(1, CHUNK // per_window)
        rows = [
            self._rows(first, some, radius)
            for first, some in zip(self._first.split(size), points.split(size), strict=True)
        ]
        return torch.cat(rows).T.reshape(1, -1, *centres.shape[-2:])

    def _rows(self, first: Tensor, points: Tensor, radius: int) -> Tensor:
        found = []
        for i, level in enumerate(self._levels):
            window = Window(points / 2**i, level.shape[-2:], radius)
            features = level.flatten(2)[0].T[window.index.flatten(1)]  # [n, pixels, C]
            found.append(window.blend((features @ first[:, :, None]).view(window.index.shape)))
        return torch.cat(found, dim=1)


class Window:
    """Which pixels of maps of `size` (h, w) the windows around centres `[n, 2]` (x, y) need, and how they are blended.

    The samples of a window lie whole pixels apart, and so share one fraction: the square of pixels that holds them all
    is read once and blended along x, then y. Outside the map it is 0.
    """

    def __init__(self, centres: Tensor, size: tuple[int, ...], radius: int) -> None:
        height, width = size
        ends = torch.tensor([width, height], device=centres.device, dtype=centres.dtype)
        # Beyond these bounds the whole window lies outside, wherever; integers stay small so. NaN stays NaN.
        centres = centres.clamp(min=-(radius + 2.0)).minimum(ends + radius + 1)
        corner = centres.floor()
        self._fraction = (centres - corner)[:, :, None, None]
        steps = torch.arange(-radius, radius + 2, device=centres.device)
        x, y = corner[:, 0, None].long() + steps, corner[:, 1, None].long() + steps  # [n, 2 radius + 2]
        self._inside = ((x >= 0) & (x < width))[:, :, None] & ((y >= 0) & (y < height))[:, None, :]
        self.index = y.clamp(0, height - 1)[:, None, :] * width + x.clamp(0, width - 1)[:, :, None]  # [n, x, y]

    def blend(self, pixels: Tensor) -> Tensor:
        """Returns `[n, (2 * radius + 1)^2]` bilinear samples of the pixels `[n, x, y]` that `index` names."""
        pixels = pixels * self._inside
        along_x, along_y = (self._fraction[:, axis].to(pixels.dtype) for axis in (0, 1))
        blended = pixels[:, :-1] * (1 - along_x) + pixels[:, 1:] * along_x
        blended = blended[:, :, :-1] * (1 - along_y) + blended[:, :, 1:] * along_y
        return blended.flatten(1)


def _halved(maps: Tensor, levels: int) -> list[Tensor]:
    """Returns the maps and their 2x2 averages, `levels` in all; odd rows and columns are dropped."""
    found = [maps]
    for _ in range(levels - 1):
        found.append(F.avg_pool2d(found[-1], 2, stride=2))
    return found


Norm = Literal["instance", "batch"]


def _norm(kind: Norm, channels: int) -> nn.Module:
    # Instance normalisation has no parameters here, so that its layers leave no key in the published file.
    return nn.InstanceNorm2d(channels) if kind == "instance" else nn.BatchNorm2d(channels)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a skip, which is a 1x1 convolution where the block halves the sides."""

    def __init__(self, inputs: int, outputs: int, *, norm: Norm, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.norm1 = _norm(norm, outputs)
        self.norm2 = _norm(norm, outputs)
        self.downsample: nn.Module | None = None
        if stride != 1:
            self.norm3 = _norm(norm, outputs)
            # The same layer under two names, as in the published file, which has both.
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride), self.norm3)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm1(self.conv1(x)))
        y = torch.relu(self.norm2(self.conv2(y)))
        skip = x if self.downsample is None else self.downsample(x)
        return torch.relu(skip + y)


class Encoder(nn.Module):
    """Frames `[B, 3, H, W]` in -1..1 to features `[B, outputs, H/8, W/8]`."""

    def __init__(self, widths: tuple[int, int, int], outputs: int, *, norm: Norm) -> None:
        super().__init__()
        first, second, third = widths
        self.conv1 = nn.Conv2d(3, first, 7, 2, padding=3)
        self.norm1 = _norm(norm, first)
        self.layer1 = self._layer(first, first, norm, stride=1)
        self.layer2 = self._layer(first, second, norm, stride=2)
        self.layer3 = self._layer(second, third, norm, stride=2)
        self.conv2 = nn.Conv2d(third, outputs, 1)

    @staticmethod
    def _layer(inputs: int, outputs: int, norm: Norm, *, stride: int) -> nn.Sequential:
        return nn.Sequential(
            ResidualBlock(inputs, outputs, norm=norm, stride=stride),
            ResidualBlock(outputs, outputs, norm=norm, stride=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm1(self.conv1(x)))
        return self.conv2(self.layer3(self.layer2(self.layer1(x))))


class MotionEncoder(nn.Module):
    """Correlations and flow to `outputs` motion features, the last two of which are the flow itself."""

    def __init__(
        self, correlations: int, *, corr_widths: tuple[int, int], flow_widths: tuple[int, int], outputs: int
    ) -> None:
        super().__init__()
        self.convc1 = nn.Conv2d(correlations, corr_widths[0], 1)
        self.convc2 = nn.Conv2d(corr_widths[0], corr_widths[1], 3, padding=1)
        self.convf1 = nn.Conv2d(2, flow_widths[0], 7, padding=3)
        self.convf2 = nn.Conv2d(flow_widths[0], flow_widths[1], 3, padding=1)
        self.conv = nn.Conv2d(corr_widths[1] + flow_widths[1], outputs - 2, 3, padding=1)

    def forward(self, flow: Tensor, correlations: Tensor) -> Tensor:
        seen = torch.relu(self.convc2(torch.relu(self.convc1(correlations))))
        moved = torch.relu(self.convf2(torch.relu(self.convf1(flow))))
        return torch.cat([torch.relu(self.conv(torch.cat([seen, moved], dim=1))), flow], dim=1)


class SeparableGRU(nn.Module):
    """A convolutional gated unit that looks along rows, then along columns."""

    def __init__(self, hidden: int, inputs: int) -> None:
        super().__init__()
        for step, size in (("1", (1, 5)), ("2", (5, 1))):
            for gate in "zrq":
                padding = (size[0] // 2, size[1] // 2)
                self.add_module(f"conv{gate}{step}", nn.Conv2d(hidden + inputs, hidden, size, padding=padding))

    def forward(self, hidden: Tensor, x: Tensor) -> Tensor:
        for step in "12":
            both = torch.cat([hidden, x], dim=1)
            update = torch.sigmoid(self.get_submodule(f"convz{step}")(both))
            reset = torch.sigmoid(self.get_submodule(f"convr{step}")(both))
            new = torch.tanh(self.get_submodule(f"convq{step}")(torch.cat([reset * hidden, x], dim=1)))
            hidden = (1 - update) * hidden + update * new
        return hidden


class FlowHead(nn.Module):
    """Hidden state to a correction of the flow, in pixels of an eighth of the frame."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(hidden, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, 2, 3, padding=1)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.conv2(torch.relu(self.conv1(hidden)))


class UpdateBlock(nn.Module):
    """One iteration's network, and the weights of the convex upsampling, which only the last iteration needs."""

    def __init__(self, encoder: MotionEncoder, *, hidden: int, context: int, motion: int, head: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.gru = SeparableGRU(hidden, context + motion)
        self.flow_head = FlowHead(hidden, head)
        self.mask = nn.Sequential(nn.Conv2d(hidden, head, 3, padding=1), nn.ReLU(), nn.Conv2d(head, 8 * 8 * 9, 1))

    def forward(self, hidden: Tensor, context: Tensor, correlations: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the new hidden state and the correction of the flow."""
        hidden = self.gru(hidden, torch.cat([context, self.encoder(flow, correlations)], dim=1))
        return hidden, self.flow_head(hidden)

    def upsampling(self, hidden: Tensor) -> Tensor:
        """Returns `[B, 576, h, w]` logits; the quarter, there to balance training's gradients, belongs to it."""
        return 0.25 * self.mask(hidden)


ITERATIONS = 20


@dataclass(frozen=True)
class RaftSizes:
    """The network's widths; the defaults are those of the published file."""

    widths: tuple[int, int, int] = (64, 96, 128)
    features: int = 256
    hidden: int = 128
    context: int = 128
    corr_widths: tuple[int, int] = (256, 192)
    flow_widths: tuple[int, int] = (128, 64)
    motion: int = 128
    head: int = 256
    levels: int = 4
    radius: int = 4

    @property
    def smallest_side(self) -> int:
        """The shortest frame side of which the last correlation level has a place left: 64 for 4 levels."""
        return 8 * 2 ** (self.levels - 1)


class Raft(nn.Module):
    """Two frames to the flow between them."""

    def __init__(self, sizes: RaftSizes | None = None) -> None:
        super().__init__()
        sizes = sizes or RaftSizes()
        self.sizes = sizes
        self.fnet = Encoder(sizes.widths, sizes.features, norm="instance")
        self.cnet = Encoder(sizes.widths, sizes.hidden + sizes.context, norm="batch")
        encoder = MotionEncoder(
            sizes.levels * (2 * sizes.radius + 1) ** 2,
            corr_widths=sizes.corr_widths,
            flow_widths=sizes.flow_widths,
            outputs=sizes.motion,
        )
        self.update_block = UpdateBlock(
            encoder, hidden=sizes.hidden, context=sizes.context, motion=sizes.motion, head=sizes.head
        )

    def forward(self, a: Tensor, b: Tensor, iterations: int = ITERATIONS) -> Tensor:
        """Returns the flow `[1, 2, H, W]`, float32, of one pair `[1, 3, H, W]` in 0..255, sides multiples of 8.

        Places are kept in float32 whatever the network's dtype: half precision tells no fractions of a pixel apart on
        large frames.
        """
        dtype = self.fnet.conv1.weight.dtype
        a, b = ((2 * (frame / 255) - 1).to(dtype) for frame in (a, b))
        seen = correlations(self.fnet(a), self.fnet(b), levels=self.sizes.levels)
        hidden, context = self.cnet(a).split([self.sizes.hidden, self.sizes.context], dim=1)
        hidden, context = torch.tanh(hidden), torch.relu(context)
        start = places(a.shape[-2] // 8, a.shape[-1] // 8, a.device)
        flow = torch.zeros_like(start)
        for _ in range(iterations):
            looked_up = seen.lookup(start + flow, self.sizes.radius)
            hidden, correction = self.update_block(hidden, context, looked_up, flow.to(dtype))
            flow = flow + correction.float()
        return upsample(flow, self.update_block.upsampling(hidden).float())


def places(height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """Returns the coordinates (x, y) of every pixel of a map as `[1, 2, height, width]`, float32."""
    y, x = torch.meshgrid(torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij")
    return torch.stack([x, y]).float()[None]


def upsample(flow: Tensor, logits: Tensor) -> Tensor:
    """Returns the flow `[B, 2, 8h, 8w]` in pixels of the frame from that of an eighth, `[B, 2, h, w]`.

    Each of a place's 8x8 pixels is a convex combination of the 3x3 flows around it, by the softmax of its 9 of the
    logits `[B, 576, h, w]` (neighbour slowest, then row and column within the place).
    """
    batch, _, height, width = flow.shape
    weights = logits.view(batch, 1, 9, 8, 8, height, width).softmax(dim=2)
    around = F.unfold(8 * flow, 3, padding=1).view(batch, 2, 9, 1, 1, height, width)
    fine = (weights * around).sum(dim=2)  # [B, 2, 8, 8, h, w]
    return fine.permute(0, 1, 4, 2, 5, 3).reshape(batch, 2, 8 * height, 8 * width)


class RaftFlow:
    """RAFT as a flow estimator; pairs are computed one at a time, whatever the batch."""

    pad_multiple = 8
    vbench_side = 128

    def __init__(self, network: Raft, *, provenance: Mapping[str, Any], iterations: int = ITERATIONS) -> None:
        self.name = str(provenance["id"])
        self._network, self._provenance, self._iterations = network, dict(provenance), iterations

    @torch.no_grad()
    def flow(self, a: Tensor, b: Tensor) -> Tensor:
        """Returns `[B, 2, H, W]` pixels (dx, dy) on the CPU, of frames `[B, 3, H, W]` in 0..255.

        Raises VideoError for frames under 64x64, which the network cannot take, and ValueError for sides that are no
        multiples of 8.
        """
        if a.shape != b.shape or a.dim() != 4 or a.shape[1] != 3:
            raise ValueError(f"frames are {list(a.shape)} and {list(b.shape)}; both must be [B, 3, H, W]")
        height, width = a.shape[-2:]
        if height % 8 or width % 8:
            raise ValueError(f"frames are {width}x{height}; RAFT takes multiples of 8")
        least = self._network.sizes.smallest_side
        if min(height, width) < least:
            raise VideoError(f"frames are {width}x{height} with padding; RAFT needs {least}x{least} at least")
        device = self._network.fnet.conv1.weight.device
        pairs = (
            self._network(first[None].to(device), second[None].to(device), self._iterations).cpu()
            for first, second in zip(a, b, strict=True)
        )
        return torch.cat(list(pairs))

    def provenance(self) -> dict[str, Any]:
        return {**self._provenance, "iterations": self._iterations}


def load_raft(
    path: Path,
    *,
    device: str = "cpu",
    dtype: str | torch.dtype | None = None,
    allow_pickle: bool = False,
    cache: str | os.PathLike[str] | None = None,
    sizes: RaftSizes | None = None,
) -> RaftFlow:
    """Returns the estimator with the weights of a file (raft-things.pth, or its tensors as .safetensors)."""
    state = with_both_names(load_state(path, allow_pickle=allow_pickle), source=str(path))
    with torch.device("meta"):
        network = Raft(sizes)
    load_strictly(network, state, source=str(path))
    placed(network, device, dtype)
    return RaftFlow(network, provenance=origin(WEIGHTS["raft_things"], path, network, cache=cache))


def with_both_names(state: Mapping[str, Tensor], *, source: str) -> dict[str, Tensor]:
    """Returns the state with the shared normalisations (`norm3`, `downsample.1`) under both their names.

    Files that keep shared tensors once (.safetensors) have one of them. Raises UserError if both are there and differ.
    """
    full = dict(state)
    for key, value in state.items():
        for ours, theirs in ((".norm3.", ".downsample.1."), (".downsample.1.", ".norm3.")):
            twin = key.replace(ours, theirs)
            if not torch.equal(full.setdefault(twin, value), value):
                raise UserError(f"{source} is damaged: {key} and {twin} are the same layer, but differ")
    return full
