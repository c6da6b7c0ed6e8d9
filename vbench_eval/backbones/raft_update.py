"""RAFT's recurrent update: from the looked-up correlations and the flow so far to a correction of the flow."""

from __future__ import annotations

import torch
from torch import Tensor, nn


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
