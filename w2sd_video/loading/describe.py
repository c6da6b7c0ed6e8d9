"""What a model is before any of it is loaded: files, configs, latent space, what is missing (imports no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from w2sd_video.errors import UserError
from w2sd_video.latents import noise_levels
from w2sd_video.latents.spaces import IMAGE_VAES, LatentSpace, cell_of
from w2sd_video.loading.files import (
    FAMILIES,
    GGUF,
    LDM_UNET,
    LDM_VAE,
    PICKLES,
    TEXT,
    TensorInfo,
    check_weights,
    family_of,
    flux_prefix,
    is_hub_id,
    missing_parts,
    read_json,
    read_safetensors_header,
    weight_files,
)
from w2sd_video.loading.pipeline_families import (
    FROM_TEXT,
    PipelineFamily,
    family_of_class,
    makes_videos,
    start_of_class,
)
from w2sd_video.loading.quantised_files import check_installed, check_package, read_gguf_header

# The parts of a pipeline that hold weights; whatever else a model_index.json names is settings, or left out.
TEXT_ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3", "text_encoder_4")
SOUND = ("audio_vae", "connectors", "vocoder")  # LTX-2's
SECOND = ("transformer_2", "unconditional_transformer")  # Wan 2.2's and Ideogram 4's
WEIGHTED = ("unet", "transformer", *SECOND, "vae", "motion_adapter", *TEXT_ENCODERS, "image_encoder", *SOUND)
LEFT_OUT = ("safety_checker", "feature_extractor", "image_encoder")  # not asked for when text makes a picture
NOT_FROM_TEXT = (  # of pipelines that are not in the table of families
    *("Img2Img", "Inpaint", "ControlNet", "Control", "Upscale", "Fill", "Redux", "Kontext", "Edit", "Pix2Pix"),
    *("Variation", "Depth", "Prior", "Adapter", "VideoToVideo", "ImageToVideo"),
)
TWO_NETWORKS = ("Wan",)  # may have a second one for low noise
NETWORKS = ("unet", "transformer")
SDXL_UNETS = ("UNet2DConditionModel", "UNetMotionModel")
FAMILY_CLASSES = {  # whose folders hold the configs of a single file of a family
    "sdxl": ("StableDiffusionXL", "AnimateDiffSDXL"),
    "sd15": ("StableDiffusionPipeline", "AnimateDiffPipeline"),
    "flux": ("FluxPipeline",),
}
TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model")
FLUX_SAMPLE_SIZE = 128  # cells; diffusers has it in code, not in a config


@dataclass(frozen=True)
class Weights:
    """Where the tensors of one part lie: safetensors files, and what their names begin with there."""

    files: tuple[Path, ...]
    prefix: str = ""

    @property
    def numel(self) -> int:
        """How many numbers they are."""
        return sum(tensor.numel for tensor in self.header.values())

    @property
    def nbytes(self) -> int:
        """How many bytes they take in the files."""
        if any(file.suffix == GGUF for file in self.files):  # packed in blocks, of which headers tell the numbers
            return sum(file.stat().st_size for file in self.files)
        return sum(tensor.nbytes for tensor in self.header.values())

    @property
    def header(self) -> dict[str, TensorInfo]:
        read = (read_gguf_header(file) if file.suffix == GGUF else read_safetensors_header(file) for file in self.files)
        return {name: tensor for each in read for name, tensor in each.items() if name.startswith(self.prefix)}


@dataclass(frozen=True)
class Description:
    """One model as it was given, and its configs as far as they are on this machine.

    `kind` is "hub" (owner/name, nothing known before it is fetched), "folder" (a whole pipeline, with
    model_index.json), "network" (a folder with one network alone) or "file" (a single file of the `family` "sdxl",
    "sd15" or "flux", whose configs come from `config`: a folder or a hub id). `header` describes the tensors of a
    single safetensors file, None for a pickle.
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

    @property
    def needs_network(self) -> bool:
        """Whether loading goes to the hub: only ever because a hub id was given."""
        return self.configs is None

    @property
    def lacking(self) -> tuple[str, ...]:
        """The parts with weights that a single file does not hold."""
        if self.kind != "file" or self.family is None or self.header is None:
            return ()
        return missing_parts(self.family, self.header)

    @cached_property
    def index(self) -> dict[str, Any] | None:
        file = None if self.configs is None else self.configs / "model_index.json"
        return read_index(file) if file is not None and file.is_file() else None

    def part(self, name: str) -> dict[str, Any] | None:
        """The JSON config of a part ("vae", "unet", "scheduler", ...); None where unknown or absent.

        A single file's own marks count: its network makes pictures whatever the config's makes, and may be trained to
        predict velocity or from pure noise.
        """
        if self.configs is None or (self.kind == "network" and name not in ("unet", "motion_adapter")):
            return None
        file = self.configs / name / ("scheduler_config.json" if name == "scheduler" else "config.json")
        if self.kind == "network":
            file = self.configs / "config.json"
        found = read_json(file) if file.is_file() else None
        return found if found is None or self.kind != "file" else self.as_marked(name, found)

    def as_marked(self, name: str, config: dict[str, Any]) -> dict[str, Any]:
        """The config of a part as a single file's own marks change it."""
        if name == "unet" and config.get("_class_name") == "UNetMotionModel":
            return {**config, "_class_name": "UNet2DConditionModel"}
        changes: dict[str, Any] = {}
        if name == "scheduler" and "v_pred" in (self.header or ()):
            changes["prediction_type"] = "v_prediction"
        if name == "scheduler" and "ztsnr" in (self.header or ()):
            changes["rescale_betas_zero_snr"] = True
        return {**config, **changes}

    def weights(self, part: str) -> Weights | None:
        """Where the weights of a part lie; None where they are not on this machine, or are pickles."""
        if self.kind == "file" and part not in self.lacking:
            if self.header is None or self.family is None:
                return None  # a pickle: not what lies beside its configs, which is of another model
            assert self.path is not None
            prefixes = {"unet": LDM_UNET, "vae": LDM_VAE, **TEXT.get(self.family, {})}
            if self.family == "flux":
                prefixes = {"transformer": flux_prefix(self.header)}
            return Weights((self.path,), prefixes[part]) if part in prefixes else None
        folder = self.part_folder(part)
        files = () if folder is None else tuple(weight_files(folder))
        return Weights(files) if files else None

    @property
    def sizes(self) -> dict[str, int]:
        """How many numbers each part with weights holds, as far as its files are here."""
        found = {part: self.weights(part) for part in WEIGHTED}
        return {part: weights.numel for part, weights in found.items() if weights is not None}

    def part_folder(self, part: str) -> Path | None:
        """The folder of a part in a folder of diffusers' layout, None where it is not on this machine."""
        if self.configs is None:
            return None
        if self.kind == "network":
            return self.configs if part in ("unet", "motion_adapter") else None
        return self.configs / part if (self.configs / part).is_dir() else None

    @property
    def class_name(self) -> str | None:
        """The pipeline's class; None for a hub id, and for a network alone."""
        if self.family is not None:
            return FAMILIES[self.family]
        return None if self.index is None else str(self.index.get("_class_name"))

    @property
    def network(self) -> dict[str, Any] | None:
        return self.part("unet") or self.part("transformer")

    @property
    def pipelines(self) -> PipelineFamily | None:
        """Its row of the table of families; None where its class is not in it, or not known."""
        return family_of_class(self.class_name)

    @property
    def is_video(self) -> bool | None:
        return None if self.class_name is None else makes_videos(self.class_name)

    @property
    def is_flux(self) -> bool | None:
        name = self.class_name
        return None if name is None else name.startswith("Flux") and "Flux2" not in name

    @property
    def is_flow(self) -> bool | None:
        """Whether the scheduler steps along a flow rather than a noise path."""
        found = self.part("scheduler")
        return None if found is None else noise_levels.is_flow(found)

    @property
    def prediction(self) -> str | None:
        """What the network predicts: "epsilon", "v_prediction", "sample" or "flow"."""
        found = self.part("scheduler")
        return None if found is None else noise_levels.prediction_of(found)

    @property
    def space(self) -> LatentSpace:
        """What its VAE's config says of its latents; the schedule is another matter, and weights are not read."""
        return LatentSpace(self.part("vae"))

    @property
    def cell(self) -> int | None:
        """Pixels of each side of a latent's cell."""
        vae = self.part("vae")
        return None if vae is None else cell_of(vae)

    @property
    def multiple(self) -> int | None:
        """What heights and widths must be multiples of: 8 in diffusers' UNet pipelines, two cells where they are packed
        in patches of two.
        """
        patch = 1 if self.pipelines is None else self.pipelines.patch
        return None if self.cell is None else max(8, self.cell * patch)

    @property
    def own_size(self) -> int | None:
        """Height and width in pixels where a call gives none."""
        if self.cell is None or self.network is None:
            return None
        cells = FLUX_SAMPLE_SIZE if self.is_flux else self.network.get("sample_size")
        return cells * self.cell if isinstance(cells, int) else None


def read_index(file: Path) -> dict[str, Any]:
    """Returns a model_index.json, whose parts are pairs [library, class], or null.

    Raises:
        UserError: as `read_json`; a part that is something else.
    """
    index = read_json(file)
    for part in (*WEIGHTED, *LEFT_OUT, "scheduler", "tokenizer", "tokenizer_2", "tokenizer_3"):
        entry = index.get(part, [None, None])
        pair = isinstance(entry, list) and len(entry) == 2
        if entry is not None and not (pair and all(name is None or isinstance(name, str) for name in entry)):
            raise UserError(f"{file}: {part} is {entry!r:.80}, not [library, class]; download the checkpoint again")
    return index


def describe(
    given: str,
    role: str,
    *,
    config: str | None = None,
    allow_pickle: bool = False,
    video: bool | None = False,
    lent: bool = False,
    from_text: bool = True,
) -> Description:
    """Returns what `given` is: a hub id, a folder with model_index.json, or a single file.

    Local weights are checked by their headers, so a truncated file is found here. `role` ("strong", "weak") is for the
    messages. `config` is where a single file takes configs, tokenizers and whatever it does not hold from: a diffusers
    folder or a hub id. `video` asks for a pipeline that makes videos, False for one that makes pictures; None takes
    either. `lent`: the other side lends what is lacking, so that a folder may hold one SDXL network and nothing else,
    and a single file need not be completed by its config. `from_text`: text alone must do, not a picture or a video.

    Raises:
        UserError: it does not exist, is damaged, holds pickles that were not allowed, or is no text-to-picture
            pipeline (with `video`, text-to-video) with a VAE, a scheduler and a denoising network.
    """
    path = Path(given).expanduser()
    if path.is_file():
        found = describe_file(given, path, role, config, allow_pickle, whole=not lent)
    elif config is not None:
        raise UserError(
            f"the {role} side {given} is no single file, so the config {config} would go unused; leave it out"
        )
    elif lent and is_network_alone(given):
        return _describe_network(given, path, role, SDXL_UNETS, allow_pickle)
    elif path.is_dir():
        found = Description(given, "folder", path)
        _check_folder(found, role, allow_pickle)
    elif is_hub_id(given):
        return Description(given, "hub")
    else:
        raise UserError(
            f"the {role} side {given!r} does not exist; give a diffusers folder, a single .safetensors file, or a hub "
            "id such as stabilityai/stable-diffusion-xl-base-1.0"
        )
    if found.is_video and video is False:
        raise UserError(
            f"the {role} side {given} makes videos ({found.class_name}); give a pipeline that makes pictures"
        )
    if from_text and start_of_class(found.class_name) not in (None, FROM_TEXT):
        raise UserError(
            f"the {role} side {given} holds a {found.class_name}, which needs more than text; give another pipeline"
        )
    return found


def describe_motion_adapter(given: str, *, allow_pickle: bool = False) -> Description:
    """Returns what the motion adapter `given` is: a hub id or a diffusers folder with a MotionAdapter.

    Raises:
        UserError: as `describe`.
    """
    path = Path(given).expanduser()
    if path.is_dir():
        inner = path / "motion_adapter"
        folder = inner if not (path / "config.json").is_file() and inner.is_dir() else path
        return _describe_network(given, folder, "motion adapter", ("MotionAdapter",), allow_pickle)
    if is_hub_id(given):
        return Description(given, "hub")
    raise UserError(
        f"the motion adapter {given!r} is no folder; give a diffusers folder (config.json beside .safetensors weights) "
        "or a hub id such as guoyww/animatediff-motion-adapter-sdxl-beta"
    )


def is_network_alone(given: str) -> bool:
    """Whether this is a folder that holds one network, and needs everything else from the other side."""
    path = Path(given).expanduser()
    return path.is_dir() and not (path / "model_index.json").is_file()


def is_lent(side: Description, part: str) -> bool:
    """Whether the other side has to lend a part with weights: neither the model nor its configs' folder holds it."""
    if side.kind == "network":
        return part != "unet"
    return part in side.lacking and side.configs is not None and side.weights(part) is None


def check_frames(motion: Mapping[str, Any], name: str, num_frames: int | None) -> None:
    """Raises `UserError` for more frames than motion modules of this config allow."""
    longest = motion.get("motion_max_seq_length", 32)
    if num_frames is not None and num_frames > longest:
        raise UserError(f"{num_frames} frames asked for; the motion modules of {name} allow at most {longest}")


def _describe_network(given: str, path: Path, role: str, classes: tuple[str, ...], allow_pickle: bool) -> Description:
    folder = next((folder for folder in (path / "unet", path) if (folder / "config.json").is_file()), None)
    if folder is None:
        raise UserError(
            f"the {role} folder {given} holds no network; it needs unet/config.json (or, for one network alone, "
            "config.json) beside .safetensors weights"
        )
    config = read_json(folder / "config.json")
    if (name := config.get("_class_name")) not in classes:
        raise UserError(f"the {role} folder {folder} holds a {name}; allowed: {' or '.join(classes)}")
    check_installed(config, folder)
    check_weights(folder, f"the {role} folder", allow_pickle)
    return Description(given, "network", folder)


def check_class(class_name: str, parts: Mapping[str, Any], place: str) -> None:
    """Raises `UserError` unless a model_index.json with these entries is of a text-to-picture or AnimateDiff pipeline
    with a VAE, a scheduler and one denoising network.
    """
    held = {name for name, entry in parts.items() if isinstance(entry, list) and entry[-1] is not None}
    if family_of_class(class_name) is None and any(word in class_name for word in NOT_FROM_TEXT):
        raise UserError(f"{place} holds a {class_name}, which needs more than text; give a text-to-image pipeline")
    foreign = {entry[-1] for entry in parts.values() if isinstance(entry, list) and _picks_code(entry[-1])}
    if foreign:
        raise UserError(
            f"{place} names {', '.join(sorted(foreign))}, which takes its class from the checkpoint's own code; that "
            "code is not run: give one whose model_index.json names diffusers' and transformers' own classes"
        )
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


def _picks_code(name: Any) -> bool:
    """Whether a class is one of transformers' Auto classes, which may run code that comes with a checkpoint."""
    return isinstance(name, str) and name.startswith("Auto") and not name.startswith("Autoencoder")


def _check_folder(files: Description, role: str, allow_pickle: bool) -> None:
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
        if named(files.index, part) and (part != "image_encoder" or (files.pipelines and files.pipelines.sees)):
            check_weights(folder / part, f"the {role} folder", allow_pickle)
    for part in ("vae", "unet", "transformer", "scheduler"):
        if named(files.index, part) and files.part(part) is None:
            raise UserError(f"the {role} folder {folder / part} has no config; download the folder again")
        check_installed(files.part(part) or {}, folder / part)
    for part in ("tokenizer", "tokenizer_2", "tokenizer_3"):
        if not named(files.index, part):
            continue
        of_bytes = files.index[part][1] == "ByT5Tokenizer"  # HunyuanVideo 1.5's second, which has no vocabulary
        wanted = ("tokenizer_config.json",) if of_bytes else TOKENIZER_FILES
        if not any((folder / part / name).is_file() for name in wanted):
            raise UserError(f"the {role} folder {folder / part} has none of {', '.join(wanted)}; download it again")
    _check_vae(files, f"the {role} folder {folder / 'vae'}")


def _check_vae(files: Description, place: str) -> None:
    vae = files.part("vae") or {}
    if files.pipelines is not None and files.kind != "file" and cell_of(vae) is not None:
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


def _check_first_layer(files: Description, folder: Path) -> None:
    """Raises `UserError` if a single file's first layer is not that of the config it is to be loaded with."""
    unet, first = files.part("unet"), (files.header or {}).get(LDM_UNET + "input_blocks.0.0.weight")
    if unet is None or first is None:
        return
    wanted = (unet["block_out_channels"][0], unet["in_channels"])
    if first.shape[:2] != wanted:
        raise UserError(
            f"{files.given} starts with a {first.shape[0]}-channel layer over {first.shape[1]} inputs, the config "
            f"folder {folder} describes one of {wanted[0]} over {wanted[1]}; give the config folder of the file's own "
            "family"
        )


def describe_file(
    given: str, path: Path, role: str, config: str | None, allow_pickle: bool, *, whole: bool = True
) -> Description:
    """As `describe`; `whole`: whether what the file lacks must be beside its configs."""
    header, family = None, None
    if path.suffix == ".safetensors":
        header = read_safetensors_header(path)
        family = family_of(header, path)
    elif path.suffix == GGUF:
        header = read_gguf_header(path)
        family = family_of(header, path)
        check_package("gguf", path)
    elif not (path.suffix in PICKLES and allow_pickle):
        kind = "a pickle, which can run code when opened" if path.suffix in PICKLES else f"a {path.suffix!r} file"
        raise UserError(
            f"the {role} side {given} is {kind}; give a .safetensors or .gguf file (convert it), or a folder"
            + (", or allow pickles if you trust where it came from" if path.suffix in PICKLES else "")
        )
    if config is None:
        raise UserError(
            f"the {role} side {given} is a single file and needs the configs and tokenizers of its family; give "
            f"{'--config' if role == 'strong' else '--weak-config'}: a diffusers folder of that family"
            f"{' (with its VAE and text encoders)' if family == 'flux' else ''}, or its hub id"
        )
    files = Description(given, "file", path, family, header, config)
    folder = files.configs
    if folder is None:
        if is_hub_id(config):
            return files
        raise UserError(f"the {role} side's config {config} does not exist; give a diffusers folder or a hub id")
    if not (folder / "model_index.json").is_file():
        raise UserError(f"the {role} side's config {config} has no model_index.json; give a whole diffusers folder")
    assert files.index is not None
    described = str(files.index.get("_class_name"))
    if family is None:  # of a pickle only its config tells
        return replace(files, family=next((key for key, name in FAMILIES.items() if name == described), "sdxl"))
    if not described.startswith(FAMILY_CLASSES[family]):
        raise UserError(
            f"the {role} side {given} is of the family of {FAMILIES[family]}, its config {config} of {described}; give "
            "the config of its own family"
        )
    _check_vae(files, f"the {role} side's config folder {folder / 'vae'}")
    _check_first_layer(files, folder)
    for part in files.lacking if whole else ():
        check_weights(folder / part, f"{given} holds no {part}, and its config folder", allow_pickle)
    return files
