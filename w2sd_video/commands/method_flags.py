"""The flags of methods and of what reflections may have beyond the paper's, which all commands have alike (imports no
torch).
"""

from __future__ import annotations

import argparse
from typing import Any

from w2sd_video.commands.rewards import NAMES
from w2sd_video.errors import UserError
from w2sd_video.runs.tasks import METHODS

EXAMPLES = """\
  {program} --methods weak,strong,w2sd,w2sd-auto,resample,resample-aligned,autoguided,swapped,zero-gap
  {program} --methods strong,w2sd,zero-gap --every 2 --window 0:0.5 --fixed-point 1
  {program} --methods w2sd,w2sd-auto --reward my_reward.py:score --reward-threshold 0.01"""


def method_lines() -> str:
    """Returns the methods for a help text, a line each."""
    return "\n".join(f"  {name:17s} {method.about}" for name, method in METHODS.items())


def add_refinements(how: argparse._ArgumentGroup) -> None:
    """Adds the flags of a reflection beyond lambda, mode and strength."""
    how.add_argument(
        "--every", type=int, metavar="K", help="reflect each K-th of these steps only: saves evaluations (default: 1)"
    )
    how.add_argument(
        "--window",
        metavar="A:B",
        help="reflect within this part of the steps only, from 0 (the noisiest) to 1 (default: 0:1)",
    )
    how.add_argument(
        "--fixed-point",
        type=int,
        metavar="N",
        help="0, 1 or 2 iterations that bring the inversion of mode paper nearer to exact, an evaluation each; for 20 "
        "steps or more (default: 0)",
    )
    how.add_argument(
        "--noise",
        type=float,
        metavar="K",
        help="standard deviation of noise added to each reflected latent, to study errors (Table 14; default: 0)",
    )
    how.add_argument(
        "--cap",
        type=float,
        metavar="C",
        help="the most a reflection may move the latent, as a root mean square: tames a far weaker model",
    )
    how.add_argument(
        "--lag",
        action="store_const",
        const=True,
        help="an approximation: the strong prediction of the step before inside each reflection; saves an evaluation",
    )


def add_reward(parser: argparse.ArgumentParser, *, video: bool = False) -> None:
    """Adds the flags of the method that asks for a reward, in a group of their own."""
    group = parser.add_argument_group("the reward of w2sd-auto, which picks the stronger side at each reflection")
    group.add_argument(
        "--reward",
        metavar="NAME",
        help=f"{', '.join(NAMES)}, or a function of yours, MODULE:FUNCTION or FILE.py:FUNCTION: from frames "
        "[F, H, W, 3] uint8 and the prompt a number, higher is better (default: oracle on the bundled pairs)",
    )
    group.add_argument(
        "--reward-weights",
        action="append",
        metavar="PATH",
        help="weights of such a network, or NAME=PATH for one of several (default: where evaluate_vbench.py fetch puts "
        "them)",
    )
    group.add_argument(
        "--reward-threshold",
        type=float,
        metavar="E",
        help="rewards no further apart are a tie, which keeps the choice made before (default: 0)",
    )
    if video:
        group.add_argument(
            "--reward-frames", type=int, metavar="N", help="at most so many frames of a video are rewarded (default: 4)"
        )


def methods_given(given: dict[str, Any]) -> dict[str, Any]:
    """Returns the flags that were given with the window read, under the names of a request.

    Raises UserError for a window that is not two numbers.
    """
    found = dict(given)
    if "window" in found:
        found["window"] = _window(found["window"])
    if "reward_weights" in found:
        found["reward_weights"] = tuple(found["reward_weights"])
    return found


def _window(text: str) -> tuple[float, float]:
    try:
        first, end = (float(part) for part in text.split(":"))
    except ValueError:
        raise UserError(
            f"--window is {text!r}; give two fractions of the steps, such as 0:0.5 for the noisier half"
        ) from None
    return first, end
