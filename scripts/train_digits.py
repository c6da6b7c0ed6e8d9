"""Remake the bundled DiT-MoE and its judge from a seed: python scripts/train_digits.py --output DIR

Phases, each resumable at any moment (the same command continues): the judge, the VAE, the network; all on the train
part of scikit-learn's handwritten digits; about 15 minutes of one CPU core. The recipe is
scripts/experiments/digits/training.py.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a clone that is not installed

from experiments.engine import check_counts, program, train_parser


def main(words: list[str] | None = None) -> int:
    parser = train_parser(__doc__, name="digits")
    return program(parser, words, run)


def run(options: argparse.Namespace) -> int:
    check_counts(options)
    from experiments.digits import training

    return training.run(options)


if __name__ == "__main__":
    raise SystemExit(main())
