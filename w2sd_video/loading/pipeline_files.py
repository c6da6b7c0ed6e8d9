"""What a whole pipeline on disk is, read from its JSON files and safetensors headers.

Imports no torch and touches no network, so that what cannot be used is refused before anything is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from w2sd_video.errors import UserError
from w2sd_video.latents.spaces import LatentSpace
from w2sd_video.loading.checkpoints import (
    HUB_ID,
    PICKLES,
    TensorInfo,
    read_json,
    read_safetensors_header,
    weight_files,
)
from w2sd_video.loading.single_files import FAMILIES, family_of, missing_parts

# The parts of a pipeline that hold weights; whatever else a model_index.json names is settings, or left out.
WEIGHTED = (
    *("unet", "transformer", "transformer_2", "vae", "motion_adapter"),
    *("text_encoder", "text_encoder_2", "text_encoder_3"),
)
LEFT_OUT = ("safety_checker", "feature_extractor", "image_encoder")  # not asked for when text makes a picture
NOT_FROM_TEXT = (
    *("Img2Img", "Inpaint", "ControlNet", "Control", "Upscale", "Fill", "Redux", "Kontext", "Edit", "Pix2Pix"),
    *("Variation", "Depth", "Prior", "Adapter", "VideoToVideo", "ImageToVideo"),
)
# Image VAEs, and the part of their config that has one entry for each resolution of the encoder.
IMAGE_VAES = {
    "AutoencoderKL": "block_out_channels",
    "AutoencoderTiny": "encoder_block_out_channels",
    "AutoencoderDC": "encoder_block_out_channels",
}
VIDEO_VAES = {"AutoencoderKLWan": "dim_mult"}  # likewise, of the pipelines in VIDEO_KINDS that have one of their own
VIDEO_KINDS = ("AnimateDiff", "Wan")  # how the classes of pipelines that make videos begin
TWO_NETWORKS = ("Wan",)  # may have a second one for low noise
FLUX_SAMPLE_SIZE = 128  # cells; diffusers has it in code, not in a config


@dataclass(frozen=True)
class PipelineFiles:
    """A pipeline as it was given, and its configs as far as they are on this machine.

    `kind` is "hub" (owner/name, nothing known before it is fetched), "folder" (model_index.json) or "file" (a single
    .safetensors file of the `family` "sdxl", "sd15" or "flux", whose configs come from `config`: a folder or a hub id).
    """

    given: str
    kind: str
    path: Path | None = None
    family: str | None = None
    header: Mapping[str, TensorInfo] | None = field(default=None, repr=False)
    config: str | None = None

    @cached_property
    def configs(self) -> Path | None:
        """The folder where configs lie; None where they come from the hub."""
        folder = self.config if self.kind == "file" else self.path
        return Path(folder).expanduser() if folder is not None and Path(folder).expanduser().is_dir() else None

    @cached_property
    def index(self) -> dict[str, Any] | None:
        return None if self.configs is None else read_json(self.configs / "model_index.json")

    def part(self, name: str) -> dict[str, Any] | None:
        """The JSON config of a part ("vae", "unet", "scheduler", ...); None where unknown or absent."""
        if self.configs is None:
            return None
        file = self.configs / name / ("scheduler_config.json" if name == "scheduler" else "config.json")
        return read_json(file) if file.is_file() else None

    @property
    def class_name(self) -> str | None:
        """The pipeline's class; None for a hub id."""
        if self.family is not None:
            return FAMILIES[self.family]
        return None if self.index is None else str(self.index.get("_class_name"))

    @property
    def network(self) -> dict[str, Any] | None:
        return self.part("unet") or self.part("transformer")

    @property
    def is_video(self) -> bool | None:
        return None if self.class_name is None else self.class_name.startswith(VIDEO_KINDS)

    @property
    def is_flux(self) -> bool | None:
        return None if self.class_name is None else self.class_name.startswith("Flux")

    @property
    def is_flow(self) -> bool | None:
        """Whether the scheduler steps along a flow rather than a noise path."""
        found = self.part("scheduler")
        if found is None:
            return None
        return str(found.get("_class_name")).startswith("FlowMatch") or bool(found.get("use_flow_sigmas"))

    @property
    def space(self) -> LatentSpace:
        """What its VAE's config says of its latents; the schedule is another matter, and weights are not read."""
        return LatentSpace(self.part("vae"))

    @property
    def cell(self) -> int | None:
        """Pixels of each side of a latent's cell."""
        vae = self.part("vae")
        return None if vae is None else 2 ** (len(vae[(IMAGE_VAES | VIDEO_VAES)[vae["_class_name"]]]) - 1)

    @property
    def multiple(self) -> int | None:
        """What heights and widths must be multiples of: 8 in diffusers' UNet pipelines, two cells where they are packed
        in patches of two.
        """
        packed = str(self.class_name).startswith(("Flux", "StableDiffusion3", "Wan"))
        return None if self.cell is None else max(8, self.cell * (2 if packed else 1))

    @property
    def own_size(self) -> int | None:
        """Height and width in pixels where a call gives none."""
        if self.cell is None or self.network is None:
            return None
        cells = FLUX_SAMPLE_SIZE if self.is_flux else self.network.get("sample_size")
        return cells * self.cell if isinstance(cells, int) else None


def describe_pipeline(
    given: str, role: str, *, config: str | None = None, allow_pickle: bool = False, video: bool = False
) -> PipelineFiles:
    """Returns what `given` is: a hub id, a folder with model_index.json, or a single .safetensors file.

    Local weights are checked by their headers, so a truncated file is found here. `role` ("strong", "weak") is for the
    messages. `config` is where a single file takes configs, tokenizers and whatever it does not hold from: a diffusers
    folder or a hub id. `video` asks for a pipeline of AnimateDiff, otherwise it must make pictures.

    Raises:
        UserError: it does not exist, is damaged, holds pickles that were not allowed, or is no text-to-picture
            pipeline (with `video`, text-to-video) with a VAE, a scheduler and a denoising network.
    """
    path = Path(given).expanduser()
    if path.is_file():
        files = _describe_file(given, path, role, config, allow_pickle)
    elif config is not None:
        raise UserError(
            f"the {role} side {given} is no single file, so the config {config} would go unused; leave it out"
        )
    elif path.is_dir():
        files = PipelineFiles(given, "folder", path)
        _check_folder(files, role, allow_pickle)
    elif HUB_ID.fullmatch(given) and path.suffix not in (".safetensors", *PICKLES) and not path.parent.is_dir():
        return PipelineFiles(given, "hub")
    else:
        raise UserError(
            f"the {role} side {given!r} does not exist; give a diffusers folder, a single .safetensors file, or a hub "
            "id such as stabilityai/stable-diffusion-xl-base-1.0"
        )
    if files.is_video and not video:
        raise UserError(
            f"the {role} side {given} makes videos ({files.class_name}); give a pipeline that makes pictures"
        )
    return files


def check_class(class_name: str, parts: Mapping[str, Any], place: str) -> None:
    """Raises `UserError` unless a model_index.json with these entries is of a text-to-picture or AnimateDiff pipeline
    with a VAE, a scheduler and one denoising network.
    """
    held = {name for name, entry in parts.items() if isinstance(entry, list) and entry[-1] is not None}
    if any(word in class_name for word in NOT_FROM_TEXT):
        raise UserError(f"{place} holds a {class_name}, which needs more than text; give a text-to-image pipeline")
    networks = held & {"unet", "transformer", "transformer_2"}
    for wanted, there in (("VAE", "vae" in held), ("scheduler", "scheduler" in held), ("denoiser", bool(networks))):
        if not there:
            raise UserError(
                f"{place} holds a {class_name} without a {wanted}; give a pipeline that has a VAE, a scheduler and a "
                "UNet or transformer of its own"
            )
    if len(networks) > 1 and not class_name.startswith(TWO_NETWORKS):
        raise UserError(
            f"{place} holds a {class_name} with {len(networks)} denoising networks; give one with a single one"
        )


def _check_folder(files: PipelineFiles, role: str, allow_pickle: bool) -> None:
    folder = files.path
    assert folder is not None
    if not (folder / "model_index.json").is_file():
        raise UserError(
            f"the {role} folder {files.given} has no model_index.json; give a whole diffusers pipeline "
            "(save_pretrained), a single .safetensors file, or a hub id"
        )
    assert files.index is not None
    check_class(str(files.class_name), files.index, f"the {role} folder {files.given}")
    for part in WEIGHTED:
        if named(files.index, part):
            check_weights(folder / part, f"the {role} folder", allow_pickle)
    for part in ("vae", "unet", "transformer", "scheduler"):
        if named(files.index, part) and files.part(part) is None:
            raise UserError(f"the {role} folder {folder / part} has no config; download the folder again")
    _check_vae(files, f"the {role} folder {folder / 'vae'}")


def _check_vae(files: PipelineFiles, place: str) -> None:
    vae = files.part("vae") or {}
    if str(files.class_name).startswith("Wan") and vae.get("_class_name") in VIDEO_VAES:
        return
    if vae.get("_class_name") not in IMAGE_VAES or IMAGE_VAES[vae["_class_name"]] not in vae:
        raise UserError(
            f"{place} holds a {vae.get('_class_name')}, which is no image VAE; give a pipeline with one of "
            f"{', '.join(IMAGE_VAES)}"
        )


def named(index: Mapping[str, Any], part: str) -> bool:
    """Whether a model_index.json has this part."""
    entry = index.get(part)
    return isinstance(entry, list) and len(entry) == 2 and entry[1] is not None


def check_weights(folder: Path, place: str, allow_pickle: bool = False) -> None:
    """Raises `UserError` unless a part's folder has safetensors weights that are all there (or allowed pickles)."""
    files = weight_files(folder) if folder.is_dir() else []
    for file in files:
        read_safetensors_header(file)
    pickles = folder.is_dir() and any(any(folder.glob(f"*{suffix}")) for suffix in PICKLES)
    if not files and not (pickles and allow_pickle):
        hint = "its weights are pickles, which can run code: convert them, or allow pickles" if pickles else ""
        raise UserError(f"{place} {folder} holds no .safetensors weights; {hint or 'download it again'}")


def check_vae_folder(given: str, place: str, classes: tuple[str, ...]) -> None:
    """Raises `UserError` unless `given` is a hub id, or a folder with a VAE of one of these classes."""
    path = Path(given).expanduser()
    if path.is_dir():
        name = read_json(path / "config.json").get("_class_name")
        if name not in classes:
            raise UserError(f"{place} {given} is a {name}; allowed: {', '.join(classes)}")
        check_weights(path, place)
    elif not HUB_ID.fullmatch(given) or path.parent.is_dir():
        raise UserError(f"{place} {given} does not exist; give its folder (config.json beside weights) or a hub id")


def _describe_file(given: str, path: Path, role: str, config: str | None, allow_pickle: bool) -> PipelineFiles:
    if path.suffix != ".safetensors":
        kind = "a pickle, which can run code when opened" if path.suffix in PICKLES else f"a {path.suffix!r} file"
        raise UserError(f"the {role} side {given} is {kind}; give a .safetensors file (convert it), or a folder")
    header = read_safetensors_header(path)
    family = family_of(header, path)
    if config is None:
        raise UserError(
            f"the {role} side {given} is a single file and needs the configs and tokenizers of its family; give "
            f"{'--config' if role == 'strong' else '--weak-config'}: a diffusers folder of that family"
            f"{' (with its VAE and text encoders)' if family == 'flux' else ''}, or its hub id"
        )
    files = PipelineFiles(given, "file", path, family, header, config)
    folder = files.configs
    if folder is None:
        if HUB_ID.fullmatch(config) and not Path(config).expanduser().parent.is_dir():
            return files
        raise UserError(f"the {role} side's config {config} does not exist; give a diffusers folder or a hub id")
    if not (folder / "model_index.json").is_file():
        raise UserError(f"the {role} side's config {config} has no model_index.json; give a whole diffusers folder")
    assert files.index is not None
    described = str(files.index.get("_class_name"))
    wanted = {"sdxl": "StableDiffusionXL", "sd15": "StableDiffusionPipeline", "flux": "FluxPipeline"}[family]
    if not described.startswith(wanted):
        raise UserError(
            f"the {role} side {given} is of the family of {FAMILIES[family]}, its config {config} of {described}; give "
            "the config of its own family"
        )
    _check_vae(files, f"the {role} side's config folder {folder / 'vae'}")
    for part in missing_parts(family, header):
        check_weights(folder / part, f"{given} holds no {part}, and its config folder", allow_pickle)
    return files
