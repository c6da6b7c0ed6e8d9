"""Score every method on the bundled pair with the oracle: python scripts/score_demo.py [--count 240] [--output DIR]

Prints a table (accuracy per attribute, paired difference to the strong model with a 95 percent bootstrap interval,
evaluations, seconds) and the bars that the bundled pair is held to. Unguided, T 20, lambda 10; about 25 minutes on two
CPU cores for all methods with 240 videos each. Finished methods are kept in --output and not run again.
"""

import argparse
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a clone that is not installed

from w2sd_video.errors import UserError, exit_code
from w2sd_video.runs.progress import calm_libraries


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=240, help="videos per method (default 240: each caption twice)")
    parser.add_argument("--methods", help="comma-separated subset (default: all); the table shows all finished ones")
    parser.add_argument("--weights", type=Path, help="a pair made by train_demo.py (default: the bundled one)")
    parser.add_argument("--output", type=Path, default=Path("outputs/demo-scores"), help="where results are kept")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's own choice)")
    parser.add_argument("--read", type=Path, metavar="FOLDER", help="only read the videos of a generate_video.py run")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    calm_libraries()
    return exit_code(lambda: read(options.read) if options.read else run(options))


def read(folder: Path) -> int:
    from experiments.demo import reading

    print(reading.describe(reading.read_run(folder)))
    print("a few videos show, they do not prove: the table over 240 is in README.md, and `make score` remakes it")
    return 0


def run(options: argparse.Namespace) -> int:
    import torch
    from experiments.demo import report, scoring
    from tqdm import tqdm

    from w2sd_video.demo import WEIGHTS

    names = list(scoring.METHODS) if options.methods is None else [name.strip() for name in options.methods.split(",")]
    unknown = [name for name in names if name not in scoring.METHODS]
    if unknown:
        raise UserError(f"unknown method {unknown[0]!r}; choose from {', '.join(scoring.METHODS)}")
    if options.count < 1:
        raise UserError(f"--count is {options.count}; it must be at least 1")
    if options.threads is not None and options.threads < 1:
        raise UserError(f"--threads is {options.threads}; it must be at least 1")
    if options.threads:
        torch.set_num_threads(options.threads)
    weights = options.weights or WEIGHTS
    options.output.mkdir(parents=True, exist_ok=True)
    settings = {"count": options.count, "weights": scoring.fingerprint(weights)}

    sides = None
    for name in names:
        path = options.output / f"{name}.json"
        if report.finished(path, settings):
            continue
        sides = sides or scoring.load(weights)
        with tqdm(total=options.count, desc=name, disable=options.quiet or not sys.stderr.isatty()) as bar:
            score, frames = scoring.score(sides, scoring.METHODS[name], options.count, progress=bar.update)
        record = {"settings": settings, "label": scoring.METHODS[name].label} | report.to_json(score)
        scoring.save_sheet(frames, options.output / f"{name}.png")
        path.with_suffix(".part").write_text(json.dumps(record))
        os.replace(path.with_suffix(".part"), path)
    records = {name: report.finished(options.output / f"{name}.json", settings) for name in scoring.METHODS}
    scores = {name: report.from_json(record) for name, record in records.items() if record}
    print(report.table(scores))
    print()
    print(report.verdicts(scores))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
