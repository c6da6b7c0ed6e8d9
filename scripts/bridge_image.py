"""Make pictures with W2SD where weak and strong share no latent space, such as Flux over SDXL: they meet in pixels.

python scripts/bridge_image.py            the bundled demo, in a folder under outputs/, with a page to look at
python scripts/bridge_image.py --help     every flag, with examples
python scripts/bridge_image.py fit --help how a noise map is fitted
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a clone that is not installed

from w2sd_video.commands.app import run

if __name__ == "__main__":
    raise SystemExit(run("bridge", program="bridge_image.py"))
