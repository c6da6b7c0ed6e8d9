"""Measure switching LoRA scales: python scripts/benchmark_lora.py [--quick] [--only switching|compiling]

A UNet with SDXL's topology at a fraction of its width (the cost depends on the number of modules, which is SDXL's)
has a LoRA on every linear layer of its transformers. Going over to the weak side's scale and back is timed against the
usual way, disable_lora, enable_lora and set_adapters, in turn in one process. Then the graphs that torch.compile makes
are counted over both sides and past the last reflection. About 20 seconds of one core. Exit code 1 if a target is
missed.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from torch._dynamo.testing import CompileCounter

from benchmarks.measuring import Row, at_most, bench_parser, claim, equal, report
from w2sd_video.gaps.switches import SwitchBoard
from w2sd_video.pair import ModelSpec

TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out"]
STRONG, WEAK = 0.8, -1.5
MOST = 1 / 500  # of the usual way's time


def network(width: int) -> Any:
    """SDXL's UNet, its 320, 640 and 1280 channels being 1, 2 and 4 times `width`, with a random LoRA "style"."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=32,
        block_out_channels=(width, 2 * width, 4 * width),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(1, 2, 4),
        norm_num_groups=8,
        cross_attention_dim=64,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 16,
    ).eval()
    unet.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=TARGETS, init_lora_weights=False), "style")
    unet.set_adapters(["style"], [STRONG])
    return unet.requires_grad_(False)


def sides() -> list[dict[str, Any]]:
    """The settings of the strong side, which is as the network is, and of the weak one."""
    return [{}, {"loras": ModelSpec(loras=(("style", WEAK),)).loras}]


def held(unet: Any) -> SwitchBoard:
    board, settings = SwitchBoard(), sides()
    board.hold([unet], [(unet, each) for each in settings])
    return board


def seconds(function: Callable[[], Any], repeats: int) -> float:
    """CPU time of one of `repeats` calls."""
    start = time.process_time()
    for _ in range(repeats):
        function()
    return (time.process_time() - start) / repeats


def time_switching(unet: Any, rounds: int) -> Iterator[Row]:
    """Over to the weak side and back, in rounds of the usual way, ours (1000 times) and the usual way again."""
    layers = sum(isinstance(module, BaseTunerLayer) for module in unet.modules())
    yield Row("layers", "LoRA layers", layers)
    yield Row("layers", "modules", sum(1 for _ in unet.modules()))
    weak = sides()[1]

    def usual() -> None:
        for scale in (WEAK, STRONG):
            unet.disable_lora()
            unet.enable_lora()
            unet.set_adapters(["style"], [scale])

    def ours() -> None:
        with board.in_force(unet, weak):
            pass

    usual()
    ratios, strays, times = [], [], []
    for _ in range(rounds):
        before = seconds(usual, 1)
        board = held(unet)
        ours()
        own = seconds(ours, 1000)
        board.close()
        after = seconds(usual, 1)
        ratios.append(2 * own / (before + after))
        strays.append(abs(after / before - 1))
        times.append((own, (before + after) / 2))
    own, other = (sorted(each)[len(times) // 2] for each in zip(*times, strict=True))
    ratio, spread = sorted(ratios)[len(ratios) // 2], max(strays)
    yield Row("time", "disable_lora, enable_lora, set_adapters: to the weak side and back, microseconds", other * 1e6)
    yield Row("time", "ours: to the weak side and back, microseconds", own * 1e6)
    yield at_most("time", "ours / the usual way", ratio, MOST, ratio * spread)
    yield Row("time", "times cheaper", 1 / ratio)
    making = seconds(lambda: held(unet).close(), 3)
    yield Row("time", "getting ready for a call and letting go (once a call), microseconds", making * 1e6)


@torch.no_grad()
def count_graphs(unet: Any, steps: int, reflections: int) -> Iterator[Row]:
    """Graphs that torch.compile makes of a transformer block, in the evaluations of a call."""
    call = {
        "sample": torch.randn(2, 4, 8, 8),
        "timestep": 500,
        "encoder_hidden_states": torch.randn(2, 7, unet.config.cross_attention_dim),
        "added_cond_kwargs": {"text_embeds": torch.randn(2, 16), "time_ids": torch.zeros(2, 6)},
    }
    strong, weak = sides()
    order = [side for i in range(steps) for side in ((strong, weak, strong) if i < reflections else (strong,))]
    block = unet.mid_block.attentions[0].transformer_blocks[0]

    def graphs(switched: Callable[[Any], None]) -> int:
        torch._dynamo.reset()
        counter = CompileCounter()
        block.compile(backend=counter)
        for side in order:
            switched(side)
        return counter.frame_count

    board = held(unet)

    def ours(side: Any) -> None:
        with board.in_force(unet, side):
            unet(**call)

    def usual(side: Any) -> None:
        unet.set_adapters(["style"], [WEAK if side else STRONG])
        unet(**call)

    made = graphs(ours)
    board.close()
    what = f"{steps} steps, {reflections} reflected"
    yield equal("graphs", f"recompilations of a compiled block over {len(order)} evaluations, {what}", made - 1, 0)
    yield Row("graphs", "recompilations with set_adapters", graphs(usual) - 1)
    torch._dynamo.reset()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = bench_parser(
        __doc__,
        output="outputs/benchmark_lora.json",
        parts=("switching", "compiling"),
        quick="a narrower network and fewer rounds",
    )
    options = parser.parse_args(arguments)
    claim(parser, options.output)
    torch.set_num_threads(1)
    unet = network(16 if options.quick else 32)
    rows: list[Row] = []
    if options.only != "compiling":
        rows += time_switching(unet, 3 if options.quick else 7)
    if options.only != "switching":
        rows += count_graphs(unet, 4, 2)
    return report(rows, options.output, {"quick": options.quick})
