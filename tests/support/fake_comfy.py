"""The contracts of ComfyUI that its nodes rely on, written anew and small: guiders, samplers, patchers, schema.

`installed()` has `comfy` and `comfy_api` importable while it lasts. Its memory manager keeps a list of what was loaded.
"""

from __future__ import annotations

import copy
import math
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn


class EPS:
    """Noise paths: x0 + sigma * noise, seen at the scale 1 / sqrt(sigma^2 + sigma_data^2)."""

    sigma_data = 1.0
    sigma_min, sigma_max = 0.03, 14.6

    def calculate_input(self, sigma: Tensor, x: Tensor) -> Tensor:
        return x / (_rows(sigma, x) ** 2 + self.sigma_data**2) ** 0.5

    def calculate_denoised(self, sigma: Tensor, output: Tensor, x: Tensor) -> Tensor:
        return x - output * _rows(sigma, output)

    def noise_scaling(self, sigma: Tensor, noise: Tensor, latent: Tensor, max_denoise: bool = False) -> Tensor:
        return noise * (math.sqrt(1 + float(sigma) ** 2) if max_denoise else sigma) + latent

    def inverse_noise_scaling(self, sigma: Tensor, latent: Tensor) -> Tensor:
        return latent


class CONST:
    """Rectified flow: (1 - sigma) * x0 + sigma * noise."""

    sigma_max = 1.0
    calculate_denoised = EPS.calculate_denoised

    def calculate_input(self, sigma: Tensor, x: Tensor) -> Tensor:
        return x

    def noise_scaling(self, sigma: Tensor, noise: Tensor, latent: Tensor, max_denoise: bool = False) -> Tensor:
        return sigma * noise + (1.0 - sigma) * latent

    def inverse_noise_scaling(self, sigma: Tensor, latent: Tensor) -> Tensor:
        return latent / (1.0 - sigma)


class COSMOS_RFLOW:
    pass


def _rows(sigma: Tensor, x: Tensor) -> Tensor:
    return sigma.reshape(-1, *[1] * (x.ndim - 1))


class LatentA:
    latent_channels = 4


class Model(nn.Module):
    """What a MODEL holds: a network, how it is sampled, its latents, and the patcher whose patches it has."""

    def __init__(self, network: nn.Module, model_sampling: Any, latent_format: Any) -> None:
        super().__init__()
        self.diffusion_model = network
        self.model_sampling, self.latent_format = model_sampling, latent_format
        self.current_patcher: Any = None
        self.patched_by: Any = None

    def process_latent_in(self, latent: Tensor) -> Tensor:
        return latent

    process_latent_out = process_latent_in

    def memory_required(self, shape: Any) -> int:
        return math.prod(shape)

    def apply_model(self, x: Tensor, sigma: Tensor, cross_attn: Tensor) -> Tensor:
        output = self.diffusion_model(self.model_sampling.calculate_input(sigma, x), sigma, context=cross_attn)
        return self.model_sampling.calculate_denoised(sigma, output, x)


class ModelPatcher:
    load_device = offload_device = torch.device("cpu")

    def __init__(self, model: Model) -> None:
        self.model, self.patches, self.object_patches = model, {}, {}
        self.patches_uuid = uuid.uuid4()
        self.model_options: dict[str, Any] = {"transformer_options": {}}

    def clone(self) -> ModelPatcher:
        other = ModelPatcher(self.model)
        other.patches, other.patches_uuid = dict(self.patches), self.patches_uuid
        other.model_options = copy.deepcopy(self.model_options)
        return other

    def add_patches(self, patches: dict[str, Any], strength: float = 1.0) -> None:
        """Differences to weights, ("diff", (tensor,)) by name."""
        self.patches |= {key: (strength, value[1][0]) for key, value in patches.items()}
        self.patches_uuid = uuid.uuid4()

    def clone_has_same_weights(self, other: ModelPatcher) -> bool:
        return self.patches_uuid == other.patches_uuid

    def get_model_object(self, name: str) -> Any:
        return getattr(self.model, name)

    def unpatch_hooks(self) -> None: ...

    def load(self) -> None:
        before = self.model.patched_by
        for patcher, sign in ((before, -1), (self, 1)):
            for key, (strength, change) in patcher.patches.items() if patcher else ():
                self.model.get_parameter(key).data.add_(change, alpha=sign * strength)
        self.model.patched_by = self


class Manager(ModuleType):
    """`comfy.model_management`: remembers what it was asked to load together, and whether someone interrupted."""

    def __init__(self) -> None:
        super().__init__("comfy.model_management")
        self.loaded: list[list[Any]] = []
        self.interrupted = False

    def load_models_gpu(self, models: list[Any], memory_required: float = 0) -> None:
        assert len({id(model.model) for model in models}) == len(models), "one network cannot be loaded twice"
        self.loaded.append(models)
        for model in models:
            model.load()

    def throw_exception_if_processing_interrupted(self) -> None:
        if self.interrupted:
            raise InterruptProcessingException


class InterruptProcessingException(Exception):
    pass


MANAGER = Manager()


class Sampler:
    def max_denoise(self, guider: Any, sigmas: Tensor) -> bool:
        return float(sigmas[0]) >= guider.inner_model.model_sampling.sigma_max * (1 - 1e-5)


class KSAMPLER(Sampler):
    def __init__(self, sampler_function: Any, extra_options: Any = None, inpaint_options: Any = None) -> None:
        self.sampler_function, self.extra_options = sampler_function, extra_options or {}

    def sample(
        self,
        model_wrap: Any,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Any,
        noise: Tensor,
        latent_image: Any = None,
        denoise_mask: Any = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        extra_args["denoise_mask"] = denoise_mask
        sampling = model_wrap.inner_model.model_sampling
        model = _Masked(model_wrap, noise, latent_image)
        x = sampling.noise_scaling(sigmas[0], noise, latent_image, self.max_denoise(model_wrap, sigmas))
        total = len(sigmas) - 1
        report = None if callback is None else lambda d: callback(d["i"], d["denoised"], d["x"], total)
        out = self.sampler_function(
            model, x, sigmas, extra_args=extra_args, callback=report, disable=disable_pbar, **self.extra_options
        )
        return sampling.inverse_noise_scaling(sigmas[-1], out)


class _Masked:
    """Inpainting: outside the mask the latent is the given one, at the level told."""

    def __init__(self, guider: Any, noise: Tensor, latent: Tensor) -> None:
        self.inner_model, self.noise, self.latent = guider, noise, latent

    def __call__(self, x: Tensor, sigma: Tensor, denoise_mask: Any, model_options: Any, seed: Any) -> Tensor:
        if denoise_mask is None:
            return self.inner_model(x, sigma, model_options=model_options, seed=seed)
        sampling = self.inner_model.inner_model.model_sampling
        x = x * denoise_mask + sampling.noise_scaling(_rows(sigma, x), self.noise, self.latent) * (1 - denoise_mask)
        clean = self.inner_model(x, sigma, model_options=model_options, seed=seed)
        return clean * denoise_mask + self.latent * (1 - denoise_mask)


def sample_euler(
    model: Any, x: Tensor, sigmas: Tensor, extra_args: Any = None, callback: Any = None, disable: Any = None
) -> Tensor:
    for i in range(len(sigmas) - 1):
        clean = model(x, sigmas[i] * x.new_ones(len(x)), **extra_args)
        if callback is not None:
            callback({"x": x, "i": i, "sigma": sigmas[i], "sigma_hat": sigmas[i], "denoised": clean})
        x = x + (x - clean) / sigmas[i] * (sigmas[i + 1] - sigmas[i])
    return x


class CFGGuider:
    def __init__(self, model_patcher: Any) -> None:
        self.model_patcher, self.model_options = model_patcher, model_patcher.model_options
        self.original_conds: dict[str, list[dict[str, Any]]] = {}
        self.cfg = 1.0

    def set_conds(self, positive: Any, negative: Any) -> None:
        self.inner_set_conds({"positive": positive, "negative": negative})

    def set_cfg(self, cfg: float) -> None:
        self.cfg = cfg

    def inner_set_conds(self, conds: dict[str, Any]) -> None:
        for key, value in conds.items():
            self.original_conds[key] = [{**settings, "cross_attn": cross} for cross, settings in value]

    def __call__(self, x: Tensor, timestep: Tensor, model_options: Any = None, seed: Any = None) -> Tensor:
        return self.predict_noise(x, timestep, model_options, seed)

    def predict_noise(self, x: Tensor, timestep: Tensor, model_options: Any = None, seed: Any = None) -> Tensor:
        assert self.inner_model.current_patcher is self.model_patcher
        assert "sample_sigmas" in model_options["transformer_options"]
        apply = self.inner_model.apply_model
        positive = apply(x, timestep, self.conds["positive"][0]["cross_attn"])
        if self.cfg == 1:
            return positive
        negative = apply(x, timestep, self.conds["negative"][0]["cross_attn"])
        return negative + (positive - negative) * self.cfg

    def sample(
        self,
        noise: Tensor,
        latent_image: Tensor,
        sampler: Any,
        sigmas: Tensor,
        denoise_mask: Any = None,
        callback: Any = None,
        disable_pbar: bool = False,
        seed: Any = None,
    ) -> Tensor:
        self.conds = {key: [dict(cond) for cond in conds] for key, conds in self.original_conds.items()}
        beside = [
            model for conds in self.conds.values() for cond in conds for model in cond.get("additional_models", ())
        ]
        MANAGER.load_models_gpu([self.model_patcher, *beside])
        self.inner_model = self.model_patcher.model
        self.inner_model.current_patcher = self.model_patcher
        options = copy.deepcopy(self.model_options)
        options["transformer_options"]["sample_sigmas"] = sigmas
        try:
            extra = {"model_options": options, "seed": seed}
            out = sampler.sample(self, sigmas, extra, callback, noise, latent_image, denoise_mask, disable_pbar)
            return self.inner_model.process_latent_out(out.to(torch.float32))
        finally:
            self.inner_model.current_patcher = None
            del self.inner_model, self.conds


def sampler_object(name: str) -> KSAMPLER:
    assert name == "euler"
    return KSAMPLER(sample_euler)


class _Socket:
    """An input or output of a node, whose settings are kept as they are given."""

    def __init__(self, io_type: str) -> None:
        self.io_type = io_type

    def Input(self, name: str, **settings: Any) -> Any:
        return SimpleNamespace(id=name, io_type=self.io_type, optional=settings.pop("optional", False), **settings)

    def Output(self, name: str | None = None, **settings: Any) -> Any:
        return SimpleNamespace(id=name, io_type=self.io_type, **settings)


class ComfyNode:
    @classmethod
    def GET_SCHEMA(cls) -> Any:
        schema = cls.define_schema()  # type: ignore[attr-defined]
        names = [each.id for each in schema.inputs]
        assert len(set(names)) == len(names)
        return schema


class NodeOutput:
    def __init__(self, *result: Any) -> None:
        self.result = result


class ComfyExtension: ...


def _modules() -> dict[str, ModuleType]:
    def module(name: str, **names: Any) -> ModuleType:
        made = ModuleType(name)
        vars(made).update(names)
        return made

    sampling = module("comfy.model_sampling", EPS=EPS, CONST=CONST, COSMOS_RFLOW=COSMOS_RFLOW)
    samplers = module(
        "comfy.samplers", CFGGuider=CFGGuider, KSAMPLER=KSAMPLER, Sampler=Sampler, sampler_object=sampler_object
    )
    types = {name.title(): _Socket(name) for name in ("MODEL", "CONDITIONING", "GUIDER", "SAMPLER", "VAE")}
    types |= {name.title(): _Socket(name) for name in ("INT", "FLOAT", "COMBO", "BOOLEAN")}
    io = module("comfy_api.latest.io", ComfyNode=ComfyNode, Schema=SimpleNamespace, NodeOutput=NodeOutput, **types)
    io.Vae = io.VAE = io.Vae  # type: ignore[attr-defined]
    parts = {"model_sampling": sampling, "samplers": samplers, "model_management": MANAGER}
    return {
        "comfy": module("comfy", **parts),
        **{f"comfy.{name}": part for name, part in parts.items()},
        "comfy_api": module("comfy_api"),
        "comfy_api.latest": module("comfy_api.latest", io=io, ComfyExtension=ComfyExtension),
    }


@contextmanager
def installed() -> Iterator[None]:
    """`comfy` and `comfy_api` are these modules; what was imported meanwhile is forgotten afterwards."""
    modules = _modules()
    before = dict(sys.modules)
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in set(sys.modules) - set(before):
            if name.startswith(("comfy", "bridges.comfyui")):
                del sys.modules[name]


class Net(nn.Module):
    """A smooth network of latents [B, 4, ...], sigma [B] and context [1, N, 8]."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.mix = nn.Parameter(torch.randn(4, 4, generator=generator) * 0.3)
        self.text = nn.Parameter(torch.randn(8, 4, generator=generator) * 0.3)

    def forward(self, x: Tensor, sigma: Tensor, context: Tensor) -> Tensor:
        text = (context.mean(1) @ self.text).reshape(-1, 4, *[1] * (x.ndim - 2))
        mixed = torch.einsum("bc...,cd->bd...", x, self.mix)
        return torch.tanh(mixed + text + _rows(torch.log1p(sigma), x))


def tiny(kind: str, seed: int) -> ModelPatcher:
    """A MODEL of latents [B, 4, h, w], by noise ("eps") or flow ("flow")."""
    sampling = {"eps": EPS, "flow": CONST, "cosmos": COSMOS_RFLOW}[kind]()
    return ModelPatcher(Model(Net(seed), sampling, LatentA()))
