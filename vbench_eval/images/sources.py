"""Pictures of a folder or in memory, as RGB, with their prompts; and where the image metrics' networks come from."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from vbench_eval.errors import UserError
from vbench_eval.folders import methods_of, read_folder
from vbench_eval.naming import parse_name
from vbench_eval.pictures import VideoError
from vbench_eval.pictures import read_picture as read_pixels

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

Pictures: TypeAlias = "Sequence[Image.Image] | Tensor"
"""Pictures in memory: PIL's of any sizes, or uint8 RGB [N, H, W, 3] or [N, 3, H, W]."""
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


class PictureError(UserError):
    """A picture cannot be read; the message says why."""


def find_pictures(folder: str | Path) -> list[Path]:
    """The pictures under a folder, by path; hidden files and folders are left out.

    Raises:
        UserError: it is no folder, or holds none.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; give a folder of pictures ({', '.join(SUFFIXES)})")
    found = [path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()]
    found = [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    if not found:
        raise UserError(f"{folder} holds no pictures; they are found by their endings: {', '.join(SUFFIXES)}")
    return sorted(found)


def read_picture(path: str | Path) -> Image.Image:
    """The picture in a file as `vbench_eval.pictures` reads it, for PIL: RGB, upright, without its transparency.

    Raises:
        PictureError: it is damaged, or a file of several pictures.
    """
    from PIL import Image

    try:
        return Image.fromarray(read_pixels(path)[0])
    except VideoError as error:
        raise PictureError(f"{path} cannot be read as a picture: {error}") from error


def as_pictures(pictures: Pictures) -> list[Image.Image]:
    """Pictures in memory as PIL's, RGB.

    Raises:
        UserError: a tensor is not uint8, or not [N, H, W, 3] or [N, 3, H, W]; or something else is given.
    """
    import torch
    from PIL import Image

    if isinstance(pictures, torch.Tensor):
        if pictures.dtype != torch.uint8 or pictures.ndim != 4 or 3 not in (pictures.shape[-1], pictures.shape[1]):
            raise UserError(
                f"the pictures are {pictures.dtype} {list(pictures.shape)}; give uint8 [N, H, W, 3] or [N, 3, H, W]"
            )
        last = pictures if pictures.shape[-1] == 3 else pictures.permute(0, 2, 3, 1)
        return [Image.fromarray(picture) for picture in last.cpu().contiguous().numpy()]
    for picture in pictures:
        if not isinstance(picture, Image.Image):
            raise UserError(f"a picture is a {type(picture).__name__}; give PIL's pictures or a uint8 tensor")
    return [picture.convert("RGB") for picture in pictures]


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
