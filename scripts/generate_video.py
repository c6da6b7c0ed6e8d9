"""Generate videos with W2SD beside their weak and strong versions.

python scripts/generate_video.py            the bundled demo, in a folder under outputs/, with a page to look at
python scripts/generate_video.py --help     every flag, with examples

The same program is installed as `w2sd-video`.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a clone that is not installed

from w2sd_video.commands.app import run

if __name__ == "__main__":
    raise SystemExit(run("video", program="generate_video.py"))
