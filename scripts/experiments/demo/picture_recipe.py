"""The recipe of the bundled picture pair: which phases, how long, and how the two pipelines are written."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from diffusers import DiffusionPipeline, FluxPipeline, StableDiffusionXLPipeline

from experiments.demo import picture_training
from experiments.demo.loop import Phase
from experiments.demo.training import TextEncoders
from w2sd_video.demo import components, picture_components

PHASES: Mapping[str, Phase] = {
    "flow-text": Phase(12, steps=400, batch=48, learning_rate=3e-3, ema=0.99),
    "flow-vae": Phase(13, steps=1200, batch=64, learning_rate=3e-3, ema=0.99),
    "flow": Phase(14, steps=4500, batch=96, learning_rate=1.2e-3, ema=0.998),
    "noise-text": Phase(11, steps=400, batch=48, learning_rate=3e-3, ema=0.99),
    "noise-vae": Phase(17, steps=1200, batch=64, learning_rate=3e-3, ema=0.99),
    "noise": Phase(15, steps=2000, batch=128, learning_rate=1.5e-3, ema=0.997),
    "control": Phase(16, steps=400, batch=128, learning_rate=6e-4, ema=0.995),
}
PICTURES = 16_384  # encoded once and drawn from


class Recipe:
    """The phases over one folder of checkpoints; finished ones are read from it, an unfinished one is continued."""

    def __init__(
        self,
        work: Path,
        seed: int,
        *,
        phases: Mapping[str, Phase] = PHASES,
        pictures: int = PICTURES,
        quiet: bool = False,
    ) -> None:
        self.work, self.seed, self.quiet = work, seed, quiet
        self.phases, self.pictures = phases, pictures

    def strong(self) -> FluxPipeline:
        """The flow side, with its own VAE and text encoders."""
        torch.manual_seed(self.seed)
        encoders = picture_training.FlowTextEncoders()
        arguments = (self.work, self.seed)
        picture_training.train_text("flow-text", encoders, *arguments, self.phases["flow-text"], self.quiet)
        torch.manual_seed(self.seed + 1)
        vae = picture_components.build_flow_vae()
        picture_training.train_vae("flow-vae", vae, *arguments, self.phases["flow-vae"], self.quiet)
        bank = picture_training.make_picture_bank(encoders, vae, self.seed, self.pictures)
        return FluxPipeline(
            vae=vae,
            text_encoder=encoders.clip,
            text_encoder_2=encoders.t5,
            tokenizer=encoders.tokenizer,
            tokenizer_2=encoders.t5_tokenizer,
            transformer=picture_training.train_transformer(bank, *arguments, self.phases["flow"], self.quiet),
            scheduler=picture_components.build_flow_scheduler(),
        )

    def weak(self, *, control: bool = False) -> StableDiffusionXLPipeline:
        """The noise side, with a VAE of its own too; `control`: taught on with the strong side's captions."""
        torch.manual_seed(self.seed)
        encoders = TextEncoders()
        arguments = (self.work, self.seed)
        picture_training.train_text("noise-text", encoders, *arguments, self.phases["noise-text"], self.quiet)
        torch.manual_seed(self.seed + 1)
        vae = components.build_vae()
        picture_training.train_vae("noise-vae", vae, *arguments, self.phases["noise-vae"], self.quiet)
        bank = picture_training.make_picture_bank(encoders, vae, self.seed, self.pictures)
        unet = picture_training.train_unet(bank, *arguments, self.phases["noise"], self.quiet)
        if control:
            picture_training.train_control(unet, bank, *arguments, self.phases["control"], self.quiet)
        return StableDiffusionXLPipeline(
            vae=vae,
            text_encoder=encoders.one,
            text_encoder_2=encoders.two,
            tokenizer=encoders.tokenizer,
            tokenizer_2=encoders.tokenizer,
            unet=unet,
            scheduler=components.build_scheduler(),
            add_watermarker=False,
        )

    def train(self, side: str) -> DiffusionPipeline:
        """The "strong", the "weak" or the "control" pipeline."""
        return self.strong() if side == "strong" else self.weak(control=side == "control")


def make_picture_pair(
    output: Path, recipe: Recipe, sides: tuple[str, ...], train_sides: Callable[[], bool] = lambda: True
) -> bool:
    """Let `train_sides` train all sides at once, and write each as `output/<side>`, in float16; False if it failed."""
    if not train_sides():
        return False
    for side in sides:
        recipe.train(side).to(torch.float16).save_pretrained(output / side)
    return True
