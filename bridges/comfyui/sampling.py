"""ComfyUI's sigmas as noise levels, its models as denoisers, and core's sampling loop as one of its samplers.

ComfyUI's latents are x0 + sigma * noise on noise paths, (1 - sigma) * x0 + sigma * noise on flows. It samples on them,
as its own sampler "euler" does, bit for bit. Reflections are made on noise paths at the scale the network sees, as
everywhere else: the latent that is inverted lies one level below the timestep passed, and keeps its own scale.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import comfy.model_management
import comfy.model_sampling
import comfy.samplers
import torch
from torch import Tensor

from w2sd_video.core.algorithms import W2SD, sample
from w2sd_video.core.denoisers import Denoiser, Reflection, with_gap
from w2sd_video.core.levels import Level
from w2sd_video.core.options import AS_PRINTED, ReflectionConfig
from w2sd_video.core.paths import FlowPath, NoisePath, by_sample, like
from w2sd_video.core.variations import CachedGap
from w2sd_video.errors import UserError

STRONG, REFLECTOR, WEAK = "strong", "reflector", "weak"


@dataclass(frozen=True)
class Grid:
    """A sampling run's levels, noisiest first, each with ComfyUI's sigma as its timestep.

    Attributes:
        levels: of ComfyUI's latents; alpha is 1 on a noise path, 1 - sigma on a flow.
        seen: the same at the scale the network sees; on a flow they are `levels`.
        path: what the predictions mean.
    """

    levels: tuple[Level, ...]
    seen: tuple[Level, ...]
    path: NoisePath | FlowPath


def read_sigmas(sigmas: Tensor, model_sampling: Any) -> Grid:
    """Returns the levels of ``sigmas`` [T + 1]; `UserError` for a kind of model whose latents are not known."""
    values = sigmas.tolist()  # the one host read of a run
    if isinstance(model_sampling, comfy.model_sampling.CONST):
        levels = tuple(Level(sigma, 1.0 - sigma, sigma) for sigma in values)
        return Grid(levels, levels, FlowPath())
    if not isinstance(model_sampling, comfy.model_sampling.EPS):
        kinds = ", ".join(kind.__name__ for kind in type(model_sampling).__mro__[1:3])
        raise UserError(
            f"this model samples by {kinds}, which cannot be reflected; use a model of eps, v or x0 predictions (EPS) "
            "or of rectified flow (CONST)"
        )
    data = float(model_sampling.sigma_data)
    alphas = [(sigma**2 + data**2) ** -0.5 for sigma in values]
    seen = tuple(Level(s, alpha, s * alpha) for s, alpha in zip(values, alphas, strict=True))
    return Grid(tuple(Level(sigma, 1.0, sigma) for sigma in values), seen, NoisePath())


@final
@dataclass(frozen=True)
class SigmaEuler:
    """Steps of first order on ComfyUI's own latents, each product and sum rounded as its sampler "euler" does."""

    def init(self) -> None:
        return None

    def step(self, x: Tensor, prediction: Tensor, start: Level, end: Level, state: None) -> tuple[Tensor, None]:
        return x + like(prediction, x) * (end.timestep - start.timestep), None


@final
@dataclass(frozen=True)
class Rescaled:
    """A reflection at the scale the network sees, of ComfyUI's latents; one that moves nothing returns x as it is."""

    reflection: Reflection
    seen: tuple[Level, ...]

    def reflect(self, i: int, x: Tensor) -> Tensor | None:
        scale = self.seen[i].alpha
        scaled = x * scale
        tilde = self.reflection.reflect(i, scaled)
        return None if tilde is None else x + (tilde - scaled) / scale


class W2SDSampler(comfy.samplers.KSAMPLER):
    """Algorithm 1 as a SAMPLER; the guider it is used with has the weak side."""

    def __init__(self, config: ReflectionConfig) -> None:
        config.check_method("w2sd")
        super().__init__(sample_w2sd, {"config": config})
        self.config = config


@torch.no_grad()
def sample_w2sd(
    model: Any,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callable[[dict[str, Any]], None] | None = None,
    disable: bool | None = None,
    config: ReflectionConfig = AS_PRINTED,
) -> Tensor:
    """A sampler function of ComfyUI's: the latent at the last of ``sigmas``, from ``x`` [B, ...] at the first.

    ``model`` returns clean estimates and has the guider as its `inner_model`, which has a weak side (see
    `guiders.W2SDGuider`) unless nothing is reflected. ``callback`` is called once a step, with the sampling
    evaluation's clean estimate.
    """
    guider = model.inner_model
    grid = read_sigmas(sigmas, guider.inner_model.model_sampling)
    flow = isinstance(grid.path, FlowPath)
    latest: list[tuple[Tensor, Tensor]] = [(x, x)]

    def side(role: str) -> Denoiser:
        def predict(latent: Tensor, level: Level) -> Tensor:
            comfy.model_management.throw_exception_if_processing_interrupted()
            scaled = latent if flow else latent / level.alpha
            sigma = scaled.new_full((len(scaled),), level.timestep)
            if role == STRONG:
                clean = model(scaled, sigma, **(extra_args or {}))
                latest[0] = scaled, clean
            else:
                with guider.role(role):
                    clean = model(scaled, sigma, **(extra_args or {}))
            return (scaled - clean) / by_sample(sigma, scaled)

        return predict

    def report(i: int, _: Tensor) -> None:
        if callback is not None:
            before, clean = latest[0]
            sigma = sigmas[i]
            callback({"x": before, "i": i, "sigma": sigma, "sigma_hat": sigma, "denoised": clean})

    strong, weak = side(STRONG), side(WEAK)
    sampling: Denoiser = strong
    reflect: Reflection | None = None
    if not config.plain():
        if not hasattr(guider, "role"):
            raise UserError(
                f"the W2SD sampler was given a {type(guider).__name__}, which has no weak side; connect a W2SD Guider, "
                "or set reflections to 0"
            )
        if hasattr(guider, "crossing"):
            reflect = guider.crossing(grid, side(REFLECTOR), config, (extra_args or {}).get("seed"), strong)
        elif config.gap_every is None:
            reflect = W2SD(grid.seen, side(REFLECTOR), weak, grid.path, config)
        else:
            measured = with_gap(strong, weak, reflector=None if guider.reflect_cfg is None else side(REFLECTOR))
            reflect = CachedGap(grid.seen, strong, measured, grid.path, config)
        if isinstance(reflect, CachedGap):
            cached = reflect
            seen = dict(zip(grid.levels, grid.seen, strict=True))

            def measuring(x: Tensor, level: Level) -> Tensor:
                return cached.strong(x if flow else x * seen[level].alpha, seen[level])

            sampling = measuring
        reflect = reflect if flow else Rescaled(reflect, grid.seen)
    return sample(x, grid.levels, sampling, grid.path, reflect=reflect, solver=SigmaEuler(), callback=report)
