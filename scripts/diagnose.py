"""Say of a pair, before it is paid for, whether and how it can be reflected.

python scripts/diagnose.py                     the bundled pair
python scripts/diagnose.py --files-only        from files alone: same latent space, schedule, text encoders?
python scripts/diagnose.py --help              every flag, with examples
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a clone that is not installed

from w2sd_video.diagnosis.program import main

if __name__ == "__main__":
    raise SystemExit(main(program="diagnose.py"))
