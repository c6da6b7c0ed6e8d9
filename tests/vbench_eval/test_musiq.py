"""MUSIQ's module against the published names, and against a computation in plain loops with the mask it drops."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.support.vbench_backbones import DAMAGES, damaged, noise
from vbench_eval.backbones.musiq import (
    Musiq,
    MusiqScorer,
    MusiqSizes,
    hashed_positions,
    load_musiq,
    pad_same,
    same_padding,
    tokens,
)
from vbench_eval.errors import UserError


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


SMALL = MusiqSizes(hidden=24, mlp=48, heads=2, layers=2, longer_sides=(64, 160))
# Numbers of order 1; sums may be taken in another order where tensors lie otherwise in memory.
ROUNDING = 100 * torch.finfo(torch.float32).eps
ORIGIN = {"id": "musiq", "licence": "none"}


def published_names() -> dict[str, tuple[int, ...]]:
    """The names and shapes of musiq_spaq_ckpt-358bb6af.pth, written down from the description of the network."""
    names: dict[str, tuple[int, ...]] = {"conv_root.weight": (64, 3, 7, 7)}
    for conv, norm, outputs, inputs, size in (
        ("conv1", "gn1", 64, 64, 1),
        ("conv2", "gn2", 64, 64, 3),
        ("conv3", "gn3", 256, 64, 1),
        ("conv_proj", "gn_proj", 256, 64, 1),
    ):
        names[f"block1.{conv}.weight"] = (outputs, inputs, size, size)
        names |= {f"block1.{norm}.{kind}": (outputs,) for kind in ("weight", "bias")}
    names |= {f"gn_root.{kind}": (64,) for kind in ("weight", "bias")}

    def linear(name: str, outputs: int, inputs: int) -> None:
        names[f"{name}.weight"], names[f"{name}.bias"] = (outputs, inputs), (outputs,)

    linear("embedding", 384, 16384)
    linear("head", 1, 384)
    at = "transformer_encoder"
    names[f"{at}.posembed_input.position_emb"] = (1, 100, 384)
    names[f"{at}.scaleembed_input.scale_emb"] = (3, 384)
    names[f"{at}.cls"] = (1, 1, 384)
    names |= {f"{at}.encoder_norm.{kind}": (384,) for kind in ("weight", "bias")}
    for i in range(14):
        block = f"{at}.transformer.encoderblock_{i}"
        names |= {f"{block}.{norm}.{kind}": (384,) for norm in ("norm1", "norm2") for kind in ("weight", "bias")}
        for part in ("query", "key", "value", "out"):
            linear(f"{block}.attention.{part}", 384, 384)
        linear(f"{block}.mlp.fc1", 1152, 384)
        linear(f"{block}.mlp.fc2", 384, 1152)
    return names


def small(seed: int = 0) -> Musiq:
    network, generator = Musiq(SMALL), torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        value = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() > 1 and "emb" not in name.rpartition(".")[2] and not name.endswith("cls"):
            value /= math.prod(parameter.shape[1:]) ** 0.5
        elif name.endswith("weight"):
            value = 1 + 0.2 * value
        parameter.data = value
    return network.eval().requires_grad_(False)


def test_the_published_file_has_the_names_and_shapes_of_the_module():
    with torch.device("meta"):
        module = Musiq()
    assert {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()} == published_names()
    assert 27.0e6 < sum(parameter.numel() for parameter in module.parameters()) < 27.5e6  # "27M", a file of 109 MB


@pytest.mark.parametrize("wrapping", [None, "params", "state_dict"])
def test_a_file_with_published_names_loads_and_gives_the_modules_ratings(tmp_path, wrapping):
    network, path = small(), tmp_path / "musiq.pth"
    torch.save({wrapping: network.state_dict()} if wrapping else network.state_dict(), path)
    scorer = load_musiq(path, antialias=False, sizes=SMALL)
    frames = noise(2, 40, 40)
    expected = network(frames.permute(0, 3, 1, 2).float() / 255)
    torch.testing.assert_close(scorer.score(frames), expected, rtol=0, atol=ROUNDING)
    assert (scorer.low, scorer.high) == (0, 100)
    found = scorer.provenance()
    assert found["id"] == "musiq_spaq" and found["mode"] == "longer" and found["commercial_ok"] is None


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_of_another_network_is_refused_by_the_names_of_its_keys(tmp_path, damage):
    state, told = damaged(small().state_dict(), damage, "head.bias")
    torch.save(state, tmp_path / "musiq.pth")
    with pytest.raises(UserError, match=told):
        load_musiq(tmp_path / "musiq.pth", antialias=False, sizes=SMALL)


def test_rating_equals_the_step_by_step_computation_with_the_published_mask():
    # Oblong and odd: 40x91 becomes 28x64 (1x2 of 4 patches) and 70x160 (3x5 of 25), and itself is 2x3 patches.
    network = small(seed=5).double()
    frame = noise(1, 40, 91)[0].permute(2, 0, 1).double() / 255
    expected = musiq_by_hand(network, frame)
    # In double precision both differ by roundings alone; the positions, whole numbers, are exact.
    assert float(network(frame[None])) == pytest.approx(expected, abs=1e-9)
    assert abs(expected) > 0.1


def test_scorer_rates_frames_one_by_one_as_in_batches_and_repeats_bit_for_bit():
    scorer = MusiqScorer(small(), provenance=ORIGIN, antialias=False)
    frames = noise(5, 48, 33)
    together = scorer.score(frames)
    assert together.shape == (5,) and together.dtype == torch.float32 and together.std() > 0
    assert torch.equal(together, scorer.score(frames))
    alone = torch.cat([scorer.score(frame[None]) for frame in frames])
    # One matrix product over more rows may be summed in another order: roundings of float32 numbers of order 1
    torch.testing.assert_close(together, alone, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "pads"), [(32, 7, 2, (2, 3)), (16, 3, 2, (0, 1)), (8, 3, 1, (1, 1))]
)
def test_same_padding_puts_the_odd_pixel_after(size, kernel, stride, pads):
    assert same_padding(size, kernel, stride) == pads
    assert pad_same(torch.ones(1, size, size), kernel, stride).shape[-1] == size + sum(pads)


def test_positions_are_the_cells_of_a_grid_of_ten_stretched_over_the_patches():
    for rows in range(1, 17):  # 512 pixels are 16 patches
        for columns in range(1, 17):
            expected = [
                row * 10 // rows * 10 + column * 10 // columns for row in range(rows) for column in range(columns)
            ]
            assert hashed_positions(rows, columns).tolist() == expected


def test_tokens_of_three_scales_in_order_without_padding():
    patches, positions, scales = tokens(torch.zeros(2, 3, 288, 512))
    # 126x224, 216x384, 288x512: 4x7, 7x12 and 9x16 patches
    assert patches.shape == (2, 28 + 84 + 144, 3, 32, 32)
    assert scales.tolist() == [0] * 28 + [1] * 84 + [2] * 144
    assert len(positions) == len(scales)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("longer", (288, 512)), ("shorter", (512, 910)), ("shorter_centercrop", (512, 512)), ("None", (720, 1280))],
)
def test_preparing_takes_vbenchs_sizes(mode, expected):
    scorer = MusiqScorer(small(), provenance=ORIGIN, antialias=False, mode=mode)
    assert scorer.prepare(torch.zeros(1, 720, 1280, 3, dtype=torch.uint8)).shape[-2:] == expected


def test_small_frames_are_prepared_by_division_alone():
    frames = noise(1, 100, 90)
    scorer = MusiqScorer(small(), provenance=ORIGIN, antialias=False)
    assert torch.equal(scorer.prepare(frames), frames.permute(0, 3, 1, 2).float() / 255)


def test_antialiasing_is_what_the_profile_says():
    frames = torch.zeros(1, 1024, 1024, 3, dtype=torch.uint8)
    frames[:, :, 1::4] = frames[:, :, 2::4] = 255  # columns 0 255 255 0: the two taps of every second pixel say 127.5
    plain, filtered = (MusiqScorer(small(), provenance=ORIGIN, antialias=way).prepare(frames) for way in (False, True))
    torch.testing.assert_close(plain, torch.full_like(plain, 0.5), rtol=0, atol=1e-6)
    assert plain.shape == filtered.shape and not torch.equal(plain, filtered)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_rates_nearly_as_float32(tmp_path, dtype):
    path = tmp_path / "musiq.pth"
    torch.save(small().state_dict(), path)
    frames = noise(2, 32, 32)
    full, half = (
        load_musiq(path, antialias=False, sizes=SMALL, dtype=number).score(frames) for number in (None, dtype)
    )
    assert half.dtype == torch.float32
    assert (half - full).abs().max() < 8 * torch.finfo(getattr(torch, dtype)).eps
