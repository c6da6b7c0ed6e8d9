"""Score each gap that the bundled SDXL can express, with the oracle: python scripts/score_gaps.py [--count 240]

Gaps: guidance, prompt, LoRA scale (the bundled LoRA) and cumulative, each with its strong side alone, equal
evaluations, zero-gap, swapped roles and, where guidance differs, the matched guidance. Prints a table per gap (accuracy
per attribute, evaluations, network rows, paired difference to the strong side with a 95 percent bootstrap interval) and
the differences that say whether the gap did it; then share right over the magnitude of a gap of guidance and of LoRA
scale (Figure 12), also drawn into --output. T 28, lambda 10; about 40 minutes on one CPU core. Finished methods
are kept in --output and not run again; methods that several gaps share are made once.
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
        "--count", type=int, default=240, help="pictures per method (default 240: each caption 10 times)"
    )
    parser.add_argument("--gaps", help="comma-separated subset (default: all); the tables show all finished methods")
    parser.add_argument("--curves", help="comma-separated subset of guidance, lora, or none (default: all)")
    parser.add_argument("--weights", type=Path, help="an SDXL pipeline's folder (default: the bundled pair's)")
    parser.add_argument("--lora", type=Path, help="a LoRA made by train_demo_lora.py (default: the bundled one)")
    parser.add_argument("--output", type=Path, default=Path("outputs/gap-scores"), help="where results are kept")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's own choice)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    calm_libraries()
    return exit_code(lambda: run(options))


def run(options: argparse.Namespace) -> int:
    for word, number in (("--count", options.count), ("--threads", 1 if options.threads is None else options.threads)):
        if number < 1:
            raise UserError(f"{word} is {number}; it must be at least 1")
    import torch
    from experiments.demo import gap_report, gap_scoring
    from experiments.demo.gap_methods import CURVES, GAPS, Sampling
    from experiments.demo.report import finished, from_json, to_json
    from experiments.demo.scoring import fingerprint
    from tqdm import tqdm

    from w2sd_video.demo import LORA_WEIGHTS, PICTURE_WEIGHTS
    from w2sd_video.report.figures import save

    names = list(GAPS) if options.gaps is None else [name.strip() for name in options.gaps.split(",")]
    unknown = [name for name in names if name not in GAPS]
    if unknown:
        raise UserError(f"unknown gap {unknown[0]!r}; choose from {', '.join(GAPS)}")
    curves = list(CURVES) if options.curves is None else [n.strip() for n in options.curves.split(",") if n != "none"]
    unknown = [name for name in curves if name not in CURVES]
    if unknown:
        raise UserError(f"unknown curve {unknown[0]!r}; choose from {', '.join(CURVES)}, none")
    if options.threads:
        torch.set_num_threads(options.threads)
    weights, lora = options.weights or PICTURE_WEIGHTS / "weak", options.lora or LORA_WEIGHTS
    pipe = gap_scoring.load(weights, lora)
    options.output.mkdir(parents=True, exist_ok=True)
    made_with = {"count": options.count, "weights": [fingerprint(weights), fingerprint(lora)]}

    def settings_of(method: Sampling) -> dict[str, object]:
        return {**made_with, "method": repr(method)}

    wanted = {f"{name}: {label}": method for name in names for label, method in GAPS[name].methods().items()}
    for name in curves:
        _, values, lines = CURVES[name]
        wanted |= {f"{name} {v:g}: {line}": m for line, ms in lines.items() for v, m in zip(values, ms, strict=True)}
    for shown, method in wanted.items():
        path = options.output / f"{method.key}.json"
        if finished(path, settings_of(method)):
            continue
        with tqdm(total=options.count, desc=shown, disable=options.quiet or not sys.stderr.isatty()) as bar:
            score, _ = gap_scoring.score(pipe, method, options.count, progress=bar.update)
        part = path.with_suffix(f".{os.getpid()}")  # two processes may share a folder
        part.write_text(json.dumps({"settings": settings_of(method), "label": shown} | to_json(score)))
        os.replace(part, path)
    scores = {}
    for name, gap in GAPS.items():
        for label, method in gap.methods().items():
            record = finished(options.output / f"{method.key}.json", settings_of(method))
            if record:
                scores[name, label] = from_json(record)
    print(gap_report.table(scores))
    print()
    print(gap_report.differences(scores))
    points = {m.key: m for _, _, lines in CURVES.values() for line in lines.values() for m in line}
    records = {key: finished(options.output / f"{key}.json", settings_of(m)) for key, m in points.items()}
    found = {key: from_json(record) for key, record in records.items() if record}
    for name in CURVES:
        print("", gap_report.curve_table(name, found), sep="\n")
        if picture := gap_report.curve_picture(name, found):
            save(picture, options.output / f"{name}.png")
            print(f"drawn: {options.output / name}.png")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
