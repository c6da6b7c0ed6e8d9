"""Pairs that meet in pixels, as a table, the paper's numbers beside them (imports no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import w2sd_video
from w2sd_video.pair import ModelPair, ModelSpec, ReflectionConfig

PICTURE_WEIGHTS = Path(w2sd_video.__file__).resolve().parent / "demo" / "picture_weights"
NOISE_MAP = "noise_map.safetensors"  # beside a preset's two sides, and in a run's folder


@dataclass(frozen=True)
class Reported:
    """What the paper reports of a pair in words."""

    text: str

    def lines(self) -> list[str]:
        return [self.text]


@dataclass(frozen=True)
class BridgePreset:
    """A pair with what is needed to sample it; None is as the pipelines have it.

    `pair` holds each side's checkpoint and guidance (of the strong side where it samples and where it reflects, of the
    weak side by itself and inside the reflection). `height` and `width` are pixels. `max_sequence_length` is that of
    Flux's T5. `noise_map` is a fitted map's file, taken where it is there and fits. `paper` is what the paper reports.
    """

    name: str
    description: str
    pair: ModelPair
    steps: int
    reflection: ReflectionConfig
    height: int | None = None
    width: int | None = None
    max_sequence_length: int | None = None
    dtype: str | None = None
    noise_map: Path | None = None
    paper: tuple[Reported, ...] = ()

    def lines(self) -> list[str]:
        """Returns the preset as text for people."""
        strong, weak = (side.checkpoint or "given" for side in (self.pair.strong, self.pair.weak))
        return [
            f"{self.name}: {self.description}",
            f"  strong     {strong}",
            f"  weak       {weak}",
            f"  settings   T {self.steps}, lambda {self.reflection.num_reflections}",
            *(f"  paper      {line}" for reported in self.paper for line in reported.lines()),
        ]


TEN = ReflectionConfig(num_reflections=10, mode="fused")  # the form of the bridge is Eq. 5's


# Unguided, as the two sides were trained to be compared: guidance would hide the gain of the reflection.
_DEMO = BridgePreset(
    name="demo",
    description="the bundled toy pair, a small Flux over a small SDXL with latent spaces of their own",
    pair=ModelPair(
        strong=ModelSpec(checkpoint=str(PICTURE_WEIGHTS / "strong"), guidance=1.0),
        weak=ModelSpec(checkpoint=str(PICTURE_WEIGHTS / "weak"), guidance=1.0),
        name="bridge-demo",
    ),
    steps=28,
    reflection=TEN,
    height=32,
    width=32,
    max_sequence_length=8,
    dtype="float32",
    noise_map=PICTURE_WEIGHTS / NOISE_MAP,
)

# App. E.5 names the two models and the size; T = 28 and lambda = 10 are App. E.6's for Flux. The weak side's guidance
# is not given: SDXL's own (5) is taken, so that the two sides differ as models and not in being guided at all.
_FLUX_VS_SDXL = BridgePreset(
    name="flux-vs-sdxl",
    description="FLUX.1-dev over SDXL base (App. E.5, Figure 31)",
    pair=ModelPair(
        strong=ModelSpec(checkpoint="black-forest-labs/FLUX.1-dev", guidance=3.5),
        weak=ModelSpec(checkpoint="stabilityai/stable-diffusion-xl-base-1.0"),
        name="flux-vs-sdxl",
    ),
    steps=28,
    reflection=TEN,
    height=1024,
    width=1024,
    paper=(Reported("pictures of W2SD win against Flux alone in up to 74 % of comparisons of quality (App. E.5)"),),
)

_OWN_PAIR = BridgePreset(
    name="own-pair",
    description="any two pipelines, given with --strong and --weak; sizes and guidance are their own",
    pair=ModelPair(strong=ModelSpec(), weak=ModelSpec(), name="own-pair"),
    steps=28,
    reflection=TEN,
)

BRIDGE_PRESETS: Mapping[str, BridgePreset] = MappingProxyType(
    {preset.name: preset for preset in (_DEMO, _FLUX_VS_SDXL, _OWN_PAIR)}
)
