"""What a run is made of: the methods, the things to make by each, and the files they become (imports no torch)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

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


@dataclass(frozen=True, slots=True)
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


class Groups(Sequence[tuple[Task, ...]]):
    """Tasks in the order they are made, in groups: all methods of one prompt and index, the same methods in each.

    A group is computed when it is asked for, so that planning a million videos holds none of them.
    """

    def __init__(self, count: int, group: Callable[[int], tuple[Task, ...]]) -> None:
        self._count, self._group = count, group

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> tuple[Task, ...]: ...
    @overload
    def __getitem__(self, index: slice) -> Groups: ...
    def __getitem__(self, index: int | slice) -> tuple[Task, ...] | Groups:
        if isinstance(index, slice):
            chosen = range(self._count)[index]
            return Groups(len(chosen), lambda i: self._group(chosen[i]))
        return self._group(range(self._count)[index])


def task_groups(
    methods: Sequence[str], prompts: Sequence[str], stems: Sequence[str], *, seed: int, count: int, suffix: str
) -> Groups:
    """Returns `count` tasks for each prompt and method; index i starts from the noise of `seed` + i for every method.

    `stems` are the prompts as file names (`file_names.video_stems`), one each; `suffix` ends the file names.
    """

    def group(number: int) -> tuple[Task, ...]:
        which, index = divmod(number, count)
        return _group(methods, prompts[which], index, seed, f"{stems[which]}-{index}", suffix)

    if len(prompts) != len(stems):
        raise ValueError(f"{len(prompts)} prompts have {len(stems)} file names")
    return Groups(len(prompts) * count, group)


def class_groups(
    methods: Sequence[str], labels: Sequence[str], stems: Sequence[str], *, seed: int, count: int, suffix: str
) -> Groups:
    """Returns `count` tasks for each method in all: picture i is of label i modulo their number, from `seed` + i."""

    def group(index: int) -> tuple[Task, ...]:
        which = index % len(labels)
        return _group(methods, labels[which], index, seed, f"{stems[which]}-{index}", suffix)

    return Groups(count, group)


def _group(methods: Sequence[str], prompt: str, index: int, seed: int, name: str, suffix: str) -> tuple[Task, ...]:
    return tuple(Task(method, prompt, index, seed + index, name, f"{method}/{name}{suffix}") for method in methods)


@dataclass(frozen=True)
class Sound:
    """The sound of a video: `samples` float32 [channels, samples] in -1 to 1, of one or two channels, and their rate in
    Hz.
    """

    samples: NDArray[np.float32]
    rate: int


@dataclass(frozen=True)
class Medium:
    """How what is made becomes files: `noun` names one ("video"), `suffix` ends the name of a comparison's file.

    `write` puts frames `[F, H, W, 3]` uint8 RGB and the settings in a file, complete or not at all, and of videos a
    `sound` where there is one; `read` returns the frames of one, or raises UserError. `fps` is None for pictures, which
    are one frame.
    """

    noun: str
    suffix: str
    write: Callable[..., None]
    read: Callable[[Path], NDArray[np.uint8]]
    fps: float | None = None


STRONG, WEAK = "s", "w"  # letters of a record's "choices": the side that Algorithm 2 took as the strong one


def as_text(choices: Sequence[Sequence[bool]]) -> str:
    """Returns a letter per selection of a run of one sample: the side that was taken as the strong one.

    `choices` are those of `Run.choices`: per selection and sample, whether it was the second side, the weak one.
    """
    return "".join(WEAK if chosen[0] else STRONG for chosen in choices)


def check_text(text: object) -> None:
    """Raises ValueError for what is not made of such letters."""
    if not isinstance(text, str) or not set(text) <= {STRONG, WEAK}:
        raise ValueError(f"choices are {text!r}, not letters {STRONG} and {WEAK}")
