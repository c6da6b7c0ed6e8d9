"""The paper's pair that makes videos, and the bundled one."""

from __future__ import annotations

from pathlib import Path

from w2sd_video.pair import ModelPair, ModelSpec, ReflectionConfig
from w2sd_video.presets.pictures import JUGGERNAUT, SDXL
from w2sd_video.presets.preset import Preset
from w2sd_video.presets.tables import TABLE_12

DEMO_WEIGHTS = Path(__file__).resolve().parents[1] / "demo" / "weights"

# App. D.1 gives the two guidance scales, App. C.1 T = 50 and lambda = T - 1 (`num_reflections` None).
_JUGGERNAUT_VS_SDXL = Preset(
    name="juggernaut-vs-sdxl",
    description="Juggernaut-XL v9 over SDXL base with AnimateDiff's SDXL motion modules (Table 12)",
    gap="cumulative: weight and guidance",
    family="AnimateDiff SDXL",
    pair=ModelPair(
        strong=ModelSpec(checkpoint=JUGGERNAUT, guidance=3.0),
        weak=ModelSpec(checkpoint=SDXL, guidance=1.0),
        name="juggernaut-vs-sdxl",
    ),
    motion_adapter="guoyww/animatediff-motion-adapter-sdxl-beta",
    reflection=ReflectionConfig(num_reflections=None, mode="paper"),
    steps=50,
    guidance=3.0,
    num_frames=16,
    height=1024,
    width=1024,
    fps=8,
    source="App. D.1 and C.1; Table 12",
    chosen="the paper names neither Juggernaut-XL's version nor size, frames and rate: v9 and AnimateDiff-SDXL's own",
    paper=(TABLE_12,),
)

# Unguided, because guidance alone saturates so small a world and would hide the gain of the reflection.
_DEMO = Preset(
    name="demo",
    description="the bundled toy pair: weak and strong differ in how many captions they were trained with wrongly",
    gap="weight: training",
    family="AnimateDiff SDXL",
    pair=ModelPair(
        strong=ModelSpec(checkpoint=str(DEMO_WEIGHTS), guidance=1.0),
        weak=ModelSpec(checkpoint=str(DEMO_WEIGHTS / "weak"), guidance=1.0),
        name="demo",
    ),
    reflection=ReflectionConfig(num_reflections=10, mode="paper"),
    steps=20,
    guidance=1.0,
    num_frames=8,
    height=32,
    width=32,
    fps=8,
    dtype="float32",
)

VIDEOS = (_DEMO, _JUGGERNAUT_VS_SDXL)
