"""How the picture pair's networks are trained: each side's text encoders, the flow side's VAE, and the two networks.

The two sides share nothing but the pictures: their latents, their paths and their architectures differ. As Theorem 2
of the paper asks, the weak side's captions are wrong about twice as often (0.30 per attribute against 0.15).
"""

import argparse
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    FluxPipeline,
    FluxTransformer2DModel,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from torch import Tensor, nn
from torch.nn import functional

from experiments.demo import components, picture_components
from experiments.demo.training import (
    CORRUPTION,
    EMPTY_PROMPTS,
    TIME_IDS,
    TextEncoders,
    latent_statistics,
    probe_loss,
    signal_rates,
)
from experiments.engine import make_folders, set_threads
from experiments.training import Phase, generator_for, round_to_half, train, train_side_by_side
from w2sd_video.demo import PICTURE_WEIGHTS, world
from w2sd_video.demo.captions import COLOURS, SHAPES
from w2sd_video.demo.pictures import PICTURE_CAPTIONS, PICTURE_TOKENS, picture_attributes

# --- text encoders --------------------------------------------------------------------------------------------------


class FlowTextEncoders(nn.Module):
    """Flux's two text encoders; `forward` gives T5's hidden states [N, tokens, 32] and CLIP's pooled output [N, 32]."""

    def __init__(self) -> None:
        super().__init__()
        self.tokenizer = components.build_tokenizer()
        self.clip = components.build_text_encoder(self.tokenizer, with_projection=False)
        nn.init.normal_(self.clip.get_input_embeddings().weight)
        self.t5_tokenizer = picture_components.build_t5_tokenizer()
        self.t5 = picture_components.build_t5(self.t5_tokenizer)

    def forward(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        settings = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
        ids = self.tokenizer(texts, **settings).input_ids
        t5_ids = self.t5_tokenizer(texts, max_length=PICTURE_TOKENS, **settings).input_ids
        return self.t5(t5_ids)[0], self.clip(ids).pooler_output


def train_text(
    name: str, encoders: TextEncoders | FlowTextEncoders, folder: Path, seed: int, phase: Phase, quiet: bool
) -> None:
    """Train encoders, in place, until a linear probe reads colour and shape off both of their outputs."""
    sizes = [len(COLOURS), len(SHAPES)]
    with torch.no_grad():
        widths = [output.shape[-1] for output in encoders(list(PICTURE_CAPTIONS))]
    probes = nn.ModuleList([nn.Linear(width, sum(sizes)) for width in widths])
    loss = probe_loss(encoders, probes, PICTURE_CAPTIONS, torch.tensor(picture_attributes()), sizes, phase.batch)
    train(name, phase, nn.ModuleList([encoders, probes]), loss, folder, seed, quiet)
    round_to_half(encoders)


# --- VAEs -----------------------------------------------------------------------------------------------------------


def small_pictures(pixels: Tensor) -> Tensor:
    """Pictures [B, 3, 32, 32] as small as the latents, [B, 3, 8, 8]."""
    return functional.avg_pool2d(pixels, 4)


def blends(batch: int, generator: torch.Generator) -> Tensor:
    """Shares [batch, batch], rows summing to 1, of the pictures of a batch: from one or two of them to all alike."""
    sharpness = 6 * torch.rand(batch, 1, generator=generator)
    return (sharpness * torch.randn(batch, batch, generator=generator)).softmax(dim=1)


def vae_loss(
    vae: AutoencoderKL, batch: int, centre: float, related: bool = True
) -> Callable[[torch.Generator], Tensor]:
    """The loss of a VAE that treats pictures as those of full size do, which were trained on pictures of all kinds.

    Trained on 24 shapes alone, so small a VAE makes a shape of whatever it is given; but a denoiser's x0 estimates are
    blends of many shapes, and they must cross from one space to the other as what they are. So half of the pictures
    are blends, whose latents should be the blend of latents; and three channels hold a small picture, about as the
    latents of full size do, the others what it lacks, in small numbers. `centre` is the mean of the latents.

    Without `related` the latents are left as they come, small numbers about `centre`: pictures and blends survive the
    round trip, and nothing makes one VAE's latents a linear function of another's.
    """
    frames = world.random_frames(2000, torch.Generator().manual_seed(0)).frames[:, 0] * 2 - 1
    typical = small_pictures(frames)
    mean, std = typical.mean(dim=(0, 2, 3), keepdim=True), typical.std()

    def loss(generator: torch.Generator) -> Tensor:
        pure = world.random_frames(batch // 2, generator).frames[:, 0] * 2 - 1
        shares = blends(len(pure), generator)
        pixels = torch.cat([pure, torch.einsum("ba,achw->bchw", shares, pure)])
        posterior = vae.encode(pixels).latent_dist
        latents = posterior.mean
        order, rest, decoded = torch.zeros(()), latents, latents
        if related:
            own, others = latents.chunk(2)
            blended = torch.einsum("ba,achw->bchw", shares, own)
            small = functional.mse_loss(latents[:, :3], (small_pictures(pixels) - mean) / std + centre)
            rest, decoded = latents[:, 3:], torch.cat([own, blended])
            order = small + functional.mse_loss(others, blended) + (rest.mean(dim=(0, 2, 3)) - centre).square().mean()
        noise = 0.1 * torch.randn(latents.shape, generator=generator)  # a decoder that forgives small errors
        error = vae.decode(decoded + noise).sample - pixels
        size = (rest - centre).square().mean()
        return (
            error.square().mean() + 0.2 * error.abs().mean() + 1e-6 * posterior.kl().mean() + 0.1 * order + 0.003 * size
        )

    return loss


def train_vae(
    name: str, vae: AutoencoderKL, folder: Path, seed: int, phase: Phase, quiet: bool, related: bool = True
) -> None:
    """Train one side's VAE, in place; with its scale, and a flow side's shift, its latents have variance 1 overall."""
    flow = not vae.config.use_quant_conv
    train(name, phase, vae, vae_loss(vae, phase.batch, 0.1 if flow else 0.0, related), folder, seed, quiet)
    round_to_half(vae)
    mean, std = latent_statistics(vae, generator_for(seed, phase, phase.steps))
    shift = mean.mean() if flow else torch.zeros(())
    spread = (std.square() + (mean - shift).square()).mean().sqrt()
    vae.register_to_config(scaling_factor=round(1 / spread.item(), 5))
    if flow:
        vae.register_to_config(shift_factor=round(shift.item(), 5))


# --- the networks ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PictureBank:
    """Encoded pictures [N, C, 8, 8] as their side's network sees them, attributes [N, 3], and embedded captions.

    The last row of `hidden` and of `pooled` is the empty prompt.
    """

    latents: Tensor
    attributes: Tensor
    hidden: Tensor  # [25, tokens, W]
    pooled: Tensor  # [25, P]

    def draw(self, batch: int, corruption: float, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Latents [B, C, 8, 8] with the embeddings of captions that are wrong, or (one in ten) empty, at random."""
        chosen = torch.randint(len(self.latents), (batch,), generator=generator)
        named = world.corrupt(self.attributes[chosen], corruption, generator)
        empty = torch.rand(batch, generator=generator) < EMPTY_PROMPTS
        index = torch.where(empty, len(PICTURE_CAPTIONS), named[:, 0] * len(SHAPES) + named[:, 1])
        return self.latents[chosen], self.hidden[index], self.pooled[index]


@torch.no_grad()
def make_picture_bank(
    encoders: TextEncoders | FlowTextEncoders, vae: AutoencoderKL, seed: int, count: int = 16_384
) -> PictureBank:
    """`count` random pictures, encoded once; SDXL's empty prompt is zeros, Flux's is the encoded empty sentence."""
    pictures = world.random_frames(count, torch.Generator().manual_seed(seed * 64 + 62))
    encoded = [vae.encode(part[:, 0] * 2 - 1).latent_dist.mean for part in pictures.frames.split(128)]
    latents = (torch.cat(encoded) - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor
    hidden, pooled = encoders([*PICTURE_CAPTIONS, ""])
    if isinstance(encoders, TextEncoders):
        hidden[-1], pooled[-1] = 0, 0
    return PictureBank(latents, pictures.attributes, hidden, pooled)


def stratified(batch: int, generator: torch.Generator) -> Tensor:
    """Times in [0, 1), [batch], one in each of `batch` equal parts."""
    return (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch


def noise_loss(
    unet: UNet2DConditionModel, bank: PictureBank, batch: int, corruption: float
) -> Callable[[torch.Generator], Tensor]:
    """The v-prediction loss of the noise side."""
    alphas, sigmas = signal_rates()
    time_ids = torch.tensor(TIME_IDS, dtype=torch.float32).expand(batch, 6)

    def loss(generator: torch.Generator) -> Tensor:
        clean, hidden, pooled = bank.draw(batch, corruption, generator)
        noise = torch.randn(clean.shape, generator=generator)
        timestep = (stratified(batch, generator) * 1000).long().clamp_max(999)
        alpha, sigma = (rate[timestep].reshape(-1, 1, 1, 1) for rate in (alphas, sigmas))
        conditions = {"text_embeds": pooled, "time_ids": time_ids}
        noisy = alpha * clean + sigma * noise
        predicted = unet(noisy, timestep, encoder_hidden_states=hidden, added_cond_kwargs=conditions).sample
        return functional.mse_loss(predicted, alpha * noise - sigma * clean)

    return loss


def flow_loss(
    transformer: FluxTransformer2DModel, bank: PictureBank, batch: int, corruption: float
) -> Callable[[torch.Generator], Tensor]:
    """The flow-matching loss: at x = (1 - t) x0 + t noise the network predicts noise - x0."""
    channels, height, width = bank.latents.shape[1:]
    img_ids = FluxPipeline._prepare_latent_image_ids(batch, height // 2, width // 2, "cpu", torch.float32)
    txt_ids = torch.zeros(bank.hidden.shape[1], 3)

    def loss(generator: torch.Generator) -> Tensor:
        latents, hidden, pooled = bank.draw(batch, corruption, generator)
        clean = FluxPipeline._pack_latents(latents, batch, channels, height, width)
        noise = torch.randn(clean.shape, generator=generator)
        t = stratified(batch, generator)
        predicted = transformer(
            hidden_states=torch.lerp(clean, noise, t[:, None, None]),
            timestep=t,
            encoder_hidden_states=hidden,
            pooled_projections=pooled,
            img_ids=img_ids,
            txt_ids=txt_ids,
        ).sample
        return functional.mse_loss(predicted, noise - clean)

    return loss


def still_transformer() -> FluxTransformer2DModel:
    """A flow transformer whose blocks and output are zero at first, as diffusion transformers are best begun."""
    transformer = picture_components.build_transformer()
    for name, module in transformer.named_modules():
        if name == "proj_out" or name.endswith(
            ("norm.linear", "norm1.linear", "norm1_context.linear", "norm_out.linear")
        ):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    return transformer


def train_transformer(bank: PictureBank, folder: Path, seed: int, phase: Phase, quiet: bool) -> FluxTransformer2DModel:
    """The strong side."""
    torch.manual_seed(seed + 2)
    transformer = still_transformer()
    loss = flow_loss(transformer, bank, phase.batch, CORRUPTION["strong"])
    train("flow", phase, transformer, loss, folder, seed, quiet)
    return transformer


def train_unet(bank: PictureBank, folder: Path, seed: int, phase: Phase, quiet: bool) -> UNet2DConditionModel:
    """The weak side."""
    torch.manual_seed(seed + 2)
    unet = components.build_unet()
    train("noise", phase, unet, noise_loss(unet, bank, phase.batch, CORRUPTION["weak"]), folder, seed, quiet)
    return unet


def train_control(
    unet: UNet2DConditionModel, bank: PictureBank, folder: Path, seed: int, phase: Phase, quiet: bool
) -> UNet2DConditionModel:
    """The weak side taught with the strong side's captions, in place: equal bias, another architecture."""
    train("control", phase, unet, noise_loss(unet, bank, phase.batch, CORRUPTION["strong"]), folder, seed, quiet)
    return unet


# --- the recipe ------------------------------------------------------------------------------------------------------

PHASES: Mapping[str, Phase] = {
    "flow-text": Phase(12, steps=400, batch=48, learning_rate=3e-3, ema=0.99),
    "flow-vae": Phase(13, steps=1200, batch=64, learning_rate=3e-3, ema=0.99),
    "flow": Phase(14, steps=4500, batch=96, learning_rate=1.2e-3, ema=0.998),
    "noise-text": Phase(11, steps=400, batch=48, learning_rate=3e-3, ema=0.99),
    "noise-vae": Phase(17, steps=1200, batch=64, learning_rate=3e-3, ema=0.99),
    "noise": Phase(15, steps=2000, batch=128, learning_rate=1.5e-3, ema=0.997),
    "control": Phase(16, steps=400, batch=128, learning_rate=6e-4, ema=0.995),
    "unrelated-vae": Phase(17, steps=1018, batch=64, learning_rate=3e-3, ema=0.99, horizon=1200),
    "unrelated": Phase(18, steps=600, batch=64, learning_rate=1.5e-3, ema=0.99),
    "unrelated-control": Phase(19, steps=200, batch=64, learning_rate=6e-4, ema=0.99),
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
        encoders = FlowTextEncoders()
        arguments = (self.work, self.seed)
        train_text("flow-text", encoders, *arguments, self.phases["flow-text"], self.quiet)
        torch.manual_seed(self.seed + 1)
        vae = picture_components.build_flow_vae()
        train_vae("flow-vae", vae, *arguments, self.phases["flow-vae"], self.quiet)
        bank = make_picture_bank(encoders, vae, self.seed, self.pictures)
        return FluxPipeline(
            vae=vae,
            text_encoder=encoders.clip,
            text_encoder_2=encoders.t5,
            tokenizer=encoders.tokenizer,
            tokenizer_2=encoders.t5_tokenizer,
            transformer=train_transformer(bank, *arguments, self.phases["flow"], self.quiet),
            scheduler=picture_components.build_flow_scheduler(),
        )

    def weak(self, *, control: bool = False) -> StableDiffusionXLPipeline:
        """The noise side, with a VAE of its own too; `control`: taught on with the strong side's captions."""
        torch.manual_seed(self.seed)
        encoders = TextEncoders()
        arguments = (self.work, self.seed)
        train_text("noise-text", encoders, *arguments, self.phases["noise-text"], self.quiet)
        torch.manual_seed(self.seed + 1)
        vae = components.build_vae()
        train_vae("noise-vae", vae, *arguments, self.phases["noise-vae"], self.quiet)
        bank = make_picture_bank(encoders, vae, self.seed, self.pictures)
        unet = train_unet(bank, *arguments, self.phases["noise"], self.quiet)
        if control:
            train_control(unet, bank, *arguments, self.phases["control"], self.quiet)
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

    def unrelated(self, *, control: bool = False) -> StableDiffusionXLPipeline:
        """Another weak side for the bundled strong one, with a VAE trained for itself: no linear map takes one space to
        the other. Its network goes on from the bundled weak side's; `control`: taught on with the strong captions.
        """
        pipe = StableDiffusionXLPipeline.from_pretrained(
            PICTURE_WEIGHTS / "weak", torch_dtype=torch.float32, local_files_only=True, add_watermarker=False
        )
        encoders = TextEncoders()
        encoders.one, encoders.two = pipe.text_encoder, pipe.text_encoder_2
        arguments = (self.work, self.seed)
        torch.manual_seed(self.seed + 1)
        vae = components.build_vae()
        train_vae("unrelated-vae", vae, *arguments, self.phases["unrelated-vae"], self.quiet, related=False)
        bank = make_picture_bank(encoders, vae, self.seed, self.pictures)
        pipe.register_modules(vae=vae)
        for name, side in (("unrelated", "weak"), ("unrelated-control", "strong"))[: 2 if control else 1]:
            phase = self.phases[name]
            loss = noise_loss(pipe.unet, bank, phase.batch, CORRUPTION[side])
            train(name, phase, pipe.unet.requires_grad_(True), loss, *arguments, self.quiet)
        return pipe

    def train(self, side: str) -> DiffusionPipeline:
        """The "strong", the "weak" or the "control" pipeline; or the "unrelated" weak one and its control."""
        if side.startswith("unrelated"):
            return self.unrelated(control=side == "unrelated-control")
        return self.strong() if side == "strong" else self.weak(control=side == "control")


def write_pipelines(output: Path, recipe: Recipe, sides: tuple[str, ...]) -> None:
    """Write each side into a folder of its role, in float16, trained as far as it is not."""
    folders = {"unrelated": "weak", "unrelated-control": "control"}
    for side in sides:
        recipe.train(side).to(torch.float16).save_pretrained(output / folders.get(side, side))


def run(options: argparse.Namespace) -> int:
    """scripts/train_bridge_demo.py: both sides at once, a thread each, then the pipelines and their noise map."""
    from bridges.pixel.presets import NOISE_MAP
    from experiments.bridge import scores

    make_folders(options.work, options.output)
    set_threads(1)
    if options.side:
        Recipe(options.work, options.seed, quiet=options.quiet).train(options.side)
        return 0
    if options.unrelated:
        recipe = Recipe(options.work, options.seed, quiet=options.quiet)
        write_pipelines(options.output, recipe, ("unrelated", "unrelated-control")[: 2 if options.control else 1])
        shutil.copytree(PICTURE_WEIGHTS / "strong", options.output / "strong", dirs_exist_ok=True)
    else:
        last = "control" if options.control else "weak"  # the control goes on from the weak side
        if not train_side_by_side("train_bridge_demo.py", options, ("strong", last)):
            return 1
        finished = Recipe(options.work, options.seed, quiet=True)  # what follows only reads it
        sides = ("strong", "weak", "control") if options.control else ("strong", "weak")
        write_pipelines(options.output, finished, sides)
    pair = scores.load(options.output)
    scores.fit_noise_map(pair["strong"], pair["weak"]).save(options.output / NOISE_MAP)
    print(f"wrote the pair and its noise map to {options.output}")
    return 0
