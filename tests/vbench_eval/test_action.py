"""Which action a video shows: VBench's rule, UMT against plain arithmetic, and OpenCV's resize of integers."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.support.vbench_backbones import DAMAGES, Stub, damaged, info, measure, noise, number_of, numbered
from vbench_eval.backbones.umt import MEAN, STD, Umt, UmtSizes, initial_positions, integer_resize, load_umt, read_labels
from vbench_eval.dimensions import asked_text
from vbench_eval.errors import UserError
from vbench_eval.video_info import About

LABELS = ("riding a bike", "marching", "air drumming", "ice skating", "golf driving", "mopping floor")


class Sure(Stub):
    num_frames, labels = 16, LABELS

    def __init__(self, *shares: float) -> None:
        self.shares = shares

    def shrink(self, frames: torch.Tensor) -> torch.Tensor:
        return frames[:, :1, :1].clone()

    def probabilities(self, frames: torch.Tensor) -> torch.Tensor:
        self.frames = [number_of(frame) for frame in frames]
        return torch.tensor(self.shares)


@pytest.mark.parametrize(
    ("prompt", "shares", "right"),
    [
        ("A person is marching", (0.99, 0.86, 0.1, 0.1, 0.1, 0.1), True),
        ("A person is marching", (0.99, 0.84994, 0.1, 0.1, 0.1, 0.1), False),
        ("A person is marching", (0.99, 0.84996, 0.1, 0.1, 0.1, 0.1), True),  # 0.85 to four digits
        ("A person is marching", (0.99, 0.9, 0.98, 0.97, 0.96, 0.95), False),  # sure, but the sixth
        ("a person is Riding a Bike-0", (0.9, 0.0, 0.0, 0.0, 0.0, 0.0), True),
        ("A person is dancing", (0.9, 0.9, 0.0, 0.0, 0.0, 0.0), False),
    ],
)
def test_the_prompts_action_must_be_among_the_five_likeliest_and_sure(prompt, shares, right):
    network = Sure(*shares)
    about = replace(info(), about=About(prompt))
    measured = measure("human_action", numbered(33), network, about=about, cuts=[5])
    assert measured.value is right and measured.score == right and measured.extras["cor_num_per_video"] == right
    # 33 frames in 16 parts of two or, the last one, three
    assert network.frames == [*range(0, 30, 2), 31]


def test_the_action_is_what_vbench_reads_from_the_file_name():
    assert asked_text("human_action", About("A person is riding a bike")) == "riding a bike"
    assert asked_text("human_action", About("A person is playing tic-tac-toe")) == "playing tic"  # as VBench cuts it
    assert asked_text("human_action", About()) is None


TINY = UmtSizes(side=28, patch=14, frames=4, width=12, layers=2, heads=3, classes=2, shorter=32)


@pytest.fixture(scope="module")
def state():
    draw = torch.Generator().manual_seed(5)
    return {key: 0.4 * torch.randn(value.shape, generator=draw) for key, value in Umt(TINY).state_dict().items()}


def loaded(state, tmp_path):
    torch.save(state, tmp_path / "umt.pth")
    (tmp_path / "labels.txt").write_text("Marching\t1\nriding a bike\t0\n")
    return load_umt(tmp_path / "umt.pth", tmp_path / "labels.txt", sizes=TINY)


def written_out(state, frames):
    """The probabilities of frames [4, 28, 28, 3], one patch and one head at a time."""
    w = {key: value.double().numpy() for key, value in state.items()}

    def norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    pixels = (frames.double().numpy() / 255 - MEAN) / STD
    kernel = w["patch_embed.proj.weight"][:, :, 0]
    x = [
        np.einsum("wchv,hvc->w", kernel, frame[top : top + 14, left : left + 14]) + w["patch_embed.proj.bias"]
        for frame in pixels
        for top in (0, 14)
        for left in (0, 14)
    ]
    x = np.stack(x) + w["pos_embed"][0]
    for n in range(2):
        y = norm(x, f"blocks.{n}.norm1") @ w[f"blocks.{n}.attn.qkv.weight"].T
        q, k, v = (part.reshape(len(x), 3, 4) for part in np.split(y, 3, axis=-1))
        q, v = q + w[f"blocks.{n}.attn.q_bias"].reshape(3, 4), v + w[f"blocks.{n}.attn.v_bias"].reshape(3, 4)
        heads = []
        for head in range(3):
            weights = np.exp(q[:, head] @ k[:, head].T / 2)
            heads.append(weights / weights.sum(-1, keepdims=True) @ v[:, head])
        x = x + np.concatenate(heads, -1) @ w[f"blocks.{n}.attn.proj.weight"].T + w[f"blocks.{n}.attn.proj.bias"]
        y = norm(x, f"blocks.{n}.norm2") @ w[f"blocks.{n}.mlp.fc1.weight"].T + w[f"blocks.{n}.mlp.fc1.bias"]
        y = y * np.vectorize(lambda each: 0.5 * (1 + math.erf(each / math.sqrt(2))))(y)
        x = x + y @ w[f"blocks.{n}.mlp.fc2.weight"].T + w[f"blocks.{n}.mlp.fc2.bias"]
    return 1 / (1 + np.exp(-(norm(x.mean(0), "fc_norm") @ w["head.weight"].T + w["head.bias"])))


def test_umt_is_its_arithmetic_written_out(state, tmp_path):
    network = loaded(state, tmp_path)
    assert network.labels == ("riding a bike", "marching") and network.num_frames == 4
    frames = noise(4, 28, 28)
    found = network.probabilities(frames).numpy()
    np.testing.assert_allclose(found, written_out(state, frames), rtol=1e-5, atol=1e-6)
    assert np.abs(network.probabilities(frames.flip(0)).numpy() - found).max() > 1e-4


def test_only_the_table_of_positions_may_be_missing_and_is_then_sines_stretched_over_the_frames(state, tmp_path):
    table = initial_positions(TINY)[0].reshape(4, 4, 12)  # frames, places, channels
    angle = [[math.sin(4 * t + p) for t in range(8)] for p in range(4)]  # channel 0 has the rate 1
    # 8 frames to 4, linear between the two in the middle of each pair
    expected = [[(angle[p][2 * t] + angle[p][2 * t + 1]) / 2 for p in range(4)] for t in range(4)]
    np.testing.assert_allclose(table[:, :, 0].numpy(), expected, atol=1e-6)
    without = {key: value for key, value in state.items() if key != "pos_embed"}
    frames = noise(4, 28, 28)
    full = {**state, "pos_embed": initial_positions(TINY)}
    torch.testing.assert_close(
        loaded(without, tmp_path).probabilities(frames), loaded(full, tmp_path).probabilities(frames), rtol=0, atol=0
    )


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_is_not_umt_is_refused_with_the_names_that_differ(state, tmp_path, damage):
    changed, told = damaged(state, damage, "blocks.1.attn.q_bias")
    with pytest.raises(UserError, match=told):
        loaded(changed, tmp_path)


def test_integers_are_resized_by_opencvs_rule():
    frames = np.zeros((1, 6, 6, 1), dtype=np.uint8)
    frames[0, :, :, 0] = np.arange(0, 180, 30)  # columns 0 30 ... 150
    # 6 to 4: places 0.25, 1.75, 3.25, 4.75; OpenCV 5.0 gives these numbers
    assert integer_resize(frames, (4, 4))[0, 0, :, 0].tolist() == [7, 52, 97, 142]
    # halved sides are means of four, half up
    corner = np.array([[0, 1], [1, 0]], dtype=np.uint8).reshape(1, 2, 2, 1)
    assert integer_resize(corner, (1, 1)).item() == 1
    assert integer_resize(frames, (6, 6)) is frames


@pytest.mark.parametrize("text", ["", "riding\t1\n", "riding 0\n", "a\t0\nb\t0\n"])
def test_labels_that_are_not_numbered_from_0_are_refused(tmp_path, text):
    (tmp_path / "labels.txt").write_text(text)
    with pytest.raises(UserError, match="list of actions"):
        read_labels(tmp_path / "labels.txt")
