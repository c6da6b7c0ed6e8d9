"""Write the trained pair in real formats: a pipeline folder for the strong side, a UNet folder for the weak one."""

from pathlib import Path

import torch
from diffusers import AnimateDiffSDXLPipeline, AutoencoderKL, MotionAdapter, UNet2DConditionModel, UNetMotionModel

from experiments.demo.training import TextEncoders
from w2sd_video.demo import components


def extract_unet(network: UNetMotionModel) -> UNet2DConditionModel:
    """The 2-D UNet inside a motion UNet."""
    unet = components.build_unet()
    unet.load_state_dict({k: v for k, v in network.state_dict().items() if "motion_modules" not in k})
    return unet


def extract_motion_adapter(network: UNetMotionModel) -> MotionAdapter:
    """The motion modules of a motion UNet."""
    adapter = components.build_motion_adapter()
    adapter.load_state_dict({k: v for k, v in network.state_dict().items() if "motion_modules" in k})
    return adapter


def export_pair(
    output: Path, encoders: TextEncoders, vae: AutoencoderKL, strong: UNetMotionModel, weak: UNetMotionModel
) -> None:
    """Save float16 safetensors: `output` is an AnimateDiffSDXLPipeline folder, `output/weak/unet` the weak side's UNet.

    Raises:
        ValueError: the sides' motion modules differ, so that one adapter cannot serve both.
    """
    adapters = [extract_motion_adapter(network) for network in (strong, weak)]
    for (name, one), two in zip(adapters[0].named_parameters(), adapters[1].parameters(), strict=True):
        if not torch.equal(one, two):
            raise ValueError(f"the motion modules of the two sides differ at {name}: train both from one clip phase")
    pipeline = AnimateDiffSDXLPipeline(
        vae=vae,
        text_encoder=encoders.one,
        text_encoder_2=encoders.two,
        tokenizer=encoders.tokenizer,
        tokenizer_2=encoders.tokenizer,
        unet=strong,
        motion_adapter=adapters[0],
        scheduler=components.build_scheduler(),
    )
    pipeline.to(torch.float16).save_pretrained(output)
    extract_unet(weak).half().save_pretrained(output / "weak" / "unet")
