"""MUSIQ computed step by step in float64, patch by patch, with the published network's padded tokens and their mask."""

import math

import numpy as np
import torch
import torch.nn.functional as F

from vbench_eval.backbones.musiq import Musiq


def musiq_by_hand(network: Musiq, frame: torch.Tensor) -> float:
    """Returns the rating of a frame `[3, H, W]` in 0..1."""
    sizes = network.sizes
    p = {name: tensor.double().numpy() for name, tensor in network.state_dict().items()}

    def same(size, kernel, stride):
        windows = math.ceil(size / stride)
        total = max(0, (windows - 1) * stride + kernel - size)
        return total // 2, total - total // 2

    def padded(x, kernel, stride):
        return np.pad(x, ((0, 0), same(x.shape[1], kernel, stride), same(x.shape[2], kernel, stride)))

    def conv(x, name, stride=1):
        weight = p[f"{name}.weight"]
        weight = np.stack([(w - w.mean()) / (w.std(ddof=1) + 1e-5) for w in weight])
        size = weight.shape[-1]
        rows, columns = math.ceil(x.shape[1] / stride), math.ceil(x.shape[2] / stride)
        x, out = padded(x, size, stride), np.empty((len(weight), rows, columns))
        for y in range(rows):
            for z in range(columns):
                patch = x[:, y * stride : y * stride + size, z * stride : z * stride + size]
                out[:, y, z] = weight.reshape(len(weight), -1) @ patch.ravel()
        return out

    def group_norm(x, name, eps):
        groups = x.reshape(32, -1)
        groups = (groups - groups.mean(1, keepdims=True)) / np.sqrt(groups.var(1, keepdims=True) + eps)
        return groups.reshape(x.shape) * p[f"{name}.weight"][:, None, None] + p[f"{name}.bias"][:, None, None]

    def pool(x):
        rows, columns = math.ceil(x.shape[1] / 2), math.ceil(x.shape[2] / 2)
        x = padded(x, 3, 2)
        return np.stack(
            [[x[:, 2 * y : 2 * y + 3, 2 * z : 2 * z + 3].max((1, 2)) for z in range(columns)] for y in range(rows)]
        ).transpose(2, 0, 1)

    def relu(x):
        return np.maximum(x, 0)

    def embed(patch):
        x = pool(relu(group_norm(conv(patch, "conv_root", 2), "gn_root", 1e-6)))
        y = relu(group_norm(conv(x, "block1.conv1"), "block1.gn1", 1e-4))
        y = relu(group_norm(conv(y, "block1.conv2"), "block1.gn2", 1e-4))
        y = group_norm(conv(y, "block1.conv3"), "block1.gn3", 1e-4)
        x = relu(y + group_norm(conv(x, "block1.conv_proj"), "block1.gn_proj", 1e-4))
        return p["embedding.weight"] @ x.transpose(1, 2, 0).ravel() + p["embedding.bias"]

    e = "transformer_encoder"
    height, width = frame.shape[1:]
    rows_of_x, masks = [p[f"{e}.cls"][0, 0]], [True]
    for scale, side in enumerate((*sizes.longer_sides, None)):
        image = (frame.double() - 0.5) * 2
        if side is not None:
            ratio = side / max(height, width)
            size = (round(height * ratio), round(width * ratio))
            image = F.interpolate(image[None], size, mode="bicubic", align_corners=False)[0]
        image = image.numpy()
        rows, columns = math.ceil(image.shape[1] / 32), math.ceil(image.shape[2] / 32)
        image = padded(image, 32, 32)
        for y in range(rows):
            for x in range(columns):
                cell = (y * 10 // rows) * 10 + x * 10 // columns
                patch = image[:, 32 * y : 32 * y + 32, 32 * x : 32 * x + 32]
                position, kind = p[f"{e}.posembed_input.position_emb"][0, cell], p[f"{e}.scaleembed_input.scale_emb"]
                rows_of_x.append(embed(patch) + position + kind[scale])
                masks.append(True)
        padding = 0 if side is None else math.ceil(side / 32) ** 2 - rows * columns
        if padding:
            empty = embed(np.zeros((3, 32, 32)))
            empty = empty + p[f"{e}.posembed_input.position_emb"][0, 0] + p[f"{e}.scaleembed_input.scale_emb"][0]
            rows_of_x += [empty] * padding
            masks += [False] * padding
    x, mask = np.stack(rows_of_x), np.outer(masks, masks)

    def layer_norm(x, name):
        x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-6)
        return x * p[f"{name}.weight"] + p[f"{name}.bias"]

    def linear(x, name):
        return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    erf = np.vectorize(math.erf)
    for i in range(sizes.layers):
        block = f"{e}.transformer.encoderblock_{i}"
        y = layer_norm(x, f"{block}.norm1")
        q, k, v = (linear(y, f"{block}.attention.{part}") for part in ("query", "key", "value"))
        heads, size = [], sizes.hidden // sizes.heads
        for h in range(sizes.heads):
            s = slice(h * size, (h + 1) * size)
            logits = np.where(mask, q[:, s] @ k[:, s].T * size**-0.5, -1e3)
            weights = np.exp(logits - logits.max(1, keepdims=True))
            heads.append(weights / weights.sum(1, keepdims=True) @ v[:, s])
        x = x + linear(np.concatenate(heads, axis=1), f"{block}.attention.out")
        y = linear(layer_norm(x, f"{block}.norm2"), f"{block}.mlp.fc1")
        x = x + linear(y * (1 + erf(y / math.sqrt(2))) / 2, f"{block}.mlp.fc2")
    return float(linear(layer_norm(x, f"{e}.encoder_norm"), "head")[0, 0])
