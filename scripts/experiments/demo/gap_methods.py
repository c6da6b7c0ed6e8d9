"""The gaps that the picture pair's SDXL can express, each with the controls that it is read beside."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from w2sd_video.demo.captions import COLOURS
from w2sd_video.pair import ModelSpec

STEPS, REFLECTIONS = 28, 10
ADAPTER = "captions"


@dataclass(frozen=True)
class Setting:
    """What one side is: its guidance, the scale of the LoRA (0 is no LoRA) and whether it is told the raw prompt."""

    guidance: float = 1.0
    lora: float = 0.0
    raw: bool = False

    def spec(self, caption: str, against: Setting) -> ModelSpec:
        """The setting as what differs from `against` for a picture of `caption`."""
        return ModelSpec(
            guidance=self.guidance if self.guidance != against.guidance else None,
            loras=((ADAPTER, self.lora),) if self.lora != against.lora else (),
            prompt=self.prompt(caption) if self.raw != against.raw else None,
        )

    def prompt(self, caption: str) -> str:
        """The caption, or the raw prompt: the caption without its colour."""
        return " ".join(word for word in caption.split() if word not in COLOURS) if self.raw else caption


@dataclass(frozen=True)
class Sampling:
    """One way of making pictures, by what it computes and nothing else: equal ones are made once.

    Attributes:
        sampled: the side whose steps make the sample.
        reflector, weak: the two sides of the reflections; None for neither.
        guided_steps: of plain sampling, the noisiest steps that `sampled.guidance` is for; the others have `then`.
    """

    sampled: Setting
    reflector: Setting | None = None
    weak: Setting | None = None
    mode: str = "paper"
    steps: int = STEPS
    guided_steps: int | None = None
    then: float = 1.0

    @property
    def sides(self) -> tuple[Setting, ...]:
        """All settings that evaluations are made with."""
        return tuple(side for side in (self.sampled, self.reflector, self.weak) if side is not None)

    @property
    def key(self) -> str:
        """A name for files, of these settings and no others."""
        return hashlib.sha256(repr(dataclasses.astuple(self)).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Gap:
    """A row group of the table: the two sides, and the guidance (if any) that is this gap to first order."""

    label: str
    strong: Setting
    weak: Setting

    def methods(self) -> dict[str, Sampling]:
        """Every method of the gap by its label, the strong side first."""
        strong, weak = self.strong, self.weak
        found = {"strong": Sampling(strong)}
        if weak.guidance == strong.guidance:  # no stock call samples at a guidance of 0
            found["weak"] = Sampling(weak)
        found |= {
            f"strong, equal evaluations (T {STEPS + 2 * REFLECTIONS})": Sampling(strong, steps=STEPS + 2 * REFLECTIONS),
            "W2SD, paper mode": Sampling(strong, strong, weak),
            "zero-gap, paper mode": Sampling(strong, strong, strong),
            "W2SD, fused": Sampling(strong, strong, weak, mode="fused"),
            "swapped roles": Sampling(strong, weak, strong),
        }
        if weak.guidance != strong.guidance:
            matched = dataclasses.replace(strong, guidance=2 * strong.guidance - weak.guidance)
            found[f"matched guidance {matched.guidance:g}, all steps"] = Sampling(matched)
            found[f"matched guidance {matched.guidance:g}, first {REFLECTIONS} steps"] = Sampling(
                matched, guided_steps=REFLECTIONS, then=strong.guidance
            )
        return found


GAPS: Mapping[str, Gap] = {
    "guidance": Gap("guidance 1 over 0", Setting(1.0), Setting(0.0)),
    "guidance-2": Gap("guidance 2 over 0", Setting(2.0), Setting(0.0)),
    "guidance-5.5": Gap("guidance 5.5 over 0 (the paper's)", Setting(5.5), Setting(0.0)),
    "prompt": Gap("prompt: refined over raw", Setting(), Setting(raw=True)),
    "lora": Gap("LoRA 0.8 over -1.5", Setting(lora=0.8), Setting(lora=-1.5)),
    "lora-base": Gap("LoRA 0.8 over no LoRA", Setting(lora=0.8), Setting()),
    "lora-guidance": Gap("guidance 1 over 0, LoRA 0.8 on both", Setting(1.0, 0.8), Setting(0.0, 0.8)),
    "cumulative": Gap("cumulative: LoRA 0.8, guidance 1 over no LoRA, guidance 0", Setting(1.0, 0.8), Setting(0.0)),
}

GUIDANCES = (-3.0, -1.0, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
SCALES = (-3.0, -1.5, 0.0, 0.4, 0.8, 1.2, 2.0)


def _magnitudes(strong: Setting, weak: tuple[Setting, ...]) -> dict[str, tuple[Sampling, ...]]:
    fused = tuple(Sampling(strong, strong, side, mode="fused") if side != strong else Sampling(strong) for side in weak)
    return {"w2sd": tuple(Sampling(strong, strong, side) for side in weak), "w2sd, fused": fused}


# The magnitude of a gap (Figure 12), by its name: the axis's label, its values, and by line the method at each value.
# The gap is none where the weak side's value is the strong side's.
CURVES: Mapping[str, tuple[str, tuple[float, ...], Mapping[str, tuple[Sampling, ...]]]] = {
    "guidance": (
        "guidance of the weak side; of the strong side 1",
        GUIDANCES,
        _magnitudes(Setting(1.0), tuple(Setting(guidance) for guidance in GUIDANCES)),
    ),
    "lora": (
        "LoRA scale of the weak side; of the strong side 0.8",
        SCALES,
        _magnitudes(Setting(lora=0.8), tuple(Setting(lora=scale) for scale in SCALES)),
    ),
}
