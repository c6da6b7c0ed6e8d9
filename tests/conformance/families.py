"""What conformance runs over: each family of pairs, as its program and the words of a quick run."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import torch

from tests.support import programs, tiny


def _bundled_video() -> Any:
    from diffusers import AnimateDiffSDXLPipeline

    from w2sd_video.demo import WEIGHTS

    return AnimateDiffSDXLPipeline.from_pretrained(WEIGHTS, torch_dtype=torch.float32, local_files_only=True)


def _bundled_picture(side: str) -> Any:
    from diffusers import DiffusionPipeline

    from w2sd_video.demo import PICTURE_WEIGHTS

    return DiffusionPipeline.from_pretrained(PICTURE_WEIGHTS / side, torch_dtype=torch.float32, local_files_only=True)


def _bundled_digits() -> Any:
    from bridges.dit_moe.demo import WEIGHTS
    from bridges.dit_moe.pipeline import DiTMoEPipeline

    return DiTMoEPipeline.from_pretrained(WEIGHTS, torch_dtype=torch.float32, local_files_only=True)


PAIRS = ("weak", "strong", "w2sd", "zero-gap", "swapped")
EVERY = (*PAIRS, "w2sd-auto", "resample", "resample-aligned", "resample-opposed", "autoguided")


@dataclass(frozen=True)
class Family:
    """`words` choose the pair, the sizes and the steps; `things` are the words for two different prompts."""

    name: str
    program: str
    words: str
    things: tuple[str, str]
    prompt: str
    count: str
    stock: Callable[[], Any]
    call: dict[str, Any]
    methods: tuple[str, ...] = PAIRS
    reward: str = ""
    batch: str = ""
    tolerance: float = 0.0

    def line(self, *words: str, thing: int = 0) -> list[str]:
        return [*shlex.split(self.program), *shlex.split(self.words), *shlex.split(self.things[thing]), *words]


FAMILIES = (
    Family(
        "video",
        "python scripts/generate_video.py",
        "--steps 3 --reflections 2 --num-frames 2 --guidance 2 --weak-guidance 0 --device cpu --video-format png",
        ('--prompt "a red ring moving up"', '--prompt "a green cross moving down"'),
        "a red ring moving up",
        "--num-videos",
        _bundled_video,
        {"num_frames": 2, "height": 32, "width": 32, "guidance_scale": 2.0},
        methods=EVERY,
        batch="--batch 2",
    ),
    Family(
        "whole video pipeline",
        "python scripts/generate_video.py",
        "--strong wan-1 --weak wan-2 --steps 3 --reflections 2 --num-frames 5 --height 16 --width 16 --guidance 2 "
        "--weak-guidance 1 --device cpu",
        ('--prompt "a red cat"', '--prompt "a dog"'),
        "a red cat",
        "--num-videos",
        lambda: tiny.wan(1),
        {"num_frames": 5, "height": 16, "width": 16, "guidance_scale": 2.0},
        tolerance=8.0,  # of 255, on average: mp4 is lossy
    ),
    Family(
        "image",
        "python scripts/generate_image.py",
        "--steps 3 --reflections 2 --guidance 2 --weak-guidance 0 --device cpu",
        ('--prompt "a red ring"', '--prompt "a green cross"'),
        "a red ring",
        "--num-pictures",
        lambda: _bundled_picture("weak"),
        {"height": 32, "width": 32, "guidance_scale": 2.0},
        methods=EVERY,
        batch="--batch 2",
    ),
    Family(
        "bridge",
        "python scripts/bridge_image.py",
        "--steps 4 --reflections 2 --device cpu",
        ('--prompt "a red ring"', '--prompt "a green cross"'),
        "a red ring",
        "--num-pictures",
        lambda: _bundled_picture("strong"),
        {"height": 32, "width": 32, "guidance_scale": 1.0, "max_sequence_length": 8},
    ),
    Family(
        "moe",
        "python scripts/sample_dit_moe.py",
        "--steps 3 --reflections 2 --device cpu --batch 1",
        ("--classes 3", "--classes 7"),
        "3 three",
        "--num-images",
        _bundled_digits,
        {"guidance_scale": 1.5},
        methods=EVERY,
        reward="--reward brightness.py:score",
        batch="--batch 4",
        tolerance=0.1,  # hosted sampling differs by rounding, which may turn a half
    ),
)


@dataclass(frozen=True)
class Run:
    folder: Path

    @property
    def record(self) -> dict[str, Any]:
        return json.loads((self.folder / "run.json").read_text(encoding="utf-8"))

    @property
    def lines(self) -> list[dict[str, Any]]:
        text = (self.folder / "results.jsonl").read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines()]

    def of(self, method: str, index: int = 0) -> dict[str, Any]:
        (line,) = (line for line in self.lines if (line["method"], line["index"]) == (method, index))
        return line

    def frames(self, method: str, index: int = 0) -> np.ndarray:
        """[F, H, W, 3] uint8."""
        path = self.folder / self.of(method, index)["path"]
        if path.is_dir():
            return np.stack([iio.imread(frame) for frame in sorted(path.glob("*.png"))])
        frames = iio.imread(path, **({"plugin": "pyav"} if path.suffix == ".mp4" else {}))
        return frames.reshape(-1, *frames.shape[-3:])

    def files(self) -> dict[str, bytes]:
        """What was made, apart from the records of when and how fast."""
        kinds = (".png", ".mp4")
        paths = sorted(path for path in self.folder.rglob("*") if path.suffix in kinds)
        return {path.relative_to(self.folder).as_posix(): path.read_bytes() for path in paths}


def prepare(folder: Path) -> None:
    """Saves the pairs that are not bundled, and a reward."""
    tiny.wan(1).save_pretrained(folder / "wan-1")
    tiny.wan(2).save_pretrained(folder / "wan-2")
    (folder / "brightness.py").write_text("def score(frames, prompt):\n    return float(frames.mean()) + len(prompt)\n")


def make(family: Family, disk: Path, output: Path, words: Sequence[str] = (), *, thing: int = 0, code: int = 0) -> Run:
    ended = programs.run([*family.line(*words, thing=thing), "--quiet", "--output", str(output)], disk)
    assert ended.code == code, ended.err
    return Run(output)


def stock_pipeline(family: Family) -> Any:
    pipe = family.stock()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def stock_frames(family: Family, pipe: Any, seed: int) -> np.ndarray:
    """What a call of the pipeline makes of the first prompt from the noise of `seed`, [F, H, W, 3] from 0 to 255."""
    prompt: Any = int(family.prompt.split()[0]) if family.name == "moe" else family.prompt
    steps = 4 if family.name == "bridge" else 3
    generator = torch.Generator().manual_seed(seed)
    made = pipe(prompt, generator=generator, output_type="np", num_inference_steps=steps, **family.call)
    frames = np.asarray(made.frames[0] if hasattr(made, "frames") else made.images)
    return np.rint(frames.reshape(-1, *frames.shape[-3:]) * 255)
