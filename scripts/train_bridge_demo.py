"""Remake the bundled picture pair from a seed: python scripts/train_bridge_demo.py --output DIR

The strong side is a small FluxPipeline, the weak side a small StableDiffusionXLPipeline, each with a VAE of its own,
trained side by side with one thread each; every phase is resumable at any moment (the same command continues). The
bundled weights took 46 minutes on two CPU cores that did other work as well; --control takes 6 more, and --unrelated
half an hour of one core. The recipe is scripts/experiments/demo/picture_training.py.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a clone that is not installed

from experiments.engine import program, train_parser


def main(words: list[str] | None = None) -> int:
    parser = train_parser(__doc__, name="bridge", threads=None)
    parser.add_argument("--side", choices=("strong", "weak", "control"), help="train this side only, and write no pair")
    parser.add_argument("--control", action="store_true", help="also a weak side with the strong's bias (not bundled)")
    parser.add_argument(
        "--unrelated",
        action="store_true",
        help="another weak side for the bundled strong one, whose VAE no linear map relates to the strong one's",
    )
    return program(parser, words, run)


def run(options: argparse.Namespace) -> int:
    from experiments.demo import picture_training

    return picture_training.run(options)


if __name__ == "__main__":
    raise SystemExit(main())
