"""How the demo's networks are trained: text encoders, VAE, a 2-D UNet on frames, motion on clips, then the two sides.

The pair follows the paper's Theorem 2: both sides start from the same networks and see the same batches; only the
share of wrong captions differs (strong 0.15, weak 0.30 per attribute), so the weak side's bias is about twice the
strong's. Every draw of step n comes from a generator seeded with (seed, phase, n), so that a phase can be stopped and
resumed anywhere.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel, UNetMotionModel
from torch import Tensor, nn
from torch.nn import functional

from experiments.demo.loop import Phase, generator_for, round_to_half, train
from w2sd_video.demo import components, world
from w2sd_video.demo.captions import CAPTIONS, COLOURS, MOTIONS, SHAPES, parse_caption
from w2sd_video.loading.animatediff import assemble_motion_unet

CORRUPTION = {"strong": 0.15, "weak": 0.30}
EMPTY_PROMPTS = 0.10
TIME_IDS = (world.SIZE, world.SIZE, 0, 0, world.SIZE, world.SIZE)  # original size, crop, target size

# --- text encoders ---------------------------------------------------------------------------------------------------


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


# --- VAE -------------------------------------------------------------------------------------------------------------


def reconstruction_loss(vae: AutoencoderKL, batch: int) -> Callable[[torch.Generator], Tensor]:
    """The error of single frames after a round trip whose latents are a little off."""

    def loss(generator: torch.Generator) -> Tensor:
        pixels = world.random_frames(batch, generator).frames[:, 0] * 2 - 1
        posterior = vae.encode(pixels).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator)
        latents = posterior.mean + 0.1 * posterior.mean.std().detach() * noise  # a decoder that forgives small errors
        error = vae.decode(latents).sample - pixels
        return error.square().mean() + 0.2 * error.abs().mean() + 1e-6 * posterior.kl().mean()

    return loss


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


def normalise_latents(vae: AutoencoderKL, mean: Tensor, std: Tensor) -> None:
    """Fold latents' mean and standard deviation [C] into the 1x1 convolutions around them, in place."""
    channels = len(mean)
    to, back = vae.quant_conv, vae.post_quant_conv
    to.weight.data[:channels] /= std[:, None, None, None]
    to.bias.data[:channels] = (to.bias.data[:channels] - mean) / std
    to.bias.data[channels:] -= 2 * std.log()  # the log-variances shrink with the latents
    back.bias.data += back.weight.data[:, :, 0, 0] @ mean
    back.weight.data *= std[None, :, None, None]


# --- diffusion -------------------------------------------------------------------------------------------------------


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
        timestep = (torch.arange(batch) + torch.rand(batch, generator=generator)) * (1000 / batch)  # stratified
        timestep = timestep.long().clamp_max(999)
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
