"""What is read of a VAE: its kind, factor, scale and shift, where it runs, and a hash of its weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from w2sd_video.errors import UserError
from w2sd_video.latents.spaces import IMAGE_VAES

_FINGERPRINTS: WeakKeyDictionary[nn.Module, tuple[Any, str]] = WeakKeyDictionary()


def kind_of(vae: Any) -> str:
    """Returns the name of the class of image VAE that `vae` is one of.

    Raises:
        UserError: any other: a VAE of videos mixes frames, and one of another build keeps its scale elsewhere.
    """
    network = getattr(vae, "_orig_mod", vae)
    for ancestor in type(network).__mro__:
        if ancestor.__name__ in IMAGE_VAES:
            return ancestor.__name__
    raise UserError(
        f"the VAE is a {type(network).__name__}; pictures are decoded and encoded by image VAEs: "
        f"{', '.join(IMAGE_VAES)}. (A video VAE's latents mix several frames, so they have no meaning frame by frame)"
    )


def factor_of(vae: Any) -> int:
    """Returns the pixels of each side of a cell.

    Raises:
        UserError: not an image VAE, one of pictures that are not RGB, or one that does not give back the size it takes.
    """
    kind, config = kind_of(vae), vae.config
    factor = 2 ** (len(config[IMAGE_VAES[kind]]) - 1)
    back = factor
    if kind == "AutoencoderTiny":
        back = config.upsampling_scaling_factor ** (len(config.decoder_block_out_channels) - 1)
    if back != factor or config.in_channels != 3 or config.get("out_channels", 3) != 3:
        raise UserError(
            f"the {kind} takes {config.in_channels} channels, shrinks {factor} times and enlarges {back} times; "
            "only RGB pictures that come back in the size they had are known"
        )
    return factor


def scale_and_shift(vae: Any) -> tuple[Tensor, Tensor]:
    """Returns what the family's own pipelines use, as [1, C or 1, 1, 1]: latents = (mean - shift) * scale."""
    config = vae.config
    scale = torch.tensor(float(config.get("scaling_factor") or 1.0)).reshape(1, 1, 1, 1)
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if mean is not None and std is not None:  # as StableDiffusionXLPipeline
        return scale / torch.tensor(std).reshape(1, -1, 1, 1), torch.tensor(mean).reshape(1, -1, 1, 1)
    return scale, torch.tensor(float(config.get("shift_factor") or 0.0)).reshape(1, 1, 1, 1)


def execution_device(vae: nn.Module) -> torch.device:
    """Returns the device `vae` computes on: its own, or the one that offloading hooks fetch it to."""
    for module in vae.modules():
        for hook in _hooks(getattr(module, "_hf_hook", None)):
            if getattr(hook, "execution_device", None) is not None:
                return torch.device(hook.execution_device)
        if hasattr(module, "_diffusers_hook"):
            from diffusers.hooks.group_offloading import _get_group_onload_device

            try:
                return _get_group_onload_device(module)
            except ValueError:  # hooks of another kind
                continue
    return next(vae.parameters()).device


def _hooks(hook: Any) -> Iterable[Any]:
    if hook is None:
        return ()
    return getattr(hook, "hooks", (hook,))  # accelerate chains several in a SequentialHook


def state_of(vae: nn.Module) -> dict[str, Tensor]:
    """Returns the VAE's tensors by name, also where sequential offloading keeps them apart from the module."""
    vae = getattr(vae, "_orig_mod", vae)  # of a compiled one
    state = vae.state_dict()
    if any(tensor.is_meta for tensor in state.values()):
        from accelerate.utils.modeling import get_state_dict_offloaded_model

        state = get_state_dict_offloaded_model(vae)
    return state


def fingerprint_of(vae: Any) -> str:
    """Returns 16 hexadecimal digits that name a latent space: the VAE's weights, and its scale and shift.

    The hash is of names, shapes and values rounded to bfloat16, so that a checkpoint loaded as float32 and as bfloat16
    is one VAE. Loaded as float16 it counts as another: its values have been rounded twice. The answer is kept as long
    as the VAE is, and found again when its tensors have been changed.
    """
    network = getattr(vae, "_orig_mod", vae)  # of a compiled one
    numbers = [number.flatten().tolist() for number in scale_and_shift(network)]
    state = (numbers, [(id(tensor), _version(tensor), tensor.dtype) for tensor in network.parameters()])
    if _FINGERPRINTS.get(network, (None, ""))[0] != state:
        _FINGERPRINTS[network] = state, _hash(network, numbers)
    return _FINGERPRINTS[network][1]


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version  # how often it was written to in place


def _hash(vae: Any, numbers: list[list[float]]) -> str:
    digest = hashlib.sha256(json.dumps(numbers).encode())
    for name, tensor in sorted(state_of(vae).items()):
        digest.update(f"{name}{list(tensor.shape)}".encode())
        digest.update(tensor.detach().to(torch.bfloat16).cpu().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def vae_dtype(config: dict[str, Any], dtype: torch.dtype) -> torch.dtype:
    """The dtype a VAE decodes in: float32 where float16 overflows (`force_upcast`), else the networks' own.

    The stock pipeline widens such a VAE for the call only, and diffusers 0.42 widens only part of it: its float16
    decode fails after all the sampling.
    """
    return torch.float32 if dtype == torch.float16 and config.get("force_upcast", True) else dtype


def cause_of_nan(dtype: str) -> str:
    """Returns why a VAE that ran in `dtype` decoded finite latents to what is not finite, and what to do."""
    if dtype.removeprefix("torch.") == "float16":
        return "the VAE overflows in float16: use float32 (if that does not help, its weights are damaged)"
    return f"not for want of range in {dtype}, so the VAE's weights are damaged: check them, or download it again"


def computing_vae(vae: Any) -> Any:
    """Returns the VAE to compute with: `vae` itself, or a float32 copy of one that overflows in float16."""
    if vae_dtype(dict(vae.config), vae.dtype) == vae.dtype:
        return vae
    kind = type(getattr(vae, "_orig_mod", vae))
    with torch.device("meta"):  # no random weights, and the caller's generator is left alone
        copy = kind.from_config(vae.config)
    device = execution_device(vae)
    state = {name: tensor.to(device, torch.float32) for name, tensor in state_of(vae).items()}
    copy.load_state_dict(state, assign=True)
    return copy.requires_grad_(False).eval()
