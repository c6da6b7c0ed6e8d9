"""LoRA files into a pipeline, each under an adapter name: kohya's and diffusers' formats, by its own loader."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers.loaders import StableDiffusionXLLoraLoaderMixin
from diffusers.utils import convert_unet_state_dict_to_peft
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from w2sd_video.errors import UserError
from w2sd_video.hosting.calls import networks_of
from w2sd_video.loading.files import HUB_ID, found_lora, is_hub_id
from w2sd_video.loading.parts import reading
from w2sd_video.pair import ModelSpec

TEXT_ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
Files = Mapping[str, str | Path] | Iterable[tuple[str, str | Path]]


@dataclass(frozen=True)
class LoadedLoras:
    """What was loaded: how many layers of the network each adapter has, and those that have text encoders' too."""

    layers: Mapping[str, int]
    with_text: tuple[str, ...] = ()


@dataclass(frozen=True)
class _File:
    """A LoRA as it was given, as the arguments of the pipeline's loader."""

    name: str
    given: str
    source: str
    weight_name: str | None


def load_loras(pipe: Any, files: Files) -> LoadedLoras:
    """Loads LoRA files into a pipeline, which goes on as before: a new adapter acts when its name is given a scale.

    A name is given a scale by `use_loras` (as the pipeline itself is), or by a `ModelSpec` (on one side of a pair).
    Text encoders get their part of a file where the pipeline has them. All files are read and checked before any is
    loaded. Load LoRAs before offloading is set up where you can: it is taken off and put on again for each.

    Args:
        pipe: a diffusers pipeline with `load_lora_weights`. Of two networks (Wan 2.2) both get each file.
        files: by adapter name, a .safetensors file, a folder with one, a hub id, or a hub id with /FILE.safetensors.

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
    for file in found:
        layers[file.name] = _check_fits(pipe, networks[0], file)
    active = {id(part): _active(part) for part in _parts(pipe)}
    try:
        with _text_where_it_is(pipe):
            for file in found:
                with reading(file.given, "LoRA"):
                    for number in range(len(networks)):
                        second = {"load_into_transformer_2": True} if number else {}
                        pipe.load_lora_weights(file.source, adapter_name=file.name, **_options(file), **second)
    except BaseException:
        pipe.delete_adapters([name for name in layers if any(name in _adapters(part) for part in _parts(pipe))])
        raise
    finally:
        for part in _parts(pipe):
            _activate(part, active[id(part)])
    texts = [getattr(pipe, name, None) for name in TEXT_ENCODERS]
    return LoadedLoras(layers, tuple(name for name in layers if any(name in _adapters(text) for text in texts)))


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


def _options(file: _File) -> dict[str, Any]:
    return {"use_safetensors": True, **({} if file.weight_name is None else {"weight_name": file.weight_name})}


def _check_fits(pipe: Any, network: nn.Module, file: _File) -> int:
    """How many layers of the network the file is for; `UserError` where it is not for this network."""
    inner = getattr(network, "_orig_mod", network)  # of a compiled module
    kind = type(inner).__name__
    prefix = f"{pipe.unet_name if hasattr(pipe, 'unet') else pipe.transformer_name}."
    maps = {"unet_config": inner.config} if isinstance(pipe, StableDiffusionXLLoraLoaderMixin) else {}
    with reading(file.given, "LoRA"):
        result = pipe.lora_state_dict(file.source, return_lora_metadata=True, **_options(file), **maps)
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
def _text_where_it_is(pipe: Any) -> Iterator[None]:
    """Inside, the pipeline's loader leaves out the part of a file for a text encoder that the pipeline lacks."""
    own = getattr(pipe, "load_lora_into_text_encoder", None)
    if own is None:
        yield
        return

    def load(*args: Any, text_encoder: Any, **options: Any) -> None:
        if text_encoder is not None:
            own(*args, text_encoder=text_encoder, **options)

    vars(pipe)["load_lora_into_text_encoder"] = load
    try:
        yield
    finally:
        del vars(pipe)["load_lora_into_text_encoder"]
