"""Remake the bundled demo pair from a seed: python scripts/train_demo.py --output DIR

Phases, each resumable at any moment (the same command continues): text encoders, VAE, a 2-D UNet on single frames,
motion on clips, then the strong and the weak side from there. About 75 minutes on two CPU cores in all; the last two
phases run side by side with one thread each.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import torch

from w2sd_video.demo.export import export_pair
from w2sd_video.demo.loop import Phase
from w2sd_video.demo.training import (
    make_bank,
    train_clips,
    train_frames,
    train_side,
    train_text,
    train_vae,
)

TEXT = Phase(1, steps=400, batch=120, learning_rate=3e-3, ema=0.99)
VAE = Phase(2, steps=1200, batch=64, learning_rate=3e-3, ema=0.99)
FRAMES = Phase(3, steps=1500, batch=128, learning_rate=1.5e-3, ema=0.995)
CLIPS = Phase(4, steps=1300, batch=16, learning_rate=1.2e-3, ema=0.995, horizon=2200)
SIDES = Phase(5, steps=700, batch=16, learning_rate=6e-4, ema=0.995)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("outputs/demo-weights"), help="where the pair is written")
    parser.add_argument("--work", type=Path, default=Path("outputs/demo-training"), help="checkpoints to resume from")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of the shared phases")
    parser.add_argument("--side", choices=("strong", "weak"), help="train this side only, and do not export")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    common = (options.work, options.seed)
    torch.set_num_threads(1 if options.side else options.threads)

    encoders = train_text(*common, TEXT, options.quiet)
    vae = train_vae(*common, VAE, options.quiet)
    bank = make_bank(encoders, vae, options.seed)
    unet = train_frames(bank, *common, FRAMES, options.quiet)
    shared = train_clips(unet, bank, *common, CLIPS, options.quiet)
    if options.side:
        train_side(options.side, shared, bank, *common, SIDES, options.quiet)
        return 0

    command = [sys.executable, __file__, *sys.argv[1:], "--side"]
    sides = [subprocess.Popen([*command, side]) for side in ("strong", "weak")]
    codes = [side.wait() for side in sides]
    if any(codes):
        print("error: a side did not finish training; the same command continues it", file=sys.stderr)
        return 1
    networks = []
    for side in ("strong", "weak"):  # both are finished: this only reads their averages
        start = train_clips(unet, bank, *common, CLIPS, quiet=True)
        networks.append(train_side(side, start, bank, *common, SIDES, quiet=True))
    export_pair(options.output, encoders, vae, *networks)
    print(f"wrote the pair to {options.output}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
