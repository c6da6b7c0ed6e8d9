"""Remake the bundled picture pair from a seed: python scripts/train_bridge_demo.py --output DIR

The strong side is a small FluxPipeline, the weak side a small StableDiffusionXLPipeline, each with a VAE of its own,
trained side by side with one thread each; every phase is resumable at any moment (the same command continues). The
bundled weights took 46 minutes on two CPU cores that did other work as well; --control takes 6 more. The recipe is
scripts/experiments/demo/picture_recipe.py.
"""

import argparse
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a clone that is not installed

from w2sd_video.errors import exit_code
from w2sd_video.runs.progress import calm_libraries


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("outputs/bridge-weights"), help="where the pair is written")
    parser.add_argument("--work", type=Path, default=Path("outputs/bridge-training"), help="checkpoints to resume from")
    parser.add_argument("--seed", type=int, default=0, help="of all draws (default 0: the bundled pair's)")
    parser.add_argument("--side", choices=("strong", "weak", "control"), help="train this side only, and write no pair")
    parser.add_argument("--control", action="store_true", help="also a weak side with the strong's bias (not bundled)")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    calm_libraries()
    return exit_code(lambda: run(options))


def run(options: argparse.Namespace) -> int:
    import torch
    from experiments.bridge import scoring
    from experiments.demo.picture_recipe import Recipe, make_picture_pair

    from bridges.pixel.command.presets import NOISE_MAP

    for folder in (options.work, options.output):  # what cannot be written is refused now, not after an hour
        folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    if options.side:
        Recipe(options.work, options.seed, quiet=options.quiet).train(options.side)
        return 0

    def train_sides() -> bool:
        command = [sys.executable, __file__, "--work", str(options.work), "--output", str(options.output)]
        command += ["--seed", str(options.seed)]
        command += ["--quiet"] if options.quiet else []
        last = "control" if options.control else "weak"  # the control goes on from the weak side
        processes = [subprocess.Popen([*command, "--side", side]) for side in ("strong", last)]
        return not any([process.wait() for process in processes])  # noqa: C419 wait for both

    sides = ("strong", "weak", "control") if options.control else ("strong", "weak")
    finished = Recipe(options.work, options.seed, quiet=True)  # once trained, what follows only reads it
    if not make_picture_pair(options.output, finished, sides, train_sides):
        print("error: a side did not finish training; the same command continues it", file=sys.stderr)
        return 1
    pair = scoring.load(options.output)
    scoring.fit_noise_map(pair["strong"], pair["weak"]).save(options.output / NOISE_MAP)
    print(f"wrote the pair and its noise map to {options.output}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
