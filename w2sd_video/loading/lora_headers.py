"""A LoRA on disk, found and looked into by its header alone, before anything is loaded (imports no torch)."""

from __future__ import annotations

from pathlib import Path

from w2sd_video.errors import UserError
from w2sd_video.loading.checkpoints import PICKLES, read_safetensors_header


def found_lora(name: str, given: str) -> Path | None:
    """Returns the .safetensors file that is meant by a file or by a folder with one; None where neither is there.

    Raises:
        UserError: a folder without such a file or with several, a pickle, a damaged file, a DoRA, or no LoRA at all.
    """
    path = Path(given).expanduser()
    if path.is_dir():
        inside = sorted(file for file in path.iterdir() if file.suffix == ".safetensors")
        preferred = [file for file in inside if file.name == "pytorch_lora_weights.safetensors"] or inside
        if len(preferred) != 1:
            listed = ", ".join(file.name for file in inside) or "no .safetensors file"
            raise UserError(f"the folder {given} of LoRA {name!r} holds {listed}; name the one file")
        path = preferred[0]
    if not path.is_file():
        return None
    if path.suffix in PICKLES:
        raise UserError(
            f"the LoRA {given} is a pickle, which can run any code; give it as a .safetensors file (most are "
            "published as one too)"
        )
    header = read_safetensors_header(path)
    if any("dora_scale" in key or "lora_magnitude_vector" in key for key in header):
        raise UserError(f"the LoRA {given} is a DoRA, whose scale cannot be switched; give a plain LoRA")
    if not any("lora" in key for key in header):
        first = next(iter(header), "nothing")
        raise UserError(f"{given} is no LoRA: it holds {len(header)} tensors such as {first}; give a LoRA's file")
    return path
