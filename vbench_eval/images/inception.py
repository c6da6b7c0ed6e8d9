"""The Inception network of FID and IS: TensorFlow's of 2015-12-05, as pytorch-fid's weights have it.

It differs from torchvision's: averages leave the padding out, Mixed_7c pools by maximum, and there are 1008 classes. It
is written out here also because torchvision cannot be depended on: it must match torch's build, and many machines
have none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vbench_eval.backbones.loading import load_state, load_strictly
from vbench_eval.errors import UserError

SIDE = 299
REMEDY = "give pytorch-fid's pt_inception-2015-12-05-6726825d.pth"
Size = int | tuple[int, int]


class Convolution(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: Size, stride: int = 1, padding: Size = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


ROW, COLUMN = {"kernel": (1, 7), "padding": (0, 3)}, {"kernel": (7, 1), "padding": (3, 0)}
SHORT_ROW, SHORT_COLUMN = {"kernel": (1, 3), "padding": (0, 1)}, {"kernel": (3, 1), "padding": (1, 0)}
POINT, SQUARE, DOWN = {"kernel": 1}, {"kernel": 3, "padding": 1}, {"kernel": 3, "stride": 2}


class Mixed(nn.Module):
    """Branches side by side, their outputs joined in the order given.

    `branches` maps each one's name to its layers (outputs, kernel settings), the first on the block's input; a last
    entry that is a list forks. `pool` is "average" and "maximum" (then projected), or "reduce" (stride 2).
    """

    def __init__(self, inputs: int, branches: dict[str, list[Any]], pool: str, projected: int = 0) -> None:
        super().__init__()
        self._pool = pool
        self._branches: list[list[Any]] = []
        for name, layers in branches.items():
            width = inputs
            path: list[Any] = []
            for number, layer in enumerate(layers, start=1):
                own = name if len(layers) == 1 else f"{name}_{number}"
                if isinstance(layer, list):
                    path.append([f"{own}{letter}" for letter in "ab"])
                    for fork, (outputs, settings) in zip(path[-1], layer, strict=True):
                        setattr(self, fork, Convolution(width, outputs, **settings))
                else:
                    setattr(self, own, Convolution(width, layer[0], **layer[1]))
                    path.append(own)
                    width = layer[0]
            self._branches.append(path)
        if projected:
            self.branch_pool = Convolution(inputs, projected, 1)

    def forward(self, x: Tensor) -> Tensor:
        outputs = []
        for path in self._branches:
            y = x
            for name in path:
                y = (
                    torch.cat([getattr(self, n)(y) for n in name], 1)
                    if isinstance(name, list)
                    else getattr(self, name)(y)
                )
            outputs.append(y)
        if self._pool == "reduce":
            return torch.cat([*outputs, F.max_pool2d(x, 3, 2)], 1)
        if self._pool == "maximum":
            pooled = F.max_pool2d(x, 3, 1, 1)
        else:
            pooled = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        return torch.cat([*outputs, self.branch_pool(pooled)], 1)


def _a(inputs: int, projected: int) -> Mixed:
    double = [(64, POINT), (96, SQUARE), (96, SQUARE)]
    five = [(48, POINT), (64, {"kernel": 5, "padding": 2})]
    return Mixed(inputs, {"branch1x1": [(64, POINT)], "branch5x5": five, "branch3x3dbl": double}, "average", projected)


def _b() -> Mixed:
    double = [(64, POINT), (96, SQUARE), (96, DOWN)]
    return Mixed(288, {"branch3x3": [(384, DOWN)], "branch3x3dbl": double}, "reduce")


def _c(width: int) -> Mixed:
    seven = [(width, POINT), (width, ROW), (192, COLUMN)]
    double = [(width, POINT), (width, COLUMN), (width, ROW), (width, COLUMN), (192, ROW)]
    return Mixed(768, {"branch1x1": [(192, POINT)], "branch7x7": seven, "branch7x7dbl": double}, "average", 192)


def _d() -> Mixed:
    three, seven = [(192, POINT), (320, DOWN)], [(192, POINT), (192, ROW), (192, COLUMN), (192, DOWN)]
    return Mixed(768, {"branch3x3": three, "branch7x7x3": seven}, "reduce")


def _e(inputs: int, pool: str) -> Mixed:
    fork = [(384, SHORT_ROW), (384, SHORT_COLUMN)]
    branches: dict[str, list[Any]] = {
        "branch1x1": [(320, POINT)],
        "branch3x3": [(384, POINT), fork],
        "branch3x3dbl": [(448, POINT), (384, SQUARE), fork],
    }
    return Mixed(inputs, branches, pool, 192)


class Inception(nn.Module):
    """Pictures [B, 3, H, W] in [0, 1] to features [B, 2048] and the logits [B, 1008] of them, without the bias."""

    num_features = 2048

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Convolution(3, 32, 3, 2)
        self.Conv2d_2a_3x3 = Convolution(32, 32, 3)
        self.Conv2d_2b_3x3 = Convolution(32, 64, 3, 1, 1)
        self.Conv2d_3b_1x1 = Convolution(64, 80, 1)
        self.Conv2d_4a_3x3 = Convolution(80, 192, 3)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = _a(192, 32), _a(256, 64), _a(288, 64)
        self.Mixed_6a = _b()
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = _c(128), _c(160), _c(160), _c(192)
        self.Mixed_7a = _d()
        self.Mixed_7b, self.Mixed_7c = _e(1280, "average"), _e(2048, "maximum")
        self.fc = nn.Linear(2048, 1008)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        x = F.interpolate(pictures, (SIDE, SIDE), mode="bilinear", align_corners=False) * 2 - 1
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, 2)))
        x = F.max_pool2d(x, 3, 2)
        for name, block in self.named_children():
            if name.startswith("Mixed"):
                x = block(x)
        features = x.mean((2, 3))
        return features, F.linear(features, self.fc.weight)


def load_inception(path: Path) -> Inception:
    """The network with the weights in a file (pytorch-fid's `pt_inception-2015-12-05`), in evaluation mode.

    Raises:
        UserError: it cannot be read, or holds other weights.
    """
    with torch.device("meta"):
        network = Inception()
    counters = [key for key in network.state_dict() if key.endswith("num_batches_tracked")]  # which old files lack
    try:
        state = {**dict.fromkeys(counters, torch.zeros((), dtype=torch.long)), **load_state(path)}
        load_strictly(network, state, source=str(path))
    except UserError as error:
        raise UserError(f"these are not the weights of FID's Inception: {error}; {REMEDY}") from error
    return network.eval().requires_grad_(False)
