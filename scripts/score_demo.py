"""Score every method on the bundled pair with the oracle: python scripts/score_demo.py [--count 240] [--output DIR]

Prints a table (accuracy per attribute, paired difference to the strong model with a 95 percent bootstrap interval,
evaluations, seconds) and the bars that the bundled pair is held to. Unguided, T 20, lambda 10; about 25 minutes on two
CPU cores for all methods with 240 videos each. Finished methods are kept in --output and not run again.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a clone that is not installed

from experiments.engine import program, score_parser


def main(words: list[str] | None = None) -> int:
    parser = score_parser(
        __doc__,
        count=240,
        what="videos per method; 240: each caption twice",
        output="outputs/demo-scores",
        weights="a pair made by train_demo.py (default: the bundled one)",
    )
    parser.add_argument("--methods", help="comma-separated subset (default: all); the table shows all finished ones")
    parser.add_argument("--read", type=Path, metavar="FOLDER", help="only read the videos of a generate_video.py run")
    return program(parser, words, run)


def run(options: argparse.Namespace) -> int:
    from experiments.demo import videos

    return videos.read(options.read) if options.read else videos.run(options)


if __name__ == "__main__":
    raise SystemExit(main())
