"""Train a strong side that moves less than the weak one: python scripts/train_still.py --output DIR

The bundled video pair's strong UNet goes on learning for 173 steps, where 70 percent of the clips of moving captions
stand still; resumable at any moment. The recipe is scripts/experiments/demo/still.py.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a clone that is not installed

from experiments.engine import check_counts, program, train_parser


def main(words: list[str] | None = None) -> int:
    return program(train_parser(__doc__, name="still"), words, run)


def run(options: argparse.Namespace) -> int:
    check_counts(options)
    from experiments.demo import still

    return still.train_run(options)


if __name__ == "__main__":
    raise SystemExit(main())
