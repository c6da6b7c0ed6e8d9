"""What puts a number on one picture or video: the bundled oracle, or a function of the user's (imports no torch)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from w2sd_video.commands.rewards import oracle_share
from w2sd_video.commands.user_functions import (
    FunctionFailedError,
    answer,
    described,
    find_function,
    is_named,
    source_of,
)
from w2sd_video.errors import UserError

Score = Callable[[NDArray[np.uint8], str], float]
"""The score of frames [F, H, W, 3] uint8 RGB (one frame is a picture) made for a prompt."""


@dataclass(frozen=True)
class Scorer:
    """A score by name, with the word for what it measures; `source` is a hash of the user's file, where it is one."""

    name: str
    about: str
    score: Score
    source: str = ""

    def __call__(self, frames: NDArray[np.uint8], prompt: str) -> float:
        """Returns the score.

        Raises:
            UserError: it fails, or is no finite number.
        """
        try:
            return answer(self.score, frames, prompt)
        except FunctionFailedError as error:
            raise UserError(f"the scorer {self.name} {error}; that was for {prompt!r}") from error


def find_scorer(given: str, named: Mapping[str, Scorer]) -> Scorer:
    """Returns the scorer called `given`: the oracle, one of `named`, or MODULE:FUNCTION (or FILE.py:FUNCTION), a
    function of frames [F, H, W, 3] uint8 and the prompt.

    Raises:
        UserError: there is none.
    """
    known = {"oracle": Scorer("oracle", "share that shows what its prompt says", oracle_score), **named}
    if given in known:
        return known[given]
    if not is_named(given):
        raise UserError(f"there is no scorer {given!r}; choose from {', '.join(known)}, or give MODULE:FUNCTION")
    found = find_function(given, "scorer")
    return Scorer(given, described(given, found), found, source_of(given))


def oracle_score(frames: NDArray[np.uint8], prompt: str) -> float:
    """Whether frames of the toy world show all that the prompt says: 1 or 0.

    Raises:
        UserError: the prompt is not a caption of the toy world, or the frames are not of its size.
    """
    return float(oracle_share(frames, prompt) == 1)
