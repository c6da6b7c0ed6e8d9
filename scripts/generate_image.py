"""Generate pictures with W2SD beside their weak and strong versions.

python scripts/generate_image.py            the bundled demo, in a folder under outputs/, with a page to look at
python scripts/generate_image.py --help     every flag, with examples
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a clone that is not installed

from w2sd_video.commands.app import run

if __name__ == "__main__":
    raise SystemExit(run("image", program="generate_image.py"))
