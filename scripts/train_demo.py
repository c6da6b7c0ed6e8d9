"""Remake the bundled demo pair from a seed: python scripts/train_demo.py --output DIR

Phases, each resumable at any moment (the same command continues): text encoders, VAE, a 2-D UNet on single frames,
motion on clips, then the strong and the weak side from there, side by side with one thread each. The bundled weights
took 57 minutes on two CPU cores that did other work as well. The recipe is scripts/experiments/demo/training.py.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a clone that is not installed

from experiments.engine import check_counts, program, train_parser


def main(words: list[str] | None = None) -> int:
    parser = train_parser(__doc__, name="demo", threads=2)
    parser.add_argument("--side", choices=("strong", "weak"), help="train this side only, and write no pair")
    return program(parser, words, run)


def run(options: argparse.Namespace) -> int:
    check_counts(options)
    from experiments.demo import training

    return training.run(options)


if __name__ == "__main__":
    raise SystemExit(main())
