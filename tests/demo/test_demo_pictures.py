"""The picture pair: its captions, what the oracle reads in single pictures, its losses, and its files."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import AutoencoderKL, FluxPipeline, StableDiffusionXLPipeline
from experiments.demo import picture_training
from experiments.demo.picture_training import PHASES, Recipe, write_pipelines
from experiments.demo.training import signal_rates
from experiments.training import Phase
from safetensors import safe_open

from scripts import train_bridge_demo
from w2sd_video.demo import (
    PICTURE_CAPTIONS,
    PICTURE_PROMPTS,
    PICTURE_TOKENS,
    PICTURE_WEIGHTS,
    oracle,
    parse_picture_caption,
    world,
)
from w2sd_video.demo.pictures import picture_attributes

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


@pytest.mark.parametrize("side", ["strong", "weak"])
def test_the_oracle_reads_pictures_and_blends_stay_blends_through_a_bundled_vae(side):
    pictures = world.random_frames(96, generator(1))
    pixels = pictures.frames[:, 0] * 2 - 1
    shares = picture_training.blends(96, generator())
    blended = torch.einsum("ba,achw->bchw", shares, pixels)
    vae = AutoencoderKL.from_pretrained(PICTURE_WEIGHTS / side / "vae", torch_dtype=torch.float32)
    with torch.no_grad():
        latents = vae.encode(pixels).latent_dist.mean
        back = vae.decode(latents).sample
        of_blends = vae.decode(torch.einsum("ba,achw->bchw", shares, latents)).sample
    shown = oracle.read((back[:, None] / 2 + 0.5).clamp(0, 1))[:, :2]
    assert torch.equal(shown, pictures.attributes[:, :2])
    assert (of_blends - blended).square().mean() < 0.1 * blended.var()


def test_the_bundled_pair_is_two_folders_of_small_safetensors_in_float16():
    files = [path for path in PICTURE_WEIGHTS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 16e6
    assert {path.suffix for path in files} == {".safetensors", ".json"}
    for path in (*PICTURE_WEIGHTS.glob("strong/*/*.safetensors"), *PICTURE_WEIGHTS.glob("weak/*/*.safetensors")):
        with safe_open(path, "pt") as file:
            assert {file.get_slice(key).get_dtype() for key in file.keys()} == {"F16"}, path  # noqa: SIM118


def test_blends_are_shares_of_pictures_from_nearly_pure_to_nearly_even():
    shares = picture_training.blends(32, generator())
    assert torch.allclose(shares.sum(dim=1), torch.ones(32))
    largest = shares.max(dim=1).values
    assert largest.min() < 4 / 32
    assert largest.max() > 0.8


class Linear:
    """A stand-in for a VAE: the small picture in three channels, and one of zeros; back by repeating cells."""

    def __init__(self) -> None:
        frames = world.random_frames(2000, generator()).frames[:, 0] * 2 - 1
        small = picture_training.small_pictures(frames)
        self.mean, self.std = small.mean(dim=(0, 2, 3), keepdim=True), small.std()

    def encode(self, pixels):
        small = (picture_training.small_pictures(pixels) - self.mean) / self.std
        latents = torch.cat([small, torch.zeros_like(small[:, :1])], dim=1)
        return SimpleNamespace(latent_dist=SimpleNamespace(mean=latents, kl=lambda: torch.zeros(len(latents))))

    def decode(self, latents):
        small = latents[:, :3] * self.std + self.mean
        return SimpleNamespace(sample=small.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3))


def test_a_vae_that_is_a_linear_small_picture_pays_only_for_what_it_does_not_show():
    """Its latents of blends are blends of latents, in their places: the loss is that of its pictures' errors alone."""
    vae = Linear()
    loss = picture_training.vae_loss(vae, 16, 0.0)(generator()).item()
    moved = picture_training.vae_loss(vae, 16, 0.5)(generator()).item()
    assert moved - loss == pytest.approx(0.1 * 0.5**2 * 2 + 0.003 * 0.5**2, rel=1e-4)  # small picture and rest are off
    pixels = world.random_frames(64, generator(2)).frames[:, 0] * 2 - 1
    error = vae.decode(vae.encode(pixels).latent_dist.mean).sample - pixels
    noise = (0.1 * vae.std) ** 2
    assert 0 < loss < 2 * (error.square().mean() + noise + 0.2 * (error.abs().mean() + noise**0.5))


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
    write_pipelines(folder / "pair", recipe, ("strong", "weak", "control"))
    return folder / "pair"


@pytest.mark.slow  # trains a short pair
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


@pytest.mark.slow  # trains a short side
def test_the_unrelated_weak_side_goes_on_from_the_bundled_one_with_a_vae_of_its_own(tmp_path):
    recipe = Recipe(tmp_path, 0, phases=SHORT, pictures=64, quiet=True)
    write_pipelines(tmp_path / "pair", recipe, ("unrelated", "unrelated-control"))
    weak, control, bundled = (
        StableDiffusionXLPipeline.from_pretrained(folder, torch_dtype=torch.float32)
        for folder in (tmp_path / "pair" / "weak", tmp_path / "pair" / "control", PICTURE_WEIGHTS / "weak")
    )

    def apart(one, other):
        pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
        return max((a.float() - b.float()).abs().max().item() for a, b in pairs)

    assert apart(weak.text_encoder, bundled.text_encoder) == 0 and apart(weak.vae, bundled.vae) > 0.1
    assert 0 < apart(weak.unet, bundled.unet) < 0.1 and 0 < apart(weak.unet, control.unet) < 0.1


def test_latents_that_are_no_small_picture_cost_an_unrelated_vae_nothing():
    """The loss of one is what is lost on the way, whatever its latents; the bundled ones pay for their order, too."""
    vae = picture_training.components.build_vae()
    losses = [picture_training.vae_loss(vae, 16, 0.0, related)(generator()).item() for related in (True, False)]
    assert losses[0] > losses[1] + 0.05


@pytest.mark.slow  # trains a short pair
@pytest.mark.parametrize("side", ["strong", "weak"])
def test_scaled_latents_have_variance_one(side, short_pair):
    vae = AutoencoderKL.from_pretrained(short_pair / side / "vae", torch_dtype=torch.float32)
    pixels = world.random_frames(500, generator(7)).frames[:, 0] * 2 - 1
    with torch.no_grad():
        latents = vae.encode(pixels).latent_dist.mean
    scaled = (latents - (vae.config.shift_factor or 0)) * vae.config.scaling_factor
    assert scaled.square().mean().sqrt().item() == pytest.approx(1, abs=0.05)
    assert side == "weak" or abs(scaled.mean()) < 0.05


@pytest.mark.slow  # trains a short pair
def test_the_control_starts_from_the_weak_side_and_differs_from_it(short_pair):
    weak, control = (
        StableDiffusionXLPipeline.from_pretrained(short_pair / side, torch_dtype=torch.float32).unet.state_dict()
        for side in ("weak", "control")
    )
    assert 0 < max((weak[name] - control[name]).abs().max().item() for name in weak) < 0.05


def test_a_folder_that_cannot_be_written_is_refused_before_training(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert train_bridge_demo.main(["--work", str(tmp_path / "file" / "work"), "--output", str(tmp_path / "out")]) == 2
    assert "file" in capsys.readouterr().err


def test_nothing_is_written_when_a_side_did_not_finish(tmp_path, monkeypatch):
    monkeypatch.setattr(picture_training, "train_side_by_side", lambda program, options, sides: False)
    assert train_bridge_demo.main(["--work", str(tmp_path / "work"), "--output", str(tmp_path / "out")]) == 1
    assert not list((tmp_path / "out").iterdir())
