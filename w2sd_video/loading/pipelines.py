"""Load a whole pipeline, of pictures or AnimateDiff, from a hub id, a folder or a file, no tensor left random."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import (
    AnimateDiffPipeline,
    AnimateDiffSDXLPipeline,
    AutoencoderTiny,
    DDIMScheduler,
    FluxTransformer2DModel,
    MotionAdapter,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)

from w2sd_video.errors import UserError
from w2sd_video.latents.vaes import vae_dtype
from w2sd_video.loading.animatediff import assemble_motion_unet, motion_adapter_of
from w2sd_video.loading.checkpoints import Checkpoint, describe_motion_adapter
from w2sd_video.loading.loading import ANIMATEDIFF_SDXL_SCHEDULER
from w2sd_video.loading.memory import install_chunked_decode
from w2sd_video.loading.pipeline_files import (
    LEFT_OUT,
    VIDEO_KINDS,
    WEIGHTED,
    PipelineFiles,
    check_class,
    describe_pipeline,
    named,
)
from w2sd_video.loading.single_files import FAMILIES, flux_prefix, missing_parts
from w2sd_video.loading.sources import FileSource, FolderSource, check_complete, progress_bars, reading
from w2sd_video.loading.text_parts import TextParts, check_tokenizers

# As the motion modules for SD 1.5 were trained: linear betas.
ANIMATEDIFF_SCHEDULER: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "linear",
    "timestep_spacing": "linspace",
    "clip_sample": False,
    "steps_offset": 1,
}
FLUX_MODULES = (
    "double_blocks",
    "single_blocks",
    "img_in",
    "txt_in",
    "time_in",
    "vector_in",
    "guidance_in",
    "final_layer",
)


def load_pipeline(
    given: str,
    *,
    role: str,
    dtype: torch.dtype,
    device: str | torch.device | None = None,
    config: str | None = None,
    motion_adapter: str | None = None,
    video: bool = False,
    allow_pickle: bool = False,
    quiet: bool = False,
) -> Any:
    """Returns a diffusers pipeline of its own class, in evaluation mode.

    Args:
        given: a hub id, a folder with model_index.json, or a single .safetensors file (SDXL, SD 1.5, Flux.1).
        role: "strong" or "weak", for the messages.
        dtype: of the networks; a VAE that overflows in float16 is loaded as float32.
        device: where to; None leaves it on the host.
        config: where a single file takes configs, tokenizers and what it does not hold from: a folder or a hub id.
        motion_adapter: AnimateDiff's modules for an SDXL or SD 1.5 checkpoint, which makes it a video pipeline.
        video: whether it must make videos; otherwise it must make pictures.
        allow_pickle: open .bin weights.
        quiet: silence the libraries' progress bars.

    Raises:
        UserError: what was given does not exist, is damaged, incomplete, or no such pipeline.
    """
    files = describe_pipeline(given, role, config=config, allow_pickle=allow_pickle, video=video)
    with progress_bars(shown=not quiet):
        pipe = (
            _from_file(files, dtype, allow_pickle) if files.kind == "file" else _from_folder(files, dtype, allow_pickle)
        )
        if motion_adapter is not None:
            pipe = _with_motion(pipe, files, motion_adapter, dtype, allow_pickle)
    makes_videos = type(pipe).__name__.startswith(VIDEO_KINDS)
    if makes_videos != video:
        what, wanted = ("videos", "pictures") if makes_videos else ("pictures", "videos (AnimateDiff)")
        raise UserError(f"the {role} side {given} makes {what}: {type(pipe).__name__}; give one that makes {wanted}")
    network = getattr(pipe, "unet", None) or pipe.transformer
    if hasattr(pipe.vae.config, "block_out_channels") and (video or pipe.vae.dtype != network.dtype):
        install_chunked_decode(pipe.vae)  # which also casts the latents to the VAE's dtype
    return pipe if device is None else pipe.to(device)


def _from_folder(files: PipelineFiles, dtype: torch.dtype, allow_pickle: bool) -> Any:
    checkpoint = Checkpoint(files.given, "hub" if files.path is None else "pipeline", files.path)
    source = FolderSource(checkpoint, dtype, allow_pickle)
    index = _index(source)
    return _assembled(source, index, _class_of(["diffusers", index.get("_class_name")], files.given), {})


def _from_file(files: PipelineFiles, dtype: torch.dtype, allow_pickle: bool) -> Any:
    """The file's own parts, and the rest from its config."""
    assert files.family is not None and files.header is not None and files.config is not None
    checkpoint = Checkpoint(files.given, "file", files.path, files.header)
    source = FileSource(checkpoint, str(files.configs or files.config), dtype)
    source.base.allow_pickle = allow_pickle
    lacking = missing_parts(files.family, files.header)
    parts: dict[str, Any] = {}
    if files.family == "flux":
        parts["transformer"] = _flux_transformer(source, dtype)
    else:
        parts["unet"] = source.unet()
        if "vae" not in lacking:
            parts["vae"] = source.vae()
        if "text_encoder" not in lacking:
            parts |= _text_of(source, files.family)
    kind = getattr(diffusers, FAMILIES[files.family])
    pipe = _assembled(source.base, _index(source.base), kind, parts)
    return _as_trained(pipe, files.header)


def _assembled(source: FolderSource, index: Mapping[str, Any], kind: Any, parts: dict[str, Any]) -> Any:
    """The pipeline of these parts; those with weights that are not among them are loaded one by one, strictly."""
    name, path = source.checkpoint.given, source.checkpoint.path
    parts = {**parts, **{part: None for part in LEFT_OUT if part in index}}
    for part in WEIGHTED:
        if part not in parts and named(index, part) and part != "motion_adapter":
            own = vae_dtype(source.config("vae") or {}, source.dtype) if part == "vae" else source.dtype
            parts[part] = source.load(_class_of(index[part], name), part, own)
    if named(index, "motion_adapter") and isinstance(parts.get("unet"), UNet2DConditionModel):
        place = {"subfolder": "motion_adapter"} if path is None else {}
        adapter = source.load(MotionAdapter, "motion_adapter", source.dtype, **place)
        parts["unet"] = assemble_motion_unet(parts["unet"], adapter)  # diffusers' own leaves some of it random
    if named(index, "motion_adapter"):
        parts["motion_adapter"] = motion_adapter_of(parts["unet"])
    if "requires_safety_checker" in index:
        parts["requires_safety_checker"] = False
    if "StableDiffusionXL" in kind.__name__:
        parts["add_watermarker"] = False
    with reading(name, "pipeline"):
        pipe = kind.from_pretrained(str(path or name), local_files_only=path is not None, dtype=source.dtype, **parts)
    if getattr(pipe, "tokenizer", None) is not None and getattr(pipe, "text_encoder", None) is not None:
        second = "_2" if getattr(pipe, "tokenizer_2", None) is not None else ""
        text = [getattr(pipe, part + which) for part in ("tokenizer", "text_encoder") for which in ("", second)]
        check_tokenizers(TextParts(*text), name)
    return pipe


def _index(source: FolderSource) -> dict[str, Any]:
    index = source.config("model_index")
    if index is None:
        raise UserError(f"{source.checkpoint.given} has no model_index.json; give the id of a whole diffusers pipeline")
    check_class(str(index.get("_class_name")), index, source.checkpoint.given)
    return index


def _class_of(entry: Any, name: str) -> Any:
    """The class that an entry of model_index.json names, if it is one of the libraries' own."""
    library, found = entry[0], None
    if library in ("diffusers", "transformers"):
        found = getattr(importlib.import_module(library), str(entry[1]), None)
    if found is None:
        raise UserError(
            f"{name} needs the class {entry[1]} of {library}, which the installed diffusers and transformers do not "
            "have; code that comes with a checkpoint is not run: give one of diffusers' own pipelines"
        )
    return found


def _flux_transformer(source: FileSource, dtype: torch.dtype) -> Any:
    network = source.load(FluxTransformer2DModel, "transformer", dtype)
    header = source.checkpoint.header or {}
    prefix = flux_prefix(header)
    starts = tuple(f"{prefix}{module}." for module in FLUX_MODULES)
    held = sum(tensor.numel for name, tensor in header.items() if name.startswith(starts))
    described = sum(parameter.numel() for parameter in network.parameters())
    if held != described:  # diffusers drops without a word what the config does not describe
        raise UserError(
            f"the transformer of {source.checkpoint.given} holds {held} numbers and its config describes {described}; "
            "give the config of the file's own model (FLUX.1-dev and -schnell differ)"
        )
    return network


def _text_of(source: FileSource, family: str) -> dict[str, Any]:
    if family == "sdxl":
        text = source.text()
        return {} if text is None else text.components()
    name = source.checkpoint.given
    nothing: dict[str, Any] = dict.fromkeys(("unet", "vae", "safety_checker", "feature_extractor"))
    with reading(name, "text encoder"):
        pipe = StableDiffusionPipeline.from_single_file(
            str(source.checkpoint.path), dtype=source.dtype, **nothing, **source.place
        )
    encoder = check_complete(pipe.text_encoder, name, "text_encoder")
    return {"text_encoder": encoder, "tokenizer": pipe.tokenizer}


def _as_trained(pipe: Any, header: Mapping[str, Any]) -> Any:
    """With the scheduler that a file's marks ask for: "v_pred", and "ztsnr" for zero terminal SNR."""
    changes: dict[str, Any] = {"prediction_type": "v_prediction"} if "v_pred" in header else {}
    if "ztsnr" in header:
        changes["rescale_betas_zero_snr"] = True
    if changes:
        pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, **changes)
    return pipe


def _with_motion(pipe: Any, files: PipelineFiles, given: str, dtype: torch.dtype, allow_pickle: bool) -> Any:
    """AnimateDiff made of a pipeline for pictures, SDXL or SD 1.5, and motion modules of its family."""
    name = type(pipe).__name__
    if name not in (FAMILIES["sdxl"], FAMILIES["sd15"]):
        raise UserError(
            f"{files.given} is a {name}; a motion adapter goes with an SDXL or SD 1.5 checkpoint: leave it out"
        )
    adapter = FolderSource(
        describe_motion_adapter(given, allow_pickle=allow_pickle), dtype, allow_pickle
    ).motion_adapter()
    large = name == FAMILIES["sdxl"]
    names = ("vae", "text_encoder", "tokenizer", *(("text_encoder_2", "tokenizer_2") if large else ()))
    settings: Mapping[str, Any] = ANIMATEDIFF_SDXL_SCHEDULER if large else ANIMATEDIFF_SCHEDULER
    parts: dict[str, Any] = {part: getattr(pipe, part) for part in names}
    parts["unet"] = assemble_motion_unet(pipe.unet, adapter)
    parts["motion_adapter"] = adapter
    parts["scheduler"] = DDIMScheduler(**{**settings, "prediction_type": pipe.scheduler.config.prediction_type})
    if not large:
        return AnimateDiffPipeline(**parts)
    return AnimateDiffSDXLPipeline(**parts, force_zeros_for_empty_prompt=pipe.config.force_zeros_for_empty_prompt)


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
    files = describe_pipeline(given, role, config=config, allow_pickle=allow_pickle, video=video)
    with progress_bars(shown=False):
        if files.kind == "file":
            assert files.family is not None and files.header is not None and files.config is not None
            own = FileSource(
                Checkpoint(given, "file", files.path, files.header), str(files.configs or files.config), dtype
            )
            if "vae" not in missing_parts(files.family, files.header):
                return own.vae()
            source = own.base
        else:
            source = FolderSource(Checkpoint(given, "hub" if files.path is None else "pipeline", files.path), dtype)
        source.allow_pickle = allow_pickle
        found = source.config("vae")
        if found is None:
            raise UserError(f"the {role} side {given} has no VAE; give a whole pipeline")
        return source.load(_class_of(["diffusers", found.get("_class_name")], given), "vae", vae_dtype(found, dtype))


def load_tiny_vae(given: str, dtype: torch.dtype) -> Any:
    """Returns the AutoencoderTiny of a folder or a hub id.

    Raises:
        UserError: there is none, or it is damaged.
    """
    path = Path(given).expanduser()
    checkpoint = Checkpoint(given, "network", path) if path.is_dir() else Checkpoint(given, "hub")
    with progress_bars(shown=False):
        return FolderSource(checkpoint, dtype).load(AutoencoderTiny, "vae", dtype, subfolder=None)
