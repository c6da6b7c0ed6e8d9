"""Score every method on the dataset gap (App. E.1, Figures 7, 18, 26): python scripts/score_dataset_gap.py

Prints a table of the minority's share (95 percent Wilson interval; paired differences with bootstrap intervals), of
samples that show neither class and of the Frechet distance to held-out pictures, what models with exact densities would
do, and distances to the nearest training picture. Writes results.json and the figures. T 50 and lambda 49 unless the
row says otherwise. Finished methods are kept in --output and not run again; all of one path take about twenty minutes
of one core.
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
        what="samples per method",
        output="outputs/dataset-gap-PATH",
        weights="a folder made by train_dataset_gap.py (default: the bundled one)",
    )
    parser.set_defaults(output=None)
    parser.add_argument("--path", default="noise", help="which networks: noise (default) or flow")
    parser.add_argument("--methods", help="comma-separated subset (default: all); the table shows all finished ones")
    parser.add_argument("--cifar-dir", type=Path, help="CIFAR-10's folder, for weights that were trained on it")
    parser.add_argument("--projection", default="tsne", help="of the features: tsne (default) or pca")
    parser.add_argument("--batch", type=int, default=250, help="samples made at once (default 250)")
    parser.add_argument("--device", default="cpu", help="what samples: cpu (default), cuda, ...")
    return program(parser, words, run)


def run(options: argparse.Namespace) -> int:
    from experiments.dataset_gap import results

    return results.run(options)


if __name__ == "__main__":
    raise SystemExit(main())
