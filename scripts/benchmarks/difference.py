"""The weak side as a difference at true size, on blocks of SDXL: python scripts/benchmark_difference.py [--quick]

Random blocks of SDXL's own widths (a transformer block of 1280 channels with its cross attention and feed-forward, and
a residual block of 1280) get a known difference of full rank, 5 percent of the weights, whose singular values fall as
1 / k, so slowly that low ranks are hard, or as 1 / k^1.5. Printed by rank: what `w2sd diff` writes (megabytes, and
seconds of its decompositions), the error of the difference in the weights, and of that in what the blocks predict.
Then the bundled video pair, whose weak network is another checkpoint: the same of the whole network, and what becomes
of a fused reflection: of the move of the final latents that the weak network makes (from plain sampling by the strong
one), the part made by its difference, along that move and across it. Of the strong network rounded to few bits
likewise.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
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


def bundled(count: int, steps: int) -> None:
    """The second table, on `count` videos."""
    import tempfile

    import torch
    from experiments.demo.videos import load, prompts_and_seeds

    from w2sd_video.demo import WEIGHTS, world
    from w2sd_video.hosting import reflected
    from w2sd_video.loading.differences import find_difference, write_difference
    from w2sd_video.loading.loras import load_loras
    from w2sd_video.loading.pair_description import describe_pair
    from w2sd_video.pair import ModelSpec

    sides, pair = load(WEIGHTS), describe_pair(str(WEIGHTS), str(WEIGHTS / "weak"))
    pipe = sides["strong"]
    pipe.set_progress_bar_config(disable=True)
    assert pair.weak is not None
    prompts, seeds = prompts_and_seeds(count, 300_000)

    def made(weak: Any) -> tuple[Any, Any]:
        """The final latents, and the network's first prediction on the weak side, by its gap."""
        moves: list[Any] = []
        lam = 0 if weak is None else steps // 2
        with reflected(
            pipe, weak, num_reflections=lam, mode="fused", on_reflect=lambda i, x, tilde: moves.append(tilde - x)
        ):
            latents = pipe(
                prompts,
                num_frames=world.NUM_FRAMES,
                height=world.SIZE,
                width=world.SIZE,
                num_inference_steps=steps,
                guidance_scale=1.0,
                generator=[torch.Generator().manual_seed(seed) for seed in seeds],
                output_type="latent",
            ).frames
        return latents.double(), moves[0].double() if moves else None

    plain, _ = made(None)
    weak, gap = made(sides["weak"].unet)
    move = weak - plain
    print("\n| weak side | MB, of | error in the weights | error of the gap | move along | move across |")
    print("|---|---|---|---|---|---|")

    def row(name: str, bytes_of: str, error: str, side: Any) -> None:
        latents, own = made(side)
        along = float(((latents - plain) * move).sum() / move.square().sum())
        across = float((latents - plain - along * move).norm() / move.norm())
        apart = float((own - gap).norm() / gap.norm())
        print(f"| {name} | {bytes_of} | {error} | {apart:.3f} | {along:.3f} | {across:.3f} |", flush=True)

    for rank in (2, 8, 32):
        tensors, found = find_difference(pair.strong, pair.weak, rank=rank)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "difference.safetensors"
            write_difference(file, tensors, found, {"rank": rank})
            load_loras(pipe, {f"rank-{rank}": file})
        megabytes = f"{found.num_bytes / 1e6:.2f}, {found.network_bytes / 1e6:.2f}"
        row(f"difference, rank {rank}", megabytes, f"{found.error:.3f}", ModelSpec(loras=((f"rank-{rank}", 1.0),)))
    for precision in ("int8", "int4", "nf4", "int2"):
        row(f"strong at {precision}", "-", "-", ModelSpec(precision=precision))


def sized(ranks: list[int], width: int, heads: int) -> None:
    """The first table, on blocks of this width."""
    import copy

    import torch

    from w2sd_video.loading.differences import factors

    print("| block | singular values | rank | MB, of | seconds | error in the weights | error of the prediction |")
    print("|---|---|---|---|---|---|---|")
    for fall in (1.0, 1.5):
        for name, (strong, call) in blocks(width, heads).items():
            generator = torch.Generator().manual_seed(1)
            weights = [n for n, p in strong.named_parameters() if p.dim() > 1]
            deltas = {n: difference(strong.get_parameter(n), fall, generator) for n in weights}
            weak, near = copy.deepcopy(strong), copy.deepcopy(strong)
            for n in weights:
                weak.get_parameter(n).add_(deltas[n])
            own, other = call(strong), call(weak)
            whole = sum(float(delta.square().sum()) for delta in deltas.values())
            for rank in ranks:
                start, lost, numbers, found = time.perf_counter(), 0.0, 0, {}
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


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", default="4,16,64,256", help="of the first table, comma-separated")
    parser.add_argument("--only", choices=("size", "bundled"), help="one of the two tables")
    parser.add_argument("--quick", action="store_true", help="a tenth of the width, and 2 videos, to try the program")
    options = parser.parse_args(words)
    import torch

    with torch.no_grad():
        if options.only != "bundled":
            sized([int(rank) for rank in options.ranks.split(",")], *((128, 2) if options.quick else (WIDTH, HEADS)))
        if options.only != "size":
            bundled(*((2, 4) if options.quick else (8, 10)))
    return 0
