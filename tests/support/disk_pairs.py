"""Weak and strong checkpoints written to disk in every form they are passed around in."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline

from tests.support import tiny
from tests.support.layouts import save_single_file
from w2sd_video.loading.animatediff import tensors_of
from w2sd_video.loading.pair_description import describe_pair
from w2sd_video.loading.pairs import load_pair
from w2sd_video.loading.placement import encoded_prompts, free_text_encoders


def sdxl(seed: int, text_seed: int = 10, vae_seed: int = 12, **vae: Any) -> StableDiffusionXLPipeline:
    """As `tiny.sdxl`, with text encoders of two widths, as SDXL's are: single files are told apart by them."""
    pipe = tiny.sdxl(seed)
    pipe.register_modules(
        vae=tiny.vae(vae_seed, **vae),
        text_encoder=tiny.clip_text_encoder(text_seed, hidden=12),
        text_encoder_2=tiny.clip_text_encoder(text_seed + 3, hidden=20, projection=True),
    )
    return pipe


def save_pair(folder: Path, *, weak_seed: int = 5) -> list[str]:
    """Saves a strong pipeline and a weak network; returns the command's arguments for a quick run of them."""
    tiny.animatediff_sdxl(1).save_pretrained(folder / "strong")
    tiny.motion_unet(weak_seed).save_pretrained(folder / "weak" / "unet")
    return quick_arguments(folder)


def quick_arguments(folder: Path) -> list[str]:
    """The command's arguments for a quick run of a pair that `save_pair` saved."""
    sizes = "--steps 3 --num-frames 2 --height 16 --width 16 --guidance 2 --device cpu"
    return ["--strong", str(folder / "strong"), "--weak", str(folder / "weak"), *sizes.split()]


def write_checkpoints(root: Path) -> dict[str, str]:
    """Write seeds 1 (strong) and 2 (weak), with what goes beside them, and return the paths by name."""
    strong, weak = sdxl(1), sdxl(2)
    strong.save_pretrained(root / "strong")
    weak.save_pretrained(root / "weak")
    tiny.motion_adapter().save_pretrained(root / "motion")
    save_single_file(strong, root / "strong.safetensors")
    save_single_file(weak, root / "weak.safetensors")
    save_single_file(weak, root / "weak-no-text.safetensors", text=False)
    tiny.animatediff_sdxl(1).save_pretrained(root / "video")
    tiny.sdxl_unet(2).save_pretrained(root / "network" / "unet")
    config = root / "config"
    shutil.copytree(root / "strong", config, ignore=shutil.ignore_patterns("*.safetensors"))
    return {path.name: str(path) for path in root.iterdir()}


@dataclass
class LoadedPair:
    """Both sides of a pair of videos, and what loading it noted."""

    pipe: Any
    weak: Any
    notes: tuple[str, ...] = ()

    @property
    def weak_unet(self) -> Any:
        return getattr(self.weak, "unet", self.weak)


def loaded_pair(*given: Any, dtype: str = "float32", quiet: bool = True, **settings: Any) -> LoadedPair:
    """What `load_pair` makes of what `describe_pair` says of these arguments."""
    notes: list[str] = []
    pair = describe_pair(*given, **settings)
    sides = load_pair(pair, dtype=getattr(torch, dtype), quiet=quiet, note=notes.append)
    return LoadedPair(sides["strong"], sides["weak"], tuple(notes))


def weights_of(seed: int) -> dict[str, torch.Tensor]:
    return tensors_of(tiny.motion_unet(seed))


def assert_holds(module: torch.nn.Module, wanted: dict[str, torch.Tensor]) -> None:
    found = tensors_of(module)
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if not torch.equal(found[name], wanted[name])] == []


def told(pair: Any, prompt: str, negative: str | None = None, *, free: bool = True) -> dict[str, Any]:
    """The call arguments that stand for a prompt on each side of a loaded pair, whose text encoders are freed then;
    None for a weak side that has the strong one's.
    """
    pipes = {"strong": pair.pipe, **({} if pair.weak is pair.weak_unet else {"weak": pair.weak})}
    found = {role: encoded_prompts(pipe, [prompt], negative, device="cpu")[prompt] for role, pipe in pipes.items()}
    if free:
        free_text_encoders(*pipes.values())
    return {"weak": None, **found}
