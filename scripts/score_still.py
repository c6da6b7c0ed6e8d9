"""Score W2SD on a pair whose strong side moves less than the weak one: python scripts/score_still.py --weights DIR

Quality is colour and shape, motion whether something moves where the caption says so; see
scripts/experiments/demo/still.py. The weights are made by scripts/train_still.py.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a clone that is not installed

from experiments.engine import program, score_parser


def main(words: list[str] | None = None) -> int:
    parser = score_parser(
        __doc__,
        count=120,
        what="videos per method",
        output="outputs/still-scores",
        weights="a folder made by train_still.py (default: outputs/still-weights)",
    )
    parser.add_argument(
        "--parts", action="store_true", help="also score parts of the reflections' moves: what takes the motion"
    )
    return program(parser, words, run)


def run(options: argparse.Namespace) -> int:
    from experiments.demo import still

    return still.score_run(options)


if __name__ == "__main__":
    raise SystemExit(main())
