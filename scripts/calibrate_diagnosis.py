"""Measure the thresholds of diagnose.py, and how often they are wrong: python scripts/calibrate_diagnosis.py

On pairs whose truth is known: Gaussian mixtures (healthy, too similar, in conflict) on three schedules, and the bundled
networks with gaps that help, gaps of next to nothing, and partners that have nothing to do with the strong side.
Finished families are kept in --output and not measured again; from all of them thresholds and rates are written to the
file that diagnose.py reads. About 3 minutes on one idle CPU core.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a clone that is not installed

from experiments.engine import program


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=100, help="analytic pairs per family and schedule (default: 100)")
    parser.add_argument("--pictures", type=int, default=48, help="per bundled gap, 4 to a diagnosis (default: 48)")
    parser.add_argument("--videos", type=int, default=24, help="of the bundled videos, likewise (default: 24)")
    parser.add_argument(
        "--output", type=Path, default=Path("outputs/diagnosis-calibration"), help="where results are kept"
    )
    parser.add_argument("--write", type=Path, help="the thresholds' file (default: the one that diagnose.py reads)")
    parser.add_argument("--only", help="measure these families only, comma-separated, and write no thresholds")
    return program(parser, words, run)


def run(options: argparse.Namespace) -> int:
    from experiments.diagnosis import calibrating

    return calibrating.run(options)


if __name__ == "__main__":
    raise SystemExit(main())
