"""Measure what W2SD costs: python scripts/benchmark.py [--quick] [--output FILE]

The program is scripts/benchmarks/loop.py.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a clone that is not installed

from benchmarks.loop import main

if __name__ == "__main__":
    sys.exit(main())
