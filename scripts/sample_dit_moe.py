"""Sample a DiT-MoE with W2SD, the experts of highest score strong and those of lowest score weak (Table 4, Fig. 9).

python scripts/sample_dit_moe.py                the bundled digits, in a folder under outputs/, with a page to look at
python scripts/sample_dit_moe.py --help         every flag, with examples
python scripts/sample_dit_moe.py convert --help a published checkpoint to a folder without pickles
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a clone that is not installed

from w2sd_video.commands.app import run

if __name__ == "__main__":
    raise SystemExit(run("moe", program="sample_dit_moe.py"))
