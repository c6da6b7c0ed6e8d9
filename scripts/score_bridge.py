"""Score every method on the bundled picture pair with the oracle: python scripts/score_bridge.py [--count 480]

Flux is the strong side and SDXL the weak one; they share no latent space and meet in pixels. Prints a table (accuracy
per attribute, paired difference to the strong model with a 95 percent bootstrap interval, evaluations, calls of a VAE,
seconds) and the bars that the pair is held to. Unguided, T 28, lambda 10; about an hour on one CPU core for all
methods. Finished methods are kept in --output and not run again. The rows "equal-bias" and "control" need --control,
the folder "control" that train_bridge_demo.py --control made.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a clone that is not installed

from experiments.engine import program, score_parser


def main(words: list[str] | None = None) -> int:
    parser = score_parser(
        __doc__,
        count=480,
        what="pictures per method; 480: each caption 20 times",
        output="outputs/bridge-scores",
        weights="a pair made by train_bridge_demo.py (default: the bundled one)",
    )
    parser.add_argument("--methods", help="comma-separated subset (default: all); the table shows all finished ones")
    parser.add_argument("--first-seed", type=int, default=200_000, help="of the first picture's noise (200000)")
    parser.add_argument("--control", type=Path, help="the control pipeline made by train_bridge_demo.py --control")
    return program(parser, words, run)


def run(options: argparse.Namespace) -> int:
    from experiments.bridge import scores

    return scores.run(options)


if __name__ == "__main__":
    raise SystemExit(main())
