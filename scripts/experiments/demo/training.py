"""How the demo's networks are trained: text encoders, VAE, a 2-D UNet on frames, motion on clips, then the two sides.

The pair follows the paper's Theorem 2: both sides start from the same networks and see the same batches; only the
share of wrong captions differs (strong 0.15, weak 0.30 per attribute), so the weak side's bias is about twice the
strong's.
"""

import argparse
import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AnimateDiffSDXLPipeline, AutoencoderKL, MotionAdapter, UNet2DConditionModel, UNetMotionModel
from torch import Tensor, nn
from torch.nn import functional

from experiments.demo import components
from experiments.engine import make_folders, set_threads
from experiments.training import (
    Phase,
    generator_for,
    noisy_round_trip_loss,
    normalise_latents,
    round_to_half,
    stratified_timesteps,
    train,
    train_side_by_side,
)
from w2sd_video.demo import world
from w2sd_video.demo.captions import CAPTIONS, COLOURS, MOTIONS, SHAPES, parse_caption
from w2sd_video.loading.animatediff import assemble_motion_unet

CORRUPTION = {"strong": 0.15, "weak": 0.30}
EMPTY_PROMPTS = 0.10

TEXT = Phase(1, steps=400, batch=120, learning_rate=3e-3, ema=0.99)
VAE = Phase(2, steps=1200, batch=64, learning_rate=3e-3, ema=0.99)
FRAMES = Phase(3, steps=1500, batch=128, learning_rate=1.5e-3, ema=0.995)
CLIPS = Phase(4, steps=1300, batch=16, learning_rate=1.2e-3, ema=0.995, horizon=2200)
SIDES = Phase(5, steps=700, batch=16, learning_rate=6e-4, ema=0.995)

TIME_IDS = (world.SIZE, world.SIZE, 0, 0, world.SIZE, world.SIZE)  # original size, crop, target size

# --- text encoders --------------------------------------------------------------------------------------------------


class TextEncoders(nn.Module):
    """SDXL's two text encoders; `forward` gives the hidden states [N, tokens, 64] and the pooled embedding [N, 32]."""

    def __init__(self) -> None:
        super().__init__()
        self.tokenizer = components.build_tokenizer()
        self.one = components.build_text_encoder(self.tokenizer, with_projection=False)
        self.two = components.build_text_encoder(self.tokenizer, with_projection=True)
        for encoder in (self.one, self.two):  # CLIP starts at 0.02, from which so small an encoder hardly moves
            nn.init.normal_(encoder.get_input_embeddings().weight)

    def forward(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        ids = self.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        outputs = [encoder(ids, output_hidden_states=True) for encoder in (self.one, self.two)]
        return torch.cat([output.hidden_states[-2] for output in outputs], dim=-1), outputs[1].text_embeds


def probe_loss(
    encoders: nn.Module, probes: nn.ModuleList, captions: Sequence[str], targets: Tensor, sizes: list[int], batch: int
) -> Callable[[torch.Generator], Tensor]:
    """How badly linear probes read the attributes `targets` [N, A] of captions, off hidden states and pooled output."""

    def loss(generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(captions), (batch,), generator=generator)
        hidden, pooled = encoders([captions[i] for i in chosen.tolist()])
        logits = [probes[0](hidden.mean(dim=1)), probes[1](pooled)]
        parts = [
            functional.cross_entropy(part, targets[chosen, column])
            for scores in logits
            for column, part in enumerate(scores.split(sizes, dim=1))
        ]
        scale = (hidden.std() - 1).square() + (pooled.std() - 1).square()
        return torch.stack(parts).sum() + 0.1 * scale

    return loss


def train_text(folder: Path, seed: int, phase: Phase, quiet: bool) -> TextEncoders:
    """Text encoders from which a linear probe reads each attribute, off the hidden states and off the pooled output."""
    torch.manual_seed(seed)
    encoders = TextEncoders()
    sizes = [len(COLOURS), len(SHAPES), len(MOTIONS)]
    probes = nn.ModuleList([nn.Linear(width, sum(sizes)) for width in (64, 32)])
    targets = torch.tensor([parse_caption(caption) for caption in CAPTIONS])
    loss = probe_loss(encoders, probes, CAPTIONS, targets, sizes, phase.batch)
    train("text", phase, nn.ModuleList([encoders, probes]), loss, folder, seed, quiet)
    round_to_half(encoders)
    return encoders


# --- VAE ------------------------------------------------------------------------------------------------------------


def reconstruction_loss(vae: AutoencoderKL, batch: int) -> Callable[[torch.Generator], Tensor]:
    """The error of single frames after a round trip."""
    return noisy_round_trip_loss(vae, lambda generator: world.random_frames(batch, generator).frames[:, 0] * 2 - 1)


def train_vae(folder: Path, seed: int, phase: Phase, quiet: bool) -> AutoencoderKL:
    """An AutoencoderKL of single frames whose latents have zero mean and unit variance per channel."""
    torch.manual_seed(seed + 1)
    vae = components.build_vae()
    train("vae", phase, vae, reconstruction_loss(vae, phase.batch), folder, seed, quiet)
    normalise_latents(vae, *latent_statistics(vae, generator_for(seed, phase, phase.steps)))
    round_to_half(vae)
    return vae


@torch.no_grad()
def latent_statistics(vae: AutoencoderKL, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [C] of the latents of 2000 random frames."""
    frames = world.random_frames(2000, generator).frames[:, 0] * 2 - 1
    means = vae.encode(frames).latent_dist.mean
    return means.mean(dim=(0, 2, 3)), means.std(dim=(0, 2, 3))


# --- diffusion ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bank:
    """Encoded clips to draw batches from: latents [N, 4, F, 8, 8], attributes [N, 3]; and the captions' embeddings."""

    latents: Tensor
    attributes: Tensor
    hidden: Tensor  # [120, tokens, 64]
    pooled: Tensor  # [120, 32]

    def embed(self, attributes: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Embeddings of captions naming `attributes` [B, 3], one in ten replaced by SDXL's empty prompt, zeros."""
        index = (attributes[:, 0] * len(SHAPES) + attributes[:, 1]) * len(MOTIONS) + attributes[:, 2]
        kept = (torch.rand(len(index), generator=generator) >= EMPTY_PROMPTS).float()
        return self.hidden[index] * kept[:, None, None], self.pooled[index] * kept[:, None]


@torch.no_grad()
def make_bank(encoders: TextEncoders, vae: AutoencoderKL, seed: int, per_caption: int = 40) -> Bank:
    """The training clips, encoded once: `per_caption` random starts for each of the 120 captions."""
    generator = torch.Generator().manual_seed(seed * 64 + 63)
    attributes = torch.tensor([parse_caption(caption) for caption in CAPTIONS]).repeat(per_caption, 1)
    latents = []
    for part in attributes.split(120):
        frames = world.render(part, world.random_starts(len(part), generator)).frames
        encoded = vae.encode(frames.flatten(0, 1) * 2 - 1).latent_dist.mean
        latents.append(encoded.unflatten(0, frames.shape[:2]).transpose(1, 2))
    hidden, pooled = encoders(list(CAPTIONS))
    return Bank(torch.cat(latents), attributes, hidden, pooled)


def signal_rates() -> tuple[Tensor, Tensor]:
    """alpha and sigma at each of the 1000 training timesteps."""
    cumulative = components.build_scheduler().alphas_cumprod
    return cumulative.sqrt(), (1 - cumulative).sqrt()


def diffusion_loss(
    network: nn.Module, bank: Bank, batch: int, corruption: float, video: bool
) -> Callable[[torch.Generator], Tensor]:
    """The v-prediction loss on clips, or on single frames of them, captioned wrongly with probability `corruption`."""
    alphas, sigmas = signal_rates()
    time_ids = torch.tensor(TIME_IDS, dtype=torch.float32).expand(batch, 6)

    def loss(generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(bank.latents), (batch,), generator=generator)
        clean = bank.latents[chosen]
        frame = torch.randint(world.NUM_FRAMES, (batch,), generator=generator)
        noise = torch.randn(clean.shape, generator=generator)
        if not video:
            rows = torch.arange(batch)
            clean, noise = clean[rows, :, frame], noise[rows, :, frame]
        timestep = stratified_timesteps(batch, generator)
        hidden, pooled = bank.embed(world.corrupt(bank.attributes[chosen], corruption, generator), generator)
        if video:
            hidden = hidden.repeat_interleave(world.NUM_FRAMES, dim=0)
        alpha, sigma = (rate[timestep].reshape(-1, *[1] * (clean.ndim - 1)) for rate in (alphas, sigmas))
        conditions = {"text_embeds": pooled, "time_ids": time_ids}
        noisy = alpha * clean + sigma * noise
        predicted = network(noisy, timestep, encoder_hidden_states=hidden, added_cond_kwargs=conditions).sample
        return functional.mse_loss(predicted, alpha * noise - sigma * clean)

    return loss


def train_frames(bank: Bank, folder: Path, seed: int, phase: Phase, quiet: bool) -> UNet2DConditionModel:
    """The 2-D UNet, on single frames captioned as the weak side's are."""
    torch.manual_seed(seed + 2)
    unet = components.build_unet()
    train(
        "frames", phase, unet, diffusion_loss(unet, bank, phase.batch, CORRUPTION["weak"], False), folder, seed, quiet
    )
    return unet


def untrained_motion_unet(unet2d: UNet2DConditionModel) -> UNetMotionModel:
    """The motion UNet over a copy of a 2-D UNet, whose new motion modules change nothing yet."""
    torch.manual_seed(0)
    adapter = components.build_motion_adapter()
    for name, module in adapter.named_modules():
        if name.endswith(".proj_out"):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    return assemble_motion_unet(copy.deepcopy(unet2d), adapter)


def train_clips(
    unet2d: UNet2DConditionModel, bank: Bank, folder: Path, seed: int, phase: Phase, quiet: bool
) -> UNetMotionModel:
    """2-D layers and motion modules together, on clips captioned as the weak side's are."""
    network = untrained_motion_unet(unet2d)
    loss = diffusion_loss(network, bank, phase.batch, CORRUPTION["weak"], True)
    train("clips", phase, network, loss, folder, seed, quiet)
    return network


def train_side(
    side: str, network: UNetMotionModel, bank: Bank, folder: Path, seed: int, phase: Phase, quiet: bool
) -> UNetMotionModel:
    """One side of the pair: the 2-D layers go on learning under that side's captions; both keep the same motion."""
    for name, p in network.named_parameters():
        p.requires_grad_("motion_modules" not in name)
    loss = diffusion_loss(network, bank, phase.batch, CORRUPTION[side], True)
    train(side, phase, network, loss, folder, seed, quiet)
    return network


# --- the recipe, and real formats ------------------------------------------------------------------------------------


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


class Recipe:
    """The phases over one folder of checkpoints; finished ones are read from it, an unfinished one is continued."""

    def __init__(self, work: Path, seed: int, *, quiet: bool = False) -> None:
        self.work, self.seed, self.quiet = work, seed, quiet
        self.encoders = train_text(work, seed, TEXT, quiet)
        self.vae = train_vae(work, seed, VAE, quiet)
        self.bank = make_bank(self.encoders, self.vae, seed)
        self.unet = train_frames(self.bank, work, seed, FRAMES, quiet)
        self.train_clips()

    def train_clips(self) -> UNetMotionModel:
        """The network both sides start from, a new copy at each call."""
        return train_clips(self.unet, self.bank, self.work, self.seed, CLIPS, self.quiet)

    def train_side(self, side: str) -> UNetMotionModel:
        """The "strong" or the "weak" network."""
        start = self.train_clips()
        return train_side(side, start, self.bank, self.work, self.seed, SIDES, self.quiet)

    def export(self, output: Path) -> None:
        """Train what is left, and write the pair to `output`."""
        export_pair(output, self.encoders, self.vae, self.train_side("strong"), self.train_side("weak"))


def run(options: argparse.Namespace) -> int:
    """scripts/train_demo.py: the shared phases, then both sides at once, a thread each, then the pair's files."""
    make_folders(options.work, options.output)
    set_threads(1 if options.side else options.threads)
    recipe = Recipe(options.work, options.seed, quiet=options.quiet)
    if options.side:
        recipe.train_side(options.side)
        return 0
    if not train_side_by_side("train_demo.py", options, ("strong", "weak")):
        return 1
    recipe.quiet = True  # everything is finished: what follows only reads it
    recipe.export(options.output)
    print(f"wrote the pair to {options.output}")
    return 0
