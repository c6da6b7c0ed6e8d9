"""Which blocks of a network, left out, make a weak side whose gap points where less guidance points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from w2sd_video.gaps.layer_skips import find_layer_skips
from w2sd_video.hosting.calls import networks_of
from w2sd_video.pair import ModelSpec
from w2sd_video.runs.progress import Progress

SHOWN = 12  # blocks in the text; the report has all


@dataclass
class BlockGaps:
    """By block the cosines and sizes of its gap against that of guidance 0, gathered over samples.

    The gap of guidance is the one that is known to point towards what a prompt asks for. A cosine near 1 says that
    leaving the block out makes the network fail as the network without a prompt does, near 0 that it fails otherwise.
    """

    cosines: dict[str, list[float]] = field(default_factory=dict)
    sizes: dict[str, list[float]] = field(default_factory=dict)

    def add(self, pair: Any, num_levels: int) -> None:
        """Measures all blocks of the strong network of a `treating.SampledPair` at the first levels of one sample: the
        runs begin at the same noise, and after each reflection their latents are a move apart.

        Raises:
            UserError: the network has no blocks that can be skipped.
        """
        quiet = replace(pair, progress=Progress(), weak_inputs=None)
        guided = _moves(quiet, ModelSpec(guidance=0.0), num_levels)
        for block in find_layer_skips(networks_of(pair.pipe)[0]).names:
            found = _moves(quiet, ModelSpec(skip_layers=(block,)), num_levels)
            alike = [float(torch.cosine_similarity(a, b, dim=0)) for a, b in zip(found, guided, strict=True)]
            ratios = [float(a.norm() / b.norm()) for a, b in zip(found, guided, strict=True)]
            self.cosines.setdefault(block, []).append(sum(alike) / len(alike))
            self.sizes.setdefault(block, []).append(sum(ratios) / len(ratios))

    def record(self) -> list[dict[str, Any]]:
        """Returns the means by block, from the gap that points most as guidance does on."""
        found = [
            {"block": block, "cosine": _mean(values), "size": _mean(self.sizes[block])}
            for block, values in self.cosines.items()
        ]
        return sorted(found, key=lambda entry: -entry["cosine"])


def blocks_text(record: Sequence[Mapping[str, Any]]) -> str:
    """Returns the ranking as text."""
    lines = ["blocks by how their leaving out points as less guidance does (cosine; size over that of guidance 0):"]
    lines += [f"  {entry['cosine']:+.2f}  {entry['size']:.2g}  {entry['block']}" for entry in record[:SHOWN]]
    if record and record[0]["cosine"] > 0:
        lines.append(f"to try, beside its controls: --weak-skip-layers {record[0]['block']}")
    return "\n".join(lines)


def _moves(pair: Any, weak: ModelSpec, num_levels: int) -> list[Tensor]:
    found: list[Tensor] = []
    replace(pair, weak=weak).sample(
        "weak", "fused", num_levels, lambda i, x, tilde: found.append((tilde - x).float().flatten())
    )
    return found


def _mean(values: Sequence[float]) -> float:
    return float(f"{sum(values) / len(values):.5g}")
