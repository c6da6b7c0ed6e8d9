"""The paper's pairs as a table, the paper's numbers beside them (imports no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from w2sd_video.errors import UserError
from w2sd_video.pair import ModelPair, ModelSpec, ReflectionConfig


@dataclass(frozen=True)
class PaperRow:
    """One row of Table 12: VBench scores in percent, higher is better in all six."""

    method: str
    subject_consistency: float
    background_consistency: float
    motion_smoothness: float
    dynamic_degree: float
    aesthetic_quality: float
    imaging_quality: float


@dataclass(frozen=True)
class Preset:
    """A pair with everything needed to sample it.

    `guidance` is the scale the strong side samples with; the sides' own `guidance` is the one inside the reflection.
    `height` and `width` are pixels, `fps` frames per second. `dtype` None leaves the choice to the device.
    `negative_prompt` None is the pipeline's own empty one. `paper` holds what the paper reports for this pair.
    """

    name: str
    description: str
    pair: ModelPair
    motion_adapter: str | None
    reflection: ReflectionConfig
    steps: int
    guidance: float
    negative_prompt: str | None
    num_frames: int
    height: int
    width: int
    fps: int
    dtype: str | None = None
    paper: tuple[PaperRow, ...] = ()


# Table 12: 200 prompts of VBench, AnimateDiff-SDXL. The gain comes with less motion: dynamic degree 45 -> 13 -> 8.
TABLE_12 = (
    PaperRow("weak: AnimateDiff (SDXL)", 91.4152, 95.8491, 94.1647, 45.0000, 55.3108, 58.4293),
    PaperRow("strong: AnimateDiff (Juggernaut-XL)", 96.0820, 97.5463, 96.8834, 13.0653, 57.7097, 64.1674),
    PaperRow("W2SD", 97.1398, 97.9386, 96.8706, 8.0000, 59.3736, 64.6987),
)

DEMO_WEIGHTS = Path(__file__).resolve().parent / "demo" / "weights"

# App. D.1 gives the two guidance scales, App. C.1 T = 50 and lambda = T - 1 (`num_reflections` None). The paper names
# neither Juggernaut-XL's version nor size, frames and frame rate: v9 and AnimateDiff-SDXL's own are taken here.
_JUGGERNAUT_VS_SDXL = Preset(
    name="juggernaut-vs-sdxl",
    description="Juggernaut-XL v9 over SDXL base with AnimateDiff's SDXL motion modules (Table 12)",
    pair=ModelPair(
        strong=ModelSpec(checkpoint="RunDiffusion/Juggernaut-XL-v9", guidance=3.0),
        weak=ModelSpec(checkpoint="stabilityai/stable-diffusion-xl-base-1.0", guidance=1.0),
        name="juggernaut-vs-sdxl",
    ),
    motion_adapter="guoyww/animatediff-motion-adapter-sdxl-beta",
    reflection=ReflectionConfig(num_reflections=None, mode="paper"),
    steps=50,
    guidance=3.0,
    negative_prompt=None,
    num_frames=16,
    height=1024,
    width=1024,
    fps=8,
    paper=TABLE_12,
)

# Unguided, because guidance alone saturates so small a world and would hide the gain of the reflection.
_DEMO = Preset(
    name="demo",
    description="the bundled toy pair: weak and strong differ in how many captions they were trained with wrongly",
    pair=ModelPair(
        strong=ModelSpec(checkpoint=str(DEMO_WEIGHTS), guidance=1.0),
        weak=ModelSpec(checkpoint=str(DEMO_WEIGHTS / "weak"), guidance=1.0),
        name="demo",
    ),
    motion_adapter=None,
    reflection=ReflectionConfig(num_reflections=10, mode="paper"),
    steps=20,
    guidance=1.0,
    negative_prompt=None,
    num_frames=8,
    height=32,
    width=32,
    fps=8,
    dtype="float32",
)

PRESETS: Mapping[str, Preset] = MappingProxyType({preset.name: preset for preset in (_DEMO, _JUGGERNAUT_VS_SDXL)})


def get_preset(name: str) -> Preset:
    """Returns the preset called `name`.

    Raises:
        UserError: there is no such preset; the message lists those there are.
    """
    if name not in PRESETS:
        raise UserError(f"there is no preset {name!r}; choose one of {', '.join(sorted(PRESETS))}")
    return PRESETS[name]
