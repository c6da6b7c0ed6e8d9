"""Sweep one setting of a weak/strong pair and draw the score with its intervals.

python scripts/sweep.py --setting lambda --values 0:10:5 --videos     the bundled videos, read by the oracle
python scripts/sweep.py --help                                        every flag, with examples
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a clone that is not installed

from vbench_eval.proxies import PROXIES
from w2sd_video.commands.sweep.program import Outside
from w2sd_video.commands.sweep.program import main as sweep
from w2sd_video.commands.sweep.scorers import Scorer
from w2sd_video.report.figures import Point


class Bootstrap:
    """95 percent intervals that resample whole prompts (`vbench_eval.statistics`)."""

    def mean(self, values: Sequence[float], prompts: Sequence[str]) -> Point:
        from vbench_eval.statistics import mean_interval

        found = mean_interval(values, prompts)
        return Point(found.value, found.low, found.high)

    def difference(self, values: Sequence[float], baseline: Sequence[float], prompts: Sequence[str]) -> Point:
        from vbench_eval.statistics import difference_interval

        found = difference_interval(values, baseline, prompts)
        return Point(found.value, found.low, found.high)


def proxy(name: str) -> Scorer:
    """Returns a proxy of the evaluation, which needs no weights, as a score of frames."""

    def score(frames: Any, prompt: str) -> float:
        from vbench_eval import evaluate_frames
        from w2sd_video.errors import UserError

        found = evaluate_frames(frames, dimensions=name, name=prompt)["measured"][name]
        if found["value"] is None:
            raise UserError(f"{name} has no value for {prompt!r}: {found.get('reason')}; choose another --scorer")
        return float(found["value"])

    return Scorer(name, f"{PROXIES[name].description} ({PROXIES[name].reading})", score)


def main(arguments: Sequence[str] | None = None) -> int:
    return sweep(arguments, Outside(Bootstrap(), {name: proxy(name) for name in PROXIES}))


if __name__ == "__main__":
    raise SystemExit(main())
