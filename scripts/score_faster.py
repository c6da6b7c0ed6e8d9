"""Share right against cost for cached gaps and everything beside them: python scripts/score_faster.py [--count 240]

Beds: the bundled video pair (two networks) and the picture pair's guidance and LoRA gaps. Strengths 1, 2 and 3 are
tried on --tuned samples of one set of seeds, and the best of each method is scored on --count samples of another.
Prints a table for each bed (rows, share right, paired differences to the strong side, and which share of fused W2SD's
gain is kept, with 95 percent bootstrap intervals) and draws all beds into --output. About two hours on one CPU core.
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
        what="samples per method, of seeds that nothing was tuned on",
        output="outputs/faster-scores",
        weights="another pair's folder, for one bed (default: the bundled pairs)",
    )
    parser.add_argument("--tuned", type=int, default=120, help="samples per strength tried (default 120)")
    parser.add_argument("--beds", help="comma-separated subset, such as video,lora,digits (default: all)")
    parser.add_argument("--strengths", help="comma-separated subset of 1, 2, 3 to choose from (default: all)")
    parser.add_argument("--methods", help='a subset, by labels as the table has them, separated by ";" (default: all)')
    return program(parser, words, run)


def run(options: argparse.Namespace) -> int:
    from experiments.faster import scoring

    return scoring.run(options)


if __name__ == "__main__":
    raise SystemExit(main())
