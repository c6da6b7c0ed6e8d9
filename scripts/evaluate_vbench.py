"""Score folders of videos by VBench's dimensions, and compare methods.

python scripts/evaluate_vbench.py --help            the whole way from prompts to a table
python scripts/evaluate_vbench.py score FOLDER      score a folder, with or without weights

The same program is installed as `w2sd-vbench`.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a clone that is not installed

from vbench_eval.commands import main

if __name__ == "__main__":
    raise SystemExit(main())
