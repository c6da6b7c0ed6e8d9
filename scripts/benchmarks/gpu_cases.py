"""What a GPU is measured with: pairs of the true shapes with random weights, or small ones, and how a call is timed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    AnimateDiffSDXLPipeline,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    MotionAdapter,
    StableDiffusionXLPipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from torch import nn

from benchmarks import bridge_networks
from w2sd_video.loading.animatediff import assemble_motion_unet
from w2sd_video.loading.memory import Load

STEPS, REFLECTIONS = 4, 3
FEW = (2, 1)  # of these, where a row takes long or nothing but memory is measured


@dataclass(frozen=True)
class Machine:
    """Where it is measured: the device, networks' dtype, what the device does in a second, and until when."""

    device: str
    dtype: torch.dtype
    budget: float
    operations: float = 0.0
    bytes: float = 0.0
    until: float = float("inf")

    @property
    def gpu(self) -> bool:
        return self.device.startswith("cuda")

    def now(self) -> float:
        """Seconds, with nothing under way."""
        if self.gpu:
            torch.cuda.synchronize()
        return time.perf_counter()

    @property
    def time_is_up(self) -> bool:
        return time.perf_counter() > self.until

    def seconds(self, function: Callable[[], Any]) -> float:
        """The median time of a call, after one to warm up; repeated for `budget` seconds, 3 times at least (once where
        that is 0).
        """
        function()
        times: list[float] = []
        begin = self.now()
        least = 3 if self.budget else 1
        while len(times) < least or (self.now() - begin < self.budget and len(times) < 20):
            start = self.now()
            function()
            times.append(self.now() - start)
        return statistics.median(times)


@dataclass(frozen=True)
class Case:
    """A pair: its name, a function that makes a pipeline and a second network, and the arguments of a call."""

    name: str
    make: Callable[[Machine], tuple[Any, nn.Module]]
    call: Callable[[Machine], dict[str, Any]]
    load: Load
    vae: int = 8  # pixels of a cell
    motion: bool = False
    guidance: float = 3.0
    counts: tuple[int, int] = (STEPS, REFLECTIONS)


# -- networks ----------------------------------------------------------------------------------------------------------


def random_network(make: Callable[[], Any], machine: Machine) -> Any:
    """A network with random weights on the device, small enough at its end that a few steps stay finite."""
    with torch.device("meta"):
        network = make()
    network = nn.Module.to(network, machine.dtype)  # diffusers' own warns of parts that checkpoints keep in float32
    network = network.to_empty(device=machine.device).eval().requires_grad_(False)
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        if not tensor.is_floating_point():
            tensor.zero_()
        elif tensor.dim() < 2:
            tensor.fill_(1.0 if name.endswith("weight") else 0.0)
        else:
            tensor.normal_(0.0, 0.02)
        if name.startswith(("conv_out", "proj_out")) and tensor.dim() > 1:
            tensor.mul_(0.01)
    if hasattr(network, "rope") and hasattr(network.rope, "freqs_cos"):  # made in the constructor, and of no checkpoint
        network.rope = type(network.rope)(
            network.rope.attention_head_dim, network.rope.patch_size, network.rope.max_seq_len
        ).to(machine.device)
    return network


def sdxl_unet(machine: Machine, small: bool) -> Any:
    size = bridge_networks.SMALL if small else bridge_networks.FULL
    return random_network(lambda: bridge_networks.sdxl_unet(size), machine)


def make_sdxl(machine: Machine, small: bool) -> tuple[Any, nn.Module]:
    strong, weak = (sdxl_unet(machine, small) for _ in range(2))
    return _sdxl(StableDiffusionXLPipeline, strong), weak


def _sdxl(kind: Any, unet: Any, **more: Any) -> Any:
    nothing: dict[str, Any] = dict.fromkeys(("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
    return kind(
        **{**nothing, **more}, unet=unet, scheduler=DDIMScheduler(timestep_spacing="trailing", clip_sample=False)
    )


def make_animatediff(machine: Machine, small: bool) -> tuple[Any, nn.Module]:
    def motion_unet() -> Any:
        made = sdxl_unet(machine, small)
        return assemble_motion_unet(made, adapter)

    channels = bridge_networks.SMALL.unet if small else bridge_networks.FULL.unet
    settings: dict[str, Any] = {"block_out_channels": channels["block_out_channels"], "use_motion_mid_block": False}
    settings["motion_layers_per_block"] = channels.get("layers_per_block", 2)
    settings["motion_norm_num_groups"] = channels.get("norm_num_groups", 32)
    adapter = random_network(lambda: MotionAdapter(**settings), machine)
    strong, weak = motion_unet(), motion_unet()
    vae = random_network(lambda: bridge_networks.sdxl_vae(bridge_networks.SMALL), machine)  # asked for its dtype only
    return _sdxl(AnimateDiffSDXLPipeline, strong, motion_adapter=adapter, vae=vae), weak


def make_flux(machine: Machine, small: bool) -> tuple[Any, nn.Module]:
    size = bridge_networks.SMALL if small else bridge_networks.FULL
    network = random_network(lambda: bridge_networks.flux_transformer(size), machine)
    nothing = dict.fromkeys(("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
    return FluxPipeline(**nothing, transformer=network, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0)), network


def make_wan(machine: Machine, small: bool) -> tuple[Any, nn.Module]:
    sizes = {"num_attention_heads": 12, "attention_head_dim": 128, "ffn_dim": 8960, "num_layers": 30}
    if small:
        sizes = {"num_attention_heads": 2, "attention_head_dim": 32, "ffn_dim": 128, "num_layers": 2, "text_dim": 64}
    network = random_network(lambda: WanTransformer3DModel(**sizes), machine)
    nothing = dict.fromkeys(("vae", "text_encoder", "tokenizer"))
    return WanPipeline(**nothing, transformer=network, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0)), network


def numbers(machine: Machine, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, device=machine.device, dtype=machine.dtype)


def sdxl_call(machine: Machine, width: int, small: bool) -> dict[str, Any]:
    pooled = 1280 if not small else _pooled()
    texts = {"prompt_embeds": (1, 77, width), "pooled_prompt_embeds": (1, pooled)}
    told = {name: numbers(machine, *shape) for name, shape in texts.items()}
    return {**told, **{f"negative_{name}": torch.zeros_like(tensor) for name, tensor in told.items()}}


def _pooled() -> int:
    unet = bridge_networks.SMALL.unet
    return int(unet["projection_class_embeddings_input_dim"]) - 6 * int(unet["addition_time_embed_dim"])


def flux_call(machine: Machine, small: bool) -> dict[str, Any]:
    settings = bridge_networks.SMALL.flux if small else {}
    tokens, width = (32 if small else 512), settings.get("joint_attention_dim", 4096)
    pooled = settings.get("pooled_projection_dim", 768)
    return {"prompt_embeds": numbers(machine, 1, tokens, width), "pooled_prompt_embeds": numbers(machine, 1, pooled)}


def wan_call(machine: Machine, small: bool) -> dict[str, Any]:
    told = numbers(machine, 1, *((16, 64) if small else (512, 4096)))
    return {"prompt_embeds": told, "negative_prompt_embeds": torch.zeros_like(told)}


def cases(small: bool) -> list[Case]:
    """What is measured, at true size or small."""
    width = 2048 if not small else int(bridge_networks.SMALL.unet["cross_attention_dim"])

    def pixels(size: int) -> int:
        return 64 if small else size

    def frames(count: int) -> int:
        return 2 if small else count

    def video(size: int, counts: tuple[int, int]) -> Case:
        return Case(
            f"AnimateDiff-SDXL, {frames(16)} frames, {pixels(size)} px",
            lambda machine: make_animatediff(machine, small),
            lambda machine: sdxl_call(machine, width, small),
            Load(2, pixels(size), pixels(size), frames(16)),
            motion=True,
            counts=counts,
        )

    wan = Load(2, 64, 64, 5) if small else Load(2, 480, 832, 33)
    return [
        video(512, (STEPS, REFLECTIONS)),
        video(1024, FEW),
        Case(
            f"SDXL, {pixels(1024)} px",
            lambda machine: make_sdxl(machine, small),
            lambda machine: sdxl_call(machine, width, small),
            Load(2, pixels(1024), pixels(1024)),
        ),
        Case(
            f"Flux.1-dev, {pixels(1024)} px",
            lambda machine: make_flux(machine, small),
            lambda machine: flux_call(machine, small),
            Load(1, pixels(1024), pixels(1024)),
        ),
        Case(
            f"Wan 2.1 1.3B, {wan.num_frames} frames, {wan.width}x{wan.height}",
            lambda machine: make_wan(machine, small),
            lambda machine: wan_call(machine, small),
            wan,
            counts=FEW,
        ),
    ]
