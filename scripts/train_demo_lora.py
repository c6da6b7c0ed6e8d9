"""Remake the bundled LoRA from a seed: python scripts/train_demo_lora.py --output DIR

The LoRA is for the SDXL of the bundled picture pair, which was trained with captions that are wrong in 30 percent of
their attributes; this one is trained with correct captions, on the attention layers alone. Resumable at any moment (the
same command continues); two minutes on one CPU core. scripts/score_gaps.py says what it does as a gap.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a clone that is not installed

from experiments.engine import program, train_parser


def main(words: list[str] | None = None) -> int:
    parser = train_parser(__doc__, name="lora", threads=None)
    parser.add_argument("--weights", type=Path, help="an SDXL pipeline's folder (default: the bundled pair's)")
    return program(parser, words, run)


def run(options: argparse.Namespace) -> int:
    from experiments.demo import lora

    return lora.run(options)


if __name__ == "__main__":
    raise SystemExit(main())
