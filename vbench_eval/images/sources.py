"""Where the networks of the image metrics come from, and the pictures with their prompts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vbench_eval.errors import UserError
from vbench_eval.folders import methods_of, read_folder
from vbench_eval.images.pictures import find_pictures
from vbench_eval.naming import parse_name


@dataclass(frozen=True)
class Sources:
    """Which weights are taken, and how networks run.

    Attributes:
        weights: by name of the weights (`backbones.weights.WEIGHTS`), a path or hub id to take instead of looking.
        device, dtype: of every network but the heads, which are float32 (None: float32 throughout).
        batch: pictures per forward pass; without effect on the scores but for rounding.
        offline, allow_pickle, cache: as of `backbones`.
    """

    weights: Mapping[str, str] = field(default_factory=dict)
    device: str = "cpu"
    dtype: str | None = None
    batch: int = 16
    offline: bool = True
    allow_pickle: bool = False
    cache: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise UserError(f"batch is {self.batch}; it must be 1 or more")

    def find(self, name: str) -> Path:
        """The file or folder of the weights called `name`.

        Raises:
            Unavailable: it is nowhere; the message says how to get it.
            UserError: what was given for it cannot be used.
        """
        from vbench_eval.backbones.finding import find

        return find(name, self.weights.get(name), cache=self.cache, offline=self.offline)


@dataclass(frozen=True)
class Gallery:
    """The pictures of a folder: their paths, their names relative to it (with "/"), and the prompts (None: unknown)."""

    folder: Path
    paths: tuple[Path, ...]
    names: tuple[str, ...]
    prompts: tuple[str | None, ...]


def read_gallery(folder: str | Path, prompts: Any = None, *, known: Sequence[str] | None = ()) -> Gallery:
    """The pictures of a folder with their prompts; no picture is opened.

    `prompts` is {name relative to the folder: prompt}, or a JSON file of that (VBench's prompt file), or a prompt per
    picture in the order of their paths, or a text file of those, a line each. Without it they come from the
    results.jsonl of a generator (in the folder or beside it), else from names "<prompt>-<index>.png", which mean one of
    `known` if there are any. Prompts are not looked for if `known` is None.

    Raises:
        UserError: no pictures, the pictures of several methods, or prompts that do not fit them.
    """
    folder = Path(folder)
    if len(methods := methods_of(folder)) > 1:
        raise UserError(
            f"{folder} holds pictures of {', '.join(methods)}; give one method's, such as {folder / methods[-1]}"
        )
    if methods:
        folder = folder / methods[0]
    paths = find_pictures(folder)
    names = tuple(path.relative_to(folder).as_posix() for path in paths)
    if isinstance(prompts, str | Path) and Path(prompts).suffix.lower() == ".txt":
        prompts = _lines(Path(prompts))
    if isinstance(prompts, Sequence) and not isinstance(prompts, str):
        if len(prompts) != len(paths):
            raise UserError(
                f"{len(prompts)} prompts are given for {len(paths)} pictures in {folder}; give one for each"
            )
        return Gallery(folder, tuple(paths), names, tuple(str(prompt) for prompt in prompts))
    if known is None:
        return Gallery(folder, tuple(paths), names, (None,) * len(paths))
    found = {item.path: item for item in read_folder(folder, prompts=known, prompt_file=prompts, videos=paths).videos}
    said: list[str | None] = []
    for path in paths:
        item = found[path]
        if item.source == "file name" and not known:
            named = parse_name(path.stem)  # without a number a name is no prompt, and with "~" only a part of one
            said.append(named.prompt if named.index is not None and "~" not in named.prompt else None)
        else:
            said.append(None if item.source == "surplus" else item.prompt)
    return Gallery(folder, tuple(paths), names, tuple(said))


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the prompts {path} cannot be read: {error}; give text, a prompt per line") from error
