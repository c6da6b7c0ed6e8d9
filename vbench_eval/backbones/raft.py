"""RAFT (Teed and Deng, ECCV 2020), the large network, as VBench's dynamic_degree uses it: the last of 20 iterations."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vbench_eval.backbones.loading import load_state, load_strictly, origin, placed
from vbench_eval.backbones.raft_correlation import correlations
from vbench_eval.backbones.raft_encoder import Encoder
from vbench_eval.backbones.raft_update import MotionEncoder, UpdateBlock
from vbench_eval.backbones.weights import WEIGHTS
from vbench_eval.errors import UserError
from vbench_eval.video_info import VideoError

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
