"""Score each gap that the bundled SDXL can express, with the oracle: python scripts/score_gaps.py [--count 240]

Gaps: guidance, prompt, LoRA scale (the bundled LoRA) and cumulative, each with its strong side alone, equal
evaluations, zero-gap, swapped roles and, where guidance differs, the matched guidance. Prints a table per gap (accuracy
per attribute, evaluations, network rows, paired difference to the strong side with a 95 percent bootstrap interval) and
the differences that say whether the gap did it; then share right over the magnitude of a gap of guidance and of LoRA
scale (Figure 12), also drawn into --output. T 28, lambda 10; about 40 minutes on one CPU core. Finished methods
are kept in --output and not run again; methods that several gaps share are made once.
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
        what="pictures per method; 240: each caption 10 times",
        output="outputs/gap-scores",
        weights="an SDXL pipeline's folder (default: the bundled pair's)",
    )
    parser.add_argument("--gaps", help="comma-separated subset (default: all); the tables show all finished methods")
    parser.add_argument("--curves", help="comma-separated subset of guidance, lora, or none (default: all)")
    parser.add_argument("--lora", type=Path, help="a LoRA made by train_demo_lora.py (default: the bundled one)")
    return program(parser, words, run)


def run(options: argparse.Namespace) -> int:
    from experiments.demo import gaps

    return gaps.run(options)


if __name__ == "__main__":
    raise SystemExit(main())
