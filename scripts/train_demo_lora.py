"""Remake the bundled LoRA from a seed: python scripts/train_demo_lora.py --output DIR

The LoRA is for the SDXL of the bundled picture pair, which was trained with captions that are wrong in 30 percent of
their attributes; this one is trained with correct captions, on the attention layers alone. Resumable at any moment (the
same command continues); two minutes on one CPU core. scripts/score_gaps.py says what it does as a gap.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a clone that is not installed

from w2sd_video.errors import exit_code
from w2sd_video.runs.progress import calm_libraries


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("outputs/lora-weights"), help="where the LoRA is written")
    parser.add_argument("--work", type=Path, default=Path("outputs/lora-training"), help="checkpoint to resume from")
    parser.add_argument("--weights", type=Path, help="an SDXL pipeline's folder (default: the bundled pair's)")
    parser.add_argument("--seed", type=int, default=0, help="of all draws (default 0: the bundled LoRA's)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    calm_libraries()
    return exit_code(lambda: run(options))


def run(options: argparse.Namespace) -> int:
    import torch
    from experiments.demo import lora

    from w2sd_video.demo import PICTURE_WEIGHTS

    for folder in (options.work, options.output):  # what cannot be written is refused now, not after the training
        folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    pipe = lora.load_pipeline(options.weights or PICTURE_WEIGHTS / "weak")
    lora.train_lora(pipe, options.work, options.seed, quiet=options.quiet)
    print(f"wrote {lora.save_lora(pipe, options.output)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
