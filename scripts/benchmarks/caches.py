"""Measure step caches and compiled blocks under a reflection: python scripts/benchmark_caches.py [--quick] [--compile]

The bundled Flux makes pictures with a gap of guidance (1 over 0), T 28, lambda 10, paper mode, with diffusers' step
caches at several settings. Printed: the share of linear layers that were run, CPU seconds a picture, the share that
the oracle reads as the caption says, and how far the pictures are from those without a cache (norm of the difference of
the latents, over that between W2SD and plain sampling). Plain sampling with the same caches stands beside. With
--compile the same of networks whose blocks are compiled, after one call that compiles them, without a cache and with
one, and how many graphs are compiled by the first call and after it; needs a C++ compiler.
"""

import argparse
import time
from collections.abc import Sequence
from typing import Any


def rows() -> dict[str, Any]:
    from diffusers import FirstBlockCacheConfig, TaylorSeerCacheConfig

    first = {f"first block, {value:g}": FirstBlockCacheConfig(threshold=value) for value in (0.0, 0.1, 0.2, 0.4)}
    taylor = {
        f"TaylorSeer, every {interval}": TaylorSeerCacheConfig(cache_interval=interval, disable_cache_before_step=2)
        for interval in (2, 3)
    }
    return {"none": None, **first, **taylor}


class Layers:
    """How many linear layers of a network are run; the first share asked for is that of a network without a cache."""

    def __init__(self, network: Any) -> None:
        from torch import nn

        self._count = self._forwards = 0
        self._all = 0.0
        self._hooks = [network.register_forward_pre_hook(self._forward)]
        for module in network.modules():
            if isinstance(module, nn.Linear):
                self._hooks.append(module.register_forward_pre_hook(self._run))

    def close(self) -> None:
        """Counts no more: hooks are no part of what is compiled."""
        for hook in self._hooks:
            hook.remove()

    def _forward(self, *_: Any) -> None:
        self._forwards += 1

    def _run(self, *_: Any) -> None:
        self._count += 1

    def share(self) -> str:
        """Of the layers of all forwards since it was asked last; "-" where nothing is counted."""
        if not self._forwards:
            return "-"
        found = self._count / self._forwards
        self._all = self._all or found
        self._count = self._forwards = 0
        return f"{found / self._all:.2f}"


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=24, help="pictures of each row (default 24)")
    parser.add_argument("--quick", action="store_true", help="2 pictures in 6 steps, to try the program")
    parser.add_argument("--compile", action="store_true", help="compile the blocks, and count what is compiled")
    options = parser.parse_args(words)
    import torch

    from w2sd_video.demo import PICTURE_CAPTIONS, PICTURE_TOKENS, PICTURE_WEIGHTS, oracle, parse_picture_caption
    from w2sd_video.hosting import reflected
    from w2sd_video.loading.pipelines import load_pipeline
    from w2sd_video.loading.placement import compile_networks
    from w2sd_video.pair import ModelSpec

    count, steps, lam = (2, 6, 2) if options.quick else (options.count, 28, 10)
    pipe = load_pipeline(str(PICTURE_WEIGHTS / "strong"), role="strong", dtype=torch.float32, quiet=True)
    pipe.set_progress_bar_config(disable=True)
    layers = Layers(pipe.transformer)
    captions = [PICTURE_CAPTIONS[i % len(PICTURE_CAPTIONS)] for i in range(count)]
    wanted = torch.tensor([parse_picture_caption(caption) for caption in captions])

    def made(weak: ModelSpec | None) -> tuple[Any, list[str]]:
        latents, start = [], time.process_time()
        for first in range(0, count, 24):
            part = slice(first, first + 24)
            with reflected(pipe, weak, num_reflections=0 if weak is None else lam):
                latents.append(
                    pipe(
                        captions[part],
                        height=32,
                        width=32,
                        num_inference_steps=steps,
                        guidance_scale=1.0,
                        max_sequence_length=PICTURE_TOKENS,
                        generator=[torch.Generator().manual_seed(500_000 + i) for i in range(count)[part]],
                        output_type="latent",
                    ).images
                )
        seconds = (time.process_time() - start) / count
        found = torch.cat(latents)
        pixels = pipe._unpack_latents(found, 32, 32, pipe.vae_scale_factor)
        pixels = pixels / pipe.vae.config.scaling_factor + (pipe.vae.config.shift_factor or 0.0)
        pictures = (pipe.vae.decode(pixels, return_dict=False)[0] / 2 + 0.5).clamp(0, 1)
        right = (oracle.read(pictures[:, None])[:, :2] == wanted).all(dim=1).double().mean()
        return found, [layers.share(), f"{seconds:.3f}", f"{right:.3f}"]

    print("| cache | sampling | layers run | seconds | right | distance to uncached, over W2SD to plain |")
    print("|---|---|---|---|---|---|")
    known: dict[str, Any] = {}

    def row(name: str, config: Any, *, warm: bool = False) -> None:
        if config is not None:
            pipe.transformer.enable_cache(config)
        for label, weak in (("plain", None), ("W2SD", ModelSpec(guidance=0.0))):
            if warm:
                made(weak)
            latents, cells = made(weak)
            own = known.setdefault(label, latents)
            moved = None if len(known) < 2 else (known["W2SD"] - known["plain"]).norm()
            distance = "" if moved is None else f"{(latents - own).norm() / moved:.2g}"
            print(f"| {name} | {label} | {' | '.join(cells)} | {distance} |", flush=True)
        if config is not None:
            pipe.transformer.disable_cache()

    with torch.no_grad():
        for name, config in rows().items():
            row(name, config)
        if options.compile:
            layers.close()
            compile_networks([pipe.transformer])
            start = time.perf_counter()
            made(ModelSpec(guidance=0.0))
            spent, before = time.perf_counter() - start, graphs()
            row("none, compiled", None)
            after = graphs()
            row("first block, 0.1, compiled", rows()["first block, 0.1"], warm=True)
            print(
                f"\ngraphs compiled by the first call, of W2SD: {before}, in {spent:.0f} seconds; by plain sampling "
                f"and W2SD after it: {after - before}; with the cache: {graphs() - after}"
            )
    return 0


def graphs() -> int:
    """How many graphs torch has compiled in this process."""
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])
