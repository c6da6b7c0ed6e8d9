"""Models of two latent spaces meet in pixels: the same reflections as core and the bridge make."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bridges.pixel.step import Bridge, gap_in_pairs, reflect_in_pairs
from tests.comfyui.test_nodes import CFG, WEAK_CFG, Bench, assert_sampled
from w2sd_video.core import CachedGap, Level, NoisePath, ReflectionConfig, sample
from w2sd_video.core.sampling import CustomReflection
from w2sd_video.errors import UserError


class Vae:
    """A VAE by its contract: latents [N, 4, h, w] and pictures [N, 2h, 2w, 3]; linear, and lossy both ways."""

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.out, self.back = torch.randn(4, 3, generator=generator) * 0.1, torch.randn(3, 4, generator=generator)

    def decode(self, latents: Tensor) -> Tensor:
        pixels = torch.einsum("nchw,cd->nhwd", latents, self.out.to(latents)) + 0.5
        return pixels.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)

    def encode(self, pixels: Tensor) -> Tensor:
        small = nn.functional.avg_pool2d(pixels.movedim(-1, 1), 2) - 0.5
        return torch.einsum("nchw,cd->ndhw", small, self.back.to(small))

    def spacial_compression_decode(self) -> int:
        return 2

    spacial_compression_encode = spacial_compression_decode


class Grid:
    """A VAE as the bridge's step has it."""

    def __init__(self, vae: Vae, model: Any) -> None:
        self.vae, self.model, self.layout = vae, model, self

    def grid(self, latents: Tensor) -> Tensor:
        return latents

    latents = grid

    def encode(self, pixels: Tensor) -> Tensor:
        return self.model.process_latent_in(self.vae.encode(pixels.movedim(1, -1)))

    def decode(self, grid: Tensor) -> Tensor:
        return self.vae.decode(self.model.process_latent_out(grid)).movedim(-1, 1)

    def encode_pair(self, one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        return self.encode(one), self.encode(other)

    def decode_pair(self, one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        return self.decode(one), self.decode(other)


@pytest.fixture(scope="module")
def bench(host: Any) -> Bench:
    return Bench(host, "eps")


def guider(bench: Bench, **given: Any) -> Any:
    defaults = {"strong": bench.strong, "weak": bench.weak, "strong_vae": Vae(0), "weak_vae": Vae(1)}
    defaults |= {"positive": bench.positive, "negative": bench.negative, "weak_positive": bench.other}
    defaults |= {"weak_negative": bench.negative, "cfg": CFG, "weak_cfg": WEAK_CFG, "reflect_cfg": -1.0, "draws": 3}
    return bench.host.nodes.W2SDBridgeGuiderNode.execute(**{**defaults, **given}).result[0]


def draws(seed: int, count: int) -> Any:
    """Noise as ComfyUI's side draws it: every second pair is the one before, turned round."""
    generator = torch.Generator().manual_seed(seed)

    class Draws:
        scale = None

        def begin(self, ours: Tensor, theirs: Tensor) -> list[tuple[Tensor, Tensor]]:
            pairs: list[tuple[Tensor, Tensor]] = []
            for k in range(count):
                if k % 2:
                    pairs.append((-pairs[-1][0], -pairs[-1][1]))
                else:
                    pairs.append(tuple(torch.randn(x.shape, generator=generator) for x in (ours, theirs)))  # type: ignore[arg-type]
            return pairs

    Draws.count = count  # type: ignore[attr-defined]
    return Draws()


@torch.no_grad()
@pytest.mark.parametrize("gap_every", [None, 1, 2])
def test_the_reflections_are_those_of_the_bridge(bench: Bench, gap_every: int | None) -> None:
    strong, weak = bench.native(bench.strong, CFG), bench.native(bench.weak, WEAK_CFG, positive=2)
    bridge = Bridge(Grid(Vae(0), bench.strong.model), Grid(Vae(1), bench.weak.model), draws(0, 3))

    class Weak:
        def nearest(self, kappa: float) -> Level:
            alpha = (1 + kappa**2) ** -0.5
            return Level(kappa, alpha, kappa * alpha)

        def clean(self, grid: Tensor, level: Level) -> Tensor:
            return NoisePath().clean(grid, weak(grid, level), level)

    def reflect(x: Tensor, start: Level, end: Level) -> Tensor:
        crossed = reflect_in_pairs(x, start, end, strong, Weak(), bench.path, bridge=bridge, strength=0.8)
        assert crossed is not None
        return crossed.latent

    def measured(x: Tensor, level: Level) -> tuple[Tensor, Tensor]:
        prediction = strong(x, level)
        gap = gap_in_pairs(x, level, strong, Weak(), bench.path, bridge=bridge, prediction=prediction)
        assert gap is not None
        return prediction, gap.latent * bench.path.native_gap(level)

    levels, config = bench.levels(), ReflectionConfig(3, "fused", 0.8, gap_every=gap_every)
    cached = CachedGap(levels, strong, measured, bench.path, config)
    reflection = CustomReflection(levels, reflect, config) if gap_every is None else cached
    sampling = strong if gap_every is None else cached.strong
    expected = sample(bench.noise, levels, sampling, bench.path, reflect=reflection)
    settings = {"mode": "fused", "strength": 0.8, **({} if gap_every is None else {"gap_every": gap_every})}
    out = bench.run(guider(bench), bench.sampler(3, **settings))
    assert_sampled(bench, out, expected)
    assert torch.equal(bench.run(guider(bench), bench.sampler(3, **settings)), out), "the same seed"
    assert torch.equal(bench.run(guider(bench), bench.sampler(0)), bench.run(guider(bench), bench.euler()))


def test_models_of_different_kinds_and_latents_meet(host: Any, bench: Bench) -> None:
    other = Bench(host, "flow")
    if len(other.noise.shape) != 4:
        with pytest.raises(UserError, match="for pictures"):
            other.run(guider(other), other.sampler(1, mode="fused"))
        return
    out = bench.run(guider(bench, weak=other.weak), bench.sampler(2, mode="fused"))
    assert out.isfinite().all() and not torch.equal(out, bench.run(guider(bench), bench.euler()))


def test_what_cannot_meet_is_refused(bench: Bench) -> None:
    with pytest.raises(UserError, match="set mode"):
        bench.run(guider(bench), bench.sampler(1))
    wide = Vae(1)
    wide.spacial_compression_encode = lambda: 5  # type: ignore[method-assign]
    with pytest.raises(UserError, match="steps of 5 pixels"):
        bench.run(guider(bench, weak_vae=wide), bench.sampler(1, mode="fused"))
