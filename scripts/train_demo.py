"""Remake the bundled demo pair from a seed: python scripts/train_demo.py --output DIR

Phases, each resumable at any moment (the same command continues): text encoders, VAE, a 2-D UNet on single frames,
motion on clips, then the strong and the weak side from there, side by side with one thread each. The bundled weights
took 57 minutes on two CPU cores that did other work as well. The recipe is scripts/experiments/demo/recipe.py.
"""

import argparse
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a clone that is not installed

from w2sd_video.errors import UserError, exit_code
from w2sd_video.runs.progress import calm_libraries


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("outputs/demo-weights"), help="where the pair is written")
    parser.add_argument("--work", type=Path, default=Path("outputs/demo-training"), help="checkpoints to resume from")
    parser.add_argument("--seed", type=int, default=0, help="of all draws (default 0: the bundled pair's)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of the shared phases (default 2)")
    parser.add_argument("--side", choices=("strong", "weak"), help="train this side only, and write no pair")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    calm_libraries()
    return exit_code(lambda: run(options))


def run(options: argparse.Namespace) -> int:
    if options.threads < 1:
        raise UserError(f"--threads is {options.threads}; it must be at least 1")
    import torch
    from experiments.demo.recipe import Recipe, make_pair

    for folder in (options.work, options.output):  # what cannot be written is refused now, not after an hour
        folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1 if options.side else options.threads)
    if options.side:
        Recipe(options.work, options.seed, quiet=options.quiet).train_side(options.side)
        return 0

    def train_sides() -> bool:
        command = [sys.executable, __file__, "--work", str(options.work), "--output", str(options.output)]
        command += ["--seed", str(options.seed)]
        command += ["--quiet"] if options.quiet else []
        processes = [subprocess.Popen([*command, "--side", side]) for side in ("strong", "weak")]
        return not any([process.wait() for process in processes])  # noqa: C419 wait for both

    if not make_pair(options.output, options.work, options.seed, quiet=options.quiet, train_sides=train_sides):
        print("error: a side did not finish training; the same command continues it", file=sys.stderr)
        return 1
    print(f"wrote the pair to {options.output}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
