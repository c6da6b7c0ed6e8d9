"""Small stand-ins for what documented commands download or read from the reader's disk, under the documented names."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tests.support import disk_pairs, dit_moe_reference, tiny, tiny_controls
from tests.support import vbench_image_networks as networks
from tests.support.layouts import save_single_file
from tests.support.tiny_loras import kohya_file

LORA_MODULES = (
    "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
    "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_v",
)


def _sdxl(seed: int) -> Callable[[Path], object]:
    return lambda path: disk_pairs.sdxl(seed).save_pretrained(path)


def _photographs(path: Path) -> None:
    path.mkdir(parents=True)
    for i in range(8):
        noise = np.random.default_rng(i).integers(0, 255, (4, 5, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((50, 40)).save(path / f"a cat-{i}.png")


def _dit_moe(path: Path) -> None:
    shapes = dit_moe_reference.published_shapes(**dit_moe_reference.SMALL | {"classes": 1000})
    generator = tiny.generator(0)
    torch.save({name: torch.randn(shape, generator=generator) * 0.2 for name, shape in shapes.items()}, path)


def _house(path: Path) -> None:
    picture = np.zeros((16, 16, 3), np.uint8)
    picture[4:12, 4:12] = 255
    Image.fromarray(picture).save(path)


BUILDERS: dict[str, Callable[[Path], object]] = {
    "stabilityai/stable-diffusion-xl-base-1.0": _sdxl(2),
    "RunDiffusion/Juggernaut-XL-v9": _sdxl(1),
    "black-forest-labs/FLUX.1-dev": lambda path: tiny.flux(1).save_pretrained(path),
    "guoyww/animatediff-motion-adapter-sdxl-beta": lambda path: tiny.motion_adapter().save_pretrained(path),
    "diffusers/controlnet-canny-sdxl-1.0": lambda path: tiny_controls.sdxl().controlnet.save_pretrained(path),
    "sdxl": _sdxl(2),
    "sdxl-base": _sdxl(2),
    "sdxl-weak": _sdxl(1),
    "flux": lambda path: tiny.flux(1).save_pretrained(path),
    "animatediff": lambda path: tiny.animatediff_sdxl(1).save_pretrained(path),
    "motion-adapter": lambda path: tiny.motion_adapter().save_pretrained(path),
    "finetune.safetensors": lambda path: save_single_file(disk_pairs.sdxl(1), path),
    "more_art.safetensors": lambda path: kohya_file(path, tiny.sdxl_unet(2), list(LORA_MODULES)),
    "dit_moe_s_8E2A.pt": _dit_moe,
    "sd-vae-ft-mse": lambda path: tiny.vae(scaling_factor=0.18215).save_pretrained(path),
    "pt_inception-2015-12-05-6726825d.pth": lambda path: torch.save({}, path),
    "clip": lambda path: networks.save_clip(networks.clip(1), path),
    "photographs": _photographs,
    "house.png": _house,
    "prompts.txt": lambda path: path.write_text("a red cat\n# a comment\na dog\n", encoding="utf-8"),
    "my_reward.py": lambda path: path.write_text("def score(frames, prompt):\n    return float(frames.mean())\n"),
}


def put(names: tuple[str, ...], store: Path, folder: Path) -> None:
    """Puts the stand-ins called `names` into `folder`; each is built once, in `store`."""
    for name in names:
        kept, wanted = store / name, folder / name
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            BUILDERS[name](kept)
        wanted.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if kept.is_dir() else shutil.copyfile)(kept, wanted)
