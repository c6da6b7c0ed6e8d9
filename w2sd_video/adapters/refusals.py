"""What hosting cannot do right, refused before anything is computed: got, allowed, remedy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from w2sd_video.adapters.schedules import check_scheduler, is_flow
from w2sd_video.adapters.settings import networks_of
from w2sd_video.adapters.stepping import Method
from w2sd_video.errors import UserError

# A network that takes the other's place must agree with it in these (where it has them).
SHARED_CONFIG = (
    "in_channels",
    "out_channels",
    "patch_size",
    "cross_attention_dim",
    "joint_attention_dim",
    "pooled_projection_dim",
    "text_dim",
    "guidance_embeds",
    "addition_embed_type",
    "projection_class_embeddings_input_dim",
)


def check_call(pipe: Any, arguments: Mapping[str, Any], method: Method) -> None:
    """Raises `UserError` for a call, or a state of the pipeline, that a reflected call would get wrong."""
    check_scheduler(pipe.scheduler, first_order=method.first_order)
    zero = {
        "guidance_rescale": "it rescales the guided prediction, which is then no longer plain guidance",
        "eta": "it draws noise at every step, which an inversion cannot take back",
        "pag_scale": "perturbed-attention guidance evaluates a third branch that reflection does not know",
    }
    for name, why in zero.items():
        if arguments.get(name):
            raise UserError(f"{name} is {arguments[name]}: {why}; leave it at 0")
    if getattr(pipe, "free_init_enabled", False):
        raise UserError(
            "FreeInit restarts the sampling loop, which reflection does not follow; call disable_free_init()"
        )
    if getattr(pipe, "controlnet", None) is not None:
        raise UserError(
            f"{type(pipe).__name__} has a ControlNet, whose output depends on the latent; reflection does not call "
            "ControlNets yet: use the pipeline without one"
        )
    for network in networks_of(pipe):
        if getattr(network, "is_cache_enabled", False):
            raise UserError(
                f"{type(network).__name__} has a cache enabled, which would mix the evaluations of a reflection; "
                "call its disable_cache()"
            )
    _check_reflections(arguments, method)


def _check_reflections(arguments: Mapping[str, Any], method: Method) -> None:
    """Early, from the number of steps asked for; the schedule has the last word (image to image makes fewer)."""
    steps, lam = arguments.get("num_inference_steps"), method.num_reflections
    plain = steps is not None and not any(arguments.get(name) for name in ("timesteps", "sigmas"))
    if plain and lam is not None and lam > steps:
        raise UserError(
            f"num_reflections is {lam}, more than the {steps} steps; it must be from 0 to {steps - 1} "
            f'(or {steps} with mode="fused")'
        )


def check_network(weak: nn.Module, pipe: Any) -> None:
    """Raises `UserError` if `weak` cannot be told what the pipeline tells its own network."""
    own = getattr(networks_of(pipe)[0], "_orig_mod", networks_of(pipe)[0])
    other = getattr(weak, "_orig_mod", weak)
    if not (isinstance(other, type(own)) or isinstance(own, type(other))):
        raise UserError(
            f"the weak network is a {type(other).__name__}, the pipeline's own a {type(own).__name__}; they must be of one "
            "class (for AnimateDiff assemble the 2-D UNet with the motion adapter first)"
        )
    for key in SHARED_CONFIG:
        ours, theirs = own.config.get(key), other.config.get(key)
        if ours != theirs:
            raise UserError(
                f"the weak network has {key} {theirs}, the pipeline's own {ours}, so it cannot be told the same; "
                "give the weak side as a pipeline of its own if both share one latent space"
            )


def check_pipelines(strong: Any, weak: Any) -> None:
    """Raises `UserError` if the two pipelines are known not to share latents or noise levels."""
    ours, theirs = (getattr(getattr(p, "vae", None), "config", {}) for p in (strong, weak))
    for key in ("scaling_factor", "shift_factor", "latent_channels", "z_dim"):
        if ours and theirs and ours.get(key) != theirs.get(key):
            raise UserError(
                f"the two pipelines' autoencoders differ: {key} is {ours.get(key)} (strong) and {theirs.get(key)} (weak); "
                "their latents mean different things, and a reflection needs one latent space"
            )
    if is_flow(strong.scheduler) != is_flow(weak.scheduler):
        raise UserError(
            f"one pipeline is a flow, the other is not ({type(strong.scheduler).__name__} and "
            f"{type(weak.scheduler).__name__}); a reflection needs one path for both"
        )
    tables = [getattr(p.scheduler, "alphas_cumprod", None) for p in (strong, weak)]
    if is_flow(strong.scheduler) or tables[0] is None or tables[1] is None:
        return
    levels = [table.double().cpu().clamp(1e-6, 1 - 1e-6) for table in tables]
    if len(levels[0]) != len(levels[1]) or not torch.allclose(levels[0].logit(), levels[1].logit(), atol=0.1):
        raise UserError(
            "the two pipelines' schedulers have different noise schedules, so one timestep means two noise levels; "
            "build both with the same beta_start, beta_end and beta_schedule"
        )
