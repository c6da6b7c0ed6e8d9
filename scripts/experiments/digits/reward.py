"""A reward of the digits: w2sd arena --family moe --reward scripts/experiments/digits/reward.py:right"""

from __future__ import annotations

import functools
from typing import Any

import torch

from bridges.dit_moe.demo import WEIGHTS
from experiments.digits.judge import JUDGE, Judge, load_judge


@functools.cache
def _judge() -> Judge:
    return load_judge(WEIGHTS / JUDGE)


def right(frames: Any, prompt: str) -> float:
    """The share that the judge reads as the class asked for."""
    pictures = torch.from_numpy(frames.copy()).permute(0, 3, 1, 2)
    return float(_judge().read(pictures).probabilities.argmax(dim=1)[0] == int(prompt.split()[0]))
