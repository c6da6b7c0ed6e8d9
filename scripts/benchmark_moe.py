"""Measure DiT-MoE's dispatch: python scripts/benchmark_moe.py [--quick] [--only counts|times] [--device cuda]

The program is scripts/benchmarks/moe.py.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a clone that is not installed

from benchmarks.moe import main

if __name__ == "__main__":
    sys.exit(main())
