"""Say of a pair, before it is paid for, whether and how it can be reflected.

python scripts/diagnose.py                     the bundled pair
python scripts/diagnose.py --files-only        from files alone: same latent space, schedule, text encoders?
python scripts/diagnose.py --help              every flag, with examples
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a clone that is not installed

from w2sd_video.diagnosis.program import main


def check_bridge(flags: Sequence[str]) -> None:
    """Raises UserError where bridge_image.py would refuse these flags before it loads a model."""
    from bridges.pixel.command.arguments import build_parser
    from bridges.pixel.command.planning import plan_bridge
    from bridges.pixel.command.program import request_of
    from w2sd_video.runs.progress import TerminalProgress

    plan_bridge(request_of(build_parser().parse_args(list(flags)), TerminalProgress(quiet=True)))


if __name__ == "__main__":
    raise SystemExit(main(program="diagnose.py", check_bridge=check_bridge))
