"""Score every method on the dataset gap (App. E.1, Figures 7, 18, 26): python scripts/score_dataset_gap.py

Prints a table of the minority's share (95 percent Wilson interval; paired differences with bootstrap intervals), of
samples that show neither class and of the Frechet distance to held-out pictures, what models with exact densities would
do, and distances to the nearest training picture. Writes results.json and the figures. T 50 and lambda 49 unless the
row says otherwise. Finished methods are kept in --output and not run again; all of one path take about twenty minutes
of one core.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a clone that is not installed

from w2sd_video.errors import UserError, exit_code
from w2sd_video.runs.progress import calm_libraries


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", default="noise", help="which networks: noise (default) or flow")
    parser.add_argument("--count", type=int, default=2000, help="samples per method (default 2000)")
    parser.add_argument("--methods", help="comma-separated subset (default: all); the table shows all finished ones")
    parser.add_argument("--weights", type=Path, help="a folder made by train_dataset_gap.py (default: the bundled one)")
    parser.add_argument("--cifar-dir", type=Path, help="CIFAR-10's folder, for weights that were trained on it")
    parser.add_argument("--output", type=Path, help="where results are kept (default outputs/dataset-gap-PATH)")
    parser.add_argument("--projection", default="tsne", help="of the features: tsne (default) or pca")
    parser.add_argument("--batch", type=int, default=250, help="samples made at once (default 250)")
    parser.add_argument("--device", default="cpu", help="what samples: cpu (default), cuda, ...")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's own choice)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    calm_libraries()
    return exit_code(lambda: run(options))


def check(options: argparse.Namespace) -> list[str]:
    """The methods asked for; UserError for what cannot be."""
    from experiments.dataset_gap.methods import METHODS
    from experiments.dataset_gap.recipe import PATHS

    for word in ("count", "batch", "threads"):
        number = getattr(options, word)
        least = 2 if word == "count" else 1  # one sample has no covariance
        if number is not None and number < least:
            raise UserError(f"--{word} is {number}; it must be at least {least}")
    for word, allowed in (("path", PATHS), ("projection", ("tsne", "pca"))):
        if getattr(options, word) not in allowed:
            raise UserError(f"--{word} is {getattr(options, word)!r}; choose one of {', '.join(allowed)}")
    names = list(METHODS) if options.methods is None else [name.strip() for name in options.methods.split(",")]
    unknown = [name for name in names if name not in METHODS]
    if unknown:
        raise UserError(f"unknown method {unknown[0]!r}; choose from {', '.join(METHODS)}")
    return names


def run(options: argparse.Namespace) -> int:
    names = check(options)
    import torch
    from experiments.dataset_gap import WEIGHTS, comparison, figures, neighbours, report, scoring
    from experiments.dataset_gap.methods import METHODS
    from experiments.dataset_gap.sources import load_source
    from tqdm import tqdm

    if options.threads:
        torch.set_num_threads(options.threads)
    weights = options.weights or WEIGHTS
    recipe, split = load_source(options.cifar_dir)
    world = scoring.load_world(weights, options.path, options.device)
    if world.shape != tuple(split.unseen.both.shape[1:]):
        raise UserError(
            f"{weights} is for pictures {world.shape}, not for {recipe.name}; see --weights and --cifar-dir"
        )
    output = options.output or Path(f"outputs/dataset-gap-{options.path}")
    output.mkdir(parents=True, exist_ok=True)
    print_of_weights = scoring.fingerprint(weights, options.path)

    def settings_of(name: str) -> str:
        return repr((options.path, options.count, print_of_weights, METHODS[name].settings()))

    for name in names:
        if scoring.load_score(output / f"{name}.pt", settings_of(name)):
            continue
        with tqdm(total=options.count, desc=name, disable=options.quiet or not sys.stderr.isatty()) as bar:
            made = scoring.score(world, METHODS[name], options.count, options.batch, bar.update)
        scoring.save_score(made, output / f"{name}.pt", settings_of(name))
    kept = {name: scoring.load_score(output / f"{name}.pt", settings_of(name)) for name in METHODS}
    scores = {name: score for name, score in kept.items() if score is not None}
    exact = recipe.name == "digits"  # a Gaussian is a fair picture of these only
    expected = comparison.exact_shares(recipe, split, options.path, output / "exact.json") if exact else {}
    reference = world.judge.read(split.unseen.halves().both.to(world.device)).features
    found = report.rows(scores, reference)
    curves = comparison.cosine_curves(
        world, recipe, split, output / "cosines.json", weights=print_of_weights, exact=exact
    )
    near = neighbours.of_sides(scores, split)
    facts = comparison.judge_facts(world.judge, split)
    read = {name: comparison.agreement(scores[name], split) for name in ("ideal", "w2sd") if name in scores}
    theory = comparison.theory({name: row.minority for name, row in found.items()})
    print(report.table(scores, found, expected))
    print(f"\n{neighbours.table(near)}\n\nthe judge on held-out pictures:")
    print("\n".join(f"  {kind}: {share.text()}" for kind, share in facts.items()))
    for name, share in read.items():
        if share is not None:
            print(f"the judge agrees with the nearest training picture on {share.text()} of {name} samples")
    print(f"theory: {json.dumps(theory)}")
    results = {
        "path": options.path,
        "majority": recipe.majority,
        "minority": recipe.minority,
        "trained_on": {
            side: [len(split.seen.of_side(side).majority), len(split.seen.of_side(side).minority)]
            for side in ("weak", "strong", "ideal")
        },
        "held_out": [len(split.unseen.majority), len(split.unseen.minority)],
        "methods": report.plain(scores, found, expected),
        "judge_on_held_out": facts,
        "judge_agrees_with_nearest": read,
        "nearest": [vars(row) for row in near],
        "theory": theory,
        "cosines": comparison.plain_curves(curves),
    }
    (output / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    drawn = {
        "samples": figures.samples_figure(scores, found, recipe),
        "features": figures.features_figure(scores, recipe, options.projection),
        "strength": figures.strength_figure(found, expected, options.path),
        "cosine": figures.cosine_figure(curves, options.path),
    }
    if all(picture is not None for picture in drawn.values()):
        few = figures.samples_figure(scores, found, recipe, side=5, columns=6)
        drawn["overview"] = figures.overview(few, [drawn["strength"], drawn["cosine"]])
    for name, picture in drawn.items():
        if picture is not None:
            picture.save(output / f"{name}.png", optimize=True)
            print(f"wrote {output / f'{name}.png'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
