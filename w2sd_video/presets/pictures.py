"""The paper's pairs that make pictures, and pairs of the same kinds for newer families."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from w2sd_video.pair import ModelSpec
from w2sd_video.presets import tables
from w2sd_video.presets.preset import Preset, made

SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
DREAMSHAPER = "Lykon/dreamshaper-8"
TURBO = "Lykon/dreamshaper-xl-turbo"
SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
JUGGERNAUT = "RunDiffusion/Juggernaut-XL-v9"
FLUX = "black-forest-labs/FLUX.1-dev"
SD35_LARGE, SD35_MEDIUM = "stabilityai/stable-diffusion-3.5-large", "stabilityai/stable-diffusion-3.5-medium"
MORE_ART = "xlMoreArtFullV1"
CANNY = "diffusers/controlnet-canny-sdxl-1.0"
IP_ADAPTER = "h94/IP-Adapter"
PICTURE_DEMO = Path(__file__).resolve().parents[1] / "demo" / "picture_weights" / "weak"

# App. C.1 for all but Flux and few steps: T = 50, lambda = T - 1 (`num_reflections` None), sampling guidance 5.5.
STEPS, GUIDANCE = 50, 5.5
FLUX_STEPS, FLUX_REFLECTIONS = 28, 10  # App. E.6
LORA_STRONG, LORA_WEAK = 0.8, -1.5
_NO_VERSION = "the paper names no version of Juggernaut-XL: v9"
_CIVITAI = "the LoRA is on Civitai only: give its file"


def _preset(*named: Any, size: int = 1024, **rest: Any) -> Preset:
    return made(*named, size=(size, size), **{"steps": STEPS, "guidance": GUIDANCE, **rest})


def _lora(scale: float, checkpoint: str | None = None, name: str = MORE_ART) -> ModelSpec:
    """A side of a LoRA gap: App. C.1 reflects at guidance 1 on both, so that only the weights differ."""
    return ModelSpec(checkpoint=checkpoint, guidance=1.0, loras=((name, scale),))


FINETUNES = (
    _preset(
        *("finetune-sd15", "DreamShaper v8 over SD 1.5", "weight: full fine-tune", "SD 1.5"),
        ModelSpec(checkpoint=DREAMSHAPER, guidance=1.0),
        ModelSpec(checkpoint=SD15, guidance=1.0),
        size=512,
        source="App. C.1; Tables 2 and 8",
        paper=tables.FINETUNE_SD15,
    ),
    _preset(
        *("finetune-sdxl", "Juggernaut-XL v9 over SDXL base", "weight: full fine-tune", "SDXL"),
        ModelSpec(checkpoint=JUGGERNAUT, guidance=1.0),
        ModelSpec(checkpoint=SDXL, guidance=1.0),
        source="App. C.1; Tables 2 and 8",
        chosen=_NO_VERSION,
        paper=tables.FINETUNE_SDXL,
    ),
)
LORAS = (
    _preset(
        *("lora-sdxl", "xlMoreArtFullV1 at 0.8 over -1.5 on SDXL", "weight: LoRA scale", "SDXL"),
        _lora(LORA_STRONG, SDXL),
        _lora(LORA_WEAK),
        loras={MORE_ART: None},
        needs=(f"--lora {MORE_ART}=FILE",),
        source="App. C.1; Tables 10 and 11; Figure 12 (left) sweeps the weak scale from -3.5 to 3.5",
        chosen=_CIVITAI,
        paper=tables.LORA_SDXL,
    ),
    _preset(
        *("lora-sd15", "a DPO LoRA at 0.8 over -1.5 on SD 1.5", "weight: LoRA scale", "SD 1.5"),
        _lora(LORA_STRONG, SD15, "dpo"),
        _lora(LORA_WEAK, name="dpo"),
        size=512,
        loras={"dpo": None},
        needs=("--lora dpo=FILE",),
        source="App. C.1; Tables 10 and 11",
        chosen="the paper does not say which DPO LoRA: give its file",
        paper=tables.LORA_SD15,
    ),
    _preset(
        *("lora-personal", "a personalised LoRA at 0.8 over SD 1.5 without it", "weight: LoRA scale", "SD 1.5"),
        _lora(LORA_STRONG, SD15, "personal"),
        _lora(0.0, name="personal"),
        size=512,
        loras={"personal": None},
        needs=("--lora personal=FILE",),
        source="App. C.1 and C.3; Table 3",
        chosen="20 LoRAs from Civitai (persons, animals, styles, objects): give the file of one",
        paper=tables.LORA_PERSONAL,
    ),
)
CONDITIONS = (
    _preset(
        *("guidance-sdxl", "SDXL at guidance 5.5 over 0 (Z-Sampling)", "condition: guidance", "SDXL"),
        ModelSpec(checkpoint=SDXL, guidance=GUIDANCE),
        ModelSpec(guidance=0.0),
        source="App. C.1; Tables 5 and 9; Figure 12 (right) sweeps the weak scale from -10 to 15",
        paper=tables.GUIDANCE_SDXL,
    ),
    _preset(
        *("guidance-sd15", "SD 1.5 at guidance 5.5 over 0 (Z-Sampling)", "condition: guidance", "SD 1.5"),
        ModelSpec(checkpoint=SD15, guidance=GUIDANCE),
        ModelSpec(guidance=0.0),
        size=512,
        source="App. C.1; Tables 5 and 9",
        paper=tables.GUIDANCE_SD15,
    ),
    _preset(
        *("prompt-sdxl", "SDXL told a refined prompt over a raw one", "condition: prompt", "SDXL"),
        ModelSpec(checkpoint=SDXL, guidance=1.0),
        ModelSpec(guidance=1.0),
        needs=("--prompt-pairs FILE",),
        source="App. C.1; Table 6 (GenEval's prompts, refined by Qwen-Plus)",
        paper=tables.PROMPT_SDXL,
    ),
)
PIPELINES = (
    _preset(
        *("controlnet-sdxl", "SDXL with a ControlNet at 1.0 over plain DDIM", "pipeline: ControlNet", "SDXL"),
        ModelSpec(checkpoint=SDXL, guidance=0.5, control={"scale": 1.0}),
        ModelSpec(guidance=0.5, control={"scale": 0.0}),
        controlnet=CANNY,
        scheduler="ddim",
        needs=("--control-image FILE",),
        source="App. C.1; Figure 11 (edge maps)",
        chosen="the paper names neither base model nor ControlNet: SDXL and diffusers' Canny",
    ),
    _preset(
        *("ip-adapter-sdxl", "SDXL with an IP-Adapter over plain DDIM", "pipeline: IP-Adapter", "SDXL"),
        ModelSpec(checkpoint=SDXL, guidance=0.5, ip_adapter=1.0),
        ModelSpec(guidance=0.5, ip_adapter=0.0),
        ip_adapter=IP_ADAPTER,
        scheduler="ddim",
        needs=("--ip-adapter-image FILE",),
        source="Section 4.3; Figure 10",
        chosen="the paper gives no settings of its own for it: those of its ControlNet, at scale 1.0",
    ),
)
CUMULATIVE = (
    _preset(
        *("cumulative-sdxl", "Juggernaut-XL v9 at 5.5 over SDXL at 0", "cumulative: weight and guidance", "SDXL"),
        ModelSpec(checkpoint=JUGGERNAUT, guidance=GUIDANCE),
        ModelSpec(checkpoint=SDXL, guidance=0.0),
        source="Section 4.4; Table 7",
        chosen=_NO_VERSION,
        paper=tables.CUMULATIVE,
    ),
)
FLOWS = (
    _preset(
        *("guidance-flux", "FLUX.1-dev at guidance 2.0 over 1.0", "condition: guidance", "Flux"),
        ModelSpec(checkpoint=FLUX, guidance=2.0),
        ModelSpec(guidance=1.0),
        steps=FLUX_STEPS,
        reflections=FLUX_REFLECTIONS,
        guidance=2.0,
        source="App. E.6; Tables 17 and 18",
        chosen="its CFG is taken for the guidance that is FLUX.1-dev's input",
        paper=tables.FLUX_GUIDANCE,
    ),
    _preset(
        *("lora-flux", "FLUX.1-dev with a LoRA at 0.3 over none", "weight: LoRA scale", "Flux"),
        ModelSpec(checkpoint=FLUX, guidance=2.0, loras=(("flux", 0.3),)),
        ModelSpec(guidance=2.0, loras=(("flux", 0.0),)),
        steps=FLUX_STEPS,
        reflections=FLUX_REFLECTIONS,
        guidance=2.0,
        loras={"flux": None},
        needs=("--lora flux=FILE",),
        source="App. E.6; Tables 17 and 18",
        chosen="neither LoRA nor guidance is named: give the file; guidance 2.0 as in the same tables' other gap",
        paper=tables.FLUX_LORA,
    ),
    _preset(
        *("size-sd35", "SD 3.5 large over medium", "weight: size", "SD 3.5"),
        ModelSpec(checkpoint=SD35_LARGE, guidance=4.5),
        ModelSpec(checkpoint=SD35_MEDIUM, guidance=4.5),
        steps=FLUX_STEPS,
        reflections=FLUX_REFLECTIONS,
        guidance=4.5,
        chosen="not in the paper: steps as its Flux, guidance the checkpoints' own",
    ),
    _preset(
        *("guidance-sd35", "SD 3.5 medium at guidance 4.5 over 1.0", "condition: guidance", "SD 3.5"),
        ModelSpec(checkpoint=SD35_MEDIUM, guidance=4.5),
        ModelSpec(guidance=1.0),
        steps=FLUX_STEPS,
        reflections=FLUX_REFLECTIONS,
        guidance=4.5,
        chosen="not in the paper: steps as its Flux, guidance the checkpoint's own",
    ),
)
FEW_STEPS = (
    _preset(
        *("few-steps-turbo", "a turbo model in 8 steps, LoRA at 0.8 over -1.5", "few steps: LoRA scale", "SDXL"),
        _lora(LORA_STRONG, TURBO),
        _lora(LORA_WEAK),
        steps=8,
        guidance=2.0,
        loras={MORE_ART: None},
        scheduler="dpm-solver++",
        needs=(f"--lora {MORE_ART}=FILE",),
        source="App. D.2; Figure 19 (sweeps lambda)",
        chosen=f"{_CIVITAI}; guidance is not given: the 2.0 its model card asks for",
    ),
    _preset(
        *("few-steps-sdxl", "SDXL in 20 steps of DDIM, LoRA at 0.8 over -1.5", "few steps: LoRA scale", "SDXL"),
        _lora(LORA_STRONG, SDXL),
        _lora(LORA_WEAK),
        steps=20,
        loras={MORE_ART: None},
        scheduler="ddim",
        needs=(f"--lora {MORE_ART}=FILE",),
        source="App. D.2; Figure 20 (sweeps lambda)",
        chosen=_CIVITAI,
    ),
)
DEMO = (
    _preset(
        *("picture-demo", "the bundled toy SDXL at guidance 1 over 0", "condition: guidance", "SDXL"),
        ModelSpec(checkpoint=str(PICTURE_DEMO), guidance=1.0),
        ModelSpec(guidance=0.0),
        guidance=1.0,  # at the paper's 5.5 this small world is saturated, and nothing would be left to see
        steps=20,
        reflections=10,
        size=32,
        dtype="float32",
    ),
)
PICTURES = (*DEMO, *FINETUNES, *LORAS, *CONDITIONS, *PIPELINES, *CUMULATIVE, *FLOWS, *FEW_STEPS)
