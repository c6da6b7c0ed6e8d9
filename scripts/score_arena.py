"""Run `w2sd arena` on the bundled beds and make its page: python scripts/score_arena.py [--beds pictures,videos]

Beds: pictures (a gap of guidance), lora (one of LoRA scales), videos (two networks), still (a strong side that moves
less; its weights are made by scripts/train_still.py) and digits (experts). Prints a table for each bed and draws all
into OUTPUT/arena.png. Resumable at any moment; about three hours on one CPU core.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a clone that is not installed

from experiments.engine import chosen, program, set_threads


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--beds", help="comma-separated subset (default: all)")
    parser.add_argument("--weights", type=Path, default=Path("outputs/still-weights"), help="made by train_still.py")
    parser.add_argument("--output", type=Path, default=Path("outputs/arena"), help="where results are kept")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's own choice)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return program(parser, words, run)


def run(options: argparse.Namespace) -> int:
    from experiments.arena.beds import BEDS
    from experiments.arena.page import draw, tables

    from w2sd_video.commands.arena.program import main as arena
    from w2sd_video.report.figures import save

    set_threads(options.threads)
    found = {}
    for name in chosen(options.beds, BEDS, "bed"):
        words = BEDS[name].words(name, options.output, options.weights)
        if code := arena([*["--quiet"] * options.quiet, *words]):
            return code
        found[name] = json.loads((options.output / name / "arena.json").read_text(encoding="utf-8"))
    print(tables(found))
    save(draw(found), options.output / "arena.png")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
