"""Score every method on the bundled DiT-MoE with its judge: python scripts/score_digits.py [--count 2000]

Prints a table (class accuracy, Inception-style score and Frechet distance on the judge's features, each with a 95
percent bootstrap interval, and the paired differences to the strong model), what unseen real digits score, and writes
the sweep over lambda as sweep.png. T 50; guidance 1.5 and lambda 49 unless the row says otherwise. Finished methods are
kept in --output and not run again; all of them take about an hour on two cores.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a clone that is not installed

from experiments.engine import program, score_parser


def main(words: list[str] | None = None) -> int:
    parser = score_parser(
        __doc__,
        count=2000,
        what="pictures per method; 2000: 200 of each class",
        output="outputs/digits-scores",
        weights="a folder made by train_digits.py (default: the bundled one)",
    )
    parser.add_argument("--methods", help="comma-separated subset (default: all); the table shows all finished ones")
    parser.add_argument("--batch", type=int, default=250, help="pictures made at once (default 250)")
    return program(parser, words, run)


def run(options: argparse.Namespace) -> int:
    from experiments.digits import scoring

    return scoring.run(options)


if __name__ == "__main__":
    raise SystemExit(main())
