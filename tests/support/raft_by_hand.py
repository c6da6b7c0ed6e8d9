"""RAFT computed step by step in float64, one place at a time, from the description of the network."""

import math
from typing import Any

import numpy as np
import torch

from vbench_eval.backbones.raft import RaftSizes


def raft_by_hand(state: dict[str, torch.Tensor], sizes: RaftSizes, a: Any, b: Any, iterations: int) -> np.ndarray:
    """Returns the flow `[2, H, W]` of frames `[1, 3, H, W]` in 0..255."""
    p = {name: tensor.double().numpy() for name, tensor in state.items()}

    def conv(x, name, stride=1):
        weight = p[f"{name}.weight"]
        outputs, _, rows, columns = weight.shape
        padded = np.pad(x, ((0, 0), (rows // 2, rows // 2), (columns // 2, columns // 2)))
        height, width = -(-x.shape[1] // stride), -(-x.shape[2] // stride)
        out = np.empty((outputs, height, width))
        for y in range(height):
            for z in range(width):
                patch = padded[:, y * stride : y * stride + rows, z * stride : z * stride + columns]
                out[:, y, z] = np.tensordot(weight, patch, 3) + p[f"{name}.bias"]
        return out

    def norm(x, name):
        if name.startswith("fnet"):
            mean, var = x.mean((1, 2), keepdims=True), x.var((1, 2), keepdims=True)
            return (x - mean) / np.sqrt(var + 1e-5)
        mean, var, weight, bias = (
            p[f"{name}.{kind}"][:, None, None] for kind in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / np.sqrt(var + 1e-5) * weight + bias

    def relu(x):
        return np.maximum(x, 0)

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    def encode(x, net):
        x = relu(norm(conv(x, f"{net}.conv1", 2), f"{net}.norm1"))
        for layer in (1, 2, 3):
            for block in (0, 1):
                at, stride = f"{net}.layer{layer}.{block}", 2 if layer > 1 and block == 0 else 1
                y = relu(norm(conv(x, f"{at}.conv1", stride), f"{at}.norm1"))
                y = relu(norm(conv(y, f"{at}.conv2"), f"{at}.norm2"))
                skip = norm(conv(x, f"{at}.downsample.0", 2), f"{at}.norm3") if stride == 2 else x
                x = relu(skip + y)
        return conv(x, f"{net}.conv2")

    def sample(image, x, y):
        """Bilinear; 0 outside."""
        total = 0.0
        for row in (math.floor(y), math.floor(y) + 1):
            for column in (math.floor(x), math.floor(x) + 1):
                if 0 <= row < image.shape[0] and 0 <= column < image.shape[1]:
                    total += image[row, column] * (1 - abs(y - row)) * (1 - abs(x - column))
        return total

    a, b = (2 * (frame[0].double().numpy() / 255) - 1 for frame in (a, b))
    first, second, both = encode(a, "fnet"), encode(b, "fnet"), encode(a, "cnet")
    hidden, context = np.tanh(both[: sizes.hidden]), relu(both[sizes.hidden :])
    height, width = first.shape[1:]
    flow = np.zeros((2, height, width))
    for _ in range(iterations):
        looked_up = np.empty((sizes.levels * (2 * sizes.radius + 1) ** 2, height, width))
        for y in range(height):
            for x in range(width):
                image = np.tensordot(first[:, y, x], second, 1) / math.sqrt(sizes.features)
                at = 0
                for level in range(sizes.levels):
                    for dx in range(-sizes.radius, sizes.radius + 1):  # x is the slow index
                        for dy in range(-sizes.radius, sizes.radius + 1):
                            to_x = (x + flow[0, y, x]) / 2**level + dx
                            to_y = (y + flow[1, y, x]) / 2**level + dy
                            looked_up[at, y, x] = sample(image, to_x, to_y)
                            at += 1
                    rows, columns = image.shape[0] // 2, image.shape[1] // 2
                    image = image[: 2 * rows, : 2 * columns].reshape(rows, 2, columns, 2).mean((1, 3))
        u = "update_block"
        seen = relu(conv(relu(conv(looked_up, f"{u}.encoder.convc1")), f"{u}.encoder.convc2"))
        moved = relu(conv(relu(conv(flow, f"{u}.encoder.convf1")), f"{u}.encoder.convf2"))
        motion = np.concatenate([relu(conv(np.concatenate([seen, moved]), f"{u}.encoder.conv")), flow])
        inputs = np.concatenate([context, motion])
        for step in "12":
            z = sigmoid(conv(np.concatenate([hidden, inputs]), f"{u}.gru.convz{step}"))
            r = sigmoid(conv(np.concatenate([hidden, inputs]), f"{u}.gru.convr{step}"))
            q = np.tanh(conv(np.concatenate([r * hidden, inputs]), f"{u}.gru.convq{step}"))
            hidden = (1 - z) * hidden + z * q
        flow = flow + conv(relu(conv(hidden, f"{u}.flow_head.conv1")), f"{u}.flow_head.conv2")
    logits = 0.25 * conv(relu(conv(hidden, f"{u}.mask.0")), f"{u}.mask.2")
    out = np.empty((2, 8 * height, 8 * width))
    padded = np.pad(8 * flow, ((0, 0), (1, 1), (1, 1)))
    for y in range(8 * height):
        for x in range(8 * width):
            place = (y // 8, x // 8)
            nine = np.array([logits[n * 64 + (y % 8) * 8 + x % 8][place] for n in range(9)])
            weights = np.exp(nine - nine.max()) / np.exp(nine - nine.max()).sum()
            around = padded[:, place[0] : place[0] + 3, place[1] : place[1] + 3].reshape(2, 9)
            out[:, y, x] = around @ weights
    return out
