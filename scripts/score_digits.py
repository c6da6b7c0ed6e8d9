"""Score every method on the bundled DiT-MoE with its judge: python scripts/score_digits.py [--count 2000]

Prints a table (class accuracy, Inception-style score and Frechet distance on the judge's features, each with a 95
percent bootstrap interval, and the paired differences to the strong model), what unseen real digits score, and writes
the sweep over lambda as sweep.png. T 50; guidance 1.5 and lambda 49 unless the row says otherwise. Finished methods are
kept in --output and not run again; all of them take about an hour on two cores.
"""

import argparse
import os
import pickle
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a clone that is not installed

from w2sd_video.errors import UserError, exit_code
from w2sd_video.runs.progress import calm_libraries


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000, help="pictures per method (default 2000: 200 of each class)")
    parser.add_argument("--methods", help="comma-separated subset (default: all); the table shows all finished ones")
    parser.add_argument("--weights", type=Path, help="a folder made by train_digits.py (default: the bundled one)")
    parser.add_argument("--output", type=Path, default=Path("outputs/digits-scores"), help="where results are kept")
    parser.add_argument("--batch", type=int, default=250, help="pictures made at once (default 250)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's own choice)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    calm_libraries()
    return exit_code(lambda: run(options))


def check(options: argparse.Namespace) -> None:
    for word in ("count", "batch", "threads"):
        number = getattr(options, word)
        least = 2 if word == "count" else 1  # one picture has no covariance
        if number is not None and number < least:
            raise UserError(f"--{word} is {number}; it must be at least {least}")


def run(options: argparse.Namespace) -> int:
    check(options)
    import torch
    from experiments.demo.scoring import fingerprint
    from experiments.digits import gaps, report, scoring
    from experiments.digits.export import JUDGE
    from experiments.digits.judge import load_judge
    from tqdm import tqdm

    from bridges.dit_moe.demo import WEIGHTS, digits

    known = scoring.METHODS
    names = list(known) if options.methods is None else [name.strip() for name in options.methods.split(",")]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UserError(f"unknown method {unknown[0]!r}; choose from {', '.join(known)}")
    if options.threads:
        torch.set_num_threads(options.threads)
    weights = options.weights or WEIGHTS
    pipe, judge = scoring.load(weights), load_judge(weights / JUDGE)
    options.output.mkdir(parents=True, exist_ok=True)
    print_of_weights = fingerprint(weights)

    def settings_of(name: str) -> str:
        return repr((options.count, print_of_weights, known[name].settings()))

    def finished(name: str) -> dict | None:
        """The record of a method scored with these settings; None where there is none, or a damaged one."""
        try:
            record = torch.load(options.output / f"{name}.pt", weights_only=True)
            return record if record["settings"] == settings_of(name) else None
        except (OSError, RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError):
            return None

    for name in names:
        if finished(name):
            continue
        with tqdm(total=options.count, desc=name, disable=options.quiet or not sys.stderr.isatty()) as bar:
            score, pictures = scoring.score(pipe, judge, known[name], options.count, options.batch, bar.update)
        report.sheet(pictures).save(options.output / f"{name}.png")
        path = options.output / f"{name}.pt"
        torch.save(scoring.to_record(score) | {"settings": settings_of(name)}, path.with_suffix(".part"))
        os.replace(path.with_suffix(".part"), path)
    records = {name: finished(name) for name in known}
    scores = {name: scoring.from_record(record) for name, record in records.items() if record}
    reference = scoring.unseen_digits(judge)
    found = report.rows(scores, reference)
    print(report.table(scores, found))
    for label, vae in (("real train digits", None), ("the same through the VAE", pipe.vae)):
        print(report.real_row(label, scoring.real_digits(judge, vae), reference))
    print(f"\n{report.pairs(scores, reference)}")
    unseen = digits.load("test")
    sides = (gaps.predictor(pipe, routing) for routing in (scoring.TOP, scoring.BOTTOM))
    by_level = gaps.gap_by_level(*sides, gaps.digit_latents(pipe, unseen), unseen.labels)
    print(f"\nthe gap between the two routings, on unseen digits:\n{gaps.gap_table(by_level)}")
    plot = report.sweep_plot(found)
    if plot is not None:
        plot.save(options.output / "sweep.png")
        print(f"\nwrote {options.output / 'sweep.png'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
