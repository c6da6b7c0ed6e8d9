"""Write the trained networks in real formats: a DiTMoEPipeline folder, float16, with the judge beside it."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL

from bridges.dit_moe.demo.digits import NAMES, load
from bridges.dit_moe.network import DiTMoE
from bridges.dit_moe.pipeline import DiTMoEPipeline, build_scheduler
from experiments.digits.judge import Judge, accuracy, save_judge

JUDGE = "judge"  # its folder, inside the pipeline's


def export(output: Path, judge: Judge, vae: AutoencoderKL, network: DiTMoE) -> None:
    """Save a pipeline to `output` and the judge, with its accuracy on digits it never saw, to `output/judge`."""
    names = dict(enumerate(NAMES))
    pipe = DiTMoEPipeline(transformer=network, vae=vae, scheduler=build_scheduler("noise"), id2label=names)
    pipe.to(torch.float16).save_pretrained(output)
    parts = {part: load(part) for part in ("train", "test")}
    facts = {f"{part}_accuracy": round(accuracy(judge, digits), 4) for part, digits in parts.items()}
    save_judge(judge, output / JUDGE, **facts)
