"""Measure switching LoRA scales: python scripts/benchmark_lora.py [--quick] [--only switching|compiling]

The program is scripts/benchmarks/lora.py.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a clone that is not installed

from benchmarks.lora import main

if __name__ == "__main__":
    sys.exit(main())
