"""Backbones of the user's own: an exported interpolator in the place of AMT, or a function that builds one."""

import sys

import pytest
import torch
from torch import nn

from vbench_eval import dimensions
from vbench_eval.backbones.amt import AmtInterpolator
from vbench_eval.backbones.registry import Unavailable, resolve
from vbench_eval.errors import UserError
from vbench_eval.profiles import get_profile
from vbench_eval.video_info import VideoError


class Blend(nn.Module):
    """Keeps AMT's contract as an exported network does."""

    def forward(self, first: torch.Tensor, second: torch.Tensor, embt: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"imgt_pred": first + embt[0, 0, 0, 0] * (second - first)}


class Built(nn.Module):
    """Keeps AMT's contract as its own code does."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, first, second, embt, scale_factor=None, eval=False):
        assert scale_factor == 1.0 and eval is True and embt.shape == (1, 1, 1, 1)
        return {"imgt_pred": self.weight * (first + second) * embt}


class Constant:
    """A flow estimator of somebody's own."""

    name, pad_multiple = "constant", 1

    def __init__(self, device) -> None:
        self.device = device

    def flow(self, a, b):
        return torch.ones(len(a), 2, *a.shape[2:])

    def provenance(self):
        return {"id": "constant", "device": self.device}


def nothing() -> int:
    return 3


def pair(count: int = 2, height: int = 32, width: int = 48) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.rand(count, 3, height, width, generator=generator) for _ in range(2))
    return first, second


def test_an_exported_network_interpolates_once_it_is_trusted(tmp_path):
    first, second = pair()
    half = torch.full((1, 1, 1, 1), 0.5)
    torch.jit.trace(Blend(), (first[:1], second[:1], half), strict=False).save(tmp_path / "amt.pt")
    torch.export.save(torch.export.export(Blend(), (first[:1], second[:1], half)), tmp_path / "amt.pt2")
    for name in ("amt.pt", "amt.pt2"):
        choice = f"path:{tmp_path / name}"
        with pytest.raises(UserError, match=r"program.*--allow-pickle"):
            resolve("motion_smoothness", choice, profile="vbench")
        found = resolve("motion_smoothness", choice, profile="vbench", allow_pickle=True)
        assert isinstance(found, AmtInterpolator) and found.pad_multiple == 16
        torch.testing.assert_close(found.midpoint(first, second), (first + second) / 2, rtol=0, atol=1e-6)
        assert found.provenance()["commercial_ok"] is False and len(found.provenance()["sha256"]) == 64


def test_an_exported_network_that_cannot_take_a_size_fails_that_video_alone(tmp_path):
    first, second = pair(1)
    torch.export.save(
        torch.export.export(Blend(), (first, second, torch.full((1, 1, 1, 1), 0.5))), tmp_path / "amt.pt2"
    )
    found = resolve("motion_smoothness", str(tmp_path / "amt.pt2"), profile="vbench", allow_pickle=True)
    with pytest.raises(VideoError, match="64x32 with padding"):
        found.midpoint(*pair(1, 32, 64))


def test_no_plug_in_or_a_bare_checkpoint_is_refused_with_the_licence_because_the_network_is_not_ours(tmp_path):
    told = r"CC-BY-NC-4.0.*not for commercial use.*--backbone motion_smoothness=path:FILE"
    with pytest.raises(Unavailable, match=told):
        resolve("motion_smoothness", profile="vbench")
    torch.save({"state_dict": {"weight": torch.zeros(1)}}, tmp_path / "amt-s.pth")
    with pytest.raises(UserError, match=r"no exported network.*CC-BY-NC-4\.0"):
        resolve("motion_smoothness", str(tmp_path / "amt-s.pth"), profile="vbench", allow_pickle=True)


def test_a_function_may_build_the_network_or_the_whole_backbone():
    first, second = pair()
    found = resolve("motion_smoothness", f"{__name__}:Built", profile="vbench")
    torch.testing.assert_close(found.midpoint(first, second), (first + second) / 2, rtol=0, atol=1e-6)
    assert found.provenance()["file"] == f"{__name__}:Built"
    constant = resolve("dynamic_degree", f"{__name__}:Constant", profile="vbench", device="cpu")
    assert isinstance(constant, Constant) and constant.device == "cpu"
    assert dimensions.build("dynamic_degree", get_profile("vbench"), constant)


@pytest.mark.parametrize("dimension", ["dynamic_degree", "motion_smoothness", "imaging_quality"])
def test_a_function_that_makes_something_else_is_refused_by_the_protocol_it_lacks(dimension):
    kind = dimensions.BACKBONE_KINDS[dimension]
    with pytest.raises(UserError, match=f"returned a int.*needs a {kind}"):
        resolve(dimension, f"{__name__}:nothing", profile="vbench")


class Wrong(Built):
    def forward(self, first, second, embt, scale_factor=None, eval=False):
        return {"flow": first}


def test_a_network_that_does_not_return_a_frame_is_refused():
    with pytest.raises(UserError, match="returned NoneType for frames"):
        resolve("motion_smoothness", f"{__name__}:Wrong", profile="vbench").midpoint(*pair())


@pytest.mark.parametrize("layout", ["", "vbench.third_party.amt."])
def test_a_checkout_builds_its_network_and_leaves_no_module_behind(tmp_path, layout):
    (tmp_path / "amt/networks/blocks").mkdir(parents=True)
    (tmp_path / "amt/networks/blocks/raft.py").write_text("HALF = 2.0\n")
    (tmp_path / "amt/networks/AMT-S.py").write_text(
        f"import torch\nfrom {layout}networks.blocks.raft import (\n    HALF\n)\n"
        "class Model(torch.nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.bias = torch.nn.Parameter(torch.zeros(1))\n"
        "    def forward(self, a, b, embt, scale_factor, eval):\n"
        "        return {'imgt_pred': (a + b) / HALF + self.bias}\n"
    )
    torch.save({"state_dict": {"bias": torch.tensor([0.25])}}, tmp_path / "amt-s.pth")
    choice = f"{tmp_path / 'amt'},weights={tmp_path / 'amt-s.pth'}"
    with pytest.raises(UserError, match="--allow-pickle"):
        resolve("motion_smoothness", choice, profile="vbench")
    network = resolve("motion_smoothness", choice, profile="vbench", allow_pickle=True)
    middle = network.midpoint(torch.zeros(1, 3, 16, 16), torch.ones(1, 3, 16, 16))
    assert float(middle.min()) == float(middle.max()) == 0.75
    assert network.provenance()["licence"] == "CC-BY-NC-4.0" and len(network.provenance()["sha256"]) == 64
    assert not [name for name in sys.modules if name.partition(".")[0] in ("networks", "vbench")]
    torch.save({"state_dict": {"weight": torch.zeros(1)}}, tmp_path / "amt-s.pth")
    with pytest.raises(UserError, match="missing: bias"):
        resolve("motion_smoothness", choice, profile="vbench", allow_pickle=True)
    with pytest.raises(UserError, match=r"holds no networks.AMT-S\.py"):
        resolve(
            "motion_smoothness", f"{tmp_path},weights={tmp_path / 'amt-s.pth'}", profile="vbench", allow_pickle=True
        )
