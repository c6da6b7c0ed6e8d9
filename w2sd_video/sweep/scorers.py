"""What puts a number on one picture or video: the bundled oracle, or a function of the user's (imports no torch)."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from w2sd_video.errors import UserError

Score = Callable[[NDArray[np.uint8], str], float]
"""The score of frames [F, H, W, 3] uint8 RGB (one frame is a picture) made for a prompt."""


@dataclass(frozen=True)
class Scorer:
    """A score by name, with the word for what it measures."""

    name: str
    about: str
    score: Score

    def __call__(self, frames: NDArray[np.uint8], prompt: str) -> float:
        """Returns the score.

        Raises:
            UserError: it is no finite number.
        """
        value = self.score(frames, prompt)
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise UserError(f"the scorer {self.name} returned {value!r} for {prompt!r}; it must return a finite number")
        return number


def find_scorer(given: str, named: Mapping[str, Scorer]) -> Scorer:
    """Returns the scorer called `given`: the oracle, one of `named`, or MODULE:FUNCTION (or FILE.py:FUNCTION), a
    function of frames [F, H, W, 3] uint8 and the prompt.

    Raises:
        UserError: there is none.
    """
    known = {"oracle": Scorer("oracle", "share that shows what its prompt says", oracle_score), **named}
    if given in known:
        return known[given]
    module, colon, function = given.rpartition(":")
    if not colon or not module or not function:
        raise UserError(f"there is no scorer {given!r}; choose from {', '.join(known)}, or give MODULE:FUNCTION")
    try:
        found: Any = _module(module)
        for part in function.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, OSError, SyntaxError) as error:
        raise UserError(
            f"the scorer {given} cannot be loaded ({error}); give MODULE:FUNCTION or FILE.py:FUNCTION"
        ) from error
    if not callable(found):
        raise UserError(f"the scorer {given} is no function; it must take frames and a prompt and return a number")
    return Scorer(given, (found.__doc__ or function).strip().splitlines()[0], found)


def oracle_score(frames: NDArray[np.uint8], prompt: str) -> float:
    """Whether frames of the toy world show all that the prompt says: 1 or 0.

    Raises:
        UserError: the prompt is not a caption of the toy world.
    """
    import torch

    from w2sd_video.demo import oracle, parse_caption, parse_picture_caption

    picture = len(frames) == 1
    try:
        wanted: tuple[int, ...] = parse_picture_caption(prompt) if picture else parse_caption(prompt)
    except ValueError as error:
        raise UserError(f"the oracle reads the toy world only: {error}; choose another --scorer") from error
    if frames.shape[1:3] != (32, 32):
        raise UserError(f"the oracle reads 32 x 32 pixels and these are {frames.shape[2]} x {frames.shape[1]}")
    clip = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)[None] / 255
    return float((oracle.read(clip)[0, : len(wanted)] == torch.tensor(wanted)).all())


def _module(name: str) -> Any:
    if not name.endswith(".py"):
        folder = str(Path.cwd())
        if folder not in sys.path:
            sys.path.append(folder)
        return importlib.import_module(name)
    from importlib.util import module_from_spec, spec_from_file_location

    path = Path(name).expanduser().resolve()
    if not path.is_file():
        raise UserError(f"there is no file {name}; give MODULE:FUNCTION or FILE.py:FUNCTION")
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
