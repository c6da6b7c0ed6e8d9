"""Load a whole pipeline of any family from a hub id, a folder or a file, no tensor left random; its scheduler, its
ControlNet and its IP-Adapter.
"""

from __future__ import annotations

import copy
import importlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import (
    AnimateDiffPipeline,
    AnimateDiffSDXLPipeline,
    AutoencoderTiny,
    CogVideoXDDIMScheduler,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    MotionAdapter,
    UNet2DConditionModel,
    UNetMotionModel,
)

from w2sd_video.errors import UserError
from w2sd_video.gaps.control_images import WHITE, canny_edges, read_control_image, read_rgb
from w2sd_video.latents.schedules import check_scheduler, is_flow
from w2sd_video.latents.spaces import IMAGE_VAES
from w2sd_video.latents.vaes import vae_dtype
from w2sd_video.loading.animatediff import assemble_motion_unet, motion_adapter_of, tensors_of
from w2sd_video.loading.attachments import CONTROLLED, check_controlnet, check_widths, place_of_ip_adapter
from w2sd_video.loading.describe import (
    LEFT_OUT,
    WEIGHTED,
    Description,
    check_class,
    describe,
    describe_motion_adapter,
    is_lent,
    named,
)
from w2sd_video.loading.files import FAMILIES, local_only
from w2sd_video.loading.parts import ON_HOST, Places, Source, Told, Waiting, check_tokenizers, progress_bars, reading
from w2sd_video.loading.pipeline_families import family_of_class, makes_videos, start_of_class
from w2sd_video.loading.placement import install_chunked_decode
from w2sd_video.loading.sharing import share_equal_tensors, share_pipelines

# The recipe of diffusers' documentation for AnimateDiff on SDXL, but for the spacing: with its "linspace" DDIM misses
# its own grid. "trailing" starts from the same level, 999, and chains when the number of steps divides 1000.
ANIMATEDIFF_SDXL_SCHEDULER: Mapping[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "timestep_spacing": "trailing",
}
# As the motion modules for SD 1.5 were trained: linear betas.
ANIMATEDIFF_SCHEDULER: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "linear",
    "timestep_spacing": "linspace",
    "clip_sample": False,
    "steps_offset": 1,
}
OWN_MODULES = ("ltx2",)  # whose classes a model_index.json names by their folder
SCHEDULERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "ddim": (DDIMScheduler, {}),
    "euler": (EulerDiscreteScheduler, {}),
    "euler-trailing": (EulerDiscreteScheduler, {"timestep_spacing": "trailing"}),  # of Lightning, Turbo, Hyper, DMD
    "dpm-solver++": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++", "solver_order": 2}),
}


def load_pipeline(
    given: str,
    *,
    role: str,
    dtype: torch.dtype,
    config: str | None = None,
    motion_adapter: str | None = None,
    video: bool = False,
    allow_pickle: bool = False,
    quiet: bool = False,
    sharing: Any = None,
    waiting: list[Callable[[], None]] | None = None,
    places: Places = ON_HOST,
    told: Told = lambda size, part: None,
) -> Any:
    """Returns a diffusers pipeline of its own class, in evaluation mode, on the host or in `places`.

    Args:
        given: a hub id, a folder with model_index.json, or a single .safetensors file (SDXL, SD 1.5, Flux.1).
        role: "strong" or "weak", for the messages.
        dtype: of the networks; a VAE that overflows in float16 is loaded as float32.
        config: where a single file takes configs, tokenizers and what it does not hold from: a folder or a hub id.
        motion_adapter: AnimateDiff's modules for an SDXL or SD 1.5 checkpoint, which makes it a video pipeline.
        video: whether it must make videos; otherwise it must make pictures.
        allow_pickle: open .bin weights.
        quiet: silence the libraries' progress bars.
        sharing: a pipeline loaded before, whose tensors are used wherever this one's are equal (`share_pipelines`). Of
            a folder with one network alone it also lends everything else.
        waiting: takes what gives the networks their weights, which they do not have before it is called; None: at once.
        places: where tensors go that are read one by one; what the libraries load is on the host.
        told: hears of bytes as they are read, and of which part they are.

    Raises:
        UserError: what was given does not exist, is damaged, incomplete, or no such pipeline.
    """
    lent = sharing is not None and hasattr(sharing, "unet")
    described = describe(given, role, config=config, allow_pickle=allow_pickle, video=video, lent=lent)
    with progress_bars(shown=not quiet):
        adapter = None if motion_adapter is None else load_motion_adapter(motion_adapter, dtype, allow_pickle)
        held: Waiting | None = None if waiting is None else []
        source = Source(described, dtype, allow_pickle, waiting=held, places=places, told=told)
        pipe = load_described(source, role, adapter, video=video, sharing=sharing)
    if waiting is not None:
        waiting += source.weights_of(pipe, sharing)
    return pipe


def load_described(source: Source, role: str, adapter: MotionAdapter | None, *, video: bool, sharing: Any) -> Any:
    """As `load_pipeline`, of what is described already; `adapter` are AnimateDiff's modules (None: those of `sharing`,
    where that makes videos and this one pictures).
    """
    found, given = source.description, source.name
    if found.kind == "network":
        pipe = _with_network(sharing, source, adapter)
    else:
        index = _index(source)
        name = FAMILIES.get(found.family or "", str(index.get("_class_name")))
        pipe = _assembled(source, index, class_of(["diffusers", name], given), adapter, sharing)
    if video and adapter is None and isinstance(getattr(sharing, "unet", None), UNetMotionModel):
        adapter = motion_adapter_of(sharing.unet)
    if adapter is not None and not makes_videos(type(pipe).__name__):
        pipe = _with_motion(pipe, given, adapter)
    if sharing is not None:
        share_pipelines(sharing, pipe)
    moving = makes_videos(type(pipe).__name__)
    if moving != video:
        what, wanted = ("videos", "pictures") if moving else ("pictures", "videos (AnimateDiff)")
        raise UserError(f"the {role} side {given} makes {what}: {type(pipe).__name__}; give one that makes {wanted}")
    network = getattr(pipe, "unet", None) or pipe.transformer
    frames_apart = type(pipe.vae).__name__ in IMAGE_VAES and hasattr(pipe.vae.config, "block_out_channels")
    if frames_apart and (video or pipe.vae.dtype != network.dtype):
        install_chunked_decode(pipe.vae)  # which also casts the latents to the VAE's dtype
    return pipe


def load_motion_adapter(given: str, dtype: torch.dtype, allow_pickle: bool = False) -> MotionAdapter:
    """Returns AnimateDiff's motion modules of a folder or a hub id; raises `UserError` as `describe_motion_adapter`."""
    source = Source(describe_motion_adapter(given, allow_pickle=allow_pickle), dtype, allow_pickle)
    return source.load(MotionAdapter, "motion_adapter")


def _with_network(other: Any, source: Source, adapter: MotionAdapter | None) -> Any:
    """The other side's pipeline, scheduler of its own, with the network of a folder that holds nothing else."""
    network: Any = source.unet()
    if isinstance(network, UNet2DConditionModel) and not isinstance(other.unet, UNet2DConditionModel):
        network = assemble_motion_unet(network, adapter or motion_adapter_of(other.unet))
    share_equal_tensors(other.unet, network)
    taken = inspect.signature(type(other)).parameters
    parts = {name: _twin(name, part) for name, part in other.components.items() if name in taken}
    settings = {name: other.config[name] for name in taken if name in other.config and name not in parts}
    scheduler = type(other.scheduler).from_config(other.scheduler.config)
    return type(other)(**{**parts, **settings, "unet": network, "scheduler": scheduler})


def _twin(name: str, part: Any) -> Any:
    """A part for the other side, too: a text encoder once more, its tensors shared, so that LoRAs are of one side."""
    return copy.deepcopy(part, {id(each): each for each in tensors_of(part).values()}) if "text_enc" in name else part


def _assembled(source: Source, index: Mapping[str, Any], kind: Any, adapter: MotionAdapter | None, sharing: Any) -> Any:
    """The pipeline of a class, its parts with weights loaded one by one, strictly, and shared as they come; the other
    side lends what a single file and its configs' folder do not hold.
    """
    found, name = source.description, source.name
    sees = found.kind != "file" and (family := family_of_class(kind.__name__)) is not None and family.sees
    parts: dict[str, Any] = {part: None for part in LEFT_OUT[: 1 if sees else None] if part in index}
    if found.kind == "file" and found.family in ("sdxl", "sd15") and "text_encoder" not in found.lacking:
        parts |= source.text_components(found.family, sharing)
    for part in WEIGHTED:
        if part in found.lacking and is_lent(found, part) and getattr(sharing, part, None) is not None:
            parts[part] = _twin(part, getattr(sharing, part))
        elif part not in parts and named(index, part) and part != "motion_adapter":
            own = vae_dtype(source.config("vae") or {}, source.dtype) if part == "vae" else source.dtype
            single = part == "unet" and found.kind == "file"  # whatever the config's makes
            other = getattr(sharing, part, None)
            other = other if isinstance(other, torch.nn.Module) else None
            taken = UNet2DConditionModel if single else class_of(index[part], name)
            parts[part] = source.load(taken, part, own, other=other)
            if other is not None:
                share_equal_tensors(other, parts[part])
    moving = named(index, "motion_adapter") and found.kind != "file"
    if moving and isinstance(parts.get("unet"), UNet2DConditionModel):
        place = {} if source.local else {"subfolder": "motion_adapter"}
        adapter = adapter or source.load(MotionAdapter, "motion_adapter", **place)
        parts["unet"] = assemble_motion_unet(parts["unet"], adapter)  # diffusers' own leaves some of it random
    if moving:
        parts["motion_adapter"] = motion_adapter_of(parts["unet"])
    if "requires_safety_checker" in index:
        parts["requires_safety_checker"] = False
    if "StableDiffusionXL" in kind.__name__:
        parts["add_watermarker"] = False
    with reading(name, "pipeline"):
        pipe = kind.from_pretrained(
            source.place,
            local_files_only=local_only(source.place),
            dtype=source.dtype,
            trust_remote_code=False,
            use_safetensors=None if source.allow_pickle else True,
            **parts,
        )
    if "CLIPTokenizer" in type(getattr(pipe, "tokenizer", None)).__name__:
        text = [f"{part}{which}" for part in ("tokenizer", "text_encoder") for which in ("", "_2")]
        check_tokenizers({each: getattr(pipe, each, None) for each in text}, name)
    scheduler = found.as_marked("scheduler", dict(pipe.scheduler.config)) if found.kind == "file" else None
    if scheduler is not None and scheduler != dict(pipe.scheduler.config):
        pipe.scheduler = type(pipe.scheduler).from_config(scheduler)
    return pipe


def _index(source: Source) -> dict[str, Any]:
    index = source.config("model_index")
    if index is None:
        raise UserError(f"{source.name} has no model_index.json; give the id of a whole diffusers pipeline")
    check_class(str(index.get("_class_name")), index, source.name)
    return index


def class_of(entry: Any, name: str) -> Any:
    """The class that an entry of model_index.json names, if it is one of the libraries' own."""
    library, found = entry[0], None
    if library in ("diffusers", "transformers"):
        found = getattr(importlib.import_module(library), str(entry[1]), None)
    elif library in OWN_MODULES:  # of diffusers' own folders of pipelines
        found = getattr(importlib.import_module(f"diffusers.pipelines.{library}"), str(entry[1]), None)
    if found is None:
        raise UserError(
            f"{name} needs the class {entry[1]} of {library}, which the installed diffusers and transformers do not "
            "have; code that comes with a checkpoint is not run: give one of diffusers' own pipelines"
        )
    return found


def _with_motion(pipe: Any, checkpoint: str, adapter: MotionAdapter) -> Any:
    """AnimateDiff made of a pipeline for pictures, SDXL or SD 1.5, and motion modules of its family."""
    name = type(pipe).__name__
    if name not in (FAMILIES["sdxl"], FAMILIES["sd15"]):
        raise UserError(
            f"{checkpoint} is a {name}; a motion adapter goes with an SDXL or SD 1.5 checkpoint: leave it out"
        )
    large = name == FAMILIES["sdxl"]
    names = ("vae", "text_encoder", "tokenizer", *(("text_encoder_2", "tokenizer_2") if large else ()))
    parts: dict[str, Any] = {part: getattr(pipe, part) for part in names}
    parts["unet"] = assemble_motion_unet(pipe.unet, adapter)
    parts["motion_adapter"] = adapter
    parts["scheduler"] = motion_scheduler(pipe.scheduler.config.prediction_type, large=large)
    if not large:
        return AnimateDiffPipeline(**parts)
    return AnimateDiffSDXLPipeline(**parts, force_zeros_for_empty_prompt=pipe.config.force_zeros_for_empty_prompt)


def motion_scheduler(prediction: str, *, large: bool) -> DDIMScheduler:
    """Returns the scheduler of motion modules on a network for pictures, SDXL (`large`) or SD 1.5."""
    settings: Mapping[str, Any] = ANIMATEDIFF_SDXL_SCHEDULER if large else ANIMATEDIFF_SCHEDULER
    return DDIMScheduler(**{**settings, "prediction_type": prediction})


def load_vae(
    given: str,
    *,
    role: str,
    dtype: torch.dtype,
    config: str | None = None,
    allow_pickle: bool = False,
    video: bool = False,
) -> Any:
    """Returns the VAE alone of what `load_pipeline` would load.

    Raises:
        UserError: as `load_pipeline`.
    """
    described = describe(given, role, config=config, allow_pickle=allow_pickle, video=video)
    source = Source(described, dtype, allow_pickle)
    with progress_bars(shown=False):
        found = source.config("vae")
        if found is None:
            raise UserError(f"the {role} side {given} has no VAE; give a whole pipeline")
        return source.load(class_of(["diffusers", found.get("_class_name")], given), "vae", vae_dtype(found, dtype))


def load_tiny_vae(given: str, dtype: torch.dtype) -> Any:
    """Returns the AutoencoderTiny of a folder or a hub id.

    Raises:
        UserError: there is none, or it is damaged.
    """
    with progress_bars(shown=False):
        return _alone(given, dtype).load(AutoencoderTiny, "vae", subfolder=None)


def _alone(given: str, dtype: torch.dtype, allow_pickle: bool = False) -> Source:
    """A folder or a repository that holds one component and nothing else."""
    path = Path(given).expanduser()
    found = Description(given, "network", path) if path.is_dir() else Description(given, "hub")
    return Source(found, dtype, allow_pickle)


# -- schedulers -------------------------------------------------------------------------------------------------------


def load_reflectable(
    given: str, *, role: str, note: Callable[[str], None], scheduler: str | None = None, **settings: Any
) -> Any:
    """Returns the pipeline of `load_pipeline` (which takes `settings`) with the scheduler asked for, on its own levels.

    `scheduler` None is the pipeline's own; where that cannot be reflected DDIM (for flows Euler) takes its place, and
    `note` is told so.

    Raises:
        UserError: as `load_pipeline`, or a scheduler that the pipeline cannot have.
    """
    return reflectable(load_pipeline(given, role=role, **settings), scheduler, role, note)


def reflectable(pipe: Any, scheduler: str | None, role: str, note: Callable[[str], None]) -> Any:
    """Returns the pipeline with the scheduler asked for; see `load_reflectable`."""
    if scheduler is not None:
        pipe.scheduler = chosen_scheduler(pipe.scheduler, scheduler, role)
        return pipe
    pipe.scheduler, remark = reflectable_scheduler(pipe.scheduler, role)
    if remark:
        note(remark)
    return pipe


def reflectable_scheduler(own: Any, role: str) -> tuple[Any, str]:
    """Returns a pipeline's scheduler, or the one that takes its place where it cannot be reflected, and what to say of
    that ("": nothing).
    """
    try:
        check_scheduler(own)
    except UserError:
        few = type(own).__name__ in ("LCMScheduler", "TCDScheduler")
        taken = _flow(own) if is_flow(own) else _noise("euler-trailing" if few else "ddim", own)
        kinds = [type(scheduler).__name__ for scheduler in (taken, own)]
        return taken, f"the {role} side samples with {kinds[0]}: its own {kinds[1]} cannot be reflected"
    return own, ""


def chosen_scheduler(own: Any, name: str, role: str) -> Any:
    """Returns the scheduler of a name on the noise levels of a pipeline's own; raises `UserError` if it cannot be."""
    if is_flow(own):
        if name != "euler":
            raise UserError(f"the {role} side is a flow, which samples with euler; leave the scheduler {name} out")
        return _flow(own)
    made = _noise(name, own)
    check_scheduler(made)
    return made


def _flow(own: Any) -> Any:
    """Euler on the levels of another flow scheduler, some of which call their shift towards noise another name."""
    shift = {"shift": own.config.flow_shift} if "flow_shift" in own.config else {}
    return FlowMatchEulerDiscreteScheduler.from_config(own.config, **shift)


def _noise(name: str, own: Any) -> Any:
    kind, settings = SCHEDULERS[name]
    if type(own).__name__.startswith("CogVideoX"):  # whose noise levels are shifted, which others do not know
        if name != "ddim":
            raise UserError(
                f"the scheduler {name} does not have the noise levels of {type(own).__name__}; leave it out"
            )
        kind = CogVideoXDDIMScheduler
    return kind.from_config(own.config, clip_sample=False, thresholding=False, **settings)


# -- what sampling starts from ----------------------------------------------------------------------------------------


def begun_from(pipe: Any, name: str, given: str) -> Any:
    """Returns the pipeline of the same parts whose call starts from something else, of the class `name`.

    Raises:
        UserError: the network of `given` was not trained for that.
    """
    kind = class_of(["diffusers", name], given)
    if type(pipe) is kind:
        return pipe
    own = type(pipe).__name__
    family = family_of_class(own)
    if family is None or name not in family.classes.values():
        raise UserError(f"{given} is a {own}, whose parts make no {name}; give a checkpoint for that one")
    starts = {start_of_class(own), start_of_class(name)}
    if starts & set(family.own_weights) and not pipe.config.get("expand_timesteps"):
        raise UserError(f"the network of {given} is one for {own}, not for {name}; give a checkpoint for that one")
    taken = [word for word in inspect.signature(kind).parameters if word != "self"]
    settings = {word: pipe.config[word] for word in taken if word in pipe.config}
    parts = {word: getattr(pipe, word) for word in taken if word in pipe.components}
    if "add_watermarker" in taken:
        settings["add_watermarker"] = False
    optional = {word: None for word in kind._optional_components if word in taken}
    return kind(**{**optional, **settings, **parts})


# -- ControlNets and IP-Adapters --------------------------------------------------------------------------------------


def with_controlnet(pipe: Any, given: str, dtype: torch.dtype, *, allow_pickle: bool = False) -> Any:
    """Returns the pipeline of the same parts that has the ControlNet of a folder or a hub id.

    Raises:
        UserError: no such ControlNet, a damaged one, or one for another family.
    """
    name, network = type(pipe).__name__, getattr(pipe, "unet", None) or pipe.transformer
    check_controlnet(given, name, network.config, allow_pickle=allow_pickle)
    kind, net_class = (getattr(diffusers, each) for each in CONTROLLED[name])
    with progress_bars(shown=False):
        net = _alone(given, dtype, allow_pickle).load(net_class, "controlnet", subfolder=None)
    check_widths(given, name, network.config, net.config)
    taken = inspect.signature(kind).parameters
    return kind(**{part: module for part, module in pipe.components.items() if part in taken}, controlnet=net)


def control_arguments(pipe: Any, file: str, height: int, width: int, *, canny: bool, resize: bool) -> dict[str, Any]:
    """Returns the call argument with the picture that a ControlNet follows.

    Raises:
        UserError: no picture, or one of another size.
    """
    picture = read_control_image(Path(file).expanduser(), width, height, resize=resize)
    taken = inspect.signature(type(pipe).__call__).parameters
    return {"control_image" if "control_image" in taken else "image": canny_edges(picture) if canny else picture}


def add_ip_adapter(pipe: Any, given: str) -> None:
    """Load an IP-Adapter into the pipeline: a .safetensors file beside a folder `image_encoder`, or a hub id.

    Raises:
        UserError: there is none, or it does not fit.
    """
    folder, subfolder, name = place_of_ip_adapter(given, type(pipe).__name__)
    path = Path(given).expanduser()
    with reading(given, "IP-Adapter"), progress_bars(shown=False):
        if hasattr(pipe, "unet"):
            pipe.load_ip_adapter(folder, subfolder=subfolder, weight_name=name, local_files_only=local_only(given))
        else:
            encoder = str(path.parent / "image_encoder")
            pipe.load_ip_adapter(
                folder,
                subfolder=subfolder,
                weight_name=name,
                image_encoder_pretrained_model_name_or_path=encoder,
                local_files_only=local_only(given),
            )


def adapter_arguments(file: str) -> dict[str, Any]:
    """Returns the call argument with the picture that an IP-Adapter is told; raises `UserError` if there is none."""
    return {"ip_adapter_image": read_rgb(Path(file).expanduser(), "picture for the IP-Adapter", WHITE)}
