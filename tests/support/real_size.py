"""True-size runs with random weights, measured: `python -m tests.support.real_size` (make real-size) writes
docs/results/real-size.md.

It builds SDXL (a folder and a single file in the original layout), a motion adapter and a Flux of true width with few
blocks under `--work`, about 17 GB, runs the commands on them, and removes them. It needs a machine of 24 GB.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel, MotionAdapter, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from tests.support import layouts, tiny

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "results" / "real-size.md"
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


# -- checkpoints -------------------------------------------------------------------------------------------------------


class Numbers:
    """Random numbers by name, from one buffer."""

    def __init__(self) -> None:
        numbers = torch.randn(2**24 + 3, generator=torch.Generator().manual_seed(0))
        self.buffer = (0.01 * numbers).half().numpy().tobytes()

    def of(self, name: str, shape: tuple[int, ...], seed: int) -> Iterator[bytes]:
        """Yields float16 numbers of a shape in pieces: weights of scale 0.01, norms about 1, biases about 0."""
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


def build(work: Path) -> None:
    """Writes everything that is not there yet."""
    numbers, modules = Numbers(), sdxl_modules()
    if not (work / "base").exists():
        build_sdxl(work / "part", numbers, 1, modules)
        (work / "part").rename(work / "base")
    if not (work / "finetune.safetensors").exists():
        build_file(work / "part.safetensors", numbers, 2, modules)
        (work / "part.safetensors").rename(work / "finetune.safetensors")
    if not (work / "motion").exists():
        with torch.device("meta"):
            build_alone(work / "motion", numbers, MotionAdapter(**MOTION))
    if not (work / "twin").exists():
        shutil.copytree(work / "base", work / "twin", copy_function=os.link)
    if not (work / "flux").exists():
        tiny.flux(1).save_pretrained(work / "flux-part")
        shutil.rmtree(work / "flux-part" / "transformer")
        config = json.loads((work / "flux-part" / "text_encoder_2" / "config.json").read_text())
        clip = json.loads((work / "flux-part" / "text_encoder" / "config.json").read_text())
        with torch.device("meta"):
            texts = {"joint_attention_dim": config["d_model"], "pooled_projection_dim": clip["hidden_size"]}
            network = FluxTransformer2DModel(**FLUX, **texts)
        build_alone(work / "flux-part" / "transformer", numbers, network)
        (work / "flux-part").rename(work / "flux")


# -- runs --------------------------------------------------------------------------------------------------------------


@dataclass
class Measured:
    """One command: what its plan says, what it took (GB: 10^9 bytes), its notes by second."""

    name: str
    words: list[str]
    planned: dict[str, Any] = field(default_factory=dict)
    peak: float = 0.0
    anonymous: float = 0.0
    seconds: float = 0.0
    first_line: float = 0.0
    lines: list[tuple[float, str]] = field(default_factory=list)
    code: int = 0
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def estimate(self) -> float:
        return max(self.planned["memory_plans"]["plans"]["resident"]["host"].values()) * 2**20 / 1e9

    @property
    def weights(self) -> float:
        """Of what has to be on the host at once: networks and VAE, or the text encoders."""
        held = self.planned["memory_plans"]["weights"]
        networks = held["strong"] + held["weak"] + held["shared"] + held["vae"]
        return max(networks, held["text_encoders"]) * 2**20 / 1e9


def statuses(pid: int) -> Iterator[tuple[float, float]]:
    """Yields GB that are in memory at most, and those of no file, while a process lives."""
    while True:
        try:
            text = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            return
        fields = {line.partition(":")[0]: line.split()[1] for line in text.splitlines() if line.count(" kB")}
        if "VmHWM" not in fields:
            return
        yield int(fields["VmHWM"]) * 1024 / 1e9, int(fields["RssAnon"]) * 1024 / 1e9
        time.sleep(0.2)


def run(name: str, words: list[str], output: Path) -> Measured:
    """Runs a command, dry and for good, and measures it from outside."""
    program = [sys.executable, "-m", "w2sd_video", *words]
    found = Measured(name, words)
    planned = subprocess.run([*program, "--dry-run", "--format", "json"], cwd=ROOT, capture_output=True, text=True)
    found.planned = json.loads(planned.stdout)
    shutil.rmtree(output, ignore_errors=True)
    begin = time.monotonic()
    log = output.with_suffix(".log")
    with log.open("w") as file:
        process = subprocess.Popen([*program, "--output", str(output)], cwd=ROOT, stderr=file, stdout=file)
        for peak, anonymous in statuses(process.pid):
            found.peak, found.anonymous = max(found.peak, peak), max(found.anonymous, anonymous)
            lines = log.read_text().splitlines()
            now = time.monotonic() - begin
            found.lines += [(now, line) for line in lines[len(found.lines) :]]
            if process.poll() is not None:
                break
        found.code = process.wait()
    found.seconds = time.monotonic() - begin
    found.first_line = found.lines[0][0] if found.lines else found.seconds
    if found.code:
        raise SystemExit(f"{name} ended with {found.code}:\n{log.read_text()}")
    results = (output / "results.jsonl").read_text().splitlines()
    found.record = json.loads(results[-1])
    return found


def commands(work: Path, pixels: int, steps: int) -> dict[str, list[str]]:
    """The words of each run."""
    small = f"--height {pixels} --width {pixels} --steps {steps} --device cpu --dtype bfloat16 --prompt a".split()
    small += ["--methods", "w2sd"]
    video = ["video", "--num-frames", "4", "--motion-adapter", str(work / "motion"), *small]
    base = str(work / "base")
    return {
        "SDXL video, a file over a folder": [
            *video, "--strong", str(work / "finetune.safetensors"), "--weak", base, "--config", base,
        ],
        "SDXL pictures, two equal folders": [
            "image", *small, "--strong", base, "--weak", str(work / "twin"), "--guidance", "2", "--weak-guidance", "1",
        ],
        "Flux of true width, 6 blocks, over SDXL": [
            "bridge", *small, "--strong", str(work / "flux"), "--weak", base, "--noise-map", "paired",
        ],
    }  # fmt: skip


def page(runs: Iterable[Measured], pixels: int, steps: int) -> str:
    """The report."""
    lines = [
        "# Real size",
        "",
        f"True-size networks with random weights on a CPU (bfloat16, {pixels} x {pixels} pixels, T {steps}), by `make "
        "real-size`: it "
        "builds the checkpoints, runs these commands one after another, and measures each process from outside. `peak` "
        "is the most that was in memory (VmHWM), pages of files included; `weights` what has to be there at once; "
        "`plan` what `--dry-run` says without loading anything. GB are 10^9 bytes. Times are of a shared machine.",
        "",
        "| run | weights | plan | peak | peak / plan | peak / weights | first line, s | all, s | evaluations, s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    runs = list(runs)
    for each in runs:
        lines.append(
            f"| {each.name} | {each.weights:.2f} | {each.estimate:.2f} | {each.peak:.2f} | "
            f"{each.peak / each.estimate:.2f} | {each.peak / each.weights:.2f} | {each.first_line:.1f} | "
            f"{each.seconds:.0f} | {each.record['seconds']:.0f} |"
        )
    for each in runs:
        lines += ["", f"## {each.name}", "", "```"]
        lines += [f"{second:6.1f} s  {line}" for second, line in each.lines[:12]]
        lines += ["```"]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=ROOT / "outputs" / "real-size")
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--only", type=int, help="of the runs, from 0 on")
    parser.add_argument("--pixels", type=int, default=128, help="of a side")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--keep", action="store_true", help="leave the checkpoints there")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    build(options.work)
    chosen = list(commands(options.work, options.pixels, options.steps).items())
    chosen = chosen if options.only is None else chosen[options.only : options.only + 1]
    runs = []
    for name, words in chosen:
        print(f"running: {name}", file=sys.stderr, flush=True)
        runs.append(run(name, words, options.work / "run"))
        made = runs[-1]
        print(f"  weights {made.weights:.2f}, plan {made.estimate:.2f}, peak {made.peak:.2f} GB", flush=True)
    options.page.write_text(page(runs, options.pixels, options.steps))
    if not options.keep:
        shutil.rmtree(options.work)
    return 0


if __name__ == "__main__":
    sys.exit(main())
