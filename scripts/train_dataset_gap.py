"""Train what the dataset gap is shown on, from a seed: python scripts/train_dataset_gap.py --output DIR

Without --cifar-dir: two classes of scikit-learn's handwritten digits (twos and eights), on the noise path and the flow
path three small networks each, with 140 twos and 14 (weak), 70 (strong) or 140 (ideal) eights, and a judge that counts
them; about a quarter of an hour of one CPU core. With --cifar-dir, a folder of CIFAR-10's Python batches: the paper's
setting, 5000 horses and 500, 2500 or 5000 cars, and a network that wants --device cuda. Each phase is resumable at any
moment (the same command continues). The recipes are scripts/experiments/dataset_gap/recipe.py.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a clone that is not installed

from w2sd_video.errors import UserError, exit_code
from w2sd_video.runs.progress import calm_libraries


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("outputs/dataset-gap-weights"), help="where it is written")
    parser.add_argument(
        "--work", type=Path, default=Path("outputs/dataset-gap-training"), help="checkpoints to resume from"
    )
    parser.add_argument("--cifar-dir", type=Path, help="CIFAR-10's folder cifar-10-batches-py; then not the digits")
    parser.add_argument("--paths", default="noise,flow", help="comma-separated: noise, flow (default: both)")
    parser.add_argument("--seed", type=int, default=0, help="of all draws (default 0: the bundled weights')")
    parser.add_argument("--device", default="cpu", help="what trains: cpu (default), cuda, ...")
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
    from experiments.dataset_gap import export, recipe, training
    from experiments.dataset_gap.sources import load_source

    paths = [name.strip() for name in options.paths.split(",")]
    unknown = [name for name in paths if name not in recipe.PATHS]
    if unknown:
        raise UserError(f"unknown path {unknown[0]!r}; choose from {', '.join(recipe.PATHS)}")
    chosen, split = load_source(options.cifar_dir)
    for folder in (options.work, options.output):  # what cannot be written is refused now, not after training
        folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    judge = training.train_judge(chosen, split.seen, options.work, options.seed, options.device, options.quiet)
    export.export_judge(options.output, chosen, judge, split.unseen)
    for path in paths:
        for side in recipe.SIDES:
            network = training.train_network(
                chosen,
                split.seen,
                path,
                side,
                options.work,
                seed=options.seed,
                device=options.device,
                quiet=options.quiet,
            )
            export.export_network(options.output, path, side, network)
    print(f"wrote the networks and their judge to {options.output}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
