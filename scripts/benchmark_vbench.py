"""Measure what one decode saves: python scripts/benchmark_vbench.py [--quick] [--only counts|times]

The program is scripts/benchmarks/vbench.py.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a clone that is not installed

from benchmarks.vbench import main

if __name__ == "__main__":
    sys.exit(main())
