"""The paper's algorithms written out over tiny networks called by hand, to compare hosted calls with.

Everything is float64 but the networks, and of two samples. A latent is kept as x; with kappa = sigma / alpha a step is
``x / alpha`` moved by the difference of kappa. A flow has alpha 1 there, and its own 1 - sigma where noise is added.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.support import tiny
from w2sd_video import ModelSpec

PROMPTS, NEGATIVE = ["a red cat", "two dogs"], ["blurry", "dark"]
STEPS, LAMBDA = 4, 3
CALL: dict[str, Any] = {"num_inference_steps": STEPS, "height": 16, "width": 16, "output_type": "latent"}
FRAMES = 3
OTHER_SETTINGS: dict[str, Any] = {
    "num_reflections": 2,
    "mode": "fused",
    "strength": 0.5,
    "reflector": ModelSpec(guidance=1.5),
    "every": 2,
    "window": (0.2, 1.0),
    "fixed_point": 2,
    "noise": 0.1,
    "cap": 0.02,
    "lag": True,
    "gap_every": 2,
    "motion_strength": 0.5,
    "guider": "apg",
}  # of `ReflectionConfig`, none at its default
Evaluate = Callable[[Tensor, int, int], Tensor]  # of a latent, the step's index and the half: 0 negative, 1 prompt
Predict = Callable[[Tensor, int], Tensor]  # a guided prediction in float64, for a latent and the step's index


def guided(evaluate: Evaluate, scale: float) -> Predict:
    def predict(x: Tensor, i: int) -> Tensor:
        with_prompt = evaluate(x.float(), i, 1).double()
        if scale == 1:
            return with_prompt
        without = evaluate(x.float(), i, 0).double()
        return without + scale * (with_prompt - without)

    return predict


def ddim_grid(spacing: str) -> tuple[list[int], list[float], list[float]]:
    """SDXL's betas on DDIM's grids: timesteps, alphas and sigmas, chained (stock DDIM misses its "linspace" grid)."""
    alpha_bar = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2).cumprod(0)
    if spacing == "leading":  # offset 1, and the last step ends at level 0
        told, end = [k * (1000 // STEPS) + 1 for k in reversed(range(STEPS))], float(alpha_bar[0])
    else:  # the last timestep is 0, so the last step ends at clean data
        told, end = [round(999 * k / (STEPS - 1)) for k in reversed(range(STEPS))], 1.0
    ends = [*alpha_bar[told].tolist(), end]
    return told, [math.sqrt(a) for a in ends], [math.sqrt(1 - a) for a in ends]


def unet_evaluations(pipe: Any, told: Sequence[int], frames: int) -> Callable[[Any], Evaluate]:
    """Of an SDXL pipeline (frames 1) or AnimateDiff's: a UNet as `Evaluate`."""
    text, without, pooled, pooled_without = pipe.encode_prompt(PROMPTS, device="cpu", negative_prompt=NEGATIVE)
    states, pools = (without, text), (pooled_without, pooled)
    sizes = torch.tensor([[16.0, 16.0, 0.0, 0.0, 16.0, 16.0]] * 2)  # original size, crop, target size

    def evaluation(unet: Any) -> Evaluate:
        def evaluate(x: Tensor, i: int, half: int) -> Tensor:
            added = {"text_embeds": pools[half], "time_ids": sizes}
            context = states[half].repeat_interleave(frames, 0)
            return unet(x, torch.tensor(told[i]), encoder_hidden_states=context, added_cond_kwargs=added)[0]

        return evaluate

    return evaluation


def flux_grid() -> list[float]:
    mu = 0.5 + (16 - 256) * (1.15 - 0.5) / (4096 - 256)  # the pipeline's shift for 16 patches
    grid = [1 - k * (1 - 1 / STEPS) / (STEPS - 1) for k in range(STEPS)]
    return [math.exp(mu) / (math.exp(mu) + 1 / s - 1) for s in grid] + [0.0]


def flux_evaluations(pipe: Any, sigmas: Sequence[float]) -> Callable[[Any], Evaluate]:
    """A Flux transformer as `Evaluate`, its embedded guidance 3.5."""
    texts = [pipe.encode_prompt(p, p, device="cpu", max_sequence_length=16) for p in (NEGATIVE, PROMPTS)]
    places = torch.tensor([[0.0, row, column] for row in range(4) for column in range(4)])

    def evaluation(transformer: Any) -> Evaluate:
        def evaluate(x: Tensor, i: int, half: int) -> Tensor:
            embeds, pooled, text_places = texts[half]
            return transformer(
                x,
                encoder_hidden_states=embeds,
                pooled_projections=pooled,
                timestep=torch.full((2,), sigmas[i]),
                img_ids=places,
                txt_ids=text_places,
                guidance=torch.full((2,), 3.5),
            )[0]

        return evaluate

    return evaluation


@dataclass(frozen=True)
class World:
    """A tiny pipeline with a weak network, and the same as functions.

    `strong`, `weak`: predictions at guidance `scale` and 1. `alphas`, `sigmas`: T + 1 levels. `signal`: what is left of
    the clean latent at each. `decoded`: clean estimates [2, ...] as frames uint8 [2, F, 16, 16, 3].
    """

    pipe: Any
    weak_network: Any
    x: Tensor
    alphas: list[float]
    sigmas: list[float]
    signal: list[float]
    strong: Predict
    weak: Predict
    scale: float
    decoded: Callable[[Tensor], Any]
    arguments: dict[str, Any]

    def call(self, **more: Any) -> Tensor:
        """The pipeline's latents from `x`."""
        return self.pipe(PROMPTS, latents=self.x, **{**CALL, **self.arguments, **more})[0]

    @functools.cached_property
    def stock(self) -> Tensor:
        """The same without reflections, by the stock pipeline."""
        return self.call()

    def step(self, x: Tensor, prediction: Tensor, start: int, end: int) -> Tensor:
        kappas = [sigma / alpha for alpha, sigma in zip(self.alphas, self.sigmas, strict=True)]
        return self.alphas[end] * (x / self.alphas[start] + (kappas[end] - kappas[start]) * prediction)

    def clean(self, x: Tensor, prediction: Tensor, i: int) -> Tensor:
        return (x - self.sigmas[i] * prediction) / self.alphas[i]

    def noised(self, lower: Tensor, i: int, noise: Tensor) -> Tensor:
        """A latent of level i + 1 at level i."""
        keep = self.signal[i] / self.signal[i + 1]
        spread = self.sigmas[i] ** 2 - (keep * self.sigmas[i + 1]) ** 2
        return keep * lower + math.sqrt(spread) * noise

    def rounding(self, latents: Tensor, evaluations: int) -> float:
        """What float32 may add: each evaluation rounds its latent and its prediction to 6e-8 of the largest value, and
        guidance passes a difference on up to (2 scale - 1)-fold."""
        return evaluations * 2 * (2 * self.scale - 1) * 6e-8 * float(latents.abs().max())


@functools.cache
def world(family: str) -> World:
    """ "sdxl", "animatediff" or "flux"; nobody changes them."""
    return _flux() if family == "flux" else _unet(family)


@torch.no_grad()
def _unet(family: str) -> World:
    frames, scale = (1, 5.5) if family == "sdxl" else (FRAMES, 3.0)
    pipe = tiny.sdxl() if frames == 1 else tiny.animatediff_sdxl()
    weak = tiny.sdxl_unet(2) if frames == 1 else tiny.motion_unet(2)
    told, alphas, sigmas = ddim_grid("leading")
    evaluation = unet_evaluations(pipe, told, frames)

    @torch.no_grad()
    def decoded(clean: Tensor) -> Any:
        videos = clean.float()[:, :, None] if frames == 1 else clean.float()
        pictures = [pipe.vae.decode(video.transpose(0, 1) / pipe.vae.config.scaling_factor)[0] for video in videos]
        return torch.stack([_eight_bits(picture) for picture in pictures]).numpy()

    return World(
        pipe,
        weak,
        torch.randn((2, 4, frames, 8, 8) if frames > 1 else (2, 4, 8, 8), generator=tiny.generator(5)),
        alphas,
        sigmas,
        alphas,
        guided(evaluation(pipe.unet), scale),
        guided(evaluation(weak), 1.0),
        scale,
        decoded,
        {"negative_prompt": NEGATIVE, "guidance_scale": scale, **({"num_frames": frames} if frames > 1 else {})},
    )


@torch.no_grad()
def _flux() -> World:
    pipe, weak, sigmas = tiny.flux(), tiny.flux_transformer(2), flux_grid()
    evaluation = flux_evaluations(pipe, sigmas)

    @torch.no_grad()
    def decoded(clean: Tensor) -> Any:
        grid = pipe._unpack_latents(clean.float(), 16, 16, pipe.vae_scale_factor)
        config = pipe.vae.config
        pictures = pipe.vae.decode(grid / config.scaling_factor + config.shift_factor)[0]
        return _eight_bits(pictures)[:, None].numpy()

    return World(
        pipe,
        weak,
        torch.randn(2, 16, 16, generator=tiny.generator(5)),  # 16 patches of 2 x 2 x 4 channels
        [1.0] * (STEPS + 1),
        sigmas,
        [1 - sigma for sigma in sigmas],
        guided(evaluation(pipe.transformer), 1.0),
        guided(evaluation(weak), 1.0),
        1.0,
        decoded,
        {"guidance_scale": 3.5, "max_sequence_length": 16},
    )


def _eight_bits(pictures: Tensor) -> Tensor:
    """As diffusers' image processor: [N, 3, H, W] in [-1, 1] as uint8 [N, H, W, 3]."""
    return ((pictures / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1) * 255).round().to(torch.uint8)


# -- the algorithms -------------------------------------------------------------------------------------------------


def reflected_steps(world: World, reflect: Callable[[Tensor, int], Tensor], steps: Sequence[int]) -> Tensor:
    """Sampling by the strong model, `reflect` in place of the latent of each of these steps."""
    x = world.x.double()
    for i in range(STEPS):
        x = reflect(x, i) if i in steps else x
        x = world.step(x, world.strong(x, i), i, i + 1)
    return x


def inverted(world: World, lower: Tensor, i: int, weak: Predict, iterations: int = 0) -> Tensor:
    """x~ of level i, told t (Eq. 4); then the iterate of the least residual, sample by sample."""
    iterates = [world.step(lower, weak(lower, i), i + 1, i)]
    for _ in range(iterations if world.signal[i] > 1e-6 else 0):  # from pure noise none converges
        iterates.append(world.step(lower, weak(iterates[-1], i), i + 1, i))
    chosen = []
    for b in range(2):
        residuals = [float((after - at)[b].norm()) for at, after in itertools.pairwise(iterates)]
        best = min(range(len(residuals)), key=residuals.__getitem__, default=0)
        # the last iterate's residual is not known: it is taken where they fell all the way
        chosen.append((iterates[-1] if best == len(residuals) - 1 else iterates[best])[b])
    return torch.stack(chosen)


def algorithm_1(
    world: World,
    *,
    mode: str = "paper",
    steps: Sequence[int] = range(LAMBDA),
    iterations: int = 0,
    strength: float = 1.0,
    cap: float = math.inf,
    noise: Sequence[Tensor] = (),
    lag: bool = False,
    measured: Sequence[int] = (),
) -> Tensor:
    """W2SD, with what may be set of a reflection; `noise` is what is added to each x~.

    `measured`: steps whose gap is kept, and moves the reflections after them as the gap of Gaussians of variance 1.
    """
    noises, last, kept = iter(noise), [], []

    def strong(x: Tensor, i: int) -> Tensor:
        return last[-1] if lag and last else world.strong(x, i)

    def reflect(x: Tensor, i: int) -> Tensor:
        if measured:
            gap, at = kept[-1]
            kappa = world.sigmas[i] / world.alphas[i] - world.sigmas[i + 1] / world.alphas[i + 1]
            move = world.alphas[i] * kappa * gap * growth(i) / growth(at)
        elif mode == "fused":
            move = world.step(x, strong(x, i), i, i + 1) - world.step(x, world.weak(x, i), i, i + 1)
            move = move * world.alphas[i] / world.alphas[i + 1]  # back up to level i
        else:
            lower = world.step(x, strong(x, i), i, i + 1)
            move = inverted(world, lower, i, world.weak, iterations) - x
        move = strength * move
        for b in range(2):
            size = float(move[b].pow(2).mean().sqrt())
            move[b] *= min(1.0, cap / size)
        return x + move + (next(noises).double() if noise else 0.0)

    def growth(i: int) -> float:
        # of the native gap: that of clean estimates, over alpha, times sigma, which the native one is divided by
        clean = world.sigmas[i] ** 2 / (world.signal[i] ** 2 + world.sigmas[i] ** 2)
        return clean * world.alphas[i] / world.sigmas[i]

    x = world.x.double()
    for i in range(STEPS):
        x = reflect(x, i) if i in steps else x
        last.append(world.strong(x, i))
        if i in measured:
            kept.append((world.weak(x, i) - last[-1], i))
        x = world.step(x, last[-1], i, i + 1)
    return x


def algorithm_2(
    world: World, reward: Callable[[Any, str | None], float], threshold: float, mode: str
) -> tuple[Tensor, list[list[bool]], float]:
    """The samples, the choices, and how near a lead came to the threshold. A tie keeps what was chosen before."""
    sides, chosen, record, nearest = (world.strong, world.weak), [False, False], [], math.inf

    def own(x: Tensor, i: int, weaker: bool) -> Tensor:
        """Each sample's prediction by the side that is the stronger, or the weaker, one for it."""
        both = [side(x, i) for side in sides]
        return torch.stack([both[chosen[b] != weaker][b] for b in range(2)])

    x = world.x.double()
    for i in range(STEPS):
        if i < LAMBDA:
            frames = [world.decoded(world.clean(x, side(x, i), i)) for side in sides]
            for b in range(2):
                first, second = (reward(video[b], PROMPTS[b]) for video in frames)
                nearest = min(nearest, abs(abs(second - first) - threshold))
                if abs(second - first) > threshold:
                    chosen[b] = second > first
            record.append(list(chosen))
            lower = world.step(x, own(x, i, False), i, i + 1)
            told = lower if mode == "paper" else x
            x = world.step(lower, own(told, i, True), i + 1, i)
        x = world.step(x, own(x, i, False), i, i + 1)
    return x, record, nearest


def algorithm_3(world: World, noise: Sequence[Tensor], inner: Predict | None = None) -> Tensor:
    inner = inner or world.strong

    def reflect(x: Tensor, i: int) -> Tensor:
        return world.noised(world.step(x, inner(x, i), i, i + 1), i, noise[i].double())

    return reflected_steps(world, reflect, range(LAMBDA))


def algorithm_4(world: World, noise: Sequence[Tensor], sign: int, mode: str = "paper") -> Tensor:
    """Noise whose cosine with W2SD's move has that sign; half of all draws do, so that the others are turned."""

    def reflect(x: Tensor, i: int) -> Tensor:
        lower = world.step(x, world.strong(x, i), i, i + 1)
        told = lower if mode == "paper" else x
        move = world.step(lower, world.weak(told, i), i + 1, i) - x
        drawn = noise[i].double()
        turns = [1.0 if sign * float((drawn[b] * move[b]).sum()) > 0 else -1.0 for b in range(2)]
        return world.noised(lower, i, torch.stack([turns[b] * drawn[b] for b in range(2)]))

    return reflected_steps(world, reflect, range(LAMBDA))


def autoguidance(world: World, weight: float) -> Tensor:
    x = world.x.double()
    for i in range(STEPS):
        good, bad = world.strong(x, i), world.weak(x, i)
        x = world.step(x, good + weight * (good - bad), i, i + 1)
    return x
