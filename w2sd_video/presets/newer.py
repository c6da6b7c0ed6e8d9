"""Pairs of the families of 2026 whose networks share a latent space, none of them measured here (imports no torch).

Sizes, frames and guidance are those of their families (`loading.pipeline_families`); T and lambda are the paper's for
Flux. Few-step sides have the noise levels that they were trained at.
"""

from __future__ import annotations

from typing import Any

from w2sd_video.loading.pipeline_families import PipelineFamily, family_called
from w2sd_video.pair import ModelSpec
from w2sd_video.presets.pictures import FLUX, FLUX_REFLECTIONS, FLUX_STEPS, SDXL
from w2sd_video.presets.preset import Preset, made

NOT_MEASURED = "chosen, not measured: not in the paper; T and lambda as its Flux, the rest as the family's own examples"
UNKNOWN_LEVELS = "the few levels of the distilled side are not set here: --weak-levels, such as turbo-8:3"
KANDINSKY = "kandinskylab/Kandinsky-5.0-T2V-Lite-{}-5s-Diffusers"
HUNYUAN = "hunyuanvideo-community/HunyuanVideo-1.5-Diffusers-480p_t2v"
SIZE, TUNED, FEW = "weight: size", "weight: full fine-tune", "weight: distillation"
WAN_LARGE = "Wan-AI/Wan2.1-T2V-14B-Diffusers"
WAN_22 = "Wan-AI/Wan2.2-T2V-A14B-Diffusers"


def _pair(
    name: str,
    description: str,
    gap: str,
    family: str,
    strong: str,
    weak: str | None,
    gigabytes: tuple[float, ...],
    scheduler: str,
    *,
    guidance: float | None = None,
    weak_guidance: float | None = None,
    weak_levels: Any = None,
    scales: tuple[float, float] = (0.0, 0.0),
    said: str = "",
    **rest: Any,
) -> Preset:
    """A pair of its family's defaults; `gigabytes` are of each side's networks in 16 bits, `scheduler` their own,
    `scales` of LoRAs on both.
    """
    row = family_called(family)
    assert isinstance(row, PipelineFamily)
    scale = row.guidance if guidance is None else guidance
    assert scale is not None
    sizes = {"num_frames": row.num_frames, "fps": row.fps} if row.makes_videos else {}
    loras = [tuple((each, by) for each in rest.get("loras", {})) for by in scales]
    side = ModelSpec(checkpoint=strong, guidance=scale, loras=loras[0])
    other = ModelSpec(
        checkpoint=weak,
        guidance=scale if weak_guidance is None else weak_guidance,
        levels=weak_levels,
        loras=loras[1],
    )
    settings = {"size": row.size or (1024, 1024), "steps": FLUX_STEPS, "reflections": FLUX_REFLECTIONS, **sizes, **rest}
    settings["mode"] = row.mode
    memory = f"networks in 16 bits, GB: {' + '.join(f'{size:g}' for size in gigabytes)}"
    if len(gigabytes) == 1:
        memory += ", one for both sides"
    words = "; ".join(filter(None, (NOT_MEASURED, f"scheduler its own, {scheduler}", said)))
    return made(name, description, gap, family, side, other, guidance=scale, memory=memory, chosen=words, **settings)


PICTURES_2026 = (
    _pair("flux2-klein", "Flux.2 klein base over its distilled version", FEW, "Flux.2 klein",
          "black-forest-labs/FLUX.2-klein-base-4B", "black-forest-labs/FLUX.2-klein-4B", (8, 8),
          "flow Euler, shift by size", weak_guidance=1.0, said=UNKNOWN_LEVELS),
    _pair("qwen-image-2512", "Qwen-Image 2512 over Qwen-Image", TUNED, "Qwen-Image", "Qwen/Qwen-Image-2512",
          "Qwen/Qwen-Image", (41, 41), "flow Euler, shift by size"),
    _pair("z-image", "Z-Image over Z-Image Turbo", FEW, "Z-Image", "Tongyi-MAI/Z-Image", "Tongyi-MAI/Z-Image-Turbo",
          (12, 12), "flow Euler", weak_guidance=1.0, weak_levels="turbo-8:3"),
    _pair("sana-size", "Sana 1.6B over 0.6B", SIZE, "Sana",
          "Efficient-Large-Model/Sana_1600M_1024px_BF16_diffusers", "Efficient-Large-Model/Sana_600M_1024px_diffusers",
          (3.2, 1.2), "flow DPM-Solver++"),
    _pair("flux-krea", "FLUX.1 Krea over FLUX.1-dev", TUNED, "Flux", "black-forest-labs/FLUX.1-Krea-dev", FLUX,
          (24, 24), "flow Euler, shift by size"),
    _pair("flux-schnell", "FLUX.1-dev over its distilled schnell", FEW, "Flux", FLUX,
          "black-forest-labs/FLUX.1-schnell", (24, 24), "flow Euler, shift by size", weak_guidance=1.0,
          weak_levels="turbo-4:1"),
    _pair("realvis-sdxl", "RealVisXL v5 over SDXL base", TUNED, "SDXL", "SG161222/RealVisXL_V5.0", SDXL, (5.1, 5.1),
          "Euler", guidance=5.5, size=(1024, 1024)),
    _pair("dpo-sdxl", "SDXL with a DPO LoRA at 1 over SDXL without it", "weight: LoRA scale", "SDXL", SDXL, None,
          (5.1,), "Euler", guidance=5.5, loras={"dpo": "radames/sdxl-DPO-LoRA"},
          scales=(1.0, 0.0)),
)  # fmt: skip

VIDEOS_2026 = (
    _pair("kandinsky5-sft", "Kandinsky 5 Lite, fine-tuned over pretrained", TUNED, "Kandinsky 5",
          KANDINSKY.format("sft"), KANDINSKY.format("pretrain"), (4, 4), "flow Euler"),
    _pair("kandinsky5-distilled", "Kandinsky 5 Lite over its 16-step version", FEW, "Kandinsky 5",
          KANDINSKY.format("sft"), KANDINSKY.format("distilled16steps"), (4, 4), "flow Euler", weak_guidance=1.0,
          said=UNKNOWN_LEVELS),
    _pair("wan22-vs-wan21", "Wan 2.2 A14B, two networks, over Wan 2.1 14B", "weight: version", "Wan", WAN_22, WAN_LARGE,
          (56, 28), "UniPC flow", said="2.2's second network makes the last steps, where its first is not asked"),
    _pair("skyreels-vs-wan", "SkyReels V2 14B over Wan 2.1 14B", TUNED, "SkyReels V2",
          "Skywork/SkyReels-V2-T2V-14B-540P-Diffusers", WAN_LARGE, (28, 28), "UniPC flow",
          said="the VAEs' hashes decide whether they share their latents: w2sd diagnose"),
    _pair("hunyuan15-distilled", "HunyuanVideo 1.5 over its guidance-distilled version", FEW, "HunyuanVideo 1.5",
          HUNYUAN, f"{HUNYUAN}_distilled", (17, 17), "flow Euler, shift 5", weak_guidance=1.0),
    _pair("ltx23-distilled", "LTX-2.3 over its distilled version", FEW, "LTX-2", "diffusers/LTX-2.3-Diffusers",
          "diffusers/LTX-2.3-Distilled-Diffusers", (44, 44), "flow Euler, shift by size", weak_guidance=1.0,
          said=UNKNOWN_LEVELS),
    _pair("cogvideox-guidance", "CogVideoX 5B at guidance 6 over 1", "condition: guidance", "CogVideoX",
          "THUDM/CogVideoX-5b", None, (11,), "DDIM, v-predictions", weak_guidance=1.0),
    _pair("svd-versions", "SVD-XT 1.1 over SVD-XT", TUNED, "SVD", "stabilityai/stable-video-diffusion-img2vid-xt-1-1",
          "stabilityai/stable-video-diffusion-img2vid-xt", (3, 3), "Euler, v-predictions",
          needs=("--image FILE",)),
)  # fmt: skip
