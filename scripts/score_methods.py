"""Score every algorithm, mode and setting on the bundled pair: python scripts/score_methods.py [--count 120]

Prints a table of the algorithms (Algorithms 1 to 4, auto-guidance, swapped roles, the modes) and one of the settings of
a reflection, each beside its controls (the strong side alone, at equal evaluations, and the same without a gap) with
paired 95 percent bootstrap intervals, then the curves over lambda and strength, which are also drawn into --output. An
oracle reads the videos. Unguided, T 20, lambda 10 unless said; about an hour and a half on one CPU core for everything.
Ways that are finished are kept in --output and not made again; several processes may share the work (--part 1/2 and
--part 2/2).
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
    parser.add_argument("--count", type=int, default=120, help="videos per way (default 120: each caption once)")
    parser.add_argument("--only", help="comma-separated: algorithms, settings, lambda, strength (default: all)")
    parser.add_argument("--part", default="1/1", metavar="K/N", help="make every N-th way, from the K-th on")
    parser.add_argument("--weights", type=Path, help="a pair made by train_demo.py (default: the bundled one)")
    parser.add_argument("--output", type=Path, default=Path("outputs/method-scores"), help="where results are kept")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's own choice)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    calm_libraries()
    return exit_code(lambda: run(options))


def run(options: argparse.Namespace) -> int:
    for word, number in {"count": options.count, "threads": options.threads}.items():
        if number is not None and number < 1:
            raise UserError(f"--{word} is {number}; it must be at least 1")
    part, parts = _part(options.part)
    import torch
    from experiments.demo import method_report, method_scoring
    from experiments.demo.method_ways import ALGORITHMS, CURVES, SETTINGS, Way, groups
    from experiments.demo.report import finished, from_json, to_json
    from experiments.demo.scoring import fingerprint, load
    from tqdm import tqdm

    from w2sd_video.demo import WEIGHTS
    from w2sd_video.report.figures import save

    found = groups()
    names = list(found) if options.only is None else [name.strip() for name in options.only.split(",")]
    unknown = [name for name in names if name not in found]
    if unknown:
        raise UserError(f"--only has {unknown[0]!r}; choose from {', '.join(found)}")
    if options.threads:
        torch.set_num_threads(options.threads)
    weights = options.weights or WEIGHTS
    options.output.mkdir(parents=True, exist_ok=True)
    settings = {"count": options.count, "weights": fingerprint(weights)}

    def record_of(way: Way) -> dict | None:
        return finished(options.output / f"{way.key}.json", settings)

    sides = None
    wanted = {way.key: way for name in names for way in found[name]}
    for key, way in list(wanted.items())[part - 1 :: parts]:
        if record_of(way):
            continue
        sides = sides or load(weights)
        with tqdm(total=options.count, desc=key, disable=options.quiet or not sys.stderr.isatty()) as bar:
            score, said = method_scoring.score(sides, way, options.count, progress=bar.update)
        made = {"settings": settings, "way": repr(way), "said": dict(said)}
        beside = options.output / f"{key}.{os.getpid()}"  # two processes may share a folder
        beside.write_text(json.dumps(made | to_json(score)))
        os.replace(beside, options.output / f"{key}.json")
    everything = {way.key: way for ways in found.values() for way in ways}
    records = {key: record for key, way in everything.items() if (record := record_of(way))}
    scores = {key: from_json(record) for key, record in records.items()}
    print(method_report.table(ALGORITHMS, scores), method_report.table(SETTINGS, scores), sep="\n\n")
    for name in CURVES:
        print("", method_report.curve_table(name, scores), sep="\n")
        if picture := method_report.curve_picture(name, scores):
            save(picture, options.output / f"{name}.png")
            print(f"drawn: {options.output / name}.png")
    for label, way in ALGORITHMS.items():
        share = records.get(way.key, {}).get("said", {}).get("second")
        if share is not None:
            print(f"{label}: the weak side was taken as strong in {share:.1%} of selections")
    return 0


def _part(text: str) -> tuple[int, int]:
    try:
        part, parts = (int(number) for number in text.split("/"))
    except ValueError:
        part, parts = 0, 0
    if not 1 <= part <= parts:
        raise UserError(f"--part is {text!r}; give K/N with K from 1 to N, such as 1/2")
    return part, parts


if __name__ == "__main__":
    raise SystemExit(main())
