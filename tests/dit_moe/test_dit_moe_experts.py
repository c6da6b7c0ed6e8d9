"""The experts' dispatch against every expert on every token, what it asks of the host, and what recordings hold."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bridges.dit_moe import DiTMoE, experts
from bridges.dit_moe.experts import MixtureOfExperts, apply_experts, choose_method
from bridges.dit_moe.recording import Recording
from bridges.dit_moe.routing import choose_experts, plan_routing
from w2sd_video.errors import UserError
from w2sd_video.pair import Routing

EXPERTS, WIDTH, HIDDEN, ROWS, TOKENS = 8, 16, 32, 2, 12
# Three matrix products one after another round at most this often in each number; norms stay well below.
ROUNDINGS = WIDTH + HIDDEN + EXPERTS
GATES = ["even", "skewed", "empty"]


def mixture(gate: str = "even", dtype: torch.dtype = torch.float32) -> MixtureOfExperts:
    """A layer whose router spreads tokens "even"ly, mostly over a few experts, or never to two of them."""
    torch.manual_seed(3)
    moe = MixtureOfExperts(EXPERTS, WIDTH, HIDDEN, 2 * WIDTH)
    with torch.no_grad():
        moe.gate.weight.normal_(std=2.0 if gate == "skewed" else 0.3)
        if gate == "empty":
            moe.gate.weight[0], moe.gate.weight[5] = 40.0, -40.0  # with tokens above 0: always first, always last
    return moe.to(dtype)


def tokens(gate: str = "even", dtype: torch.dtype = torch.float32) -> Tensor:
    x = torch.randn(ROWS, TOKENS, WIDTH, generator=torch.Generator().manual_seed(4))
    return (x.abs() if gate == "empty" else x).to(dtype)


def plan(routing: Routing | list[Routing], num_tokens: int = TOKENS) -> Any:
    rows = routing if isinstance(routing, list) else [routing] * ROWS
    return plan_routing(rows, num_tokens, EXPERTS, "cpu")


def dense(moe: MixtureOfExperts, x: Tensor, routing: Routing) -> Tensor:
    """Every expert on every token, in float64, the ones not picked multiplied by 0; one token at a time."""
    gate, shared = moe.gate.weight.double(), moe.shared_experts
    assert shared is not None
    output = torch.zeros(x.shape, dtype=torch.float64)
    for place in torch.cartesian_prod(torch.arange(x.shape[0]), torch.arange(x.shape[1])).tolist():
        token = x[tuple(place)].double()
        scores = torch.softmax(gate @ token, 0)
        order = sorted(range(EXPERTS), key=lambda e: scores[e].item(), reverse=routing.rank == "top")[: routing.k]
        for e in range(EXPERTS):
            weight = scores[e] * (e in order)
            output[tuple(place)] += weight * _swiglu(token, moe.experts.w_in[e], moe.experts.w_out[e])
        output[tuple(place)] += _swiglu(token, shared.w_in, shared.w_out)
    return output


def _swiglu(x: Tensor, w_in: Tensor, w_out: Tensor) -> Tensor:
    gate, up = (w_in.double() @ x).chunk(2)
    return w_out.double() @ (gate * torch.sigmoid(gate) * up)


def apart(ours: Tensor, theirs: Tensor) -> float:
    return ((ours.double() - theirs).norm() / theirs.norm()).item()


@torch.no_grad()
@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("k", [1, 2, 3, 4])
@pytest.mark.parametrize("rank", ["top", "bottom"])
def test_every_method_equals_the_dense_reference(rank: str, k: int, gate: str) -> None:
    moe, x, routing = mixture(gate), tokens(gate), Routing(rank, k)
    expected = dense(moe, x, routing)
    for moe.method in ("auto", "grouped", "loop", "dense"):
        output, choice = moe(x, plan(routing))
        assert apart(output, expected) < ROUNDINGS * torch.finfo(torch.float32).eps
    loads = torch.bincount(choice.picks.flatten(), minlength=EXPERTS)
    if gate == "empty":
        assert loads.max() == ROWS * TOKENS and loads.min() == 0
    moe.method = "auto"
    output, _ = moe.double()(x.double(), plan(routing))
    assert apart(output, expected) < ROUNDINGS * torch.finfo(torch.float64).eps


@pytest.mark.parametrize("routing", [Routing(), Routing("bottom", 3), Routing("bottom", renormalize=True)])
def test_every_method_has_the_gradients_of_the_dense_one(routing: Routing) -> None:
    def gradients(method: str, dtype: torch.dtype) -> list[Tensor]:
        moe, x = mixture("skewed", dtype), tokens(dtype=dtype).requires_grad_()
        moe.method = method
        output, _ = moe(x, plan(routing))
        (output * torch.linspace(-1, 1, output.numel(), dtype=dtype).view_as(output)).sum().backward()
        gradients = [x.grad, *(parameter.grad for parameter in moe.parameters())]
        assert all(gradient is not None for gradient in gradients)
        return gradients  # type: ignore[return-value]

    exact = gradients("dense", torch.float64)
    for method, dtype in (("loop", torch.float64), ("grouped", torch.float32), ("loop", torch.float32)):
        for ours, theirs in zip(gradients(method, dtype), exact, strict=True):
            assert apart(ours, theirs) < 2 * ROUNDINGS * torch.finfo(dtype).eps  # there and back


def test_gradients_are_the_derivatives() -> None:
    """Against finite differences in float64, where the picks do not change within the difference."""
    moe, x = mixture(dtype=torch.float64), tokens(dtype=torch.float64)[:1, :3].requires_grad_()
    mixed = plan_routing([Routing("bottom", 2, True)], 3, EXPERTS, "cpu")
    assert torch.autograd.gradcheck(lambda x, *_: moe(x, mixed)[0], (x, *moe.parameters()), fast_mode=True)


@torch.no_grad()
@pytest.mark.parametrize("method", ["grouped", "loop", "dense"])
def test_rows_may_differ_in_rank_number_names_and_renormalization(method: str) -> None:
    moe, x = mixture("skewed"), tokens()
    moe.method = method
    rows = [Routing(k=3), Routing("bottom", 1, True)]
    for pair in (rows, rows[::-1], [Routing(experts=(7, 2)), Routing("bottom")], [Routing(), Routing(experts=(3,))]):
        both, choice = moe(x, plan(pair))
        for row, routing in enumerate(pair):
            one, alone = moe(x[row : row + 1], plan([routing]))
            assert apart(both[row : row + 1], one.double()) < ROUNDINGS * torch.finfo(torch.float32).eps
            assert torch.equal(
                choice.picks[row, :, : routing.k].sort(-1).values, alone.picks[0, :, : routing.k].sort(-1).values
            )
            assert (choice.weights[row, :, routing.k :] == 0).all()


@torch.no_grad()
def test_named_experts_keep_their_scores_as_weights() -> None:
    logits = torch.randn(1, 5, EXPERTS, generator=torch.Generator().manual_seed(0)) * 4
    choice = choose_experts(logits, plan_routing([Routing(experts=(6, 1))], 5, EXPERTS, "cpu"))
    assert all(sorted(picks) == [1, 6] for picks in choice.picks[0].tolist())
    torch.testing.assert_close(choice.weights, torch.softmax(logits, -1).gather(-1, choice.picks))


@torch.no_grad()
def test_renormalized_weights_sum_to_one_even_where_every_score_vanishes() -> None:
    logits = torch.zeros(1, 3, EXPERTS)
    logits[..., 0] = 500.0  # in float32 all other scores are 0: dividing by their sum gives nothing
    lowest = plan_routing([Routing("bottom", 2, True)], 3, EXPERTS, "cpu")
    torch.testing.assert_close(choose_experts(logits, lowest).weights, torch.full((1, 3, 2), 0.5))
    raw = choose_experts(logits, plan_routing([Routing("bottom", 2)], 3, EXPERTS, "cpu"))
    assert raw.weights.abs().max() == 0


@torch.no_grad()
def test_scores_are_float32_whatever_the_network_is() -> None:
    logits = torch.randn(1, 3, EXPERTS).to(torch.bfloat16)
    choice = choose_experts(logits, plan([Routing()], 3))
    assert choice.probabilities.dtype == torch.float32
    assert torch.equal(choice.probabilities, torch.softmax(logits.float(), -1))


@torch.no_grad()
def test_products_made_in_parts_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    moe, x = mixture("skewed"), tokens()
    whole, _ = moe(x, plan(Routing()))
    products: list[int] = []
    product = torch.nn.functional.grouped_mm

    def counting(*args: Any, **kwargs: Any) -> Tensor:
        products.append(len(args[0]))
        return product(*args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "grouped_mm", counting)
    assert ROWS * TOKENS * 2 == 48  # rows: as many to a part as fit, all parts alike.
    for at_once, expected in ((48, [48]), (47, [24] * 2), (12, [12] * 4), (10, [8] * 6), (1, [1] * 48)):
        monkeypatch.setattr(experts, "LARGEST_CPU_BLOCK", at_once * 2 * HIDDEN * 4)
        products.clear()
        parts, _ = moe(x, plan(Routing()))
        assert products[::2] == products[1::2] == expected
        assert apart(parts, whole.double()) < ROUNDINGS * torch.finfo(torch.float32).eps


@torch.no_grad()
@pytest.mark.parametrize(("width", "hidden"), [(6, 16), (16, 6), (15, 9)])
def test_sizes_the_grouped_products_do_not_take_are_looped_over(width: int, hidden: int) -> None:
    torch.manual_seed(0)
    w_in, w_out = torch.randn(EXPERTS, 2 * hidden, width), torch.randn(EXPERTS, width, hidden)
    x, some = torch.randn(10, width), plan([Routing()], 10)
    assert choose_method(x, w_in, w_out) == "loop"
    fits = torch.zeros(1, 16), torch.zeros(8, 32, 16), torch.zeros(8, 16, 16)
    assert choose_method(*fits) == "grouped"
    with pytest.MonkeyPatch.context() as older_torch:
        older_torch.delattr(torch.nn.functional, "grouped_mm")
        assert choose_method(*fits) == "loop"
    choice = choose_experts(torch.randn(1, 10, EXPERTS), some)
    ours, theirs = (
        apply_experts(x, choice.picks, choice.weights, w_in, w_out, plan=some, method=method)
        for method in ("auto", "dense")
    )
    assert apart(ours, theirs.double()) < (width + hidden) * torch.finfo(torch.float32).eps


# -- what it asks of the host -----------------------------------------------------------------------------------------


class Operations(TorchDispatchMode):
    """Counts every operation, and those whose result or shape the host has to wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[func.overloadpacket._qualified_op_name.removeprefix("aten::")] += 1
        return func(*args, **(kwargs or {}))

    def reads(self) -> int:
        waiting = ("_local_scalar_dense", "item", "is_nonzero", "nonzero", "bincount", "masked_select", "_unique2")
        return sum(self.counts[name] for name in waiting)

    def total(self) -> int:
        return sum(self.counts.values())


def counted(run: Callable[[], Any]) -> Operations:
    with Operations() as operations:
        run()
    return operations


def plain_loop(moe: MixtureOfExperts, x: Tensor, k: int = 2) -> Tensor:
    """The mixture as one writes it first: for each expert, find its tokens, run them, add them back."""
    shared, hidden = moe.shared_experts, moe.experts.w_out.shape[-1]
    assert shared is not None
    flat = x.reshape(-1, x.shape[-1])
    weights, picks = torch.topk(torch.softmax(moe.gate(flat), -1), k)
    output = torch.zeros_like(flat)
    for expert in range(moe.gate.out_features):
        token, slot = torch.where(picks == expert)
        if not len(token):
            continue
        w_in, w_out = moe.experts.w_in[expert], moe.experts.w_out[expert]
        rows = flat[token]
        rows = F.linear(F.silu(F.linear(rows, w_in[:hidden])) * F.linear(rows, w_in[hidden:]), w_out)
        output.index_add_(0, token, rows * weights[token, slot, None])
    gate, up = F.linear(flat, shared.w_in).chunk(2, -1)
    return (output + F.linear(F.silu(gate) * up, shared.w_out)).view(x.shape)


@torch.no_grad()
def test_a_layer_reads_nothing_back_and_takes_at_most_three_tenths_of_the_loops_operations() -> None:
    moe, x, top = mixture(), tokens(), plan(Routing())
    assert apart(moe(x, top)[0], plain_loop(moe, x).double()) < ROUNDINGS * torch.finfo(torch.float32).eps
    loop, ours = counted(lambda: plain_loop(moe, x)), counted(lambda: moe(x, top))
    assert loop.reads() >= EXPERTS  # the instrument sees what the loop asks
    assert ours.reads() == 0
    assert ours.total() <= 0.30 * loop.total()


def network(layers: int = 2, dtype: torch.dtype = torch.float32) -> DiTMoE:
    torch.manual_seed(5)
    built = DiTMoE(sample_size=4, num_layers=layers, hidden_size=16, num_attention_heads=2, num_classes=5)
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return built.to(dtype)


@torch.no_grad()
@pytest.mark.parametrize("rows", [Routing(), [Routing(), Routing("bottom", renormalize=True)]], ids=["one", "mixed"])
def test_a_whole_pass_reads_nothing_back(rows: Routing | list[Routing]) -> None:
    call = (torch.randn(2, 4, 4, 4), torch.tensor([5, 7]), torch.tensor([1, 2]))
    assert counted(lambda: network()(*call, rows)).reads() == 0
    # A tensor without data has no number to read: any read at all would raise here.
    absent = network(dtype=torch.bfloat16).to("meta")
    latents, timestep, labels = (tensor.to("meta") for tensor in call)
    assert absent(latents.to(torch.bfloat16), timestep, labels, rows).sample.shape == (2, 8, 4, 4)
    absent.set_expert_method("loop")
    with pytest.raises((RuntimeError, NotImplementedError)):
        absent(latents.to(torch.bfloat16), timestep, labels, rows)


@torch.no_grad()
def test_a_pass_can_be_captured_whole() -> None:
    """No graph break in a compiled call, and the same numbers (dense, or grouped in bfloat16)."""
    whole, call = network(), (torch.randn(2, 4, 4, 4), torch.tensor([5, 7]), torch.tensor([1, 2]))
    compiled = torch.compile(whole, fullgraph=True, backend="eager")
    for routing in (Routing(), Routing("bottom")):
        assert apart(compiled(*call, routing).sample, whole(*call, routing).sample.double()) < 1e-5


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(UserError, match="'fast'; choose one of auto, grouped, loop, dense"):
        network().set_expert_method("fast")


# -- recordings -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_recording_counts_every_token_of_every_layer_and_row() -> None:
    built, call = network(), (torch.randn(2, 4, 4, 4), 5, torch.tensor([1, 2]))
    with built.recording(probabilities=False) as record:
        built(*call)
        built(*call, [Routing(experts=(1, 2, 3)), Routing("bottom", 1)])
    first, second = (each.loads() for each in record.calls)
    assert first.shape == second.shape == (2, 2, EXPERTS)
    assert (first.sum(-1) == 4 * 2).all()
    assert second[:, 0].tolist() == [[0, 4, 4, 4, 0, 0, 0, 0]] * 2
    assert (second[:, 1].sum(-1) == 4).all()
    assert torch.equal(record.loads(), torch.stack([first.sum(1), second.sum(1)]))
    built(*call)
    assert len(record.calls) == 2  # nothing is kept outside
    assert record.calls[0].probabilities == []
    with pytest.raises(UserError, match="probabilities=True"):
        record.balance_loss()


@torch.no_grad()
def test_an_inner_recording_takes_over_and_gives_back_also_after_an_error() -> None:
    built, call = network(), (torch.randn(1, 4, 4, 4), 5, torch.tensor([1]))
    with built.recording() as outer:
        built(*call)
        with pytest.raises(RuntimeError, match="stop"), built.recording() as inner:
            built(*call)
            raise RuntimeError("stop")
        built(*call)
    assert (len(outer.calls), len(inner.calls)) == (2, 1)


def test_the_balance_loss_is_1_per_layer_where_all_is_even_and_more_where_not() -> None:
    built, call = network(), (torch.randn(2, 4, 4, 4), 5, torch.tensor([1, 2]))
    for block in built.blocks:
        torch.nn.init.zeros_(block.moe.gate.weight)
    with built.recording() as record:
        built(*call)
    assert record.balance_loss(1.0).item() == pytest.approx(2.0, rel=1e-5)
    assert record.balance_loss().item() == pytest.approx(0.02, rel=1e-5)
    for block in built.blocks:
        torch.nn.init.normal_(block.moe.gate.weight, std=5.0)
    with built.recording() as record:
        built(*call)
    by_hand = 0.0
    for picks, probabilities in zip(record.calls[0].picks, record.calls[0].probabilities, strict=True):
        shares = torch.stack([(picks == expert).float().mean() for expert in range(EXPERTS)])
        by_hand += EXPERTS * (shares * probabilities.mean((0, 1))).sum().item()
    assert record.balance_loss(1.0).item() == pytest.approx(by_hand, rel=1e-5)
    assert by_hand > 2.0


def test_following_the_balance_loss_spreads_the_tokens() -> None:
    torch.manual_seed(0)
    moe, x = mixture("skewed"), 0.5 + torch.randn(4, 64, WIDTH)  # tokens alike, so that they like the same experts
    top = plan([Routing()] * 4, 64)
    optimizer = torch.optim.Adam(moe.gate.parameters(), lr=0.05)
    fullest = []
    for _ in range(40):
        record = Recording(probabilities=True)
        record.begin(top)
        record.note(moe(x, top)[1], top)
        fullest.append(record.loads().max().item())
        optimizer.zero_grad()
        record.balance_loss(1.0).backward()
        optimizer.step()
    even = 4 * 64 * 2 / EXPERTS
    assert fullest[0] > 1.5 * even
    assert fullest[-1] < 1.25 * even


# -- the benchmark ----------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_every_integer_of_a_whole_pass_is_on_the_benchmarks_target() -> None:
    benchmark = importlib.import_module("benchmarks.moe")
    rows = list(benchmark.count([], []))
    assert [row.id for row in rows] == ["operators", "reads", "operators", "reads"]
    assert all(row.passed for row in rows)
    assert rows[0].target == 0.30
    assert rows[1].target == rows[3].target == 0


def test_the_benchmark_refuses_a_device_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(SystemExit, match="2"):
        importlib.import_module("benchmarks.moe").main(["--device", "cuda"])
    assert "no CUDA device" in capsys.readouterr().err
