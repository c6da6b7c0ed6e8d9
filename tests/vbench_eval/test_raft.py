"""RAFT's module against the published file's names, and against a computation written out place by place."""

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.support.vbench_backbones import DAMAGES, damaged
from vbench_eval.backbones.raft import (
    ITERATIONS,
    CorrelationOnDemand,
    CorrelationPyramid,
    Raft,
    RaftFlow,
    RaftSizes,
    Window,
    correlations,
    load_raft,
    upsample,
    with_both_names,
)
from vbench_eval.errors import UserError
from vbench_eval.video_info import VideoError


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


SMALL = RaftSizes(
    widths=(8, 8, 12),
    features=16,
    hidden=8,
    context=6,
    corr_widths=(10, 9),
    flow_widths=(8, 7),
    motion=12,
    head=10,
    levels=3,
    radius=2,
)
# Pixels, of flows of some pixels; sums may be taken in another order where tensors lie otherwise in memory.
ROUNDING = 1e-4
ORIGIN = {"id": "raft", "licence": "none"}


def published_names() -> dict[str, tuple[int, ...]]:
    """The names and shapes of raft-things.pth without "module.", written down from the description of the network."""
    names: dict[str, tuple[int, ...]] = {}

    def convolution(name: str, outputs: int, inputs: int, rows: int, columns: int | None = None) -> None:
        names[f"{name}.weight"] = (outputs, inputs, rows, columns or rows)
        names[f"{name}.bias"] = (outputs,)

    def batch_norm(name: str, channels: int) -> None:
        names.update({f"{name}.{kind}": (channels,) for kind in ("weight", "bias", "running_mean", "running_var")})
        names[f"{name}.num_batches_tracked"] = ()

    for encoder in ("fnet", "cnet"):
        convolution(f"{encoder}.conv1", 64, 3, 7)
        before = 64
        for layer, width in ((1, 64), (2, 96), (3, 128)):
            for block in (0, 1):
                at = f"{encoder}.layer{layer}.{block}"
                convolution(f"{at}.conv1", width, before, 3)
                convolution(f"{at}.conv2", width, width, 3)
                norms = ["norm1", "norm2"]
                if layer > 1 and block == 0:
                    convolution(f"{at}.downsample.0", width, before, 1)
                    norms += ["norm3", "downsample.1"]
                for norm in norms if encoder == "cnet" else []:
                    batch_norm(f"{at}.{norm}", width)
                before = width
        convolution(f"{encoder}.conv2", 256, 128, 1)
    batch_norm("cnet.norm1", 64)
    update = "update_block"
    convolution(f"{update}.encoder.convc1", 256, 324, 1)
    convolution(f"{update}.encoder.convc2", 192, 256, 3)
    convolution(f"{update}.encoder.convf1", 128, 2, 7)
    convolution(f"{update}.encoder.convf2", 64, 128, 3)
    convolution(f"{update}.encoder.conv", 126, 256, 3)
    for gate in "zrq":
        convolution(f"{update}.gru.conv{gate}1", 128, 384, 1, 5)
        convolution(f"{update}.gru.conv{gate}2", 128, 384, 5, 1)
    convolution(f"{update}.flow_head.conv1", 256, 128, 3)
    convolution(f"{update}.flow_head.conv2", 2, 256, 3)
    convolution(f"{update}.mask.0", 256, 128, 3)
    convolution(f"{update}.mask.2", 576, 256, 1)
    return names


def random_state(network: torch.nn.Module, seed: int = 0, gain: float = 1.0) -> dict[str, torch.Tensor]:
    """Values under which no layer is dead: scaled normal weights, running variances above 0, twins equal."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, tensor in network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(3)
        elif name.endswith("running_var") or (tensor.dim() == 1 and name.endswith("weight")):
            state[name] = torch.rand(tensor.shape, generator=generator) + 0.5
        else:
            fan = max(1, math.prod(tensor.shape[1:])) if tensor.dim() > 1 else 25
            state[name] = gain * torch.randn(tensor.shape, generator=generator) / fan**0.5
    return {name: state[name.replace(".norm3.", ".downsample.1.")] for name in state}


def small(seed: int = 0) -> Raft:
    network = Raft(SMALL)
    network.load_state_dict(random_state(network, seed))
    return network.eval()


def frames(height: int, width: int, seed: int) -> torch.Tensor:
    return 255 * torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


def test_the_published_file_has_the_names_and_shapes_of_the_module():
    with torch.device("meta"):
        module = Raft()
    assert {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()} == published_names()
    # 5.26 million weights, the number its authors give, in a file of 21 MB
    assert sum(parameter.numel() for parameter in module.parameters()) == 5_257_536


def saved(tmp_path, state, prefix: str = "module."):
    path = tmp_path / "raft-of-mine.pth"
    torch.save({prefix + name: tensor for name, tensor in state.items()}, path)
    return path


def test_a_file_with_published_names_loads_and_gives_the_modules_flow(tmp_path):
    network = small()
    a, b = frames(32, 40, 1), frames(32, 40, 2)
    estimator = load_raft(saved(tmp_path, network.state_dict()), sizes=SMALL)
    with torch.no_grad():
        torch.testing.assert_close(estimator.flow(a, b), network(a, b), rtol=0, atol=ROUNDING)
    found = estimator.provenance()
    assert found["iterations"] == ITERATIONS == 20 and found["dtype"] == "float32" and len(found["sha256"]) == 64
    assert found["licence"] == "BSD-3-Clause" and found["commercial_ok"] is True and found["sha256_verified"] is False


def test_a_file_that_keeps_shared_tensors_once_loads_too(tmp_path):
    from safetensors.torch import save_file

    state = {name: tensor for name, tensor in small().state_dict().items() if ".norm3." not in name}
    path = tmp_path / "raft.safetensors"
    save_file({name: tensor.clone() for name, tensor in state.items()}, path)
    a, b = frames(32, 32, 1), frames(32, 32, 2)
    with torch.no_grad():
        torch.testing.assert_close(load_raft(path, sizes=SMALL).flow(a, b), small()(a, b), rtol=0, atol=ROUNDING)


def test_twins_that_differ_are_a_damaged_file():
    state = dict(small().state_dict())
    state["cnet.layer2.0.norm3.bias"] = state["cnet.layer2.0.norm3.bias"] + 1
    with pytest.raises(UserError, match=r"cnet\.layer2\.0\.(norm3|downsample\.1)\.bias.*same layer"):
        with_both_names(state, source="it")


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_of_another_network_is_refused_by_the_names_of_its_keys(tmp_path, damage):
    state, told = damaged(small().state_dict(), damage, "update_block.flow_head.conv2.weight")
    with pytest.raises(UserError, match=told):
        load_raft(saved(tmp_path, state), sizes=SMALL)


def test_flow_equals_the_step_by_step_computation():
    network = small(seed=4)
    a, b = frames(40, 48, 5), frames(40, 48, 6)
    expected = raft_by_hand(network.state_dict(), SMALL, a, b, iterations=3)
    with torch.no_grad():
        exact = network.double()(a.double(), b.double(), 3)
    assert expected.std() > 1  # pixels: the flow is far from nothing, and the windows are looked up beside the pixels
    # In double precision all but the flow itself, which is kept in float32: 2^-24 of some pixels, over 3 iterations.
    # In single precision roundings of 2^-24 pass through a dozen layers of sums of up to 500 products each.
    assert abs(exact[0].numpy() - expected).max() < 1e-5
    with torch.no_grad():
        single = network.float()(a, b, 3)
    assert abs(single[0].numpy() - expected).max() < 1e-4


def test_slow_index_of_a_window_moves_x():
    maps = torch.arange(100.0).view(1, 10, 10)  # value = 10 y + x
    window = Window(torch.tensor([[4.0, 5.0]]), (10, 10), 1)
    found = window.blend(maps.flatten(1).gather(1, window.index.flatten(1)).view_as(window.index))
    assert found[0].tolist() == [43, 53, 63, 44, 54, 64, 45, 55, 65]


def test_windows_agree_with_grid_sampling_inside_across_and_outside_the_map():
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(60, 9, 13, generator=generator, dtype=torch.float64)
    centres = torch.rand(60, 2, generator=generator, dtype=torch.float64) * 40 - 13
    window = Window(centres, (9, 13), 2)
    found = window.blend(maps.flatten(1).gather(1, window.index.flatten(1)).view_as(window.index))
    steps = torch.arange(-2.0, 3.0, dtype=torch.float64)
    x = centres[:, 0, None, None] + steps[:, None] + 0 * steps[None]
    y = centres[:, 1, None, None] + 0 * steps[:, None] + steps[None]
    grid = torch.stack([2 * x / 12 - 1, 2 * y / 8 - 1], dim=-1)
    expected = F.grid_sample(maps[:, None], grid, align_corners=True)[:, 0].flatten(1)
    assert (expected == 0).any() and (expected != 0).any()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_correlations_on_demand_equal_the_pyramids():
    generator = torch.Generator().manual_seed(1)
    first, second = (torch.randn(1, 16, 9, 14, generator=generator, dtype=torch.float64) for _ in range(2))
    centres = 20 * torch.rand(1, 2, 9, 14, generator=generator, dtype=torch.float64) - 4
    roomy, tight = (correlations(first, second, levels=4, memory=memory) for memory in (1 << 30, 1))
    assert isinstance(roomy, CorrelationPyramid) and isinstance(tight, CorrelationOnDemand)
    torch.testing.assert_close(tight.lookup(centres, 4), roomy.lookup(centres, 4), rtol=0, atol=1e-12)


def test_convex_upsampling_of_a_constant_flow_is_that_flow_inside():
    flow = torch.tensor([1.5, -2.0]).view(1, 2, 1, 1).expand(1, 2, 5, 5)
    logits = torch.randn(1, 576, 5, 5, generator=torch.Generator().manual_seed(0))
    fine = upsample(flow, logits)[:, :, 8:-8, 8:-8]
    torch.testing.assert_close(fine, 8 * flow[:, :, :1, :1].expand_as(fine), rtol=1e-5, atol=0)


def test_pairs_of_a_batch_do_not_see_each_other_and_repeat_bit_for_bit():
    estimator = RaftFlow(small(), provenance=ORIGIN, iterations=2)
    a, b = (torch.cat([frames(32, 32, seed + k) for k in range(3)]) for seed in (10, 20))
    together = estimator.flow(a, b)
    assert torch.equal(together, torch.cat([estimator.flow(a[k : k + 1], b[k : k + 1]) for k in range(3)]))
    assert torch.equal(together, estimator.flow(a, b))
    assert together.shape == (3, 2, 32, 32) and not together.requires_grad


def test_frames_that_do_not_fit_are_refused():
    with torch.device("meta"):
        published = RaftFlow(Raft(), provenance=ORIGIN)
    tiny, odd = torch.zeros(1, 3, 56, 128), torch.zeros(1, 3, 68, 128)
    with pytest.raises(VideoError, match=r"128x56.*64x64"):
        published.flow(tiny, tiny)
    with pytest.raises(ValueError, match="multiples of 8"):
        published.flow(odd, odd)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_gives_nearly_the_same_flow_as_float32(tmp_path, dtype):
    path = saved(tmp_path, small(seed=4).state_dict())
    a, b = frames(32, 32, 5), frames(32, 32, 6)
    full, half = (load_raft(path, sizes=SMALL, dtype=number).flow(a, b) for number in (None, dtype))
    assert half.dtype == torch.float32 and half.isfinite().all()
    # Roundings of relative size eps are random and mostly cancel in sums; a layer computed wrongly differs by about 1.
    assert (half - full).norm() / full.norm() < 8 * torch.finfo(getattr(torch, dtype)).eps


@pytest.mark.parametrize("side", [64, 72, 96, 120, 128, 136])
def test_the_side_from_which_vbench_gives_numbers_is_where_its_coordinates_are_numbers(side):
    """It samples the coarsest level at 2 x / (W - 1) - 1, which is 0 / 0 or infinite for a level of one pixel."""
    level = side // 8 // 2 ** (RaftSizes().levels - 1)
    places = torch.arange(3.0).reshape(1, 3, 1, 1)
    grid = (2 * places / (level - 1) - 1).expand(1, 3, 1, 2)
    sampled = F.grid_sample(torch.ones(1, 1, level, level), grid, align_corners=True)
    assert bool(sampled.isnan().all()) == (side < RaftFlow.vbench_side) and level >= 1
    assert bool(sampled.isnan().any()) == bool(sampled.isnan().all())
