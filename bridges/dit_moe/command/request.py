"""What to sample with a DiT-MoE: a frozen request, and the plan it becomes once it is checked (imports no torch)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from w2sd_video.commands.plan import located
from w2sd_video.pair import Routing
from w2sd_video.runs.file_names import video_stems
from w2sd_video.runs.tasks import W2SD_METHODS, Groups, class_groups

PATHS = ("auto", "noise", "flow")
STEPS, GUIDANCE = 50, 1.5  # the paper's for DiT-MoE (App. C.1)
SHOWN = 24  # pictures of each method on the page and in the comparisons, whatever the size of the run


@dataclass(frozen=True)
class SampleRequest:
    """What to make; None means the default, and no field needs to be given: that is the bundled digits network.

    `classes` are ids or names, or "all"; picture i is of class i modulo their number and starts from the noise of the
    CPU generator seeded `seed + i`, for every method and in every batch. `weak_experts` is "bottom", "top" or ids, `k`
    how many of them; `weak_guidance` and `renormalize` are the weak side's. `path` is that of the checkpoint: "noise"
    (S, B) or "flow" (XL, G).
    """

    checkpoint: str | None = None
    vae: str | None = None
    path: str = "auto"
    classes: tuple[str, ...] | None = None
    labels: str | None = None
    num_images: int | None = None
    methods: tuple[str, ...] | None = None
    steps: int | None = None
    guidance: float | None = None
    guidance_channels: int | None = None
    reflections: int | None = None
    mode: str | None = None
    strength: float | None = None
    weak_experts: str | None = None
    k: int | None = None
    renormalize: bool = False
    weak_guidance: float | None = None
    seed: int = 0
    batch: int | None = None
    expert_load: bool = False
    metrics: tuple[str, ...] | None = None
    inception: str | None = None
    reference: str | None = None
    allow_pickle: bool = False
    dtype: str = "auto"
    device: str = "auto"
    output: str | Path | None = None


@dataclass(frozen=True)
class SamplePlan:
    """A request with every setting known and checked against what the files say.

    `checkpoint_kind` is "pipeline", "network" (a converted folder) or "file"; `labels` has the class id and the label
    of each class asked for, in order.
    """

    checkpoint: str
    checkpoint_kind: str
    vae: str | None
    path: str | None
    labels: tuple[tuple[int, str], ...]
    num_images: int
    methods: tuple[str, ...]
    steps: int
    guidance: float
    guidance_channels: int | None
    reflections: int
    mode: str
    strength: float
    routing: Routing
    weak_routing: Routing
    weak_guidance: float
    seed: int
    batch: int
    size: int
    expert_load: bool
    metrics: tuple[str, ...]
    inception: str | None
    reference: str | None
    allow_pickle: bool
    dtype: str
    device: str
    output: Path

    @property
    def prompts(self) -> tuple[str, ...]:
        return tuple(label for _, label in self.labels)

    @property
    def class_ids(self) -> dict[str, int]:
        """The class of each label."""
        return {label: i for i, label in self.labels}

    def groups(self) -> Groups:
        """One group, of all methods, for each picture."""
        stems = video_stems(self.prompts)
        return class_groups(self.methods, self.prompts, stems, seed=self.seed, count=self.num_images, suffix=".png")

    def evaluations(self, method: str) -> int:
        """Returns the evaluations of one picture: T, or T + 2 lambda with reflections."""
        return self.steps + 2 * self.reflections * W2SD_METHODS[method].reflects

    def settings(self) -> dict[str, Any]:
        """Returns what determines the pictures, beside the pair, the classes and the machine, as JSON data."""
        names = ("steps", "guidance", "guidance_channels", "reflections", "mode", "strength", "weak_guidance")
        return {
            **{name: getattr(self, name) for name in names},
            "path": self.path,
            "height": self.size,
            "width": self.size,
            "seed": self.seed,
            "num_pictures": self.num_images,
        }

    def pair_record(self) -> dict[str, Any]:
        """Returns the network and the routings of its two sides as JSON data; local paths made absolute."""
        strong, weak = routing_text(self.routing), routing_text(self.weak_routing)
        stem = Path(self.checkpoint).stem
        return {
            "name": f"{stem}-{strong}-over-{weak}".replace(" ", "-"),
            "strong": located(self.checkpoint),
            "weak": located(self.checkpoint),
            "vae": located(self.vae),
            "strong_experts": strong,
            "weak_experts": weak,
        }


def routing_text(routing: Routing) -> str:
    """Returns a routing in words: "bottom 2", "bottom 2 renormalized", "experts 0 3"."""
    if routing.experts is not None:
        text = f"experts {' '.join(map(str, routing.experts))}"
    else:
        text = f"{routing.rank} {routing.k}"
    return text + " renormalized" * routing.renormalize
