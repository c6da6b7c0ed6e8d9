"""Where two models live on one device (the memory plans), their prompts encoded once, and decoding in chunks."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from w2sd_video.errors import UserError
from w2sd_video.loading.describe import TEXT_ENCODERS
from w2sd_video.loading.memory import memory_plan
from w2sd_video.loading.parts import Places
from w2sd_video.loading.pipeline_families import family_of_class
from w2sd_video.loading.sharing import modules_of, separate, share_equal_tensors, share_pipelines
from w2sd_video.loading.sizes import CHUNK_PIXELS
from w2sd_video.loading.streaming import trim
from w2sd_video.loading.turns import Turns

ENCODED = (
    *("Flux", "StableDiffusionXL", "StableDiffusion", "StableDiffusion3"),
    *("AnimateDiffSDXL", "AnimateDiff", "Wan"),
)
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def choose_device(device: str | None) -> str:
    """Returns `device`, or for None and "auto" the first of cuda, mps and cpu that there is.

    Raises:
        UserError: no device of that name, or this machine has none.
    """
    if device in (None, "auto"):
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert device is not None
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch asserts on a build without CUDA
        raise UserError(f"device {device!r} cannot be used here ({error}); try auto or cpu") from error
    return device


def choose_dtype(dtype: str | torch.dtype | None, device: str) -> torch.dtype:
    """Returns the dtype named, or for None float32 on a CPU and 16 bits on an accelerator.

    Raises:
        UserError: another dtype than float32, float16 and bfloat16.
    """
    if dtype is None or dtype == "auto":
        if torch.device(device).type == "cpu":
            return torch.float32
        wide = torch.device(device).type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if wide else torch.float16
    found = DTYPES.get(str(dtype).removeprefix("torch."))
    if found is None:
        raise UserError(f"dtype is {dtype}; choose one of {', '.join(DTYPES)}")
    return found


def read_to(device: str, memory: str) -> dict[str, Places]:
    """Returns where the tensors of each side are read to, so that a device that keeps them has them at once."""
    if memory == "resident":
        return dict.fromkeys(("strong", "weak"), Places(device, device))
    return {"strong": Places(device)} if memory == "weak-offload" else {}


def place(strong: Any, weak: Any, device: torch.device | str, memory: str = "resident") -> None:
    """Put a strong pipeline and a weak pipeline or network where a memory plan (`memory.MEMORY_PLANS`) wants them.

    Either may be None. "weak-offload" gives the weak side copies of its own of what it shares.
    """
    memory, device = memory_plan(memory), torch.device(device)
    if strong is None:
        strong, weak = weak, None
        memory = "group" if memory == "weak-offload" else memory
    if memory == "weak-offload" and weak is not None:
        separate(strong, weak)
    own = [] if weak is None else _own_parts(strong, weak)
    if memory in ("resident", "weak-offload"):
        strong.to(device)
    if memory == "resident":
        for module in own:
            module.to(device)
        if isinstance(weak, nn.Module):  # moving parameters keeps them shared, moving buffers does not
            share_equal_tensors(strong.unet, weak)
        elif weak is not None:
            share_pipelines(strong, weak)
        if getattr(strong, "motion_adapter", None) is not None:
            share_equal_tensors(strong.unet, strong.motion_adapter)
    elif memory == "model-offload":
        Turns(device).add([*_called(strong), *own])
    elif memory == "sequential":
        strong.enable_sequential_cpu_offload(device=device)
    elif memory == "group":
        strong.enable_group_offload(onload_device=device, offload_type="leaf_level", use_stream=device.type == "cuda")
    for module in own if memory in ("group", "sequential", "weak-offload") else ():
        _by_layers(module, device, memory)


def _called(pipe: Any) -> list[nn.Module]:
    """The modules that calls of a pipeline run: not motion modules, which are the network's."""
    return [part for part in modules_of(pipe) if part is not getattr(pipe, "motion_adapter", None)]


def _own_parts(strong: Any, weak: Any) -> list[nn.Module]:
    """The modules of the weak side that the strong pipeline does not hold."""
    held = {id(module) for module in modules_of(strong)}
    return [part for part in _called(weak) if id(part) not in held]


def _hooked(module: Any) -> bool:
    return hasattr(module, "_hf_hook") or any(hasattr(each, "_diffusers_hook") for each in module.modules())


def can_encode(pipe: Any) -> bool:
    """Whether `encoded_prompts` knows this pipeline's family, whatever it starts from (`ENCODED`).

    Others encode the prompt in each call, so that their text encoders must stay.
    """
    return _family_of(pipe) in ENCODED


def _family_of(pipe: Any) -> str:
    family = family_of_class(type(pipe).__name__)
    name = type(pipe).__name__ if family is None or not family.text else family.text
    return name.removesuffix("Pipeline").removesuffix("ControlNet")


@torch.no_grad()
def encoded_prompts(
    pipe: Any,
    prompts: Iterable[str],
    negative_prompt: str | None,
    *,
    device: torch.device | str,
    max_sequence_length: int | None = None,
) -> dict[str, dict[str, Tensor]]:
    """Returns, for each prompt, the arguments that stand for it in a call of `pipe`, on the host.

    The text encoders go to `device` for it, unless hooks of offloading fetch them. `negative_prompt` None is the
    pipeline's own empty one; Flux gets none then, so that it runs no true guidance.
    """
    encoders_to(pipe, device)
    return {
        prompt: {
            name: tensor.cpu()
            for name, tensor in _encoded(pipe, prompt, negative_prompt, device, max_sequence_length).items()
        }
        for prompt in prompts
    }


def place_encoders(pipe: Any, device: torch.device | str, memory: str) -> None:
    """Put text encoders that will be freed after the prompts where a memory plan wants them: in turns, or layer by
    layer; on the device as a whole they come with `encoded_prompts`.
    """
    device = torch.device(device)
    encoders = [part for name in TEXT_ENCODERS if isinstance(part := getattr(pipe, name, None), nn.Module)]
    if memory == "model-offload":
        Turns(device).add(encoders)
    elif memory in ("group", "sequential"):
        for encoder in encoders:
            _by_layers(encoder, device, memory)


def _by_layers(module: nn.Module, device: torch.device, memory: str) -> None:
    """A module's layers come to the device as they are called: for "sequential" each when it is, else one ahead."""
    if memory == "sequential":
        from accelerate import cpu_offload

        cpu_offload(module, device, offload_buffers=len(module._parameters) > 0)
        return
    from diffusers.hooks import apply_group_offloading

    apply_group_offloading(module, onload_device=device, offload_type="leaf_level", use_stream=device.type == "cuda")


def encoders_to(pipe: Any, device: torch.device | str) -> None:
    """Bring the text encoders to a device, unless hooks of offloading fetch them."""
    for name in TEXT_ENCODERS:
        encoder = getattr(pipe, name, None)
        if encoder is not None and not _hooked(encoder):
            encoder.to(device)


def free_text_encoders(*pipes: Any) -> None:
    """Drop the text encoders; calls must give embeddings from then on."""
    for pipe in pipes:
        pipe.register_modules(**{name: None for name in TEXT_ENCODERS if hasattr(pipe, name)})
        pipe.maybe_free_model_hooks()  # so that no offloading hook keeps them alive
    trim()


def _encoded(pipe: Any, prompt: str, negative: str | None, device: Any, length: int | None) -> dict[str, Tensor]:
    family = _family_of(pipe)
    default = inspect.signature(pipe.__call__).parameters.get("max_sequence_length")
    settings: dict[str, Any] = {"device": device}
    if default is not None:
        settings["max_sequence_length"] = length or default.default
    if family == "Flux":
        embeds, pooled, _ = pipe.encode_prompt(prompt, None, **settings)
        found = {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}
        if negative is not None:
            embeds, pooled, _ = pipe.encode_prompt(negative, None, **settings)
            found |= {"negative_prompt_embeds": embeds, "negative_pooled_prompt_embeds": pooled}
        return found
    if family in ("StableDiffusion", "AnimateDiff"):
        tensors = pipe.encode_prompt(prompt, device, 1, True, negative_prompt=negative)
    elif family == "StableDiffusion3":
        tensors = pipe.encode_prompt(prompt, None, None, negative_prompt=negative, **settings)
    else:
        tensors = pipe.encode_prompt(prompt, negative_prompt=negative, **settings)
    names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
    return dict(zip(names, tensors, strict=False))  # of SD 1.5 and Wan the first two


@contextmanager
def decoding_in_chunks(pipe: Any, frames: int | None = None) -> Iterator[None]:
    """Inside, the VAE of an AnimateDiff pipeline decodes as `install_chunked_decode` has it; as before afterwards."""
    undo = install_chunked_decode(pipe.vae, frames)
    try:
        yield
    finally:
        undo()


def install_chunked_decode(vae: Any, frames: int | None = None) -> Callable[[], None]:
    """Make `vae.decode` take a long batch in chunks of `frames` and return the function that undoes it.

    The stock AnimateDiffSDXLPipeline decodes all frames in one call: 24 GiB for 16 frames at 1024 x 1024, more than
    the sampler needs. Frames do not meet in an image VAE, so chunks change nothing but rounding. None takes as many
    frames as hold `CHUNK_PIXELS`. Latents are cast to the VAE's dtype, which may be wider than the networks'.
    """
    if frames is not None and frames < 1:
        raise ValueError(f"frames is {frames}; it must be at least 1")
    previous = vae.__dict__.get("decode")
    whole = getattr(previous, "decodes_whole", None) or vae.decode  # a second wrapper replaces the first
    factor = 2 ** (len(vae.config.block_out_channels) - 1)

    @functools.wraps(whole)
    def decode(z: Tensor, return_dict: bool = True, **settings: Any) -> Any:
        # [B, C, h, w] -> [B, 3, H, W]
        pixels = z.shape[-2] * z.shape[-1] * factor**2
        size = frames or max(1, CHUNK_PIXELS // pixels)
        parts = [whole(part, return_dict=False, **settings)[0] for part in z.to(vae.dtype).split(size)]
        images = torch.cat(parts) if len(parts) > 1 else parts[0]
        if not return_dict:
            return (images,)
        from diffusers.models.autoencoders.vae import DecoderOutput

        return DecoderOutput(sample=images)

    decode.decodes_whole = whole  # type: ignore[attr-defined]
    vae.decode = decode

    def undo() -> None:
        if previous is None:
            del vae.decode
        else:
            vae.decode = previous

    return undo


REPEATED = ("BasicTransformerBlock", "ResnetBlock2D", "AnimateDiffTransformer3D")  # blocks that are compiled


def compile_networks(networks: Iterable[Any]) -> None:
    """Makes torch compile the repeated blocks of networks (whole ones take minutes and gain little more).

    Raises dynamo's limit of recompilations for this process: one block has more widths in a UNet than the usual 8.
    """
    import torch._dynamo

    torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
    for network in networks:
        repeated = (*REPEATED, *(getattr(network, "_repeated_blocks", None) or ()))
        for module in network.modules():
            if type(module).__name__ in repeated:
                module.compile()


def kept_in_fp8(networks: Iterable[Any]) -> None:
    """Has networks keep their weights as float8_e4m3fn, each layer's cast to its own dtype while it computes.

    diffusers' layerwise casting, which leaves norms, embeddings and LoRAs as they are; so are layers with a LoRA.
    """
    for network in {id(each): each for each in networks}.values():
        network.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=network.dtype)


def peak_memory() -> float:
    """The most memory this process has held so far, in MiB (0 where the system does not tell)."""
    try:
        import resource
    except ImportError:
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
