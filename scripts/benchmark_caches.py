"""Measure step caches under a reflection: python scripts/benchmark_caches.py [--quick]

The program is scripts/benchmarks/caches.py.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a clone that is not installed

from benchmarks.caches import main

if __name__ == "__main__":
    sys.exit(main())
