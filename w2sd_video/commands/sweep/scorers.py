"""What puts a number on one picture or video: the bundled oracle, or a function of the user's (imports no torch)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vbench_eval.proxies import PROXIES
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

PROXY_NAMES = tuple(PROXIES)
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


def find_scorer(given: str) -> Scorer:
    """Returns the scorer called `given`: the oracle, a proxy of the evaluation, or MODULE:FUNCTION (FILE.py:FUNCTION),
    a function of frames [F, H, W, 3] uint8 and the prompt.

    Raises:
        UserError: there is none.
    """
    if given == "oracle":
        return Scorer("oracle", "share that shows what its prompt says", oracle_score)
    if given in PROXY_NAMES:
        return proxy(given)
    if not is_named(given):
        raise UserError(
            f"there is no scorer {given!r}; choose from oracle, {', '.join(PROXY_NAMES)}, or give MODULE:FUNCTION"
        )
    found = find_function(given, "scorer")
    return Scorer(given, described(given, found), found, source_of(given))


def oracle_score(frames: NDArray[np.uint8], prompt: str) -> float:
    """Whether frames of the toy world show all that the prompt says: 1 or 0.

    Raises:
        UserError: the prompt is not a caption of the toy world, or the frames are not of its size.
    """
    return float(oracle_share(frames, prompt) == 1)


def proxy(name: str) -> Scorer:
    """Returns a proxy of the evaluation, which needs no weights, as a score of frames."""

    def score(frames: Any, prompt: str) -> float:
        from vbench_eval import evaluate_frames

        found = evaluate_frames(frames, dimensions=name, name=prompt)["measured"][name]
        if found["value"] is None:
            raise UserError(f"{name} has no value for {prompt!r}: {found.get('reason')}; choose another --scorer")
        return float(found["value"])

    return Scorer(name, f"{PROXIES[name].description} ({PROXIES[name].reading})", score)
