"""Score every method on the bundled picture pair with the oracle: python scripts/score_bridge.py [--count 480]

Flux is the strong side and SDXL the weak one; they share no latent space and meet in pixels. Prints a table (accuracy
per attribute, paired difference to the strong model with a 95 percent bootstrap interval, evaluations, calls of a VAE,
seconds) and the bars that the pair is held to. Unguided, T 28, lambda 10; about 25 minutes on one CPU core for all
methods. Finished methods are kept in --output and not run again. The rows "equal-bias" and "control" need --control,
the folder "control" that train_bridge_demo.py --control made.
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
    parser.add_argument(
        "--count", type=int, default=480, help="pictures per method (default 480: each caption 20 times)"
    )
    parser.add_argument("--methods", help="comma-separated subset (default: all); the table shows all finished ones")
    parser.add_argument("--weights", type=Path, help="a pair made by train_bridge_demo.py (default: the bundled one)")
    parser.add_argument("--control", type=Path, help="the control pipeline made by train_bridge_demo.py --control")
    parser.add_argument("--output", type=Path, default=Path("outputs/bridge-scores"), help="where results are kept")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's own choice)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    calm_libraries()
    return exit_code(lambda: run(options))


def run(options: argparse.Namespace) -> int:
    import torch
    from experiments.bridge import report, scoring
    from experiments.demo.report import finished, verdicts
    from experiments.demo.scoring import fingerprint
    from tqdm import tqdm

    from w2sd_video.demo import PICTURE_WEIGHTS

    possible = [
        name
        for name, method in scoring.METHODS.items()
        if options.control or "control" not in (method.sampled, method.partner)
    ]
    names = possible if options.methods is None else [name.strip() for name in options.methods.split(",")]
    unknown = [name for name in names if name not in possible]
    if unknown:
        hint = " (it needs --control)" if unknown[0] in scoring.METHODS else ""
        raise UserError(f"unknown method {unknown[0]!r}{hint}; choose from {', '.join(possible)}")
    for word, number in (("--count", options.count), ("--threads", 1 if options.threads is None else options.threads)):
        if number < 1:
            raise UserError(f"{word} is {number}; it must be at least 1")
    if options.threads:
        torch.set_num_threads(options.threads)
    weights = options.weights or PICTURE_WEIGHTS
    sides = scoring.load(weights, options.control)
    fitted = scoring.fit_noise_map(sides["strong"], sides["weak"])
    options.output.mkdir(parents=True, exist_ok=True)
    prints = [fingerprint(weights), fingerprint(options.control) if options.control else None]

    def settings_of(name: str) -> dict[str, object]:
        method = scoring.METHODS[name]
        uses_control = "control" in (method.sampled, method.partner)
        return {"count": options.count, "weights": prints[: 1 + uses_control], "method": repr(method)}

    for name in names:
        path = options.output / f"{name}.json"
        if finished(path, settings_of(name)):
            continue
        with tqdm(total=options.count, desc=name, disable=options.quiet or not sys.stderr.isatty()) as bar:
            score, pictures = scoring.score(sides, scoring.METHODS[name], fitted, options.count, progress=bar.update)
        scoring.save_sheet(pictures, options.output / f"{name}.png")
        path.with_suffix(".part").write_text(json.dumps({"settings": settings_of(name)} | report.to_json(score)))
        os.replace(path.with_suffix(".part"), path)
    records = {name: finished(options.output / f"{name}.json", settings_of(name)) for name in possible}
    scores = {name: report.from_json(record) for name, record in records.items() if record}
    print(f"noise map: fitted to {fitted.num_pictures} pictures, residual {fitted.residual:.3f}, w {fitted.scale:.3f}")
    print(report.table(scores))
    print()
    print(verdicts(scores, report.BARS))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
