"""Measure the weak side as a difference at true size: python scripts/benchmark_difference.py [--quick]

The program is scripts/benchmarks/difference.py.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a clone that is not installed

from benchmarks.difference import main

if __name__ == "__main__":
    sys.exit(main())
