"""Pipeline calls reflected with another pipeline through pixels, on small real pipelines of every kind."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKLOutput, DecoderOutput
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor

from bridges.pixel import side as pixel_side
from bridges.pixel.bridged import bridged
from bridges.pixel.noise_maps import Mapped
from bridges.pixel.side import BridgeWarning
from tests.support import tiny
from tests.support.bridging import CALLS, STEPS, UNGUIDED, call, mapped, pipeline, rounding
from w2sd_video import ModelSpec, reflected
from w2sd_video.latents.codecs import Codec

# -- what a run is and counts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["flux", "animatediff_sdxl"])
def test_no_reflections_are_the_stock_pipeline(kind):
    """Bit for bit for Flux; DDIM's stock coefficients and guidance are rounded otherwise."""
    pipe = pipeline(kind)
    stock = call(pipe, kind)
    with bridged(pipe, (pipeline("sdxl", 2), UNGUIDED), num_reflections=0) as run:
        hosted = call(pipe, kind)
    assert run.num_evaluations == STEPS and run.num_encodes == run.num_decodes == 0
    if kind == "flux":
        assert torch.equal(hosted, stock)
        picture = call(pipe, kind, output_type="pt")
        with reflected(pipe, num_reflections=0):
            assert torch.equal(call(pipe, kind, output_type="pt"), picture)
    assert (hosted - stock).abs().max() <= rounding(stock, STEPS, 3.0)


PAIRS = {
    "flux over sdxl": ("flux", "sdxl", {"noise_map": mapped()}),
    "sdxl over sd15": ("sdxl", "sd15", {"noise_map": mapped()}),
    "sdxl over flux": ("sdxl", "flux", {"noise_map": mapped()}),
    "flux over flux": ("flux", "flux", {"force": True}),
    "video over sdxl": ("animatediff_sdxl", "sdxl", {}),
}


@pytest.mark.parametrize("pair", list(PAIRS))
def test_any_pair_of_pipelines_runs_and_is_counted(pair, monkeypatch):
    strong_kind, weak_kind, settings = PAIRS[pair]
    strong, weak, lam = pipeline(strong_kind), pipeline(weak_kind, 2), 3
    pictures = CALLS[strong_kind].get("num_frames", 1)
    calls: list[tuple[str, int]] = []
    for side, pipe in (("ours", strong), ("theirs", weak)):
        for way in ("encode", "decode"):
            monkeypatch.setattr(pipe.vae, way, counted(getattr(pipe.vae, way), f"{side} {way}", calls))
    plain = call(strong, strong_kind)
    with bridged(strong, (weak, UNGUIDED), num_reflections=lam, **settings) as run:
        got = call(strong, strong_kind)
        again = call(strong, strong_kind)
    assert torch.isfinite(got).all() and got.shape == plain.shape
    assert (got - plain).abs().max() > 1e-3
    assert torch.equal(got, again)
    made = run.num_reflections
    assert (made, run.num_skipped) == ((2, 1) if pair == "flux over sdxl" else (3, 0))
    assert run.num_evaluations == STEPS + 2 * made and len(run.gaps) == made and min(run.gaps) > 0
    assert (run.num_encodes, run.num_decodes) == (3 * made, 3 * made)
    one = [("ours decode", pictures), ("theirs encode", pictures)]
    one += [("theirs decode", 2 * pictures), ("ours encode", 2 * pictures)]  # the pairs in one batch
    assert calls == 2 * made * one


def counted(function: Callable, name: str, calls: list[tuple[str, int]]) -> Callable:
    @functools.wraps(function)
    def counting(given: Tensor, *args: Any, **kwargs: Any) -> Any:
        calls.append((name, given.shape[0]))
        return function(given, *args, **kwargs)

    return counting


def test_a_pair_of_one_space_is_reflected_directly_unless_forced():
    strong, weak = pipeline("flux"), pipeline("flux", 2)
    with reflected(strong, weak, num_reflections=3, mode="fused"):
        direct = call(strong, "flux")
    with bridged(strong, weak, num_reflections=3) as run:
        got = call(strong, "flux")
    assert torch.equal(got, direct)
    assert "no bridge is needed" in run.notes[0] and run.num_encodes == 0
    with bridged(strong, weak, num_reflections=3, force=True) as run:
        forced = call(strong, "flux")
    assert run.notes == [] and run.num_encodes == 9
    assert not torch.equal(forced, direct)
    with bridged(strong, weak, num_reflections=3, weak_inputs={"height": 32, "width": 32}, noise_map="fixed") as run:
        call(strong, "flux")
    assert run.num_encodes == 9  # other sizes need the bridge too


def test_skipped_reflections_are_counted_said_and_move_the_bar():
    strong, weak, steps, told = pipeline("flux"), pipeline("sdxl", 2), 12, []
    with (
        pytest.warns(BridgeWarning, match="2 of 3 reflections are skipped"),  # at the start, and once
        bridged(strong, weak, num_reflections=3, noise_map=mapped(), progress=lambda *done: told.append(done)) as run,
    ):
        call(strong, "flux", num_inference_steps=steps)
    beyond = [s for s in strong.scheduler.sigmas.tolist()[:3] if s / max(1 - s, 1e-9) > 14.7]
    assert run.num_skipped == len(beyond) == 2
    assert run.num_reflections == 1 and run.num_evaluations == steps + 2
    assert len(run.notes) == 1 and "14.6" in run.notes[0]
    assert told[-1] == (steps + 6, steps + 6)


# -- what must hold ---------------------------------------------------------------------------------------------------


class LosslessVae(diffusers.AutoencoderKL):
    """Four latent channels that the pictures hold without loss: each cell a plane of its 2 x 2 x 3 pixels."""

    def plane(self) -> Tensor:
        return torch.linalg.qr(torch.randn(12, 4, generator=tiny.generator(4), dtype=torch.float64)).Q.float()

    def encode(self, x: Tensor, return_dict: bool = True) -> Any:
        mean = torch.einsum("pc,nphw->nchw", self.plane(), torch.nn.functional.pixel_unshuffle(x, 2))
        return AutoencoderKLOutput(DiagonalGaussianDistribution(torch.cat([mean, torch.zeros_like(mean)], 1)))

    def decode(self, z: Tensor, return_dict: bool = True, generator: Any = None) -> Any:
        pixels = torch.nn.functional.pixel_shuffle(torch.einsum("pc,nchw->nphw", self.plane(), z), 2)
        return DecoderOutput(pixels) if return_dict else (pixels,)


@pytest.mark.parametrize("kind", ["flux", "sdxl"])
def test_through_a_lossless_vae_and_the_identity_it_is_fused_reflection(kind):
    """Within what rounding latents to and from pixels makes of float32; through the real, lossy VAE it is not."""
    strong, weak = getattr(tiny, kind)(1), getattr(tiny, kind)(2)
    spec = UNGUIDED if kind == "sdxl" else ModelSpec()
    with reflected(strong, (weak, spec), num_reflections=5, mode="fused"):
        fused = call(strong, kind)
    with bridged(strong, (weak, spec), num_reflections=5, noise_map="identity", force=True):
        lossy = call(strong, kind)
    for pipe in (strong, weak):
        object.__setattr__(pipe.vae, "__class__", LosslessVae)
    with bridged(strong, (weak, spec), num_reflections=5, noise_map="identity", force=True) as run:
        got = call(strong, kind)
    # Each reflection rounds four more times than two evaluations do, in pixels up to 1 / scaling_factor as large.
    tolerance = 4 * rounding(fused, run.num_evaluations, 3.0)
    assert run.num_reflections == 5
    assert (got - fused).abs().max() <= tolerance
    assert (call(strong, kind) - fused).abs().max() > 1000 * tolerance
    assert (lossy - fused).abs().max() > 1000 * tolerance


@pytest.mark.parametrize(
    ("strong_kind", "weak_kind", "prompts", "settings"),
    [
        ("flux", "sdxl", ["a red cat"], {}),
        ("flux", "sdxl", ["a red cat", "two dogs", "a house"], {}),
        ("flux", "sdxl", ["a red cat", "two dogs", "a house"], {"chunk": 2}),
        ("flux", "sdxl", ["a red cat"], {"weak_inputs": {"height": 32, "width": 32}, "noise_map": "fresh"}),
        ("sdxl", "flux", ["a red cat"], {}),
        ("animatediff_sdxl", "sdxl", ["a red cat"], {"noise_map": None}),
    ],
)
def test_a_weak_model_that_answers_its_own_b_moves_nothing(strong_kind, weak_kind, prompts, settings, monkeypatch):
    """Bit for bit over a whole run, although the autoencoders lose a good part of the picture."""
    heard: list[Tensor] = []
    losses: list[float] = []
    encode = Codec.encode

    def overheard(codec: Codec, pixels: Tensor) -> Tensor:
        heard.append(encode(codec, pixels))
        lost = encode(codec, codec.decode(heard[-1])) - heard[-1]
        losses.append(float(lost.abs().max() / heard[-1].std()))
        return heard[-1]

    monkeypatch.setattr(Codec, "encode", overheard)
    monkeypatch.setattr(pixel_side._Other, "clean", lambda self, grid, level: heard[-1])
    strong, weak = pipeline(strong_kind), pipeline(weak_kind, 2)
    with reflected(strong, num_reflections=0):
        plain = call(strong, strong_kind, prompts)
    with bridged(strong, (weak, UNGUIDED), num_reflections=5, **{"noise_map": mapped(), **settings}) as run:
        got = call(strong, strong_kind, prompts)
    assert torch.equal(got, plain)
    assert run.num_reflections >= 2 and run.gaps == [0.0] * run.num_reflections
    assert min(losses) > 0.5


def test_the_control_has_the_strong_model_on_both_sides():
    strong = pipeline("flux")
    stock = call(strong, "flux")
    with bridged(strong, "zero-gap", num_reflections=3, noise_map=mapped()) as run:
        got = call(strong, "flux")
    assert (run.num_reflections, run.num_skipped, run.num_evaluations) == (3, 0, STEPS + 6)
    assert (run.num_encodes, run.num_decodes) == (9, 9)
    pipe = tiny.flux()
    object.__setattr__(pipe.vae, "__class__", LosslessVae)
    with bridged(pipe, "zero-gap", num_reflections=STEPS, noise_map="identity"):
        lossless = call(pipe, "flux")
    assert (lossless - stock).abs().max() <= 4 * rounding(stock, 3 * STEPS, 1.0)
    assert (got - stock).abs().max() > 1e-3  # through a VAE that loses, the control says how much that is


@pytest.mark.parametrize("size", [16, 32], ids=["one size", "weak side larger"])
@torch.no_grad()
def test_flux_over_sdxl_equals_the_algorithm_with_networks_and_vaes_called_by_hand(size):
    """Guidance 3 with a negative prompt on the weak side; w 1.3; the VAEs' own methods, scales and shifts."""
    strong, weak, lam, w, guidance = pipeline("flux"), pipeline("sdxl", 2), 4, 1.3, 3.0
    cells = (size // 16) ** 2
    turn = torch.linalg.qr(torch.randn(4 * cells, 4 * cells, generator=tiny.generator(3), dtype=torch.float64)).Q[:, :4]
    tokens = torch.randn(1, 16, 16, generator=tiny.generator(5))
    texts = strong.encode_prompt("a red cat", "a red cat", device="cpu", max_sequence_length=16)
    states = weak.encode_prompt("a red cat", device="cpu", negative_prompt="blurry")
    places = torch.tensor([[0.0, row, column] for row in range(4) for column in range(4)])
    mu = 0.5 + (16 - 256) * (1.15 - 0.5) / (4096 - 256)
    grid = [1 - k * (1 - 1 / STEPS) / (STEPS - 1) for k in range(STEPS)]
    sigmas = [math.exp(mu) / (math.exp(mu) + 1 / s - 1) for s in grid] + [0.0]
    alpha_bar = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2).cumprod(0)
    kappas = ((1 - alpha_bar) / alpha_bar).sqrt()

    def velocity(x: Tensor, t: float) -> Tensor:
        told = {"timestep": torch.tensor([t]), "guidance": torch.tensor([3.5]), "img_ids": places, "txt_ids": texts[2]}
        told |= {"encoder_hidden_states": texts[0], "pooled_projections": texts[1]}
        return strong.transformer(x.float(), **told)[0].double()

    def noise_of(z: Tensor, level: int) -> Tensor:
        halves = []
        for text, pooled in ((states[1], states[3]), (states[0], states[2])):
            added = {"text_embeds": pooled, "time_ids": torch.tensor([[size, size, 0.0, 0.0, size, size]])}
            told = {"encoder_hidden_states": text, "added_cond_kwargs": added}
            halves.append(weak.unet(z.float(), torch.tensor(level), **told)[0].double())
        return halves[0] + guidance * (halves[1] - halves[0])

    def seen(latents: Tensor, vae: Any, shift: float, scale: float) -> Tensor:
        return vae.decode(latents.float() / scale + shift)[0]

    def coded(pixels: Tensor, vae: Any, shift: float, scale: float) -> Tensor:
        return (vae.encode(pixels)[0].mean.double() - shift) * scale

    def sized(pixels: Tensor, side: int) -> Tensor:
        return torch.nn.functional.interpolate(pixels, (side, side), mode="bicubic", antialias=True)

    flux, sdxl = (strong.vae, 0.0609, 1.5035), (weak.vae, 0.0, 0.13025)
    noise_map = Mapped(turn, w, (1, size // 16))
    fill = noise_map(torch.zeros(1, 4, 8, 8), torch.Size([1, 4, size // 2, size // 2])).double()
    x, skipped = tokens.double(), 0
    for i, (t, after) in enumerate(itertools.pairwise(sigmas)):
        if i < lam and t / max(1 - t, 1e-9) * w > kappas[-1] * 1.005:
            skipped += 1
        elif i < lam:
            v = velocity(x, t)
            x0, eps = (strong._unpack_latents(y, 16, 16, 2) for y in (x - t * v, x + (1 - t) * v))
            b = coded(sized(seen(x0, *flux), size), *sdxl)
            level = int((kappas.log() - math.log(w * t / (1 - t))).abs().argmin())
            alpha, sigma = alpha_bar[level].sqrt(), (1 - alpha_bar[level]).sqrt()
            noise = torch.einsum("qc,nchw->nqhw", turn, eps)
            z = alpha * b + sigma * (torch.nn.functional.pixel_shuffle(noise, size // 16) + fill)
            answer = (z - sigma * noise_of(z, level)) / alpha
            moved, stayed = (coded(sized(seen(y, *sdxl), 16), *flux) for y in (answer, b))
            x = x - (t - after) / t * strong._pack_latents(moved - stayed, 1, 4, 8, 8)
        x = x + (after - t) * velocity(x, t)
    spec = ModelSpec(guidance=guidance, negative_prompt="blurry")
    inputs = {"height": size, "width": size}
    with bridged(strong, (weak, spec), num_reflections=lam, noise_map=noise_map, weak_inputs=inputs) as run:
        got = call(strong, "flux", latents=tokens)
    assert (run.num_skipped, run.num_reflections) == (skipped, lam - skipped) == (1, 3)
    assert (got - x).abs().max() <= rounding(x, run.num_evaluations, guidance)
    assert (call(strong, "flux", latents=tokens) - x).abs().max() > 1e-2
