"""LoRA files into a pipeline, each under an adapter name: the formats of kohya, diffusers, peft and AnimateDiff's
motion LoRAs, by the pipeline's own loader.
"""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders import StableDiffusionXLLoraLoaderMixin
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from diffusers.utils import convert_unet_state_dict_to_peft
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.utils import logging as transformers_logging

from vbench_eval.network import hub_file, hub_names
from w2sd_video.errors import UserError
from w2sd_video.hosting.calls import networks_of
from w2sd_video.loading.describe import TEXT_ENCODERS
from w2sd_video.loading.files import HUB_ID, found_lora, is_hub_id, read_json, read_safetensors_header
from w2sd_video.loading.parts import progress_bars, reading
from w2sd_video.loading.streaming import kept_wide, read_tensors, trim
from w2sd_video.loading.tensor_checks import first_of
from w2sd_video.pair import ModelSpec

PEFT, EMBEDDING = "base_model.model.", "bundle_emb."  # how the names of peft's files begin, and of bundled embeddings
ORIGINAL_FLUX = ("double_blocks.", "single_blocks.")  # after peft's beginning: diffusers' own conversion knows these
MOTION = "motion_modules"
# What AnimateDiff's own names are in diffusers (its scripts/convert_animatediff_motion_lora_to_diffusers.py).
MOTION_NAMES = {
    ".temporal_transformer": "",
    ".attention_blocks.0": ".attn1",
    ".attention_blocks.1": ".attn2",
    ".processor.": ".",
    "to_out_lora.": "to_out.0_lora.",
    "_lora.down.": ".lora_A.",
    "_lora.up.": ".lora_B.",
}
Files = Mapping[str, str | Path] | Iterable[tuple[str, str | Path]]


@dataclass(frozen=True)
class LoadedLoras:
    """What was loaded: how many layers of the network each adapter has, those that have text encoders' too, and notes
    for the user (what a file holds besides, which is not used).
    """

    layers: Mapping[str, int]
    with_text: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _File:
    """A LoRA as it was given: a folder or a hub id, and a file in it (None: the one that the repository has)."""

    name: str
    given: str
    source: str
    weight_name: str | None

    def fetched(self, name: str | None) -> Path:
        """A file of this name beside the LoRA, or the LoRA's own for None; it may not exist."""
        if Path(self.source).is_dir():
            return Path(self.source) / (name or str(self.weight_name))
        found = hub_file(self.source, name or self.weight_name or _published(self.source))
        return found or Path(self.source) / (name or str(self.weight_name))


def _published(repository: str) -> str:
    """The file of a hub repository that is its LoRA: the one of diffusers' name, else the first at its top."""
    usual = "pytorch_lora_weights.safetensors"
    names = [name for name in sorted(hub_names(repository)) if name.endswith(".safetensors")]
    names = [name for name in names if not any(word in name for word in ("scheduler", "optimizer", "checkpoint"))]
    return next((name for name in names if name.endswith(usual)), names[0] if names else usual)


def load_loras(pipe: Any, files: Files) -> LoadedLoras:
    """Loads LoRA files into a pipeline, which goes on as before: a new adapter acts when its name is given a scale.

    A name is given a scale by `use_loras` (as the pipeline itself is), or by a `ModelSpec` (on one side of a pair).
    Text encoders get their part of a file where the pipeline has them. All files are read and checked before any is
    loaded. Load LoRAs before offloading is set up where you can: it is taken off and put on again for each.

    Args:
        pipe: a diffusers pipeline with `load_lora_weights`. Of two networks (Wan 2.2) both get each file.
        files: by adapter name, a .safetensors file, a folder with one (peft's, too), a hub id, or a hub id with
            /FILE.safetensors.

    Raises:
        UserError: a name used twice, or that is none; a file that cannot be read, is no LoRA, or does not fit.
    """
    pairs = list(files.items()) if isinstance(files, Mapping) else list(files)
    if not hasattr(pipe, "load_lora_weights"):
        raise UserError(f"{type(pipe).__name__} does not load LoRAs; use a pipeline that has load_lora_weights")
    networks = networks_of(pipe)
    taken = {name for part in _parts(pipe) for name in getattr(part, "peft_config", {})}
    found = []
    for name, given in pairs:
        _check_name(name, taken)
        taken.add(name)
        found.append(_find(name, str(given)))
    layers: dict[str, int] = {}
    notes: list[str] = []
    for file in found:
        layers[file.name] = _check_fits(pipe, networks[0], file, notes)
    trim()  # the files are read again below
    active = {id(part): _active(part) for part in _parts(pipe)}
    try:
        for file in found:
            with reading(file.given, "LoRA"):
                for number, network in enumerate(networks):
                    second = {"load_into_transformer_2": True} if number else {}
                    with _loader(pipe, network, file) as alphas:
                        pipe.load_lora_weights(file.source, adapter_name=file.name, **second)
                    _set_alphas(pipe, file.name, alphas)
                    _fill_biases(network, file.name)
    except BaseException:
        pipe.delete_adapters([name for name in layers if any(name in _adapters(part) for part in _parts(pipe))])
        raise
    finally:
        for part in _parts(pipe):
            _activate(part, active[id(part)])
    texts = [getattr(pipe, name, None) for name in TEXT_ENCODERS]
    with_text = tuple(name for name in layers if any(name in _adapters(text) for text in texts))
    return LoadedLoras(layers, with_text, tuple(notes))


def use_loras(pipe: Any, loras: Any) -> None:
    """The pipeline itself uses these adapters from now on, in networks and text encoders; those not named are off.

    Args:
        loras: (adapter name, scale) pairs, as in `ModelSpec`, with one number each.

    Raises:
        UserError: an adapter that was not loaded.
    """
    scales = dict(ModelSpec(loras=loras).loras)
    loaded = {name for part in _parts(pipe) for name in _adapters(part)}
    for name, scale in scales.items():
        if name not in loaded:
            has = f"it has {', '.join(sorted(loaded))}" if loaded else "it has none"
            raise UserError(f"the pipeline has no LoRA adapter {name!r}; {has}: load it first (load_loras)")
        if isinstance(scale, tuple):
            raise UserError(f"the scale of LoRA {name!r} is one per sample; the pipeline itself takes one number")
    if scales:
        pipe.set_adapters(list(scales), list(scales.values()))
        pipe.enable_lora()
    else:
        for part in _parts(pipe):
            _activate(part, [])


def _parts(pipe: Any) -> list[Any]:
    """What LoRAs go into: networks and text encoders."""
    texts = [getattr(pipe, name, None) for name in TEXT_ENCODERS]
    return [*networks_of(pipe), *(text for text in texts if isinstance(text, nn.Module))]


def _adapters(part: Any) -> list[str]:
    return list(getattr(part, "peft_config", {}))


def _tuned(part: nn.Module) -> Iterator[Any]:
    return (module for module in part.modules() if isinstance(module, BaseTunerLayer))


def _active(part: nn.Module) -> list[str]:
    return next(([*layer.active_adapters] for layer in _tuned(part)), [])


def _activate(part: nn.Module, names: list[str]) -> None:
    for layer in _tuned(part):
        layer.set_adapter(names, inference_mode=True)


def _check_name(name: Any, taken: set[str]) -> None:
    if not isinstance(name, str) or not name or "." in name:
        raise UserError(f"a LoRA is to be called {name!r}; give a name of letters, digits, - and _ (no dot)")
    if name in taken:
        raise UserError(f"two LoRAs are to be called {name!r}; give each a name of its own")


def _find(name: str, given: str) -> _File:
    """The file that is meant; one on disk is looked into."""
    path = found_lora(name, given)
    if path is not None:
        return _File(name, given, str(path.parent), path.name)
    owner, _, weight_name = given.rpartition("/")
    if HUB_ID.fullmatch(owner) and weight_name.endswith(".safetensors"):
        return _File(name, given, owner, weight_name)
    if is_hub_id(given):
        return _File(name, given, given, None)
    raise UserError(
        f"the LoRA {given!r} does not exist; give a .safetensors file, a folder with one, or a hub id (owner/name)"
    )


def _content(
    network: nn.Module, file: _File, read: Callable[[Path], dict[str, Tensor]], notes: list[str] | None = None
) -> dict[str, Tensor]:
    """The tensors of a file under names that the pipeline's loader knows; `notes` is told what of the file is left."""
    path = file.fetched(None)
    names = list(read_safetensors_header(path))
    embeddings = [name for name in names if name.startswith(EMBEDDING)]
    peft = any(name.startswith(PEFT) and not name.startswith(PEFT, len(PEFT)) for name in names) and not any(
        name.startswith(tuple(PEFT + each for each in ORIGINAL_FLUX)) for name in names
    )
    moving = [name for name in names if MOTION in name]
    if moving and not any(MOTION in name for name, _ in network.named_modules()):
        raise UserError(
            f"the LoRA {file.given} is for AnimateDiff's motion modules, and {type(network).__name__} has none; give "
            "it to an AnimateDiff pipeline"
        )
    motion = any(".temporal_transformer" in name or "_lora." in name for name in moving)
    if embeddings and notes is not None:
        words = ", ".join(sorted({name.split(".")[1] for name in embeddings}))
        notes.append(f"the LoRA {file.given} bundles textual-inversion embeddings ({words}), which are not used")
    tensors = {name: tensor for name, tensor in read(path).items() if not name.startswith(EMBEDDING)}
    if not peft and not motion:
        return tensors
    if peft:
        tensors = _unwrapped(tensors, file.fetched("adapter_config.json"))
    part = "unet" if "UNet" in type(getattr(network, "_orig_mod", network)).__name__ else "transformer"
    if motion:
        tensors = {_motion_name(name): tensor for name, tensor in tensors.items() if "pos_encoder" not in name}
    return {name if name.startswith(part + ".") else f"{part}.{name}": each for name, each in tensors.items()}


def _read(path: Path) -> dict[str, Tensor]:
    return dict(read_tensors([path]))


def _metadata(path: Path) -> Any:
    """What diffusers wrote into a file of its adapter; None where it did not."""
    with safe_open(path, "pt") as file:
        text = (file.metadata() or {}).get(LORA_ADAPTER_METADATA_KEY)
    return None if text is None else json.loads(text)


def _motion_name(name: str) -> str:
    name = name.removeprefix("module.")
    for theirs, ours in MOTION_NAMES.items():
        name = name.replace(theirs, ours)
    return name


def _unwrapped(tensors: dict[str, Tensor], config_file: Path) -> dict[str, Tensor]:
    """peft's tensors under the network's names, alpha / rank (rsLoRA: its root) of its config multiplied in."""
    config = read_json(config_file)
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        name = name.removeprefix(PEFT)
        module, up, _ = name.partition(".lora_B")
        if up and tensor.dim() > 1:
            patterns = config.get("alpha_pattern") or {}
            alpha = next((each for key, each in patterns.items() if re.match(rf"(.*\.)?({key})$", module)), None)
            rank = tensor.shape[1]
            root = math.sqrt(rank) if config.get("use_rslora") else rank
            tensor = (tensor.float() * ((config["lora_alpha"] if alpha is None else alpha) / root)).to(tensor.dtype)
        found[name] = tensor
    return found


def _fill_biases(network: nn.Module, adapter: str) -> None:
    """Where a file has biases on some layers only, those of the others are 0 (the loader leaves them without values).

    Raises:
        UserError: another tensor of the adapter was left without values.
    """
    for name, module in getattr(network, "_orig_mod", network).named_modules():
        for leaf, tensor in list(module._parameters.items()):
            if tensor is None or not tensor.is_meta or f".{adapter}" not in f".{name}.":
                continue
            if leaf != "bias" or ".lora_B." not in name:
                raise UserError(f"the LoRA lacks {name}.{leaf}, which would be left without values")
            weight: Any = module.weight
            module.bias = nn.Parameter(torch.zeros(tensor.shape, dtype=weight.dtype, device=weight.device), False)


def _set_alphas(pipe: Any, adapter: str, alphas: Mapping[str, float]) -> None:
    """Layers of an adapter act with alpha / rank; `alphas` are called as diffusers' conversions do.

    Raises:
        UserError: an alpha of no layer.
    """
    for part in ("unet", "transformer", *TEXT_ENCODERS):
        owner: Any = getattr(pipe, part, None)
        own = {name: float(alpha) for name, alpha in alphas.items() if name.startswith(f"{part}.")}
        if not own or not isinstance(owner, nn.Module):
            continue
        layers = {name: layer for name, layer in owner.named_modules() if isinstance(layer, BaseTunerLayer)}
        for name, alpha in own.items():
            inner = _module_of(name.removeprefix(f"{part}.").removesuffix(".alpha"), text=part in TEXT_ENCODERS)
            layer: Any = layers.get(inner, layers.get(inner.removeprefix("text_model.")))
            if layer is None or adapter not in layer.r:
                raise UserError(f"the LoRA has an alpha for {inner} of the {part}, which has no layer of it")
            layer.lora_alpha[adapter] = alpha
            layer.set_scale(adapter, 1)
            owner.peft_config[adapter].alpha_pattern[inner] = alpha


def _module_of(name: str, *, text: bool) -> str:
    """The module whose alpha has this name in diffusers' conversions, which differ from module to module."""
    if text:  # ...self_attn.to_q_lora.down.weight, ...mlp.fc1.lora_linear_layer.down.weight
        name = re.sub(r"\.to_(\w+)_lora\..*", r".\1_proj", name)
    elif ".weight" in name:
        name = next(iter(convert_unet_state_dict_to_peft({name: None})))
    return name.partition(".lora_")[0]


def check_lora(pipe: Any, network: nn.Module, name: str, given: str) -> None:
    """Raises `UserError` for a LoRA on this machine that does not fit a network, which needs no values; `pipe` is the
    pipeline or its class.
    """
    if not hasattr(pipe, "load_lora_weights"):
        raise UserError(f"{pipe.__name__} does not load LoRAs; use a pipeline that has load_lora_weights")
    _check_name(name, set())
    file = _find(name, given)
    if Path(file.source).is_dir():
        _check_fits(pipe, network, file, [])


def _check_fits(pipe: Any, network: nn.Module, file: _File, notes: list[str]) -> int:
    """How many layers of the network the file is for; `UserError` where it is not for this network."""
    inner = getattr(network, "_orig_mod", network)  # of a compiled module
    kind = type(inner).__name__
    prefix = f"{pipe.unet_name if 'UNet' in kind else pipe.transformer_name}."
    large = issubclass(pipe if isinstance(pipe, type) else type(pipe), StableDiffusionXLLoraLoaderMixin)
    maps = {"unet_config": inner.config} if large else {}
    with reading(file.given, "LoRA"):
        result = pipe.lora_state_dict(_content(network, file, load_file, notes), return_lora_metadata=True, **maps)
        tensors: dict[str, Tensor] = result[0]
        own = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        if own and not any("lora_A" in key for key in own):
            own = convert_unet_state_dict_to_peft(own)
    modules = dict(inner.named_modules())
    misfits = [misfit for key, value in own.items() if (misfit := _misfit(key, value, modules)) is not None]
    if misfits or not own:
        text = [key for key in tensors if key.startswith("text_encoder")]
        if not own:
            says = f"has nothing for it, but {len(text) or len(tensors)} tensors such as {next(iter(text or tensors))}"
        else:
            says = f"has {len(misfits)} of {len(own)} tensors without their place: {'; '.join(misfits[:3])}"
        raise UserError(
            f"the LoRA {file.given} does not fit {kind}: it {says}; give a LoRA made for the checkpoint's family"
        )
    halves = [{key.partition(".lora_")[0] for key in own if f".lora_{half}." in key} for half in "AB"]
    if lacking := sorted(halves[0] ^ halves[1]):
        raise UserError(f"the LoRA {file.given} lacks one of two factors of {first_of(lacking)}; download it again")
    return sum("lora_A" in key for key in own)


def _misfit(key: str, value: Tensor, modules: Mapping[str, nn.Module]) -> str | None:
    """What is wrong about a tensor of a LoRA in peft's names; None if it has its place in the network."""
    name, found, factor = key.partition(".lora_")
    module: Any = modules.get(name)
    if not found or module is None:
        return f"{key} (no such layer)"
    weight = (module.get_base_layer() if isinstance(module, BaseTunerLayer) else module).weight
    if value.dim() < 2:
        return None  # a bias
    dims = slice(1, None) if factor.startswith("A") else slice(0, 1)  # what goes in, or what comes out
    ours, theirs = weight.shape[dims], value.shape[dims]
    return None if ours == theirs else f"{key} (for {tuple(theirs)}, the layer has {tuple(ours)})"


@contextmanager
def _loader(pipe: Any, network: Any, file: _File) -> Iterator[dict[str, float]]:
    """Inside, the pipeline's loader loads this file, whatever it is given; yields what the alphas of its layers are.

    The file is read, not mapped, and its numbers are cast here as each is let go of, so that a LoRA is in memory once.
    Alphas are not left to diffusers: where they differ from layer to layer, those of attention and of text encoders
    would be that of most layers. The part for a text encoder that the pipeline lacks, or the file, is left out.
    transformers is silent: it reports every weight of an encoder as missing, though only the adapter's are set.
    """
    read: Any = pipe.lora_state_dict
    text: Any = getattr(pipe, "load_lora_into_text_encoder", None)
    dtype = network.dtype if network.dtype in (torch.float16, torch.bfloat16, torch.float32) else None
    wide = kept_wide(network, torch.float32 if dtype is None else dtype)
    alphas: dict[str, float] = {}

    def state_dict(_: Any, **options: Any) -> Any:
        tensors, *rest = read(_content(network, file, _read), **options)  # under a name of ours all would stay
        for name in tensors:
            if dtype is not None and not wide & {*name.split(".")}:
                tensors[name] = tensors[name].to(dtype)
        if (metadata := _metadata(file.fetched(None))) is not None:
            rest[-1] = metadata
        elif len(rest) == 2 and rest[0]:
            alphas.update(rest[0])
            rest[0] = None
        return tensors, *rest

    def load(tensors: Any, *args: Any, text_encoder: Any, prefix: str | None = None, **options: Any) -> None:
        start = f"{prefix or pipe.text_encoder_name}."
        if text_encoder is not None and any(name.startswith(start) for name in tensors):
            text(tensors, *args, text_encoder=text_encoder, prefix=prefix, **options)

    vars(pipe)["lora_state_dict"] = state_dict
    if text is not None:
        vars(pipe)["load_lora_into_text_encoder"] = load
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        with progress_bars(shown=False), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*lora_bias=True", category=UserWarning)  # nothing is merged
            yield alphas
    finally:
        transformers_logging.set_verbosity(level)
        for name in ("lora_state_dict", "load_lora_into_text_encoder"):
            vars(pipe).pop(name, None)
