"""Train what the dataset gap is shown on, from a seed: python scripts/train_dataset_gap.py --output DIR

Without --cifar-dir: two classes of scikit-learn's handwritten digits (twos and eights), on the noise path and the flow
path three small networks each, with 140 twos and 14 (weak), 70 (strong) or 140 (ideal) eights, and a judge that counts
them; about a quarter of an hour of one CPU core. With --cifar-dir, a folder of CIFAR-10's Python batches: the paper's
setting, 5000 horses and 500, 2500 or 5000 cars, and a network that wants --device cuda. Each phase is resumable at any
moment (the same command continues). The recipes are scripts/experiments/dataset_gap/recipe.py.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a clone that is not installed

from experiments.engine import check_counts, program, train_parser


def main(words: list[str] | None = None) -> int:
    parser = train_parser(__doc__, name="dataset-gap")
    parser.add_argument("--cifar-dir", type=Path, help="CIFAR-10's folder cifar-10-batches-py; then not the digits")
    parser.add_argument("--paths", default="noise,flow", help="comma-separated: noise, flow (default: both)")
    parser.add_argument("--device", default="cpu", help="what trains: cpu (default), cuda, ...")
    return program(parser, words, run)


def run(options: argparse.Namespace) -> int:
    check_counts(options)
    from experiments.dataset_gap import training

    return training.run(options)


if __name__ == "__main__":
    raise SystemExit(main())
