"""What a run is made of: the methods, the things to make by each, and the files they become (imports no torch)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Method:
    """A way to make a video or a picture from a pair: its title, what it is, and whether it reflects."""

    title: str
    about: str
    reflects: bool


METHODS: dict[str, Method] = {
    "weak": Method("weak", "the weak model alone", False),
    "strong": Method("strong", "the strong model alone", False),
    "w2sd": Method("W2SD", "the strong model, reflected with the weak one", True),
    "zero-gap": Method(
        "zero-gap", "control: the same reflections with the strong model on both sides, so with no gap at all", True
    ),
    "swapped": Method(
        "swapped", "control: roles exchanged, the weak model sampled and reflected with the strong one", True
    ),
    "w2sd-auto": Method(
        "W2SD auto", "Algorithm 2: a reward says at each reflection which side is the strong one", True
    ),
    "resample": Method(
        "Re-Sampling", "Algorithm 3: a step of the strong model, taken back with new noise; no weak model", True
    ),
    "resample-aligned": Method(
        "aligned", "Algorithm 4: likewise, with noise that points the way W2SD would move (the gap)", True
    ),
    "resample-opposed": Method("opposed", "control (Table 15): likewise, with noise that points against the gap", True),
    "autoguided": Method("auto-guidance", "App. E.5: strong + strength * (strong - weak) in every step", False),
}
W2SD_METHODS = {name: METHODS[name] for name in ("weak", "strong", "w2sd", "zero-gap", "swapped")}
"""Those of Algorithm 1: what it is made of, and its controls."""
ALONE = ("weak", "strong")  # methods of one model, which make all the steps of a matched cost
SELECTING = "w2sd-auto"  # the method that asks for a reward


@dataclass(frozen=True)
class Task:
    """One thing to make: `name` is "<prompt>-<index>" (or its safe form), `path` is relative to the output folder."""

    method: str
    prompt: str
    index: int
    seed: int
    name: str
    path: str

    @property
    def key(self) -> tuple[str, str, int]:
        """What names it within its run."""
        return self.method, self.prompt, self.index


Groups = tuple[tuple[Task, ...], ...]
"""Tasks in the order they are made, in groups: all methods of one prompt and index."""


def task_groups(
    methods: Sequence[str], prompts: Sequence[str], stems: Sequence[str], *, seed: int, count: int, suffix: str
) -> Groups:
    """Returns `count` tasks for each prompt and method; index i starts from the noise of `seed` + i for every method.

    `stems` are the prompts as file names (`file_names.video_stems`), one each; `suffix` ends the file names.
    """
    return tuple(
        tuple(Task(method, prompt, index, seed + index, name, f"{method}/{name}{suffix}") for method in methods)
        for prompt, stem in zip(prompts, stems, strict=True)
        for index in range(count)
        for name in (f"{stem}-{index}",)
    )


@dataclass(frozen=True)
class Medium:
    """How what is made becomes files: `noun` names one ("video"), `suffix` ends the name of a comparison's file.

    `write` puts frames `[F, H, W, 3]` uint8 RGB and the settings in a file, complete or not at all; `read` returns the
    frames of one, or raises UserError. `fps` is None for pictures, which are one frame.
    """

    noun: str
    suffix: str
    write: Callable[[Path, NDArray[np.uint8], Mapping[str, Any]], None]
    read: Callable[[Path], NDArray[np.uint8]]
    fps: float | None = None
