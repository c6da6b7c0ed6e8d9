"""Between pixels and latents: layouts, and codecs against the stock pipelines' own decoding."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from diffusers import AutoencoderDC, AutoencoderKL, AutoencoderTiny, FluxImg2ImgPipeline, FluxPipeline
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor

from tests.support import tiny
from w2sd_video.errors import UserError
from w2sd_video.latents.codecs import Codec, codec_of, fingerprint_of, resize, same_space
from w2sd_video.latents.layouts import Layout, mean_over_latent_frames

SIZE = {"height": 16, "width": 24}
CALLS: dict[str, tuple[Any, dict[str, Any]]] = {
    "flux": (tiny.flux, tiny.FLUX_CALL),
    "sdxl": (tiny.sdxl, tiny.IMAGE_CALL),
    "sd15": (tiny.sd15, tiny.IMAGE_CALL),
    "animatediff": (tiny.animatediff_sdxl, tiny.ANIMATEDIFF_CALL),
}
SQUARE = Layout("image", 4, 8, 8)


@pytest.fixture(scope="module")
def flux() -> FluxPipeline:
    return tiny.flux()


def tiny_autoencoder(channels: int = 4, stages: int = 2, **settings: Any) -> AutoencoderTiny:
    return tiny.seeded(
        14,
        lambda: AutoencoderTiny(
            encoder_block_out_channels=(8,) * stages,
            decoder_block_out_channels=(8,) * stages,
            num_encoder_blocks=(1,) * stages,
            num_decoder_blocks=(1,) * stages,
            latent_channels=channels,
            **settings,
        ),
    ).eval()


def output_of(pipe: Any, call: dict[str, Any], kind: str) -> Tensor:
    made = pipe("a cat", num_inference_steps=2, generator=tiny.generator(), output_type=kind, **{**call, **SIZE})
    return made.images if hasattr(made, "images") else made.frames


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=tiny.generator(seed))


class Spy:
    """Stands in for a VAE and notes the batches it is given and whether it is tiling."""

    def __init__(self, vae: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.batches: list[int] = []
        self.tiling: list[bool] = []
        for name in ("encode", "decode"):
            monkeypatch.setattr(vae, name, self._noting(vae, getattr(vae, name)))

    def _noting(self, vae: Any, function: Any) -> Any:
        def noted(batch: Tensor, **settings: Any) -> Any:
            self.batches.append(len(batch))
            self.tiling.append(vae.use_tiling)
            return function(batch, **settings)

        return noted


# -- layouts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(16, 16), (16, 24), (40, 8), (18, 26)])
def test_packed_latents_become_the_grid_that_flux_unpacks_and_back(flux: FluxPipeline, height: int, width: int) -> None:
    rows, columns = 2 * (height // 4), 2 * (width // 4)  # as FluxPipeline.prepare_latents, factor 2
    grid = noise(3, 4, rows, columns)
    packed = FluxPipeline._pack_latents(grid, 3, 4, rows, columns)
    layout = codec_of(flux, packed.shape, height, width).layout
    assert torch.equal(layout.grid(packed), FluxPipeline._unpack_latents(packed, height, width, flux.vae_scale_factor))
    assert torch.equal(layout.grid(packed), grid)
    assert torch.equal(layout.latents(grid), packed)


def test_the_grid_of_a_video_holds_its_frames_one_after_the_other() -> None:
    layout = Layout("video", 4, 3, 5, num_frames=6)
    latents = noise(2, 4, 6, 3, 5)
    grid = layout.grid(latents)
    assert grid.shape == (12, 4, 3, 5)
    for video in range(2):
        for frame in range(6):
            assert torch.equal(grid[6 * video + frame], latents[video, :, frame])
    assert torch.equal(layout.latents(grid), latents)


def test_the_grid_of_an_image_is_its_latents() -> None:
    latents = noise(2, 4, 8, 8)
    assert SQUARE.grid(latents) is latents
    assert SQUARE.latents(latents) is latents


@pytest.mark.parametrize("kind", ["image", "packed", "video"])
def test_a_layout_refuses_latents_and_grids_of_another_size(kind: str) -> None:
    layout = Layout(kind, 4, 8, 8, num_frames=2)
    with pytest.raises(UserError, match="this layout holds"):
        layout.grid(noise(*layout.latents_shape(1)[:-1], 7))
    with pytest.raises(UserError, match="this layout holds"):
        layout.latents(noise(2, 4, 8, 9))


def test_layouts_that_cannot_be_are_refused() -> None:
    with pytest.raises(UserError, match="choose one of image, packed, video"):
        Layout("row", 4, 8, 8)
    with pytest.raises(UserError, match="even sides"):
        Layout("packed", 4, 7, 8)
    with pytest.raises(UserError, match="at least 1"):
        Layout("video", 4, 8, 8)
    with pytest.raises(UserError, match="not a whole number of videos of 2"):
        Layout("video", 4, 8, 8, num_frames=2).latents(noise(3, 4, 8, 8))


# -- against the stock pipelines ------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", CALLS)
def test_decoding_a_pipelines_latents_gives_the_pipelines_pictures(family: str) -> None:
    make, call = CALLS[family]
    pipe = make()
    latents, pictures = (output_of(pipe, call, kind) for kind in ("latent", "pt"))
    codec = codec_of(pipe, latents.shape, 16, 24, call.get("num_frames"))
    ours = (codec.decode(codec.layout.grid(latents)) / 2 + 0.5).clamp(0, 1)
    assert (codec.height, codec.width) == (16, 24)
    # All but AnimateDiff divide by the scale, as we do; it multiplies by 1 / scale: one rounding more on the way in.
    tolerance = 16 * 2**-24 if family == "animatediff" else 0.0
    assert (ours - pictures.reshape(ours.shape)).abs().max() <= tolerance


def test_means_and_deviations_of_latents_are_undone_as_sdxl_does_it() -> None:
    pipe = tiny.sdxl()
    pipe.vae = tiny.vae(latents_mean=[0.5, -1.0, 0.0, 2.0], latents_std=[1.0, 2.0, 0.5, 3.0])
    latents, pictures = (output_of(pipe, tiny.IMAGE_CALL, kind) for kind in ("latent", "pt"))
    codec = codec_of(pipe, latents.shape, 16, 24)
    ours = (codec.decode(latents) / 2 + 0.5).clamp(0, 1)
    # They multiply by std and divide by the scale, we divide by scale / std: one rounding more on the way in.
    assert (ours - pictures).abs().max() <= 16 * 2**-24
    plain = codec_of(tiny.sdxl(), latents.shape, 16, 24)
    assert (plain.decode(latents) - codec.decode(latents)).abs().max() > 0.01


def test_encoding_is_what_the_stock_image_to_image_pipeline_encodes_at_the_posteriors_mean(
    flux: FluxPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    stock = FluxImg2ImgPipeline(**{name: part for name, part in flux.components.items() if part is not None})
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda posterior, generator=None: posterior.mean)
    pixels = noise(2, 3, 16, 24).clamp(-1, 1)
    theirs = stock._encode_vae_image(pixels, tiny.generator())
    assert torch.equal(codec_of(flux, (2, 24, 16), 16, 24).encode(pixels), theirs)


def test_encoding_twice_gives_the_same_and_draws_no_noise() -> None:
    codec, pixels = Codec(tiny.vae(), SQUARE), noise(1, 3, 16, 16)
    before = torch.get_rng_state()
    assert torch.equal(codec.encode(pixels), codec.encode(pixels))
    assert torch.equal(torch.get_rng_state(), before)


def test_encoding_divides_by_the_deviations_it_multiplies_by_when_decoding() -> None:
    plain = Codec(tiny.vae(), SQUARE)
    codec = Codec(tiny.vae(latents_mean=[0.5, -1.0, 0.0, 2.0], latents_std=[1.0, 2.0, 0.5, 4.0]), SQUARE)
    pixels = noise(1, 3, 16, 16)
    std, mean = (torch.tensor(v).reshape(1, 4, 1, 1) for v in ([1.0, 2.0, 0.5, 4.0], [0.5, -1.0, 0.0, 2.0]))
    expected = (plain.encode(pixels) - 0.13025 * mean) / std
    assert torch.allclose(codec.encode(pixels), expected, atol=1e-6)  # latents are below 4: 3 roundings of 2.4e-7
    grid = noise(1, 4, 8, 8)
    assert torch.allclose(codec.decode(grid), plain.decode(grid * std + 0.13025 * mean), atol=1e-5)


# -- other VAEs -----------------------------------------------------------------------------------------------------


def test_a_tiny_vae_in_a_pipelines_place_decodes_as_the_pipeline_with_it() -> None:
    pipe, small = tiny.flux(), tiny_autoencoder()
    latents = output_of(pipe, tiny.FLUX_CALL, "latent")
    codec = codec_of(pipe, latents.shape, 16, 24, vae=small)
    ours = (codec.decode(codec.layout.grid(latents)) / 2 + 0.5).clamp(0, 1)
    pipe.vae = small
    assert torch.equal(ours, output_of(pipe, tiny.FLUX_CALL, "pt"))
    assert (codec.kind, codec.factor, codec.channels) == ("AutoencoderTiny", 2, 4)


def test_a_tiny_vae_takes_and_gives_pixels_from_minus_one_to_one_at_its_own_scale() -> None:
    small = tiny_autoencoder(stages=3)
    codec = Codec(small, Layout("image", 4, 4, 6))
    pixels = noise(2, 3, 16, 24).clamp(-1, 1)
    with torch.no_grad():  # the bare layers work from 0 to 1
        expected = small.encoder.layers((pixels + 1) / 2)
        back = 2 * small.decoder.layers(3 * torch.tanh(expected / 3)) - 1
    assert codec.factor == 4
    assert torch.equal(codec.encode(pixels), expected)
    assert torch.allclose(codec.decode(expected), back, atol=1e-6)


def test_a_deterministic_autoencoder_gives_its_latents_scaled() -> None:
    stages: dict[str, Any] = {"block_out_channels": (8, 16), "layers_per_block": (1, 1), "qkv_multiscales": ((), ())}
    settings = {f"{way}_{name}": value for way in ("encoder", "decoder") for name, value in stages.items()}
    settings |= {f"{way}_block_types": "ResBlock" for way in ("encoder", "decoder")}
    deep = tiny.seeded(
        15, lambda: AutoencoderDC(latent_channels=4, attention_head_dim=8, scaling_factor=0.4, **settings)
    ).eval()
    codec, pixels = Codec(deep, SQUARE), noise(1, 3, 16, 16)
    with torch.no_grad():
        latents = deep.encode(pixels).latent
        assert torch.equal(codec.encode(pixels), latents * 0.4)
        assert torch.equal(codec.decode(latents), deep.decode(latents / 0.4).sample)


# -- pairs, chunks and tiles ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [None, 1, 3])
def test_a_pair_is_each_of_its_two_and_equal_ones_stay_equal(chunk: int | None) -> None:
    codec = Codec(tiny.vae(), SQUARE, chunk=chunk)
    one, other = noise(2, 4, 8, 8), noise(2, 4, 8, 8, seed=1)
    pictures = codec.decode_pair(one, other)
    for pair, single in ((pictures, codec.decode), (codec.encode_pair(*pictures), codec.encode)):
        for given, made in zip((one, other) if single == codec.decode else pictures, pair, strict=True):
            assert torch.allclose(made, single(given), atol=1e-5)  # kernels may depend on the size of the batch
    for pair in (codec.decode_pair(one, one.clone()), codec.encode_pair(pictures[0], pictures[0].clone())):
        assert torch.equal(*pair)


def test_uses_are_counted_one_for_each_argument_whatever_the_chunks() -> None:
    codec = Codec(tiny.vae(), SQUARE, chunk=1)
    grid = noise(3, 4, 8, 8)
    pixels = codec.decode(grid)
    codec.encode(pixels)
    codec.encode_pair(pixels, pixels)
    codec.decode_pair(grid, grid)
    assert (codec.num_encodes, codec.num_decodes) == (3, 3)
    codec.num_encodes = codec.num_decodes = 0
    codec.encode(pixels)
    assert (codec.num_encodes, codec.num_decodes) == (1, 0)


def test_pairs_go_through_the_vae_together_and_chunks_bound_its_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    vae = tiny.vae()
    spy = Spy(vae, monkeypatch)
    grid = noise(3, 4, 8, 8)
    Codec(vae, SQUARE).decode_pair(grid, grid)
    Codec(vae, SQUARE, chunk=6).decode_pair(grid, grid)
    assert spy.batches == [6, 6]
    spy.batches.clear()
    Codec(vae, SQUARE, chunk=4).decode_pair(grid, grid)  # alike for both, so that equal ones stay equal
    Codec(vae, SQUARE, chunk=2).encode(noise(3, 3, 16, 16))
    assert spy.batches == [3, 3, 2, 1]


def test_chunks_change_nothing_but_rounding() -> None:
    grid = noise(5, 4, 8, 8)
    whole = Codec(tiny.vae(), SQUARE).decode(grid)
    assert torch.allclose(Codec(tiny.vae(), SQUARE, chunk=2).decode(grid), whole, atol=1e-5)


def test_tiles_are_the_vaes_own_and_only_for_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    vae, grid = tiny.vae(), noise(1, 4, 12, 12)
    with torch.no_grad():
        expected = vae.tiled_decode(grid / vae.config.scaling_factor).sample
    spy = Spy(vae, monkeypatch)
    codec = Codec(vae, SQUARE, tiled=True)
    tiles = codec.decode(grid)
    assert torch.equal(tiles, expected)
    assert not torch.equal(tiles, Codec(vae, SQUARE).decode(grid))
    codec.encode(noise(1, 3, 24, 24))
    assert spy.tiling == [True, False, True]
    assert not vae.use_tiling
    vae.enable_tiling()
    codec.decode(grid)
    assert vae.use_tiling, "what was on before stays on"


def test_tiling_ends_with_an_error_too(monkeypatch: pytest.MonkeyPatch) -> None:
    vae = tiny.vae()

    def failing(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(vae, "decode", failing)
    with pytest.raises(RuntimeError, match="out of memory"):
        Codec(vae, SQUARE, tiled=True).decode(noise(1, 4, 8, 8))
    assert not vae.use_tiling


# -- dtypes and devices ---------------------------------------------------------------------------------------------


def test_a_float16_vae_that_overflows_is_computed_in_float32_and_left_as_it_is() -> None:
    vae = tiny.vae(force_upcast=True).half()
    rounded = tiny.vae(force_upcast=True).half().float()
    before = torch.get_rng_state()
    codec, grid, pixels = Codec(vae, SQUARE), noise(1, 4, 8, 8), noise(1, 3, 16, 16)
    assert torch.equal(codec.decode(grid), Codec(rounded, SQUARE).decode(grid))
    assert torch.equal(codec.encode(pixels), Codec(rounded, SQUARE).encode(pixels))
    assert vae.dtype == torch.float16
    assert codec.description()["dtype"] == "float32"
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("dtype", "bits"), [(torch.float16, 10), (torch.bfloat16, 7)])
def test_a_vae_works_in_its_own_dtype_and_answers_in_float32(dtype: torch.dtype, bits: int) -> None:
    codec, exact = Codec(tiny.vae(force_upcast=False).to(dtype), SQUARE), Codec(tiny.vae(), SQUARE)
    grid = noise(1, 4, 8, 8).double()
    pixels, expected = codec.decode(grid), exact.decode(grid)
    assert pixels.dtype == codec.encode(pixels).dtype == torch.float32
    assert codec.description()["dtype"] == str(dtype).removeprefix("torch.")
    # A dozen layers, each rounding by 2**-(bits + 1) of its size at most; the last ones matter most.
    assert 0 < (pixels - expected).abs().max() < 64 * 2.0**-bits * expected.abs().max()
    assert not pixels.requires_grad


def test_weights_that_are_fetched_in_groups_are_fetched_for_encoding_and_decoding() -> None:
    grid, pixels, vae = noise(1, 4, 8, 8), noise(1, 3, 16, 16), tiny.vae()
    resident = Codec(tiny.vae(), SQUARE)
    vae.enable_group_offload(torch.device("cpu"), offload_type="leaf_level")
    codec = Codec(vae, SQUARE)
    assert torch.equal(codec.decode(grid), resident.decode(grid))
    assert torch.equal(codec.encode(pixels), resident.encode(pixels))
    assert codec.fingerprint == resident.fingerprint


def test_weights_that_wait_elsewhere_are_fetched_and_hashed() -> None:
    grid, resident, vae = noise(1, 4, 8, 8), Codec(tiny.vae(), SQUARE), tiny.vae()
    cpu_offload(vae, torch.device("cpu"))
    assert all(tensor.is_meta for tensor in vae.parameters())
    codec = Codec(vae, SQUARE)
    assert torch.equal(codec.decode(grid), resident.decode(grid))
    assert torch.equal(codec.encode(noise(1, 3, 16, 16)), resident.encode(noise(1, 3, 16, 16)))
    assert codec.fingerprint == resident.fingerprint
    halved = tiny.vae().half()
    cpu_offload(halved, torch.device("cpu"))
    rounded = tiny.vae().half().float()
    assert torch.equal(Codec(halved, SQUARE).decode(grid), Codec(rounded, SQUARE).decode(grid))


# -- fingerprints ---------------------------------------------------------------------------------------------------


def test_one_checkpoint_is_one_space_as_float32_and_as_bfloat16(tmp_path: Path) -> None:
    tiny.vae().save_pretrained(tmp_path)
    prints = {fingerprint_of(AutoencoderKL.from_pretrained(tmp_path, dtype=d)) for d in (torch.float32, torch.bfloat16)}
    assert len(prints) == 1
    assert prints == {fingerprint_of(tiny.vae())}
    assert same_space(Codec(tiny.vae(), SQUARE), Codec(tiny.vae().bfloat16(), Layout("packed", 4, 4, 4)))


def test_other_weights_scales_shifts_or_means_are_other_spaces() -> None:
    others: list[Any] = [
        tiny.vae(),
        tiny.vae(seed=13),
        tiny.vae(scaling_factor=0.18215),
        tiny.vae(shift_factor=0.1),
        tiny.vae(latents_mean=[0.5, 0.0, 0.0, 0.0], latents_std=[1.0] * 4),
        tiny_autoencoder(),
    ]
    assert len({fingerprint_of(vae) for vae in others}) == len(others)
    assert fingerprint_of(tiny.vae(shift_factor=0.0)) == fingerprint_of(tiny.vae()), "no shift is a shift of 0"
    assert not same_space(Codec(others[0], SQUARE), Codec(others[1], SQUARE))


def test_a_fingerprint_is_found_once_and_again_after_the_weights_change(monkeypatch: pytest.MonkeyPatch) -> None:
    vae = tiny.vae()
    first = fingerprint_of(vae)
    with monkeypatch.context() as patch:
        patch.setattr("w2sd_video.latents.vaes._hash", None)
        assert fingerprint_of(vae) == first
    with torch.no_grad():
        next(vae.decoder.parameters()).mul_(2)
    assert fingerprint_of(vae) != first
    vae.load_state_dict(tiny.vae().state_dict())
    assert fingerprint_of(vae) == first


def test_a_codec_is_described_in_plain_values(flux: FluxPipeline) -> None:
    described = codec_of(flux, (1, 24, 16), 16, 24, chunk=2).description()
    assert json.loads(json.dumps(described)) == described
    expected = {"class": "AutoencoderKL", "channels": 4, "factor": 2, "scale": 1.5035, "shift": 0.0609, "chunk": 2}
    assert expected.items() <= described.items()
    assert described["fingerprint"] == fingerprint_of(flux.vae)


# -- refusals -------------------------------------------------------------------------------------------------------


def test_a_video_vae_is_refused_by_name() -> None:
    pipe = tiny.wan()
    with pytest.raises(UserError, match=r"AutoencoderKLWan.*image VAEs: AutoencoderKL, AutoencoderTiny"):
        codec_of(pipe, (1, 16, 2, 2, 2), 16, 16, 5)


def test_a_pipeline_without_a_vae_is_refused() -> None:
    pipe = SimpleNamespace(vae=None)
    with pytest.raises(UserError, match="has no VAE"):
        codec_of(pipe, (1, 4, 8, 8), 16, 16)


@pytest.mark.parametrize(
    ("small", "message"),
    [
        (lambda: tiny_autoencoder(channels=16), "16 latent channels and the pipeline's latents 4"),
        (lambda: tiny_autoencoder(stages=4), "8 pixels to a cell and the pipeline 2"),
        (lambda: tiny_autoencoder(upsampling_scaling_factor=4), "shrinks 2 times and enlarges 4 times"),
        (lambda: tiny_autoencoder(in_channels=1), "RGB pictures"),
    ],
)
def test_a_vae_that_does_not_fit_the_pipeline_is_refused(small: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        codec_of(SimpleNamespace(vae=tiny.vae()), (1, 4, 8, 8), 16, 16, vae=small())


def test_latents_that_are_not_of_the_pictures_size_are_refused(flux: FluxPipeline) -> None:
    image = SimpleNamespace(vae=tiny.vae())
    with pytest.raises(UserError, match="8 x 8; 16 x 32 pixels make 8 x 16"):
        codec_of(image, (1, 4, 8, 8), 16, 32)
    with pytest.raises(UserError, match=r"16 x 32 pixels make \[1, 32, 16\]"):
        codec_of(flux, (1, 16, 16), 16, 32)
    with pytest.raises(UserError, match="hold 2 frames for a video of 5"):
        codec_of(image, (1, 4, 2, 8, 8), 16, 16, 5)


def test_latents_in_an_unknown_layout_are_refused(flux: FluxPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="layout that is not known"):
        codec_of(SimpleNamespace(vae=tiny.vae()), (1, 16, 16), 16, 16)
    other = staticmethod(lambda latents, height, width, factor: latents)
    monkeypatch.setattr(FluxPipeline, "_unpack_latents", other)
    with pytest.raises(UserError, match="layout that is not known"):
        codec_of(flux, (1, 16, 16), 16, 16)


def test_pixels_and_grids_of_the_wrong_shape_are_refused_and_not_counted() -> None:
    codec = Codec(tiny.vae(), SQUARE)
    for pixels in (noise(1, 4, 16, 16), noise(3, 16, 16), noise(1, 3, 15, 16)):
        with pytest.raises(UserError, match="multiples of 2: resize them"):
            codec.encode(pixels)
    with pytest.raises(UserError, match=r"decodes \[N, 4, h, w\]"):
        codec.decode_pair(noise(1, 4, 8, 8), noise(1, 3, 8, 8))
    assert (codec.num_encodes, codec.num_decodes) == (0, 0)


def test_chunks_and_tiles_that_cannot_be_are_refused() -> None:
    with pytest.raises(UserError, match="chunk is 0"):
        Codec(tiny.vae(), SQUARE, chunk=0)
    with pytest.raises(UserError, match="tiles of AutoencoderTiny"):
        Codec(tiny_autoencoder(), SQUARE, tiled=True)


# -- sizes ----------------------------------------------------------------------------------------------------------


def test_resizing_to_the_same_size_is_the_same_tensor() -> None:
    pixels = noise(1, 3, 8, 12)
    assert resize(pixels, 8, 12) is pixels


def test_resizing_keeps_plain_colours_and_averages_what_is_finer_than_the_new_pixels() -> None:
    plain = torch.full((1, 3, 16, 16), 0.37)
    for size in ((8, 8), (24, 40)):
        assert torch.allclose(resize(plain, *size), torch.full((1, 3, *size), 0.37), atol=1e-6)
    checks = torch.ones(1, 3, 32, 32)
    checks[..., ::2, 1::2] = checks[..., 1::2, ::2] = -1
    # The cubic kernel, stretched 4 times, weighs odd and even columns alike but at the borders.
    assert resize(checks, 8, 8)[..., 2:-2, 2:-2].abs().max() < 0.01


def test_the_package_itself_loads_nothing_heavy() -> None:
    program = "import sys, bridges; print('torch' in sys.modules)"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_frames_are_found_where_a_pipeline_keeps_them() -> None:
    video = torch.randn(2, 3, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    for name, dim in (("WanPipeline", 2), ("CogVideoXPipeline", 1), ("Kandinsky5T2VPipeline", 1)):
        assert torch.equal(mean_over_latent_frames(name, video.shape)(video), video.mean(dim, keepdim=True))
    tokens = video[:, :, 0, 0]  # [2, 3, 6]: three frames of one token each
    alike = mean_over_latent_frames("LTXPipeline", tokens.shape, 3)(tokens)
    torch.testing.assert_close(alike, tokens.mean(1, keepdim=True).expand(2, 3, 6))
    longer = torch.cat([tokens, tokens + 1], 1)  # two frames of three tokens
    torch.testing.assert_close(
        mean_over_latent_frames("LTXPipeline", longer.shape, 2)(longer), torch.cat([tokens + 0.5] * 2, 1)
    )
    for name, shape, frames in (("FluxPipeline", (1, 16, 64), None), ("WanPipeline", (1, 4, 1, 8, 8), None)):
        with pytest.raises(UserError, match="hold no video whose frames can be told apart"):
            mean_over_latent_frames(name, shape, frames)
