"""What the scores of the picture pair say: paired differences with intervals, the table, and the pair's bars."""

from collections.abc import Mapping
from dataclasses import asdict

import torch

from experiments.bridge.scoring import METHODS, PictureScore
from experiments.demo.report import Bar, paired_interval

BARS = (
    Bar("W2SD beats strong", "w2sd", "strong", 0.0, "above"),
    Bar("W2SD beats its own zero-gap", "w2sd", "zero-gap", 0.0, "above"),
    Bar("W2SD beats strong at equal evaluations", "w2sd", "strong-equal", 0.0, "above"),
    Bar("strong beats weak", "strong", "weak", 0.0, "above"),
    Bar("swapped roles fall below weak", "swapped", "weak", 0.0, "below"),
    Bar("W2SD beats itself with a weak model of the strong's bias", "w2sd", "equal-bias", 0.0, "above"),
)


def table(scores: Mapping[str, PictureScore]) -> str:
    """A Markdown table, one row per finished method, in the order of METHODS."""
    lines = [
        "| method | evaluations | VAE calls | colour | shape | both | both, minus strong | s / picture |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, score in scores.items():
        parts = " | ".join(f"{value:.3f}" for value in score.correct.double().mean(dim=0).tolist())
        both = f"{score.all.double().mean().item():.3f}"
        against = "-"
        if name != "strong" and "strong" in scores:
            against = str(paired_interval(score.all, scores["strong"].all))
        cost = f"{score.num_rows} | {score.num_decodes + score.num_encodes}"
        row = (METHODS[name].label, cost, parts, both, against, f"{score.seconds:.2f}")
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def to_json(score: PictureScore) -> dict:
    """A score as plain data."""
    return asdict(score) | {"correct": score.correct.int().tolist()}


def from_json(record: Mapping) -> PictureScore:
    """The inverse of `to_json`; what else a record holds is left out."""
    fields = {name: record[name] for name in PictureScore.__dataclass_fields__}
    return PictureScore(**(fields | {"correct": torch.tensor(record["correct"]).bool()}))
