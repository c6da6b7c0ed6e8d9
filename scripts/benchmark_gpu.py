"""Measure W2SD on a GPU, without weights: python scripts/benchmark_gpu.py [--quick] [--output FILE]

The program is scripts/benchmarks/gpu.py.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a clone that is not installed

from benchmarks.gpu import main

if __name__ == "__main__":
    sys.exit(main())
