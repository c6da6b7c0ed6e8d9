"""Tiny pairs as files on disk, as users have them."""

from __future__ import annotations

from pathlib import Path

from tests.support import tiny


def save_pair(folder: Path, *, weak_seed: int = 5) -> list[str]:
    """Saves a strong pipeline and a weak network; returns the command's arguments for a quick run of them."""
    tiny.animatediff_sdxl(1).save_pretrained(folder / "strong")
    tiny.motion_unet(weak_seed).save_pretrained(folder / "weak" / "unet")
    return quick_arguments(folder)


def quick_arguments(folder: Path) -> list[str]:
    """The command's arguments for a quick run of a pair that `save_pair` saved."""
    sizes = {
        "--steps": "3",
        "--num-frames": "2",
        "--height": "16",
        "--width": "16",
        "--guidance": "2",
        "--device": "cpu",
    }
    words = [word for flag in sizes.items() for word in flag]
    return ["--strong", str(folder / "strong"), "--weak", str(folder / "weak"), *words]
