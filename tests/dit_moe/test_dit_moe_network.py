"""The DiT-MoE network against the published forward written in plain loops, its counts, and its routing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from accelerate import cpu_offload
from torch import Tensor

from bridges.dit_moe import DiTMoE, count_parameters, named
from bridges.dit_moe.checkpoints import network_of
from tests.support import dit_moe_reference as reference
from w2sd_video.errors import UserError
from w2sd_video.pair import Routing

TIMESTEPS, LABELS = [999.0, 0.25, 17.0], [3, 0, 5]
ROUTINGS = {
    "top-2": (Routing(), reference.top(2)),
    "bottom-2": (Routing("bottom"), reference.bottom(2)),
    "top-1": (Routing(k=1), reference.top(1)),
    "bottom-3, renormalized": (Routing("bottom", 3, True), reference.renormalized(reference.bottom(3))),
    "experts 1, 4, 6": (Routing(experts=(1, 4, 6)), reference.fixed(1, 4, 6)),
}


def small(*, flash: bool = False, dtype: torch.dtype = torch.float64, seed: int = 0) -> DiTMoE:
    state = reference.published_state(seed, flash=flash, dtype=dtype)
    return network_of(state, "a test's weights", num_attention_heads=reference.SMALL["heads"])


def inputs(dtype: torch.dtype = torch.float64, rows: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    latents = torch.randn(rows, 4, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return latents.to(dtype), torch.tensor(TIMESTEPS[:rows]), torch.tensor(LABELS[:rows])


def apart(ours: Tensor, theirs: Tensor) -> float:
    """The norm of the difference over that of `theirs`."""
    return ((ours.double() - theirs).norm() / theirs.norm()).item()


@pytest.mark.parametrize("flash", [False, True], ids=["joint qkv", "normed heads"])
@pytest.mark.parametrize("name", ROUTINGS)
@torch.no_grad()
def test_the_network_is_the_published_one(name: str, flash: bool) -> None:
    """In float64 (sorted loop) to 1e-12, some 5000 roundings; in float32 (grouped products) to 100 roundings."""
    routing, pick = ROUTINGS[name]
    x, timesteps, labels = inputs()
    expected = reference.forward(reference.published_state(flash=flash), x, TIMESTEPS, LABELS, pick)
    assert expected.std() > 0.1
    assert apart(small(flash=flash)(x, timesteps, labels, routing).sample, expected) < 1e-12
    single = small(flash=flash, dtype=torch.float32)(x.float(), timesteps, labels, routing).sample
    assert apart(single, expected) < 100 * torch.finfo(torch.float32).eps


@torch.no_grad()
def test_routings_differ_and_none_means_the_highest_scores() -> None:
    network, call = small(), inputs()
    outputs = [network(*call, routing).sample for routing, _ in ROUTINGS.values()]
    for i, one in enumerate(outputs):
        assert all(apart(one, other) > 1e-3 for other in outputs[:i])
    assert torch.equal(network(*call).sample, outputs[0])


@torch.no_grad()
def test_each_row_of_a_batch_may_have_a_routing_of_its_own() -> None:
    """Rows with other experts, numbers of experts and renormalization, against one call per row; 1e-12 as above."""
    network = small()
    x, timesteps, labels = inputs()
    for names in (["top-2", "bottom-2", "top-2"], ["bottom-3, renormalized", "top-1", "experts 1, 4, 6"]):
        routings = [ROUTINGS[name][0] for name in names]
        mixed = network(x, timesteps, labels, routings).sample
        for row, routing in enumerate(routings):
            one = slice(row, row + 1)
            assert apart(mixed[one], network(x[one], timesteps[one], labels[one], routing).sample) < 1e-12
        # In float32 the grouped products see rows of several lengths.
        single = small(dtype=torch.float32)(x.float(), timesteps, labels, routings).sample
        assert apart(single, mixed) < 100 * torch.finfo(torch.float32).eps


@torch.no_grad()
def test_the_attribute_routes_calls_that_name_no_routing() -> None:
    network, call = small(), inputs()
    network.routing = Routing("bottom")
    assert torch.equal(network(*call).sample, network(*call, Routing("bottom")).sample)
    assert apart(network(*call, Routing()).sample, network(*call).sample) > 1e-3
    network.routing = [Routing("bottom"), Routing(), Routing()]
    assert apart(network(*call).sample[1:], network(*call, Routing()).sample[1:]) < 1e-12


@torch.no_grad()
def test_one_timestep_serves_all_rows() -> None:
    network, (x, _, labels) = small(), inputs()
    many = network(x, torch.full((3,), 7), labels).sample
    for one in (7, 7.0, torch.tensor(7), torch.tensor([7.0])):
        assert torch.equal(network(x, one, labels, return_dict=False)[0], many)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"routing": Routing(k=9)}, "takes 9 experts per token and this network has 8"),
        ({"routing": Routing(experts=(2, 8))}, "names expert 8.*0 to 7"),
        ({"routing": [Routing()] * 2}, "2 routings were given for a batch of 3"),
        ({"hidden_states": torch.zeros(3, 4, 16, 16)}, r"\(3, 4, 16, 16\).*\[batch, 4, 8, 8\]"),
        ({"class_labels": torch.tensor([1, 2])}, "one label for each of 3 rows"),
    ],
)
def test_what_does_not_fit_the_network_is_refused(change: dict, said: str) -> None:
    x, timesteps, labels = inputs()
    with pytest.raises(UserError, match=said):
        small()(**({"hidden_states": x, "timestep": timesteps, "class_labels": labels} | change))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_attention_heads": 5}, "multiple"),
        ({"sample_size": 31}, "multiple"),
        ({"num_experts_per_tok": 9}, "allowed: 1 to 8"),
        ({"num_experts_per_tok": 0}, "allowed: 1 to 8"),
    ],
)
def test_sizes_that_do_not_go_together_are_refused(change: dict, said: str) -> None:
    with pytest.raises(UserError, match=said), torch.device("meta"):
        DiTMoE(**(named("S/2") | change))


# Totals without the fixed position embedding, by hand: per block (16 + 12 E) D^2 + (10 + E) D (and 4 D / heads of head
# norms), and for the ends 16 D + D, 256 D + D + D^2 + D, 1001 D, 2 D^2 + 2 D and 32 D + 32.
TOTALS = {("S/2", 8): 199_209_248, ("S/2", 16): 369_115_424, ("B/2", 8): 795_664_928, ("XL/2", 8): 4_167_877_280}


@pytest.mark.parametrize(("name", "experts"), TOTALS)
def test_parameters_are_as_many_as_the_architecture_says(name: str, experts: int) -> None:
    with torch.device("meta"):
        network = DiTMoE(**named(name, num_experts=experts))
    counts = count_parameters(network.config)
    assert counts.total == sum(parameter.numel() for parameter in network.parameters()) == TOTALS[name, experts]
    routed = sum(parameter.numel() for key, parameter in network.named_parameters() if ".experts." in key)
    assert counts.active == counts.total - routed + routed * 2 // experts


def test_s2_has_the_71_million_active_parameters_of_the_paper() -> None:
    with torch.device("meta"):
        network = DiTMoE(**named("S/2"))
    assert 71e6 < count_parameters(network.config).active < 72e6


def test_an_unknown_configuration_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match="'M/2'; choose one of S/2, B/2, L/2, XL/2, G/2"):
        named("M/2")


@torch.no_grad()
@pytest.mark.parametrize("flash", [False, True])
def test_a_saved_network_comes_back_the_same(tmp_path: Path, flash: bool) -> None:
    network, call = small(flash=flash, dtype=torch.float32), inputs(torch.float32)
    network.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "diffusion_pytorch_model.safetensors"}
    again = DiTMoE.from_pretrained(tmp_path)
    assert again.config.qk_norm == flash
    assert again.state_dict().keys() == network.state_dict().keys()
    assert torch.equal(again(*call).sample, network(*call).sample)
    assert (
        DiTMoE.from_pretrained(tmp_path, torch_dtype=torch.bfloat16).blocks[0].moe.experts.w_in.dtype == torch.bfloat16
    )


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_agrees_to_its_rounding(dtype: torch.dtype) -> None:
    """Where a token's second and third expert score alike, rounding may swap them: all experts are asked for."""
    x, timesteps, labels = inputs()
    exact = small()(x, timesteps, labels, Routing(k=8)).sample
    rough = small(dtype=dtype)(x.to(dtype), timesteps, labels, Routing(k=8)).sample
    assert rough.dtype == dtype
    assert apart(rough, exact) < 10 * torch.finfo(dtype).eps


def test_autocast_runs_and_trains() -> None:
    network, (x, timesteps, labels) = small(dtype=torch.float32), inputs(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        rough = network(x, timesteps, labels, Routing(k=8)).sample
    rough.float().square().mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())
    exact = network(x, timesteps, labels, Routing(k=8)).sample
    assert apart(rough, exact.double()) < 10 * torch.finfo(torch.bfloat16).eps


@torch.no_grad()
def test_weights_may_be_away_until_their_module_is_called() -> None:
    """Sequential offloading brings each module's own weights for its call only; every weight is used in such a call."""
    network, call = small(dtype=torch.float32), inputs(torch.float32)
    expected = network(*call).sample
    cpu_offload(network, execution_device=torch.device("cpu"))
    assert {parameter.device.type for parameter in network.parameters()} == {"meta"}
    assert torch.equal(network(*call).sample, expected)


@torch.no_grad()
def test_a_new_network_predicts_zero_and_its_position_embedding_tells_rows_from_columns() -> None:
    network = DiTMoE(sample_size=8, num_layers=1, hidden_size=16, num_attention_heads=2, num_classes=5)
    assert network(*inputs(torch.float32)).sample.abs().max() == 0
    table = network.pos_embed.view(4, 4, 16)
    assert torch.equal(table[0, :, :8], table[3, :, :8])  # the first half says the column
    assert torch.equal(table[:, 0, 8:], table[:, 3, 8:])  # the second the row
    torch.testing.assert_close(table[0, 1, 2], torch.tensor(0.01).sin())  # column 1, frequency 10000^(-2/4)
    assert len({tuple(row.tolist()) for row in table.view(16, 16)}) == 16


def test_training_reaches_every_weight() -> None:
    torch.manual_seed(0)
    network = small(dtype=torch.float32).train()
    with network.recording() as record:
        loss = network(*inputs(torch.float32), Routing(k=8)).sample.square().mean() + record.balance_loss()
    loss.backward()
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in network.parameters())
