"""What hosting cannot do right, refused before anything is computed: got, allowed, remedy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from w2sd_video.core import ReflectionConfig
from w2sd_video.errors import UserError
from w2sd_video.gaps.control_settings import check_control
from w2sd_video.hosting.caches import check_caches
from w2sd_video.hosting.calls import networks_of
from w2sd_video.hosting.conditioning import Conditioning
from w2sd_video.hosting.controls import check_same_latent
from w2sd_video.hosting.outputs import can_be_halved
from w2sd_video.hosting.own_scale import OwnScale
from w2sd_video.hosting.recording import NotRecorded, RecordedStep
from w2sd_video.latents.schedules import Schedule
from w2sd_video.latents.spaces import LatentSpace, check_shared, compare_spaces
from w2sd_video.pair import Selection

DIFFERS_IN_NOTHING = (
    "the weak side differs in nothing from the strong side as it reflects; say what differs, or ask for that control "
    'by name: weak="zero-gap"'
)
LAG = (
    "lag puts a prediction of the strong side as it samples into the reflection, and here the strong side reflects "
    "otherwise; leave reflector out, or lag"
)
GAP_EVERY = (
    "gap_every measures the gap at the evaluation of a sampling step, and here the strong side reflects otherwise than "
    "it samples, in more than classifier-free guidance; leave reflector out, or gap_every"
)
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


def check_call(
    pipe: Any, arguments: Mapping[str, Any], options: ReflectionConfig, *, controls: bool, recorded: bool = True
) -> None:
    """Raises `UserError` for a call, or a state of the pipeline, that a reflected call would get wrong.

    `controls`: whether a ControlNet that can be called at any latent is allowed; `recorded`: whether the call is
    recorded, so that guidance must be plain (`NotRecorded`) and ControlNets known.
    """
    _check_loop(pipe, arguments)
    if recorded:
        check_state(pipe, arguments, controls=controls)
    _check_reflections(arguments, options)


def _check_loop(pipe: Any, arguments: Mapping[str, Any]) -> None:
    if arguments.get("eta"):
        raise UserError(
            f"eta is {arguments['eta']}: it draws noise at every step, which an inversion cannot take back; leave it "
            "at 0"
        )
    if getattr(pipe, "free_init_enabled", False):
        raise UserError(
            "FreeInit restarts the sampling loop, which reflection does not follow; call disable_free_init()"
        )
    check_caches(networks_of(pipe))


def check_state(pipe: Any, arguments: Mapping[str, Any], *, controls: bool = False) -> None:
    """Raises `NotRecorded` for call arguments, or a state of the pipeline, under which a prediction is not plain."""
    _check_loop(pipe, arguments)
    zero = {
        "guidance_rescale": "it rescales the guided prediction, which is then no longer plain guidance",
        "pag_scale": "perturbed-attention guidance evaluates a third branch that reflection does not know",
    }
    for name, why in zero.items():
        if arguments.get(name):
            raise NotRecorded(f"{name} is {arguments[name]}: {why}; leave it at 0")
    if getattr(pipe, "controlnet", None) is not None and not controls:
        raise UserError(
            f"{type(pipe).__name__} has a ControlNet, which a pair of two latent spaces cannot have; use the pipeline "
            "without one"
        )
    try:
        check_control(pipe, arguments)
    except UserError as error:
        raise NotRecorded(str(error)) from error


def _check_reflections(arguments: Mapping[str, Any], options: ReflectionConfig) -> None:
    """Early, from the number of steps asked for; the schedule has the last word (image to image makes fewer)."""
    steps, lam = arguments.get("num_inference_steps"), options.num_reflections
    plain = steps is not None and not any(arguments.get(name) for name in ("timesteps", "sigmas"))
    if plain and lam is not None and steps is not None and lam > steps:
        raise UserError(
            f"num_reflections is {lam}, more than the {steps} steps; it must be from 0 to {steps - 1} "
            f'(or {steps} with mode="fused")'
        )


def check_replay(pipe: Any, why: NotRecorded | None, guidances: Sequence[float | None], *, cross_latent: bool) -> None:
    """Raises `UserError` for what a call whose loop makes every evaluation cannot do.

    `why` it was not recorded says how many branches of guidance it has; `guidances` are the sides' own.
    """
    if cross_latent:
        raise UserError("a pair of two latent spaces cannot be replayed; leave host out")
    rows, batch = (why.rows, why.batch) if why is not None else ((), 0)
    if len(rows) > 1 and sum(rows) == batch:
        raise UserError(
            f"{type(pipe).__name__} has its scheduler step both halves of guidance, which reflection does not follow; "
            "use a pipeline of that family that steps their combination"
        )
    known = not rows or can_be_halved(rows, batch) or OwnScale(pipe).value is not None
    scale = next((each for each in guidances if each is not None), None)
    if scale is not None and not known and list(rows) != [batch]:
        raise UserError(no_halves(type(pipe).__name__, scale, rows, batch))


def no_halves(name: str, scale: float, rows: Sequence[int], batch: int) -> str:
    """Why a side can have no guidance of its own."""
    return (
        f"guidance {scale:g} of a side needs two halves of guidance, and {name} evaluates {list(rows)} rows for "
        f"{batch} latents at a step, with a scale that cannot be changed on the way; leave the guidance of the sides "
        "alone: let them differ in a checkpoint, a LoRA or a prompt"
    )


def check_selection(method: str, selection: Any) -> None:
    """Raises `UserError` for a missing, unusable or needless `selection`."""
    if selection is not None and not isinstance(selection, Selection):
        raise UserError(f"selection is a {type(selection).__name__}; give a Selection, such as Selection(reward)")
    if method == "w2sd-auto" and selection is None:
        raise UserError('method "w2sd-auto" picks the stronger side by a reward; give selection=Selection(reward)')
    if method != "w2sd-auto" and selection is not None:
        raise UserError(f'selection is given, and method {method!r} picks no side; use method="w2sd-auto"')


def check_cross_latent(method: str, options: ReflectionConfig) -> None:
    """Raises `UserError` for what a pair of two latent spaces cannot do."""
    if method != "w2sd":
        raise UserError(f'method is {method!r}; a pair of two latent spaces can do "w2sd" only')
    if options.fixed_point or options.lag:
        name = "fixed_point" if options.fixed_point else "lag"
        raise UserError(
            f"{name} is given; a reflection through pixels makes no inversion and asks the strong model at its own "
            f"latent: leave {name} out"
        )


def check_network(weak: nn.Module, pipe: Any) -> None:
    """Raises `UserError` if `weak` does not take the arguments of the pipeline's own network."""
    own = getattr(networks_of(pipe)[0], "_orig_mod", networks_of(pipe)[0])
    other = getattr(weak, "_orig_mod", weak)
    if not (isinstance(other, type(own)) or isinstance(own, type(other))):
        raise UserError(
            f"the weak network is a {type(other).__name__}, the pipeline's own a {type(own).__name__}; they must be of "
            "one class (for AnimateDiff assemble the 2-D UNet with the motion adapter first)"
        )
    for key in SHARED_CONFIG:
        ours, theirs = own.config.get(key), other.config.get(key)
        if ours != theirs:
            raise UserError(
                f"the weak network has {key} {theirs}, the pipeline's own {ours}, so it takes other arguments; "
                "give the weak side as a pipeline of its own if both share one latent space"
            )


def check_pipelines(strong: Any, weak: Any, *, own_levels: bool = False) -> None:
    """Raises `UserError` if the weak pipeline is known not to share latents or noise levels, or changes networks.

    `own_levels`: it is asked at levels of its own, whatever its schedule and path.
    """
    count = len(networks_of(weak))
    if count > 1:
        raise UserError(
            f"the weak {type(weak).__name__} has {count} networks, used one after the other, and the weak side must be "
            "one: give weak as one of them"
        )
    ours, theirs = LatentSpace.of(strong), LatentSpace.of(weak)
    apart = replace(theirs, scheduler=ours.scheduler)
    try:
        check_shared(ours, apart if own_levels else theirs)
    except UserError as error:
        if own_levels or compare_spaces(ours, apart).name not in ("share", "undecided"):
            raise
        raise UserError(
            f'{error}; or, if their VAEs are one, ask it at its own levels: weak=(pipeline, ModelSpec(levels="own"))'
        ) from error


def first_index(scheduler: Any, timestep: Any) -> int:
    """Returns where in the scheduler's timesteps a pipeline's loop starts (later than 0 for image to image)."""
    timesteps = scheduler.timesteps.tolist()
    flow = type(scheduler).__name__.startswith("FlowMatch")
    if flow and float(scheduler.sigmas.max()) > 1 + 1e-4:
        raise UserError(
            f"{type(scheduler).__name__} has sigmas up to {float(scheduler.sigmas.max()):g} here, and a flow's end "
            "at 1; this pipeline brings levels of its own (Cosmos 2), which reflection does not know"
        )
    if float(timestep) not in timesteps:
        raise UserError(f"the pipeline starts at timestep {float(timestep):g}, which is not one of its scheduler's")
    return timesteps.index(float(timestep))


def check_reflections(method: str, options: ReflectionConfig, schedule: Schedule) -> None:
    """Raises `UserError` for a number of reflections or a mode that this schedule does not allow."""
    if method == "autoguided":
        return
    options.check_levels(schedule.levels, method)
    steps, lam = options.steps(schedule.num_steps), options.num_reflections
    lam = schedule.num_steps - 1 if lam is None else lam
    if lam == 1 and options.gap_every is not None and not steps:
        raise UserError(
            "gap_every with num_reflections 1 leaves nothing to reflect: the first step has no gap before it; give more"
        )
    if lam and not steps:
        raise UserError(
            f"the window {options.window} leaves none of the first {lam} of {schedule.num_steps} steps to be "
            "reflected; widen it, raise num_reflections, or set that to 0"
        )
    if 0 in steps and options.mode != "fused" and method != "resample" and schedule.starts_at_pure_noise:
        raise UserError(
            "this schedule starts at pure noise (zero terminal SNR), where an inversion at that timestep loses the "
            'image; use mode="fused" (--mode fused), or rescale_betas_zero_snr=False for a network that was trained '
            "without it"
        )


def check_first_step(recorded: RecordedStep, schedule: Schedule) -> None:
    """Raises `UserError` if the pipeline feeds its network anything but the scheduler's latent."""
    call = recorded.calls[0]
    ours = recorded.sample / schedule.scales[schedule.steps[0] or 0]
    theirs = call.latent[: ours.shape[0]].to(ours.dtype)
    tolerance = 1e-4 if call.latent.dtype == torch.float32 else 2e-2
    if not torch.allclose(ours, theirs, rtol=tolerance, atol=tolerance):
        raise NotRecorded(
            f"this pipeline changes the latent before {type(call.network).__name__} sees it, in a way that reflection "
            "does not know; it cannot be reflected"
        )
    check_same_latent(recorded)


def check_same_space(other: Conditioning, ours: Conditioning, sample: Tensor, *, count_alike: bool = True) -> None:
    """Raises `UserError` if another recorded call works on other latents, or counts time otherwise where it may not."""
    if other.latent_shape != sample.shape:
        raise UserError(
            f"the weak side works on latents of shape {tuple(other.latent_shape)}, the strong on "
            f"{tuple(sample.shape)}; both must share one latent space and size (same height, width, frames and batch)"
        )
    if count_alike and not torch.isclose(
        other.timestep.reshape(-1)[0].float(), ours.timestep.reshape(-1)[0].float(), rtol=1e-2
    ):
        raise UserError(
            f"the weak network is passed timestep {float(other.timestep.reshape(-1)[0]):g} where the strong one gets "
            f"{float(ours.timestep.reshape(-1)[0]):g}; both must count time alike"
        )


def check_placement(weak: nn.Module, own: nn.Module) -> None:
    """Raises `UserError` if the weak network cannot be evaluated where the pipeline's own is, or as it is cached."""
    check_caches([weak])
    dtypes = [next((p.dtype for p in net.parameters() if p.is_floating_point()), None) for net in (weak, own)]
    if dtypes[0] != dtypes[1]:
        raise UserError(
            f"the weak network is in {dtypes[0]}, the pipeline's own in {dtypes[1]}; load both in one dtype"
        )
    devices = [next((p.device for p in net.parameters()), None) for net in (weak, own)]
    offloaded = any(hasattr(net, "_hf_hook") or hasattr(net, "_diffusers_hook") for net in (weak, own))
    if devices[0] != devices[1] and not offloaded:
        raise UserError(f"the weak network is on {devices[0]}, the pipeline's own on {devices[1]}; move it with .to()")
