"""The weak side as a difference at true size, on blocks of SDXL: python scripts/benchmark_difference.py [--quick]

Random blocks of SDXL's own widths (a transformer block of 1280 channels with its cross attention and feed-forward, and
a residual block of 1280) get a known difference of full rank, 5 percent of the weights, whose singular values fall as
1 / k, so slowly that low ranks are hard, or as 1 / k^1.5. Printed by rank: what `w2sd diff` writes (megabytes, and
seconds of its decompositions), the error of the difference in the weights, and of that in what the blocks predict.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

WIDTH, CROSS, TIME, HEADS, SIZE = 1280, 2048, 1280, 20, 0.05


def blocks(width: int, heads: int) -> dict[str, tuple[Any, Callable[[Any], Any]]]:
    """By name: a block of SDXL's innermost resolution, and a call of it with random features of unit size."""
    import torch
    from diffusers.models.attention import BasicTransformerBlock
    from diffusers.models.resnet import ResnetBlock2D

    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Any:
        return torch.randn(*shape, generator=generator)

    x, text, z, temb = noise(1, 256, width), noise(1, 77, CROSS), noise(1, width, 16, 16), noise(1, TIME)
    attention = BasicTransformerBlock(width, heads, width // heads, cross_attention_dim=CROSS)
    residual = ResnetBlock2D(in_channels=width, out_channels=width, temb_channels=TIME)
    return {
        "transformer block": (attention, lambda block: block(x, encoder_hidden_states=text) - x),
        "residual block": (residual, lambda block: block(z, temb) - z),
    }


def difference(weight: Any, fall: float, generator: Any) -> Any:
    """A random difference like a weight, `SIZE` of its norm, with singular values k^-fall."""
    import torch

    flat = weight.flatten(1)
    count = min(flat.shape)
    left, right = (torch.linalg.qr(torch.randn(n, count, generator=generator)).Q for n in flat.shape)
    made = left / torch.arange(1, count + 1) ** fall @ right.T
    return (made * (SIZE * weight.norm() / made.norm())).view_as(weight)


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", default="4,16,64,256", help="comma-separated (default 4,16,64,256)")
    parser.add_argument("--quick", action="store_true", help="blocks of a tenth of the width, to try the program")
    options = parser.parse_args(words)
    import copy

    import torch

    from w2sd_video.loading.differences import factors

    ranks = [int(rank) for rank in options.ranks.split(",")]
    print("| block | singular values | rank | MB, of | seconds | error in the weights | error of the prediction |")
    print("|---|---|---|---|---|---|---|")
    with torch.no_grad():
        for fall in (1.0, 1.5):
            for name, (strong, call) in blocks(*((128, 2) if options.quick else (WIDTH, HEADS))).items():
                generator = torch.Generator().manual_seed(1)
                weights = [n for n, p in strong.named_parameters() if p.dim() > 1]
                deltas = {n: difference(strong.get_parameter(n), fall, generator) for n in weights}
                weak, near = copy.deepcopy(strong), copy.deepcopy(strong)
                for n in weights:
                    weak.get_parameter(n).add_(deltas[n])
                own, other = call(strong), call(weak)
                whole = sum(float(delta.square().sum()) for delta in deltas.values())
                for rank in ranks:
                    start, lost, numbers = time.perf_counter(), 0.0, 0
                    found = {}
                    for n in weights:
                        flat = deltas[n].flatten(1)
                        found[n] = factors(flat, rank=rank, energy=None, generator=torch.Generator().manual_seed(2))
                    seconds = time.perf_counter() - start
                    for n, (down, up) in found.items():
                        carried = (up.half().float() @ down.half().float()).view_as(deltas[n])
                        lost += float((deltas[n] - carried).square().sum())
                        numbers += down.numel() + up.numel()
                        near.get_parameter(n).copy_(strong.get_parameter(n) + carried)
                    error = float((call(near) - other).norm() / (other - own).norm())
                    megabytes = f"{2 * numbers / 1e6:.1f}, {2 * sum(d.numel() for d in deltas.values()) / 1e6:.1f}"
                    print(
                        f"| {name} | 1 / k^{fall:g} | {rank} | {megabytes} | {seconds:.1f} | "
                        f"{(lost / whole) ** 0.5:.3f} | {error:.3f} |",
                        flush=True,
                    )
    return 0
