"""Remake the bundled DiT-MoE and its judge from a seed: python scripts/train_digits.py --output DIR

Phases, each resumable at any moment (the same command continues): the judge, the VAE, the network; all on the train
part of scikit-learn's handwritten digits; about 15 minutes of one CPU core. The recipe is
scripts/experiments/digits/training.py.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a clone that is not installed

from w2sd_video.errors import UserError, exit_code
from w2sd_video.runs.progress import calm_libraries


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("outputs/digits-weights"), help="where it is written")
    parser.add_argument("--work", type=Path, default=Path("outputs/digits-training"), help="checkpoints to resume from")
    parser.add_argument("--seed", type=int, default=0, help="of all draws (default 0: the bundled weights')")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
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
    from experiments.digits import training
    from experiments.digits.export import export

    from bridges.dit_moe.demo import digits

    for folder in (options.work, options.output):  # what cannot be written is refused now, not after training
        folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    seen = digits.load("train")
    settings = (options.work, options.seed)
    judge = training.train_judge(seen, *settings, training.JUDGE, options.quiet)
    vae = training.train_vae(seen, *settings, training.VAE, options.quiet)
    network = training.train_network(vae, seen, *settings, training.NETWORK, options.quiet)
    export(options.output, judge, vae, network)
    print(f"wrote the pipeline and its judge to {options.output}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
