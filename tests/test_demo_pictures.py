"""The picture pair: its captions, what the oracle reads in single pictures, its losses, and its files."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import AutoencoderKL, FluxPipeline, StableDiffusionXLPipeline

from w2sd_video.demo import (
    PICTURE_CAPTIONS,
    PICTURE_PROMPTS,
    PICTURE_TOKENS,
    oracle,
    parse_picture_caption,
    picture_components,
    picture_training,
    world,
)
from w2sd_video.demo.loop import Phase
from w2sd_video.demo.picture_recipe import PHASES, VIDEO_VAE, Recipe, make_picture_pair
from w2sd_video.demo.pictures import picture_attributes
from w2sd_video.demo.training import signal_rates

SHORT = {name: Phase(phase.number, steps=2, batch=4, learning_rate=1e-3, ema=0.9) for name, phase in PHASES.items()}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_each_of_24_captions_names_its_own_colour_and_shape_and_others_are_refused():
    assert len(set(picture_attributes())) == len(PICTURE_CAPTIONS) == 24
    assert parse_picture_caption("A  yellow CROSS") == (1, 3)
    assert len(set(picture_attributes(PICTURE_PROMPTS))) == 8
    with pytest.raises(ValueError, match=r"'a pink ring' is not a caption.*'a red ring'"):
        parse_picture_caption("a pink ring")


def test_the_oracle_reads_colour_and_shape_off_every_single_picture():
    pictures = world.random_frames(1000, generator())
    assert torch.equal(oracle.read(pictures.frames)[:, :2], pictures.attributes[:, :2])


def test_the_oracle_reads_pictures_that_went_through_the_noise_sides_vae():
    pictures = world.random_frames(200, generator(1))
    vae = AutoencoderKL.from_pretrained(VIDEO_VAE, torch_dtype=torch.float32, local_files_only=True)
    with torch.no_grad():
        back = vae.decode(vae.encode(pictures.frames[:, 0] * 2 - 1).latent_dist.mean).sample
    frames = (back[:, None] / 2 + 0.5).clamp(0, 1)
    assert torch.equal(oracle.read(frames)[:, :2], pictures.attributes[:, :2])


def test_evening_the_channels_out_changes_no_picture():
    torch.manual_seed(0)
    vae = picture_components.build_flow_vae().eval()
    pixels = world.random_frames(16, generator()).frames[:, 0] * 2 - 1
    with torch.no_grad():
        before = vae.encode(pixels).latent_dist
        picture, std = vae.decode(before.mean).sample, before.mean.std(dim=(0, 2, 3))
        picture_training.even_channels(vae, std)
        after = vae.encode(pixels).latent_dist
        assert torch.allclose(vae.decode(after.mean).sample, picture, atol=1e-5)
    spread = after.mean.std(dim=(0, 2, 3))
    assert torch.allclose(spread, std.log().mean().exp().expand(8), rtol=1e-4)
    assert torch.allclose(after.std / after.mean.std(dim=(0, 2, 3))[:, None, None], before.std / std[:, None, None])


def bank_of(latents: torch.Tensor) -> picture_training.PictureBank:
    """A bank whose embeddings are the captions' numbers; the pictures show the 24 captions in order."""
    attributes = torch.tensor([(*pair, 0) for pair in picture_attributes()])[: len(latents)]
    numbers = torch.arange(25.0)[:, None]
    return picture_training.PictureBank(latents, attributes, numbers[:, :, None], numbers)


def test_a_drawn_picture_comes_with_its_own_caption_one_in_ten_with_none():
    bank = bank_of(torch.arange(24.0)[:, None, None, None].expand(24, 4, 2, 2))
    latents, hidden, pooled = bank.draw(4000, 0.0, generator())
    empty = pooled[:, 0] == 24
    assert torch.equal(pooled[~empty, 0], latents[~empty, 0, 0, 0])
    assert torch.equal(hidden[:, 0], pooled)
    assert abs(empty.double().mean().item() - 0.1) < 4 * (0.1 * 0.9 / 4000) ** 0.5


def test_captions_are_right_as_often_as_their_corruption_leaves_them():
    bank = bank_of(torch.arange(24.0)[:, None, None, None].expand(24, 4, 2, 2))
    for corruption, expected in ((0.15, 0.875 * 0.8875), (0.30, 0.75 * 0.775)):
        latents, _, pooled = bank.draw(8000, corruption, generator())
        named = pooled[:, 0] != 24
        right = (pooled[named, 0] == latents[named, 0, 0, 0]).double().mean().item()
        assert abs(right - expected) < 4 * (0.25 / named.sum().item()) ** 0.5


def test_a_network_that_knows_the_only_picture_has_no_flow_loss():
    picture = torch.randn(1, 8, 4, 4, generator=generator())
    packed = FluxPipeline._pack_latents(picture, 1, 8, 4, 4)

    def exact(hidden_states, timestep, **_):
        return SimpleNamespace(sample=(hidden_states - packed) / timestep[:, None, None])

    loss = picture_training.flow_loss(exact, bank_of(picture), 16, 0.15)
    assert loss(generator()).item() < 1e-4  # a float error of 1e-7 over t of 1/16 at the least, mostly

    def mirrored(**inputs):
        return SimpleNamespace(sample=-exact(**inputs).sample)

    assert picture_training.flow_loss(mirrored, bank_of(picture), 16, 0.15)(generator()).item() > 1


def test_a_network_that_knows_the_only_picture_has_no_noise_loss():
    picture = torch.randn(1, 4, 8, 8, generator=generator())
    alphas, sigmas = signal_rates()

    def exact(noisy, timestep, **_):
        alpha, sigma = alphas[timestep].reshape(-1, 1, 1, 1), sigmas[timestep].reshape(-1, 1, 1, 1)
        return SimpleNamespace(sample=alpha * (noisy - alpha * picture) / sigma - sigma * picture)

    assert picture_training.noise_loss(exact, bank_of(picture), 16, 0.15)(generator()).item() < 1e-6


def test_the_flow_network_starts_as_the_zero_velocity_and_learns_from_there():
    transformer = picture_training.still_transformer()
    loss = picture_training.flow_loss(transformer, bank_of_embeddings(), 8, 0.15)(generator())
    loss.backward()
    assert transformer.proj_out.weight.grad.abs().max() > 0


def bank_of_embeddings() -> picture_training.PictureBank:
    latents = torch.randn(24, 8, 8, 8, generator=generator())
    attributes = torch.tensor([(*pair, 0) for pair in picture_attributes()])
    return picture_training.PictureBank(latents, attributes, torch.randn(25, 8, 32), torch.randn(25, 32))


@pytest.fixture(scope="module")
def short_pair(tmp_path_factory):
    """The folder of a pair after two steps of every phase, and of its control."""
    folder = tmp_path_factory.mktemp("pair")
    recipe = Recipe(folder, 0, phases=SHORT, pictures=64, quiet=True)
    assert make_picture_pair(folder / "pair", recipe, ("strong", "weak", "control"))
    return folder / "pair"


def test_the_recipe_writes_two_stock_pipelines_that_draw_pictures(short_pair):
    strong = FluxPipeline.from_pretrained(short_pair / "strong", torch_dtype=torch.float32, local_files_only=True)
    weak = StableDiffusionXLPipeline.from_pretrained(short_pair / "weak", torch_dtype=torch.float32)
    call = {"height": 32, "width": 32, "num_inference_steps": 2, "guidance_scale": 1.0, "output_type": "pt"}
    for pipe, extra in ((strong, {"max_sequence_length": PICTURE_TOKENS}), (weak, {})):
        pipe.set_progress_bar_config(disable=True)
        assert pipe("a red ring", **call, **extra).images.shape == (1, 3, 32, 32)
    assert strong.vae.config.latent_channels == 8
    assert strong.vae.config.shift_factor != 0
    assert weak.vae.config.latent_channels == 4


def test_the_flow_sides_scaled_latents_have_variance_one(short_pair):
    vae = AutoencoderKL.from_pretrained(short_pair / "strong" / "vae", torch_dtype=torch.float32)
    pixels = world.random_frames(500, generator(7)).frames[:, 0] * 2 - 1
    with torch.no_grad():
        latents = vae.encode(pixels).latent_dist.mean
    scaled = (latents - vae.config.shift_factor) * vae.config.scaling_factor
    assert scaled.mean().abs() < 0.05
    assert abs(scaled.std() - 1) < 0.05


def test_the_control_starts_from_the_weak_side_and_differs_from_it(short_pair):
    weak, control = (
        StableDiffusionXLPipeline.from_pretrained(short_pair / side, torch_dtype=torch.float32).unet.state_dict()
        for side in ("weak", "control")
    )
    assert 0 < max((weak[name] - control[name]).abs().max().item() for name in weak) < 0.05


def test_nothing_is_written_when_a_side_did_not_finish(tmp_path):
    recipe = Recipe(tmp_path, 0, phases=SHORT, pictures=64, quiet=True)
    assert not make_picture_pair(tmp_path / "pair", recipe, ("strong",), lambda: False)
    assert not (tmp_path / "pair").exists()
