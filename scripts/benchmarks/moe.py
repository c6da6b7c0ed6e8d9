"""Measure DiT-MoE's dispatch: python scripts/benchmark_moe.py [--quick] [--only counts|times] [--device cuda]

A mixture-of-experts layer of S/2 and of B/2, at 512 tokens (one picture with guidance) and 2048 (four), with an even
router and a skewed one (its logits times 8), against a plain loop over the experts and against the dense form (every
expert on every token). First integers: operators, per layer and per whole pass, and numbers read back by the host. Then
CPU times taken in turn on one thread. About 4 minutes of one core, --quick a quarter of one. With --device cuda a whole
pass in bfloat16 at batch 2 is timed instead, as it is and captured in a CUDA graph. Exit code 1 if a count is off, or a
ratio above its target by more than its own A/A spread.
"""

import statistics
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.measuring import Row, at_most, bench_parser, claim, equal, paired_ratio, report
from bridges.dit_moe import DiTMoE, named
from bridges.dit_moe.experts import MixtureOfExperts, swiglu
from bridges.dit_moe.routing import plan_routing
from w2sd_video.pair import Routing

TOKENS = 256  # of one row: 32 x 32 latents in patches of 2
EXPERTS, TOP = 8, 2
SKEW = {"even": 1.0, "skewed": 8.0}
MOST_OPERATORS, MOST_TIME, MOST_GPU_TIME = 0.30, 1.15, 0.25  # of the plain loop's


class Operations(TorchDispatchMode):
    """Counts operators, and those that the host has to wait for: numbers read back, shapes that depend on values."""

    WAITING = ("_local_scalar_dense", "is_nonzero", "nonzero", "bincount", "masked_select", "_unique2")

    def __init__(self) -> None:
        super().__init__()
        self.total = self.reads = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.total += 1
        self.reads += func.overloadpacket._qualified_op_name.removeprefix("aten::") in self.WAITING
        return func(*args, **(kwargs or {}))


def plain_loop(moe: MixtureOfExperts, x: Tensor, plan: Any = None) -> tuple[Tensor, None]:
    """The mixture as one writes it first: for each expert, find its tokens, run them, add them back."""
    shared, hidden = moe.shared_experts, moe.experts.w_out.shape[-1]
    assert shared is not None
    flat = x.reshape(-1, x.shape[-1])
    weights, picks = torch.topk(torch.softmax(moe.gate(flat), -1, dtype=torch.float32).to(x.dtype), TOP)
    output = torch.zeros_like(flat)
    for expert in range(EXPERTS):
        token, slot = torch.where(picks == expert)
        if not len(token):
            continue
        w_in, w_out = moe.experts.w_in[expert], moe.experts.w_out[expert]
        rows = flat[token]
        rows = F.linear(F.silu(F.linear(rows, w_in[:hidden])) * F.linear(rows, w_in[hidden:]), w_out)
        output.index_add_(0, token, rows * weights[token, slot, None])
    return (output + F.linear(swiglu(F.linear(flat, shared.w_in)), shared.w_out)).view(x.shape), None


@contextmanager
def looped(network: DiTMoE) -> Iterator[None]:
    """The network with the plain loop in every layer."""
    mixtures = [block.moe for block in network.blocks]
    for moe in mixtures:
        moe.forward = types.MethodType(plain_loop, moe)
    try:
        yield
    finally:
        for moe in mixtures:
            del moe.forward


def layer(name: str, skew: float) -> MixtureOfExperts:
    """A random layer of configuration `name`."""
    torch.manual_seed(0)
    width = named(name)["hidden_size"]
    moe = MixtureOfExperts(EXPERTS, width, 4 * width, 2 * width).eval()
    moe.gate.weight.data.normal_(std=skew / width**0.5)
    return moe


def network(name: str, **changes: Any) -> DiTMoE:
    """A random network of configuration `name`, no weight of it zero."""
    torch.manual_seed(0)
    built = DiTMoE(**named(name, **changes)).eval()
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter, std=0.1)  # enough for every expert to get tokens
    return built


def cases(names: Sequence[str], batches: Sequence[int]) -> Iterator[tuple[str, MixtureOfExperts, Tensor, Any]]:
    for name in names:
        for gate, skew in SKEW.items():
            moe = layer(name, skew)
            for rows in batches:
                x = torch.randn(rows, TOKENS, named(name)["hidden_size"])
                plan = plan_routing([Routing(k=TOP)] * rows, TOKENS, EXPERTS, "cpu")
                yield f"{name}, {rows * TOKENS} tokens, {gate} router", moe, x, plan


def counted(function: Callable[[], Any]) -> Operations:
    with Operations() as operations:
        function()
    return operations


def count(names: Sequence[str], batches: Sequence[int]) -> Iterator[Row]:
    """Operators and host reads of a layer and of a whole pass, and how far each form is from the dense one."""
    for what, moe, x, plan in cases(names, batches):
        ours, loop = counted(lambda: moe(x, plan)), counted(lambda: plain_loop(moe, x))  # noqa: B023 run here
        yield at_most(
            "operators", f"layer / plain loop's {loop.total}, {what}", ours.total / loop.total, MOST_OPERATORS
        )
        yield equal("reads", f"host reads of a layer (plain loop {loop.reads}), {what}", ours.reads, 0)
        output = moe(x, plan)[0]
        moe.method = "dense"
        exact = moe(x, plan)[0]
        moe.method = "auto"
        for title, other in (("layer", output), ("plain loop", plain_loop(moe, x)[0])):
            yield at_most("error", f"{title} from the dense form, {what}", relative(other, exact), 1e-5)
    # Counts do not depend on the width, so a narrow network tells them.
    narrow = network("S/2", hidden_size=32, num_attention_heads=2)
    call = (torch.randn(2, 4, 32, 32), 500, torch.tensor([207, 1000]))
    mixed = [Routing(k=TOP), Routing("bottom", TOP)]
    ours = counted(lambda: narrow(*call))
    with looped(narrow):
        loop = counted(lambda: narrow(*call))
    ratio = ours.total / loop.total
    yield at_most("operators", f"whole pass of S/2, batch 2 / plain loop's {loop.total}", ratio, MOST_OPERATORS)
    yield equal("reads", f"host reads of the pass (plain loop {loop.reads})", ours.reads, 0)
    both = counted(lambda: narrow(*call, mixed))
    ratio = both.total / loop.total
    yield Row("operators", "the same with one row strong and one weak / the loop, both rows strong", ratio)
    yield equal("reads", "host reads of that pass", both.reads, 0)


def relative(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).norm() / theirs.norm()).item()


def time_layers(names: Sequence[str], batches: Sequence[int], rounds: int) -> Iterator[Row]:
    for what, moe, x, plan in cases(names, batches):
        print(f"measuring: {what}", file=sys.stderr, flush=True)

        def by(method: str, moe: MixtureOfExperts = moe, x: Tensor = x, plan: Any = plan) -> Callable[[], None]:
            def run() -> None:
                moe.method = method
                moe(x, plan)

            return run

        ratio, spread = paired_ratio(by("auto"), lambda: plain_loop(moe, x), rounds)  # noqa: B023 run here
        yield at_most("time", f"layer / plain loop, {what}", ratio, MOST_TIME, spread)
        ratio, spread = paired_ratio(by("auto"), by("loop"), rounds)
        yield Row("time", f"layer / loop over sorted tokens, {what}", ratio, spread=spread)
        ratio, spread = paired_ratio(by("auto"), by("dense"), max(1, rounds // 2))
        yield Row("time", f"layer / dense form, {what}", ratio, spread=spread)


def time_gpu(names: Sequence[str], rounds: int) -> Iterator[Row]:
    """Whole passes in bfloat16 at batch 2: ours over the plain loop, launched one by one and as one graph."""
    for name in names:
        print(f"measuring: a pass of {name} on the GPU", file=sys.stderr, flush=True)
        net = network(name).to("cuda", torch.bfloat16)
        latents = torch.randn(2, 4, 32, 32, device="cuda", dtype=torch.bfloat16)
        call = (latents, torch.tensor([500.0, 500.0], device="cuda"), torch.tensor([207, 1000], device="cuda"))
        with looped(net):
            loop = milliseconds(lambda: net(*call), rounds)  # noqa: B023 run here
        eager = milliseconds(lambda: net(*call), rounds)  # noqa: B023
        yield Row("gpu", f"plain loop, milliseconds of a pass of {name}, batch 2", loop)
        yield at_most("gpu", f"a pass of {name} / plain loop's", eager / loop, MOST_GPU_TIME)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            net(*call)
        yield Row("gpu", f"the same in a CUDA graph / plain loop's, {name}", milliseconds(graph.replay, rounds) / loop)


def milliseconds(function: Callable[[], Any], rounds: int) -> float:
    """The median time on the device of one call, after warming up."""
    for _ in range(3):
        function()
    times = []
    for _ in range(rounds):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        function()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


@torch.no_grad()
def main(arguments: Sequence[str] | None = None) -> int:
    parser = bench_parser(
        __doc__,
        output="outputs/benchmark_moe.json",
        parts=("counts", "times"),
        quick="S/2 at 512 tokens alone and fewer rounds: a quarter of a minute",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="what the times are taken on")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no CUDA device here; leave the flag out to measure on the CPU")
    claim(parser, options.output)
    torch.set_num_threads(1)
    names = ("S/2",) if options.quick else ("S/2", "B/2")
    batches, rounds = ((2,), 2) if options.quick else ((2, 8), 7)
    rows: list[Row] = []
    if options.only != "times":
        rows += count(names, batches)
    if options.only != "counts":
        rows += time_gpu(names, 10 * rounds) if options.device == "cuda" else time_layers(names, batches, rounds)
    return report(rows, options.output, {"quick": options.quick, "device": options.device})
