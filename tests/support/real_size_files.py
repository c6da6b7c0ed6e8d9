"""Checkpoints of true size with random weights.

SDXL (a folder, and a single file in the original layout), AnimateDiff's motion adapter, a kohya LoRA, a Flux of true
width in a single file, DiT-MoE B/2, the VAE of Stable Diffusion.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel, MotionAdapter, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from tests.support import layouts, tiny
from tests.support.dit_moe_reference import published_shapes

UNET = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "attention_head_dim": [5, 10, 20],
    "block_out_channels": [320, 640, 1280],
    "cross_attention_dim": 2048,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "projection_class_embeddings_input_dim": 2816,
    "sample_size": 128,
    "transformer_layers_per_block": [1, 2, 10],
    "use_linear_projection": True,
}
VAE = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "sample_size": 1024,
    "scaling_factor": 0.13025,
}
MOTION = {"block_out_channels": [320, 640, 1280], "use_motion_mid_block": False}
FLUX = {"guidance_embeds": True, "num_layers": 2, "num_single_layers": 4}

FLUX_VAE = {
    "latent_channels": 16,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}


# -- checkpoints -------------------------------------------------------------------------------------------------------


class Numbers:
    """Random numbers by name, from one buffer."""

    def __init__(self) -> None:
        numbers = torch.randn(2**24 + 3, generator=torch.Generator().manual_seed(0))
        self.buffer = (0.01 * numbers).half().numpy().tobytes()

    def of(self, name: str, shape: tuple[int, ...], seed: int) -> Iterator[bytes]:
        """Yields float16 numbers of a shape in pieces: scale 0.01, norms about 1, biases about 0; alphas of 32."""
        if name.endswith(".alpha"):
            yield torch.tensor(32.0).half().numpy().tobytes()
            return
        left = 2 * math.prod(shape)
        start = 2 * (int(hashlib.md5(f"{seed}{name}".encode()).hexdigest()[:6], 16) % 2**23)
        if len(shape) == 1 and name.endswith("weight"):
            small = torch.frombuffer(bytearray(self.buffer[start : start + left]), dtype=torch.float16)
            yield (1 + small).numpy().tobytes()
            return
        while left:
            piece = self.buffer[start : start + left]
            yield piece
            left, start = left - len(piece), 0


def write(path: Path, shapes: Mapping[str, tuple[int, ...]], numbers: Numbers, seed: int) -> None:
    """Writes a safetensors file of random float16 numbers, one tensor after another."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes.items():
            file.writelines(numbers.of(name, shape, seed))


def shapes_of(tensors: Mapping[str, Tensor], prefix: str = "") -> dict[str, tuple[int, ...]]:
    return {prefix + name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _text(width: int, layers: int, kind: Any, act: str) -> Any:
    return kind(
        CLIPTextConfig(
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=width // 64,
            projection_dim=width,
            hidden_act=act,
            vocab_size=49408,
        )
    )


def sdxl_modules() -> dict[str, Any]:
    """SDXL's networks without values."""
    with torch.device("meta"):
        return {
            "unet": UNet2DConditionModel(**UNET),
            "vae": AutoencoderKL(**VAE),
            "text_encoder": _text(768, 12, CLIPTextModel, "quick_gelu"),
            "text_encoder_2": _text(1280, 32, CLIPTextModelWithProjection, "gelu"),
        }


def build_sdxl(folder: Path, numbers: Numbers, seed: int, modules: Mapping[str, Any]) -> None:
    """Writes a folder of diffusers' layout; tokenizers, of characters, and the scheduler are those of the tests."""
    tiny.sdxl(1).save_pretrained(folder)
    for part, module in modules.items():
        shutil.rmtree(folder / part)
        module.config.save_pretrained(folder / part) if part.startswith("text") else module.save_config(folder / part)
        stem = "model" if part.startswith("text") else "diffusion_pytorch_model"
        write(folder / part / f"{stem}.safetensors", shapes_of(module.state_dict()), numbers, seed)


def build_file(path: Path, numbers: Numbers, seed: int, modules: Mapping[str, Any]) -> None:
    """Writes SDXL as one file in its original layout."""
    held = {
        **layouts.unet_to_ldm(modules["unet"]),
        **layouts.vae_to_ldm(modules["vae"]),
        **layouts.text_encoder_to_ldm(modules["text_encoder"]),
        **layouts.text_encoder_2_to_ldm(modules["text_encoder_2"]),
    }
    write(path, shapes_of(held), numbers, seed)


def build_alone(folder: Path, numbers: Numbers, module: Any) -> None:
    """Writes one network of diffusers into a folder of its own."""
    module.save_config(folder)
    write(folder / "diffusion_pytorch_model.safetensors", shapes_of(module.state_dict()), numbers, 3)


def build_flux(folder: Path, numbers: Numbers) -> None:
    """Writes Flux.1 of true width as one file in its original layout, and its VAE; text encoders are those of tests."""
    tiny.flux(1).save_pretrained(folder)
    shutil.rmtree(folder / "transformer")
    shutil.rmtree(folder / "vae")
    with torch.device("meta"):
        build_alone(folder / "vae", numbers, AutoencoderKL(**{**VAE, **FLUX_VAE}))
    config = json.loads((folder / "text_encoder_2" / "config.json").read_text())
    clip = json.loads((folder / "text_encoder" / "config.json").read_text())
    with torch.device("meta"):
        texts = {"joint_attention_dim": config["d_model"], "pooled_projection_dim": clip["hidden_size"]}
        network = FluxTransformer2DModel(**FLUX, **texts)
    network.save_config(folder / "transformer")
    write(folder / "flux.safetensors", shapes_of(layouts.flux_to_original(network)), numbers, 3)


def build_lora(path: Path, numbers: Numbers, modules: Mapping[str, Any], rank: int = 64) -> None:
    """Writes a LoRA as kohya's trainer names it, on the attention and feed-forward layers of UNet and text encoders."""
    shapes: dict[str, tuple[int, ...]] = {}
    renamed = dict(zip(modules["unet"].state_dict(), layouts.unet_to_ldm(modules["unet"]), strict=True))
    for part, start, chosen in (
        ("unet", "lora_unet_", "attentions"),
        ("text_encoder", "lora_te1_", "layers"),
        ("text_encoder_2", "lora_te2_", "layers"),
    ):
        for name, layer in modules[part].named_modules():
            if not isinstance(layer, torch.nn.Linear) or chosen not in name:
                continue
            theirs = name if part != "unet" else renamed[f"{name}.weight"].removesuffix(".weight")
            theirs = theirs.removeprefix("model.diffusion_model.")
            if part != "unet" and not theirs.startswith("text_model."):
                theirs = f"text_model.{theirs}"
            key, (out, into) = start + theirs.replace(".", "_"), layer.weight.shape
            shapes |= {
                f"{key}.alpha": (),
                f"{key}.lora_down.weight": (rank, into),
                f"{key}.lora_up.weight": (out, rank),
            }
    write(path, shapes, numbers, 4)


def build_moe(path: Path) -> None:
    """Writes DiT-MoE B/2 with 8 experts as it is published: a state dict in float32."""
    shapes = published_shapes(depth=12, width=768, heads=12, experts=8)
    made = torch.Generator().manual_seed(0)
    torch.save({name: 0.02 * torch.randn(shape, generator=made) for name, shape in shapes.items()}, path)


def _there(work: Path, name: str, build: Callable[[Path], Any]) -> None:
    """Builds a folder or a file that is not there yet; it appears under its name when it is whole."""
    target, part = work / name, work / f"part-{name}"
    if not target.exists():
        shutil.rmtree(part, ignore_errors=True)
        part.unlink(missing_ok=True)
        build(part)
        part.rename(target)


def build_all(work: Path) -> None:
    """Writes everything that is not there yet."""
    numbers, modules = Numbers(), sdxl_modules()
    with torch.device("meta"):
        motion, vae = MotionAdapter(**MOTION), AutoencoderKL(**{**VAE, "scaling_factor": 0.18215, "sample_size": 256})
    _there(work, "base", lambda folder: build_sdxl(folder, numbers, 1, modules))
    _there(work, "finetune.safetensors", lambda file: build_file(file, numbers, 2, modules))
    _there(work, "motion", lambda folder: build_alone(folder, numbers, motion))
    _there(work, "twin", lambda folder: shutil.copytree(work / "base", folder, copy_function=os.link))
    _there(work, "flux", lambda folder: build_flux(folder, numbers))
    _there(work, "lora.safetensors", lambda file: build_lora(file, numbers, modules))
    _there(work, "moe.pt", build_moe)
    _there(work, "vae", lambda folder: build_alone(folder, numbers, vae))
