"""What a plan for a DiT-MoE has of its own (imports no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from w2sd_video.commands.plan import Plan, located
from w2sd_video.pair import Routing


@dataclass(frozen=True)
class MoeSettings:
    """What a plan for a DiT-MoE has beside those of other families.

    Attributes:
        kind: of the checkpoint: "pipeline", "network" (a converted folder) or "file".
        path: "noise" or "flow"; None for a pipeline, which has a scheduler of its own.
        class_ids: the class of each prompt.
        guidance_channels: how many are guided; None is all.
    """

    kind: str
    vae: str | None
    path: str | None
    class_ids: Mapping[str, int]
    guidance_channels: int | None
    routing: Routing
    weak_routing: Routing
    batch: int
    expert_load: bool
    metrics: tuple[str, ...]
    inception: str | None
    reference: str | None

    def settings(self) -> dict[str, Any]:
        """Returns what of them determines the pictures, as JSON data."""
        return {"guidance_channels": self.guidance_channels, "path": self.path}

    def pair_record(self) -> dict[str, Any]:
        """Returns what the two sides are, as JSON data."""
        experts = {"strong_experts": routing_text(self.routing), "weak_experts": routing_text(self.weak_routing)}
        return {"vae": located(self.vae), **experts}

    def details(self) -> list[str]:
        """Returns what a dry run says of them."""
        more = ["expert_load.png"] * self.expert_load + ["metrics.json"] * bool(self.metrics)
        written = ", ".join(["grid-METHOD.png", *more])
        return [f"in batches of {self.batch}, of {len(self.class_ids)} classes; also written: {written}"]


def sampling_guidance(plan: Plan, role: str) -> float:
    """Returns the scale that a side samples with by itself: the weak one its own, whatever else differs."""
    assert plan.guidance is not None
    return plan.weak_guidance if role == "weak" else plan.guidance


def routing_text(routing: Routing) -> str:
    """Returns a routing in words: "bottom 2", "bottom 2 renormalized", "experts 0 3"."""
    if routing.experts is not None:
        text = f"experts {' '.join(map(str, routing.experts))}"
    else:
        text = f"{routing.rank} {routing.k}"
    return text + " renormalized" * routing.renormalize
