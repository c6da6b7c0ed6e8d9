"""Sweep one setting of a weak/strong pair and draw the score with its intervals.

python scripts/sweep.py --setting lambda --values 0:10:5 --videos     the bundled videos, read by the oracle
python scripts/sweep.py --help                                        every flag, with examples

The same program is installed as `w2sd sweep`.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a clone that is not installed

from w2sd_video.commands.sweep.program import main

if __name__ == "__main__":
    raise SystemExit(main(program="sweep.py"))
