"""Score every algorithm, mode and setting on the bundled pair: python scripts/score_methods.py [--count 120]

Prints a table of the algorithms (Algorithms 1 to 4, auto-guidance, swapped roles, the modes), one of the settings of a
reflection and one of weak sides without a second network (T 10, lambda 5, strengths chosen on other seeds), each beside
its controls (the strong side alone, at equal evaluations, and the same without a gap) with paired 95 percent bootstrap
intervals, then the curves over lambda and strength, which are also drawn into --output. An oracle reads the videos.
Unguided, T 20, lambda 10 unless said; about two hours and a half on one CPU core for everything.
Methods that are finished are kept in --output and not made again; several processes may share the work (--part 1/2 and
--part 2/2).
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
        what="videos per method; 120: each caption once",
        output="outputs/method-scores",
        weights="a pair made by train_demo.py (default: the bundled one)",
    )
    parser.add_argument(
        "--only", help="comma-separated: algorithms, settings, one-network, lambda, strength (default: all)"
    )
    parser.add_argument("--part", default="1/1", metavar="K/N", help="make every N-th method, from the K-th on")
    return program(parser, words, run)


def run(options: argparse.Namespace) -> int:
    from experiments.demo import methods

    return methods.run(options)


if __name__ == "__main__":
    raise SystemExit(main())
