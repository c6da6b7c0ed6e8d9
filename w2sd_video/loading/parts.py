"""Components of a model from where they lie: a diffusers folder, a hub id, a single file and its configs.

Every tensor of a component comes from the checkpoint, or it is refused.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    GGUFQuantizationConfig,
    ModelMixin,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UNetMotionModel,
)
from diffusers.utils import logging as diffusers_logging
from torch import nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, PreTrainedModel
from transformers.utils import logging as transformers_logging

from vbench_eval.network import hub_file
from w2sd_video.errors import UserError
from w2sd_video.loading.describe import TEXT_ENCODERS, Description, Weights
from w2sd_video.loading.files import (
    GGUF,
    LDM_UNET,
    TensorInfo,
    is_hub_id,
    local_only,
    read_json,
    shards_of,
    weight_files,
)
from w2sd_video.loading.original_layouts import Layout
from w2sd_video.loading.streaming import cut, fill, layout_of, read_tensors, trim, without_weights
from w2sd_video.loading.tensor_checks import check_none_missing, check_tensors, first_of
from w2sd_video.loading.tokenizing import check_vocabulary

UNETS: dict[str, Any] = {"UNet2DConditionModel": UNet2DConditionModel, "UNetMotionModel": UNetMotionModel}
NETWORKS = ("unet", "transformer", "transformer_2", "motion_adapter")  # all of whose tensors are known by their class
FLUX_MODULES = (
    *("double_blocks", "single_blocks", "img_in", "txt_in", "time_in", "vector_in", "guidance_in"),
    "final_layer",
)
SD15_EXTRAS = ("safety_checker", "feature_extractor")


@contextmanager
def progress_bars(*, shown: bool) -> Iterator[None]:
    """Inside, the libraries' progress bars for loading are as they were, or silenced; afterwards as they were."""
    switches = [logging for logging in (diffusers_logging, transformers_logging) if not shown]
    active = [logging for logging in switches if logging.is_progress_bar_enabled()]
    for logging in active:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        for logging in active:
            logging.enable_progress_bar()


@contextmanager
def reading(name: str, part: str) -> Iterator[None]:
    """Turn what the libraries raise for damaged, missing or unfitting weights into an error that names the file."""
    try:
        yield
    except (UserError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # safetensors, huggingface_hub, diffusers and transformers each raise their own
        if "meta tensor" in str(error):  # how diffusers ends when a single file leaves part of a network without values
            raise UserError(
                f"the {part} of {name} lacks tensors, which would be random; download the checkpoint again, "
                "or give the config made for it"
            ) from error
        reason = " ".join(str(error).split())[:400].rstrip(".")
        remedy = "check that the checkpoint is complete and that its configs are its own"
        if not Path(name).expanduser().exists():
            remedy = "check the hub id and the connection, or give a local folder or file"
        raise UserError(f"cannot load the {part} of {name}: {type(error).__name__}: {reason}; {remedy}") from error


def check_complete(module: Any, name: str, part: str, info: dict[str, Any] | None = None) -> Any:
    """Returns `module` in evaluation mode, once every tensor of it is known to come from the checkpoint."""
    unset = set((info or {}).get("missing_keys") or ())
    unset |= {key for key, *_ in (info or {}).get("mismatched_keys") or ()}
    # A quantised tensor (quanto's) may report no device of its own; what it holds does.
    unset |= {key for key, tensor in module.named_parameters() if getattr(tensor, "_data", tensor).is_meta}
    check_none_missing(unset, name, part)
    return module.eval()


def without_values(kind: Any, config: dict[str, Any], name: str, part: str) -> nn.Module:
    """Returns a network of the class `kind` without values: its layers, and the names and shapes of its tensors."""
    with reading(name, part):
        return _without_values(kind, json.dumps(config))
    raise AssertionError("an error inside is raised again")


@functools.lru_cache(maxsize=8)
def _without_values(kind: Any, config: str) -> nn.Module:
    verbosity = diffusers_logging.get_verbosity()
    diffusers_logging.set_verbosity_error()  # what it says of the config it says again when the weights are loaded
    try:
        with torch.device("meta"):
            made: nn.Module = kind.from_config(json.loads(config))
            return made
    finally:
        diffusers_logging.set_verbosity(verbosity)


def check_header(kind: Any, config: dict[str, Any], header: Mapping[str, TensorInfo], name: str, part: str) -> None:
    """Raises `UserError` unless safetensors headers describe the very tensors of a network of the class `kind`.

    The network is built without values, to know the names and shapes.
    """
    shapes = {key: tuple(tensor.shape) for key, tensor in without_values(kind, config, name, part).state_dict().items()}
    check_tensors(shapes, header, name, part, kind._keys_to_ignore_on_load_unexpected or ())


def check_device(config: Mapping[str, Any], name: str) -> None:
    """Raises `UserError` for a quantised network that this machine has no device for."""
    method = str((config.get("quantization_config") or {}).get("quant_method", ""))
    if method.startswith("bitsandbytes") and not torch.cuda.is_available():
        raise UserError(
            f"{name} holds weights quantised by {method}, which diffusers runs on a GPU alone, and there is none here; "
            "give weights in 16 or 32 bits (--weak-precision nf4 makes such a weak side of them)"
        )


def check_all_used(files: Description, module: nn.Module, part: str) -> None:
    """Raises `UserError` for tensors of a single file's network that diffusers would drop without a word, as the config
    does not describe them.
    """
    header = files.header
    if header is None or part not in ("unet", "transformer"):
        return
    if part == "unet":  # the layouts correspond tensor by tensor
        what, held, described = "tensors", sum(n.startswith(LDM_UNET) for n in header), len(module.state_dict())
    else:  # tensors are cut up, numbers are kept
        weights = files.weights(part)
        prefix = "" if weights is None else weights.prefix
        starts = tuple(f"{prefix}{each}." for each in FLUX_MODULES)
        what, held = "numbers", sum(each.numel for name, each in header.items() if name.startswith(starts))
        described = sum(parameter.numel() for parameter in module.parameters())
    if held != described:
        raise UserError(
            f"the {part} of {files.given} holds {held} {what} and its config describes {described}; give the config "
            "of the file's own model" + ("" if part == "unet" else " (FLUX.1-dev and -schnell differ)")
        )


Told = Callable[[int, str], None]
Waiting = list[tuple[str, Callable[[Any, Any], None]]]
"""Parts of a pipeline that have no weights yet, and what gives them theirs: told the part, and the other side's."""
WAITING = ("unet", "transformer", "transformer_2")
# Text encoders whose tensors' names are known.
READABLE = ("CLIPTextModel", "CLIPTextModelWithProjection", "T5EncoderModel", "UMT5EncoderModel")
SDXL_TEXT: dict[str, Any] = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}


@dataclass(frozen=True)
class Places:
    """Where tensors are read to that are read one by one: those of networks, and all others."""

    networks: torch.device | str = "cpu"
    others: torch.device | str = "cpu"


ON_HOST = Places()


def _fill(
    name: str,
    part: str,
    weights: Weights,
    layout: Layout,
    dtype: torch.dtype,
    device: torch.device | str,
    told: Told,
    module: Any,
    other: Any,
) -> None:
    names = {weights.prefix + short: short for short in layout}
    with reading(name, part):
        tensors = read_tensors(weights.files, names, reused=True)
        fill(module, cut(tensors, layout), dtype, other=other, device=device, told=lambda size: told(size, part))
    check_complete(module, name, part)
    trim()


class Source:
    """One model's components, loaded one by one; what a single file does not hold comes from its configs' folder."""

    def __init__(
        self,
        description: Description,
        dtype: torch.dtype,
        allow_pickle: bool = False,
        *,
        waiting: Waiting | None = None,
        places: Places = ON_HOST,
        told: Told = lambda size, part: None,
    ) -> None:
        """`waiting` takes the networks that get their weights later (None: at once); `told` hears of bytes read, and of
        which part they are.
        """
        self.description, self.dtype, self.allow_pickle = description, dtype, allow_pickle
        self.waiting, self.places, self.told = waiting, places, told

    @property
    def name(self) -> str:
        return self.description.given

    @cached_property
    def place(self) -> str:
        """The folder or hub id of diffusers' layout."""
        found = self.description
        if found.configs is not None:
            return str(found.configs)
        return str(found.config) if found.kind == "file" else found.given

    @property
    def local(self) -> bool:
        """Whether the place is on this machine."""
        return not is_hub_id(self.place)

    def config(self, part: str) -> dict[str, Any] | None:
        """The config of `part` ("unet", "scheduler", "model_index" ...), fetched from the hub where that is the place;
        None where there is none.
        """
        if part == "model_index" and self.local:
            return self.description.index
        if self.local:
            return self.description.part(part)
        file = "scheduler_config.json" if part == "scheduler" else "config.json"
        inside = {"model_index": "model_index.json", "motion_adapter": "config.json"}.get(part, f"{part}/{file}")
        with reading(self.place, part):
            path = hub_file(self.place, inside)
            return None if path is None else self.description.as_marked(part, read_json(path))

    def load(
        self, kind: Any, part: str, dtype: torch.dtype | None = None, *, other: Any = None, **settings: Any
    ) -> Any:
        """`kind.from_pretrained` of `part` (or `from_single_file`), refused where a tensor of it would stay random.

        Tensors that the module `other` has equal under the same name are taken from it where the files are read here.
        On the hub a part lies in the subfolder of its name, unless `settings` has another `subfolder` (None: none).
        """
        dtype = dtype or self.dtype
        single = self.description.kind == "file" and part not in self.description.lacking
        if single:
            return self._from_file(kind, part, dtype, other)
        return self._from_folder(kind, part, dtype, settings, other)

    def _streamed(
        self, kind: Any, part: str, dtype: torch.dtype, other: Any, weights: Weights | None, config: Any
    ) -> Any:
        """A part whose tensors lie in safetensors files here under the names of its class, or names and rows that
        correspond, read one by one; None for any other.
        """
        if weights is None or config is None or "quantization_config" in config:
            return None
        known = issubclass(kind, ModelMixin) or (issubclass(kind, PreTrainedModel) and kind.__name__ in READABLE)
        if not known or any(file.suffix == GGUF for file in weights.files):
            return None
        with reading(self.name, part):
            module = without_weights(kind, config, dtype)
            layout = layout_of(part, weights, config, module)
        if layout is None:
            return None  # another layout, which the libraries convert
        waits = self.waiting is not None and part in WAITING and kind is not UNetMotionModel
        if isinstance(module, ModelMixin):
            module.register_to_config(_name_or_path=str(weights.files[0].parent))
        device = self.places.networks if waits else self.places.others
        read = partial(_fill, self.name, part, weights, layout, dtype, device, self.told)
        # Of a network with motion modules the other side may take these, before it has its own weights.
        if waits:
            assert self.waiting is not None
            self.waiting.append((part, read))
        else:
            read(module, other)
        return module

    def _fetched(self, part: str, folder: str | None, dtype: torch.dtype) -> Weights | None:
        """The safetensors files of a part on the hub, in the hub's cache; None where they are not to be had."""
        stem = "diffusion_pytorch_model" if part not in TEXT_ENCODERS else "model"
        inside = f"{folder}/" if folder else ""
        for variant in (".fp16", "") if dtype in (torch.float16, torch.bfloat16) else ("",):
            with suppress(Exception):  # the loader will say what is wrong
                whole = hub_file(self.place, f"{inside}{stem}{variant}.safetensors")
                if whole is not None:
                    return Weights((whole,))
                index = hub_file(self.place, f"{inside}{stem}.safetensors.index{variant}.json")
                shards = [] if index is None else [hub_file(self.place, f"{inside}{name}") for name in shards_of(index)]
                if shards and None not in shards:
                    return Weights(tuple(shards))  # type: ignore[arg-type]
        return None

    def _from_file(self, kind: Any, part: str, dtype: torch.dtype, other: Any) -> Any:
        weights = self.description.weights(part)
        if (streamed := self._streamed(kind, part, dtype, other, weights, self.config(part))) is not None:
            check_all_used(self.description, streamed, part)
            return streamed
        place: dict[str, Any] = {"config": self.place, "local_files_only": local_only(self.place)}
        described = None
        if self.description.path is not None and self.description.path.suffix == GGUF:
            place["quantization_config"] = GGUFQuantizationConfig(compute_dtype=dtype)
            # What is packed has other sizes than its config describes.
            described = without_values(kind, self.config(part) or {}, self.name, part)
        with reading(self.name, part):
            module = kind.from_single_file(str(self.description.path), subfolder=part, dtype=dtype, **place)
        check_complete(module, self.name, part)
        check_all_used(self.description, described or module, part)
        self._tell(part)
        return module

    def _tell(self, part: str) -> None:
        """Says that a part was read as a whole."""
        weights = self.description.weights(part)
        self.told(0 if weights is None else weights.nbytes, part)

    def _from_folder(self, kind: Any, part: str, dtype: torch.dtype, settings: dict[str, Any], other: Any) -> Any:
        folder = self.description.part_folder(part)
        if self.description.kind == "network" and folder is None:
            folder = self.description.path
        if not self.local and part != "motion_adapter":
            settings = {"subfolder": part, **settings}
        variants: list[str | None] = [None]
        if folder is not None:
            files = weight_files(folder)
            variants = ["fp16" if files and ".fp16" in files[0].name else None]
        elif dtype in (torch.float16, torch.bfloat16):
            variants = ["fp16", None]
        name = self.name if self.description.kind != "file" else self.place
        network, config, weights = part in NETWORKS, self.config(part), self.description.weights(part)
        if not self.local:
            weights = self._fetched(part, settings.get("subfolder"), dtype)
        quantised = config is not None and bool(config.get("quantization_config"))
        if network and config is not None and quantised:
            check_device(config, name)
        elif network and weights is not None and config is not None:
            check_header(kind, config, weights.header, name, part)
        if (streamed := self._streamed(kind, part, dtype, other, weights, config)) is not None:
            return streamed
        for variant in variants:
            with reading(name, part):
                try:
                    module, info = kind.from_pretrained(
                        str(folder) if folder is not None else self.place,
                        dtype=dtype,
                        variant=variant,
                        use_safetensors=None if self.allow_pickle else True,
                        local_files_only=folder is not None or local_only(self.place),
                        output_loading_info=True,
                        **settings,
                    )
                except OSError:
                    if variant == variants[-1]:
                        raise
                    continue
            surplus = info.get("unexpected_keys") or ()
            if network and quantised and weights is not None:  # a tensor may be there as several, named after it
                held = {key.rpartition(".")[0] for key in weights.header}
                info["missing_keys"] = [key for key in info.get("missing_keys") or () if key not in held]
                known = set(module.state_dict())
                surplus = [key for key in surplus if key.rpartition(".")[0] not in known]
            if surplus and network:
                raise UserError(
                    f"the {part} of {name} holds {len(surplus)} tensors that its config has no place for: "
                    f"{first_of(surplus)}; they would be dropped: give the config made for it"
                )
            self._tell(part)
            return check_complete(module, name, part, info)
        raise AssertionError("the last variant either loads or raises")

    def weights_of(self, pipe: Any, other: Any) -> list[Callable[[], None]]:
        """Returns what gives the networks of this model's pipeline the weights that they wait for, one after another;
        what a pipeline `other` has already is taken from it.
        """
        return [partial(read, getattr(pipe, part), getattr(other, part, None)) for part, read in self.waiting or ()]

    def unet(self) -> UNet2DConditionModel | UNetMotionModel:
        name = (self.config("unet") or {}).get("_class_name", "UNet2DConditionModel")
        if name not in UNETS:
            raise UserError(f"the unet of {self.name} is a {name}; allowed: {' or '.join(UNETS)}")
        return self.load(UNETS[name], "unet")

    def text_components(self, family: str, sharing: Any = None) -> dict[str, Any]:
        """Tokenizers and text encoders in a single file of SDXL or SD 1.5 by the names of the pipeline's components; of
        the latter, what a pipeline `sharing` has equal is taken from it.
        """
        names = ("text_encoder", "text_encoder_2") if family == "sdxl" else ("text_encoder",)
        kind = StableDiffusionXLPipeline if family == "sdxl" else StableDiffusionPipeline
        place = {"config": self.place, "local_files_only": local_only(self.place)}
        settings: dict[str, Any] = {**place, "unet": None, "vae": None}
        settings |= {"add_watermarker": False} if family == "sdxl" else dict.fromkeys(SD15_EXTRAS)
        streamed = {}
        for name in names:
            weights, config, other = self.description.weights(name), self.config(name), getattr(sharing, name, None)
            streamed[name] = self._streamed(SDXL_TEXT[name], name, self.dtype, other, weights, config)
        settings |= {name: module for name, module in streamed.items() if module is not None}
        with reading(self.name, "text encoders"):
            pipe = kind.from_single_file(str(self.description.path), dtype=self.dtype, **settings)
        found = {name: check_complete(getattr(pipe, name), self.name, name) for name in names}
        for name in names:
            if streamed[name] is None:
                self._tell(name)
        tokenizers = [name.replace("text_encoder", "tokenizer") for name in names]
        return {**found, **{name: getattr(pipe, name) for name in tokenizers}}


def check_tokenizers(parts: dict[str, Any], name: str) -> None:
    """Checks vocabularies: transformers makes an empty one where a tokenizer's files miss.

    Raises:
        UserError: a tokenizer without words, or with more than its text encoder knows.
    """
    for part, tokenizer in parts.items():
        encoder = parts.get(part.replace("tokenizer", "text_encoder"))
        if not part.startswith("tokenizer") or tokenizer is None or encoder is None:
            continue
        words = len(tokenizer)
        check_vocabulary(
            part, name, words if words > len(tokenizer.all_special_tokens) else 0, encoder.config.vocab_size
        )
