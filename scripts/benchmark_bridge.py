"""Measure what the bridge through pixels costs: python scripts/benchmark_bridge.py [--device cuda] [--output FILE]

The program is scripts/benchmarks/bridge.py.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a clone that is not installed

from benchmarks.bridge import main

if __name__ == "__main__":
    sys.exit(main())
