"""The same network at few bits as the weak side: how weights are rounded, what is computed, and that nothing stays."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.support import tiny
from w2sd_video import ModelSpec, reflected
from w2sd_video.errors import UserError
from w2sd_video.gaps.precision import BITS, GROUP, NF4, find_precision, rounded
from w2sd_video.loading.placement import kept_in_fp8
from w2sd_video.loading.sharing import share_equal_tensors, unique_bytes

FAMILIES: dict[str, tuple[Any, dict[str, Any]]] = {
    "sdxl": (tiny.sdxl, tiny.IMAGE_CALL),
    "wan": (tiny.wan, tiny.WAN_CALL),
}
LAYERS = nn.Linear | nn.modules.conv._ConvNd


def call(pipe: Any, arguments: dict[str, Any]) -> Tensor:
    settings = {"num_inference_steps": 3, "output_type": "latent", "generator": tiny.generator()}
    return torch.as_tensor(pipe("a red cat", **{**arguments, **settings})[0])


def network_of(pipe: Any) -> Any:
    return pipe.unet if hasattr(pipe, "unet") else pipe.transformer


@pytest.mark.parametrize("precision", BITS)
def test_weights_are_rounded_to_the_nearest_value_of_their_format(precision: str) -> None:
    weight = torch.randn(5, 3, 3, 11, generator=tiny.generator(3))
    weight[0, 0] = 0.0
    found = rounded(weight, precision)
    bits, rows = BITS[precision], weight.flatten(1)
    size = rows.shape[1] if bits == 8 else GROUP
    assert found.codes.dtype == torch.uint8 and found.codes.shape[1] * 8 == size * bits
    ours = found.weight(weight).flatten(1)
    top = 2 ** (bits - 1) - 1
    values = torch.tensor(NF4) if precision == "nf4" else torch.arange(-top, top + 1) / top
    for row, made in zip(rows, ours, strict=True):
        for part, own in zip(row.split(size), made.split(size), strict=True):
            distances = (part[:, None] - values * part.abs().max()).abs()
            assert torch.allclose((part - own).abs(), distances.min(dim=1).values, atol=1e-6)
    again = rounded(found.weight(weight), precision).weight(weight)
    assert torch.allclose(again, found.weight(weight), atol=1e-6)
    assert torch.equal(rounded(torch.zeros(2, 4), precision).weight(weight), torch.zeros(2, 4))


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_the_gap_is_that_to_a_network_with_rounded_weights(family: str) -> None:
    build, arguments = FAMILIES[family]
    pipe = build()
    network, plain = network_of(pipe), call(pipe, arguments)
    before = dict(network.named_parameters())
    weak = copy.deepcopy(network)
    for module in weak.modules():
        if isinstance(module, LAYERS):
            module.weight.copy_(rounded(module.weight, "int4").weight(module.weight))
    with reflected(pipe, weak, num_reflections=2) as two:
        wanted = call(pipe, arguments)
    with reflected(pipe, ModelSpec(precision="int4"), num_reflections=2) as one:
        made = call(pipe, arguments)
    assert torch.equal(made, wanted) and not torch.equal(made, plain)
    assert (one.num_evaluations, one.num_rows) == (two.num_evaluations, two.num_rows)
    assert {name: id(p) for name, p in network.named_parameters()} == {name: id(p) for name, p in before.items()}
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in network.modules())
    assert torch.equal(call(pipe, arguments), plain)


@torch.no_grad()
def test_precisions_stand_in_each_others_place_and_end_with_an_error() -> None:
    network = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Conv1d(4, 4, 3))
    x, own = torch.randn(4, 8, generator=tiny.generator()), network[0].weight
    results = {name: rounded(own, name).weight(x) @ x.T for name in ("fp8", "int8", "int2")}
    results["full"] = own @ x.T

    def now() -> str:
        assert network[0]._parameters["weight"] is own
        return next(name for name, result in results.items() if torch.allclose(network[0](x), result.T, atol=1e-6))

    with find_precision(network).set_to("int2"):
        assert now() == "int2"
        with find_precision(network).set_to("full"):  # another switch of the same network
            assert now() == "full"
            with find_precision(network).set_to("int8"):
                assert now() == "int8"
        assert now() == "int2"
        with pytest.raises(RuntimeError), find_precision(network).set_to("fp8"):
            assert now() == "fp8"
            network[0](torch.zeros(1, 3))
        assert now() == "int2"
    assert now() == "full" and not network[0]._forward_pre_hooks


def test_what_cannot_be_rounded_is_refused() -> None:
    with pytest.raises(UserError, match="precision is 'int3'; choose one of full, int8"):
        ModelSpec(precision="int3")
    pipe = tiny.sdxl()
    with (
        pytest.raises(UserError, match="differs in nothing"),
        reflected(pipe, ModelSpec(precision="full"), num_reflections=1),
    ):
        call(pipe, tiny.IMAGE_CALL)
    with torch.device("meta"):
        switch = find_precision(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(UserError, match="not in memory"):
        switch.check("int4")
    with pytest.raises(UserError, match="no linear and no convolution layer"):
        find_precision(nn.Identity())


@torch.no_grad()
def test_networks_kept_in_fp8_are_sides_of_half_the_bytes() -> None:
    """The predictions are those of the rounded weights; what both sides share is kept once, and 4 bits are a gap."""
    pipe, plain = tiny.sdxl(), tiny.sdxl()
    weak = tiny.sdxl_unet(2)
    share_equal_tensors(pipe.unet, weak)
    before = unique_bytes(pipe.unet, weak)
    kept_in_fp8([pipe.unet, weak, pipe.unet])
    assert 0.25 <= unique_bytes(pipe.unet, weak) / before < 0.35  # a byte for four, norms as they are
    for module in plain.unet.modules():
        if isinstance(module, LAYERS):
            module.weight.copy_(rounded(module.weight, "fp8").weight(module.weight))
    near, own = call(pipe, tiny.IMAGE_CALL), call(plain, tiny.IMAGE_CALL)
    assert (near - own).abs().max() < 0.05 * own.abs().max()
    for other in (weak, ModelSpec(precision="int4")):
        with reflected(pipe, other, num_reflections=2) as run:
            call(pipe, tiny.IMAGE_CALL)
        assert min(run.gaps) > 0
    assert torch.equal(call(pipe, tiny.IMAGE_CALL), near)
