"""Measure what comes before the first frame: python scripts/benchmark_start.py [--quick] [--output FILE]

The program is scripts/benchmarks/start.py.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a clone that is not installed

from benchmarks.start import main

if __name__ == "__main__":
    sys.exit(main())
