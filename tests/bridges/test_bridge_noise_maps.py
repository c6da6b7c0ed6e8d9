"""Noise maps: what P does to white noise, how it is fitted, and how it is kept."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from bridges.pixel.noise_maps import Fixed, Fresh, Identity, Mapped, NoiseMap, fit, fit_from_pictures, noise_map_of
from tests.support import tiny
from w2sd_video.errors import UserError
from w2sd_video.latents.codecs import Codec
from w2sd_video.latents.layouts import Layout

# Channels of A and B and the ratio (p, q) of blocks of p x p cells of A to q x q of B.
SHAPES = [
    pytest.param(4, 4, (1, 1), id="4-to-4"),
    pytest.param(16, 4, (1, 1), id="16-to-4"),
    pytest.param(4, 16, (1, 1), id="4-to-16"),
    pytest.param(4, 4, (2, 1), id="4-to-4-of-half-the-size"),
    pytest.param(4, 4, (1, 2), id="4-to-4-of-twice-the-size"),
    pytest.param(16, 4, (1, 2), id="16-to-4-of-twice-the-size"),
]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=tiny.generator(seed), dtype=torch.float64)


def semi_orthogonal(rows: int, columns: int, seed: int = 5) -> Tensor:
    square = torch.linalg.qr(noise(max(rows, columns), max(rows, columns), seed=seed)).Q
    return square[:rows, :columns]


def dims(ca: int, cb: int, ratio: tuple[int, int]) -> tuple[int, int]:
    """The dimensions of P: those of a block of B, those of a block of A."""
    return cb * ratio[1] ** 2, ca * ratio[0] ** 2


def grids(ca: int, cb: int, ratio: tuple[int, int], pictures: int, blocks: int) -> tuple[torch.Size, torch.Size]:
    """The shapes of grids of `blocks` x `blocks` blocks in A and in B."""
    a, b = ((pictures, c, blocks * side, blocks * side) for c, side in zip((ca, cb), ratio, strict=True))
    return torch.Size(a), torch.Size(b)


def applied(matrix: Tensor, grid: Tensor, ratio: tuple[int, int]) -> Tensor:
    """`matrix` on each block of a grid of A."""
    blocks = F.pixel_unshuffle(grid, ratio[0])
    return F.pixel_shuffle(torch.einsum("ba,nahw->nbhw", matrix, blocks), ratio[1])


def covariance(grid: Tensor, side: int) -> Tensor:
    cells = F.pixel_unshuffle(grid, side).transpose(0, 1).flatten(1)
    return torch.cov(cells, correction=0)


def uneven(channels: int, *shape: int, seed: int = 1) -> Tensor:
    """Latents whose channels are correlated and of deviations from a quarter to four, with means of their own."""
    mix = semi_orthogonal(channels, channels, seed=9) * torch.logspace(-2, 2, channels, 2.0, dtype=torch.float64)
    cells = torch.einsum("ba,nahw->nbhw", mix, noise(shape[0], channels, *shape[1:], seed=seed))
    return cells + noise(channels, seed=3).reshape(1, -1, 1, 1)


# -- what P does ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ca", "cb", "ratio"), SHAPES)
def test_the_map_is_semi_orthogonal_as_it_acts_on_grids(ca: int, cb: int, ratio: tuple[int, int]) -> None:
    rows, columns = dims(ca, cb, ratio)
    mapped = Mapped(semi_orthogonal(rows, columns), 1.0, ratio)
    units = F.pixel_shuffle(torch.eye(columns, dtype=torch.float64).reshape(columns, columns, 1, 1), ratio[0])
    shape = torch.Size((columns, cb, ratio[1], ratio[1]))
    images = mapped(units, shape) - mapped(torch.zeros_like(units), shape)
    matrix = F.pixel_unshuffle(images, ratio[1]).flatten(1).T
    product = matrix @ matrix.T if rows <= columns else matrix.T @ matrix
    assert (product - torch.eye(min(rows, columns), dtype=torch.float64)).abs().max() < 1e-12
    assert (matrix - mapped.matrix).abs().max() < 1e-12


@pytest.mark.parametrize(("ca", "cb", "ratio"), SHAPES)
def test_white_noise_stays_white(ca: int, cb: int, ratio: tuple[int, int]) -> None:
    a, b = grids(ca, cb, ratio, pictures=40, blocks=25)
    mapped = Mapped(semi_orthogonal(*dims(ca, cb, ratio)), 1.0, ratio)(noise(*a), b)
    found = covariance(mapped, ratio[1])
    # An entry of the covariance of n independent cells has a deviation of at most sqrt(2 / n); 5 of them.
    assert (found - torch.eye(len(found), dtype=torch.float64)).abs().max() < 5 * (2 / (40 * 25 * 25)) ** 0.5


@pytest.mark.parametrize(("ca", "cb", "ratio"), SHAPES)
def test_noise_that_is_not_of_unit_variance_is_not_made_so(ca: int, cb: int, ratio: tuple[int, int]) -> None:
    a, b = grids(ca, cb, ratio, pictures=2, blocks=3)
    mapped = Mapped(semi_orthogonal(*dims(ca, cb, ratio)), 1.0, ratio)
    none = mapped(torch.zeros(a, dtype=torch.float64), b)
    assert torch.allclose(mapped(0.3 * noise(*a), b) - none, 0.3 * (mapped(noise(*a), b) - none), atol=1e-12)


@pytest.mark.parametrize(("ca", "cb", "ratio"), SHAPES)
def test_going_and_coming_back_keeps_what_the_smaller_space_holds(ca: int, cb: int, ratio: tuple[int, int]) -> None:
    there = Mapped(semi_orthogonal(*dims(ca, cb, ratio)), 1.0, ratio)
    a, b = grids(ca, cb, ratio, pictures=2, blocks=3)
    small_first = dims(ca, cb, ratio)[0] >= dims(ca, cb, ratio)[1]
    first, second, start, end = (there, there.reversed(), a, b) if small_first else (there.reversed(), there, b, a)
    given = noise(*start)
    assert torch.allclose(second(first(given, end), start), given, atol=1e-6)  # the missing directions are in float32


def test_missing_directions_have_fixed_noise_of_unit_variance() -> None:
    matrix = semi_orthogonal(16, 4)
    a, b = grids(4, 16, (1, 1), pictures=20, blocks=25)
    missing = torch.linalg.svd(matrix).U[:, 4:]  # the 12 directions of B that no noise of A reaches
    mapped, again, other = Mapped(matrix, 1.0), Mapped(matrix, 1.0), Mapped(matrix, 1.0, seed=1)
    filled = [
        torch.einsum("ba,nbhw->nahw", missing, each(noise(*a, seed=seed), b))
        for each, seed in ((mapped, 0), (mapped, 1), (again, 2), (other, 3))
    ]
    assert torch.allclose(filled[0], filled[1], atol=1e-6), "the same at each step"
    assert torch.allclose(filled[0], filled[2], atol=1e-6), "and in each run of a seed"
    assert (filled[0] - filled[3]).abs().max() > 1
    n = 20 * 25 * 25
    assert (covariance(filled[0], 1) - torch.eye(12, dtype=torch.float64)).abs().max() < 5 * (2 / n) ** 0.5


def test_a_map_answers_in_the_dtype_of_the_noise() -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        assert (
            Mapped(semi_orthogonal(16, 4), 1.0)(noise(1, 4, 2, 2).to(dtype), torch.Size((1, 16, 2, 2))).dtype == dtype
        )


def test_a_map_refuses_grids_it_was_not_fitted_to() -> None:
    mapped = Mapped(semi_orthogonal(4, 16), 1.0, (2, 1))
    with pytest.raises(UserError, match="fit one at these sizes"):
        mapped(noise(1, 4, 8, 8), torch.Size((1, 4, 8, 8)))
    with pytest.raises(UserError, match="16 to 4 dimensions"):
        mapped(noise(1, 8, 8, 8), torch.Size((1, 4, 4, 4)))
    with pytest.raises(UserError, match="whole multiple"):
        mapped(noise(1, 4, 9, 9), torch.Size((1, 4, 6, 6)))
    with pytest.raises(UserError, match="alike in height and width"):
        mapped(noise(1, 4, 8, 8), torch.Size((1, 4, 4, 8)))


# -- fitting --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ca", "cb", "ratio"), SHAPES)
def test_a_known_map_is_found_exactly_with_its_scale(ca: int, cb: int, ratio: tuple[int, int]) -> None:
    shape, _ = grids(ca, cb, ratio, pictures=5, blocks=8)
    a, known = uneven(ca, shape[0], *shape[2:]), semi_orthogonal(*dims(ca, cb, ratio))
    found = fit((a, 1.7 * applied(known, a, ratio) + 3.0))
    assert found.ratio == ratio
    assert (found.matrix - known).abs().max() < 1e-9  # deviations from 1/4 to 4: variances lose 2 of 15 digits, twice
    assert found.scale == pytest.approx(1.7, rel=1e-9)
    assert found.residual == pytest.approx(0.0, abs=1e-9)
    assert (found.num_pictures, found.num_cells) == (5, 5 * 64)


def test_the_cross_covariance_alone_would_not_find_a_map_to_fewer_channels() -> None:
    """Why the least-squares map comes first: P C and P have different polar factors where C is not a multiple of 1."""
    a, known = uneven(16, 5, 8, 8), semi_orthogonal(4, 16)
    cells, images = (x.transpose(0, 1).flatten(1) for x in (a, applied(known, a, (1, 1))))
    across = (images - images.mean(1, keepdim=True)) @ (cells - cells.mean(1, keepdim=True)).T
    left, _, right = torch.linalg.svd(across, full_matrices=False)
    assert (left @ right - known).abs().max() > 0.2
    assert (fit((a, applied(known, a, (1, 1)))).matrix - known).abs().max() < 1e-9


def test_many_small_batches_are_as_good_as_one_large_one() -> None:
    a = uneven(4, 12, 4, 4)
    b = applied(semi_orthogonal(4, 4), a, (1, 1)) + 0.1 * noise(12, 4, 4, 4, seed=8)
    whole, parts = fit((a, b)), fit(zip(a.split(5), b.split(5), strict=True))
    assert (whole.matrix - parts.matrix).abs().max() < 1e-12
    assert whole.scale == pytest.approx(parts.scale, rel=1e-12)
    assert (whole.num_cells, whole.num_pictures) == (parts.num_cells, parts.num_pictures) == (192, 12)


@pytest.mark.parametrize("cells", [100, 3000])
@pytest.mark.parametrize("rows", [4, 8])
def test_with_noise_of_five_percent_the_map_is_off_by_no_more_than_its_sampling_error(cells: int, rows: int) -> None:
    known, errors = semi_orthogonal(rows, 8), []
    for seed in range(10):
        a = noise(cells, 8, 1, 1, seed=seed)
        b = applied(known, a, (1, 1)) + 0.05 * noise(cells, rows, 1, 1, seed=100 + seed)
        errors.append((fit((a, b)).matrix - known).square().sum().item())
    # The least-squares map of unit cells is off by 0.05 / sqrt(n - 8) an entry; the polar factor is off by no more.
    # Of the squares' sum the mean is rows * 8 such; 10 of them scatter by sqrt(2 / (10 * rows * 8)) of it at most.
    expected = rows * 8 * 0.05**2 / (cells - 8)
    assert 0 < sum(errors) / 10 < expected * (1 + 4 * (2 / (10 * rows * 8)) ** 0.5)


def test_average_pooling_has_the_scale_of_one_over_its_side() -> None:
    a = noise(40, 3, 16, 16)
    found = fit((a, F.avg_pool2d(a, 2)))
    pooling = torch.kron(torch.eye(3, dtype=torch.float64), torch.full((1, 4), 0.5, dtype=torch.float64))
    assert (found.matrix - pooling).abs().max() < 1e-9
    # P a and b are one and the same up to the factor, in these very cells.
    assert found.scale == pytest.approx(0.5, rel=1e-9)


@pytest.mark.parametrize(("ca", "cb", "ratio"), SHAPES)
def test_the_scales_are_the_ratios_of_deviations_both_ways(ca: int, cb: int, ratio: tuple[int, int]) -> None:
    shape, other = grids(ca, cb, ratio, pictures=5, blocks=8)
    a = uneven(ca, shape[0], *shape[2:])
    b = applied(noise(*dims(ca, cb, ratio), seed=6), a, ratio) + noise(*other, seed=7)
    found = fit((a, b))

    def spread(grid: Tensor, side: int) -> float:
        return covariance(grid, side).diagonal().mean().sqrt().item()

    ahead, back = applied(found.matrix, a, ratio), applied(found.matrix.T, b, ratio[::-1])
    assert found.scale == pytest.approx(spread(b, ratio[1]) / spread(ahead, ratio[1]), rel=1e-9)
    assert found.reversed().scale == pytest.approx(spread(a, ratio[0]) / spread(back, ratio[0]), rel=1e-9)
    again = found.reversed().reversed()
    assert torch.equal(again.matrix, found.matrix)
    assert (again.scale, again.ratio) == (found.scale, found.ratio)


def test_the_residual_is_the_share_of_variance_that_no_linear_map_explains() -> None:
    a = noise(50, 4, 20, 20)
    b = applied(semi_orthogonal(4, 4), a, (1, 1)) + 0.5 * noise(50, 4, 20, 20, seed=2)
    # 1 of 1.25 is explained; a share of variance from n = 80000 numbers is off by about its size times sqrt(2 / n).
    assert fit((a, b)).residual == pytest.approx(0.25 / 1.25, abs=5 * 0.25 * (2 / 80000) ** 0.5)
    assert fit((a, noise(50, 4, 20, 20, seed=3))).residual == pytest.approx(1.0, abs=0.01)
    assert fit((a, a.square() - 1)).residual == pytest.approx(1.0, abs=0.01), "a relation that is not linear shows"


def test_channels_that_do_not_vary_leave_the_others_as_they_are() -> None:
    a, known = uneven(4, 20, 4, 4), semi_orthogonal(4, 4)
    a[:, 2] = 0.7
    b = applied(known, a, (1, 1))
    found = fit((a, b)).matrix
    varying = torch.tensor([0, 1, 3])
    assert (found[:, varying] - known[:, varying]).abs().max() < 1e-6


def test_too_few_cells_and_pairs_that_do_not_pair_are_refused() -> None:
    with pytest.raises(UserError, match=r"15 cells are too few.*at least 16"):
        fit((noise(15, 4, 1, 1), noise(15, 2, 1, 1)))
    fit((noise(16, 4, 1, 1), noise(16, 2, 1, 1)))
    with pytest.raises(UserError, match="0 cells are too few"):
        fit([])
    with pytest.raises(UserError, match="the same N pictures"):
        fit((noise(3, 4, 4, 4), noise(2, 4, 4, 4)))
    with pytest.raises(UserError, match="pictures of one size"):
        fit([(noise(3, 4, 4, 4), noise(3, 4, 4, 4)), (noise(3, 4, 4, 4), noise(3, 4, 8, 8))])
    with pytest.raises(UserError, match="whole multiple"):
        fit((noise(3, 4, 9, 9), noise(3, 4, 6, 6)))


def test_latents_without_variance_or_not_finite_are_refused() -> None:
    with pytest.raises(UserError, match="do not vary"):
        fit((torch.ones(9, 4, 4, 4), torch.ones(9, 4, 4, 4)))
    with pytest.raises(UserError, match="not finite"):
        fit((noise(9, 4, 4, 4), noise(9, 4, 4, 4) / 0))


# -- pictures through real VAEs -------------------------------------------------------------------------------------


def pictures(count: int = 6, height: int = 16, width: int = 24) -> Iterator[Tensor]:
    for start in range(0, count, 2):
        coarse = noise(2, 3, 4, 6, seed=20 + start).float()
        yield F.interpolate(coarse, (height, width), mode="bicubic").clamp(-1, 1)


def codec(height: int = 8, width: int = 12, **settings: Any) -> Codec:
    return Codec(tiny.vae(**settings), Layout("image", 4, height, width))


def test_one_vae_on_both_sides_is_fitted_as_the_identity() -> None:
    found = fit_from_pictures(codec(), codec(), pictures())
    assert (found.matrix - torch.eye(4, dtype=torch.float64)).abs().max() < 1e-9
    assert found.scale == pytest.approx(1.0, rel=1e-12)
    assert found.num_pictures == 6


def test_another_scale_of_one_vae_is_found_as_the_scale() -> None:
    found = fit_from_pictures(codec(), codec(scaling_factor=2 * 0.13025), pictures())
    assert (found.matrix - torch.eye(4, dtype=torch.float64)).abs().max() < 1e-5  # float32 latents
    assert found.scale == pytest.approx(2.0, rel=1e-6)


def test_pictures_reach_each_side_at_its_size_and_leave_the_counts_alone() -> None:
    a, b = codec(16, 24), codec(seed=13)
    a.num_encodes = 3
    found = fit_from_pictures(a, b, pictures(height=20, width=30))
    assert found.ratio == (2, 1)
    assert found.fingerprints == (a.fingerprint, b.fingerprint)
    assert (a.num_encodes, b.num_encodes) == (3, 0)
    assert found(torch.randn(1, 4, 16, 24), torch.Size((1, 4, 8, 12))).shape == (1, 4, 8, 12)


def test_a_map_is_for_the_vaes_it_was_fitted_for() -> None:
    a, b, other = codec(), codec(seed=13), codec(seed=14)
    found = fit_from_pictures(a, b, pictures())
    found.check(a, b)
    found.reversed().check(b, a)
    with pytest.raises(UserError, match=f"strong side's is {other.fingerprint}, fitted was {a.fingerprint};"):
        found.check(other, b)
    with pytest.raises(UserError, match=f": the weak side's is {other.fingerprint}, fitted was {b.fingerprint};"):
        found.check(a, other)
    with pytest.raises(UserError, match=r"strong side's .* and the weak side's .*; fit it again"):
        found.check(other, other)
    with pytest.raises(UserError, match=r"use its reversed\(\)"):
        found.check(b, a)


def test_a_map_of_unnamed_vaes_is_checked_by_its_dimensions() -> None:
    Mapped(semi_orthogonal(4, 16), 1.0, (2, 1)).check(codec(), codec())
    with pytest.raises(UserError, match="these VAEs have 4 and 4"):
        Mapped(semi_orthogonal(4, 16), 1.0).check(codec(), codec())


# -- files ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def kept(tmp_path: Path) -> tuple[Mapped, Path]:
    mapped = fit_from_pictures(codec(16, 24), codec(seed=13), pictures(height=32, width=48))
    path = tmp_path / "maps" / "flux-to-sdxl.safetensors"
    mapped.save(path)
    return mapped, path


def test_a_map_is_the_same_after_saving_and_loading(kept: tuple[Mapped, Path]) -> None:
    saved, path = kept
    loaded = Mapped.load(path, seed=4)
    assert torch.equal(loaded.matrix, saved.matrix)
    for name in ("scale", "reverse_scale", "ratio", "fingerprints", "residual", "num_pictures", "num_cells"):
        assert getattr(loaded, name) == getattr(saved, name), name
    assert loaded.seed == 4
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    loaded.check(codec(16, 24), codec(seed=13))
    loaded.reversed().save(path)
    assert Mapped.load(path).fingerprints == (saved.fingerprints or ())[::-1]


def test_a_file_says_what_it_is_in_its_header(kept: tuple[Mapped, Path]) -> None:
    mapped, path = kept
    with safe_open(path, "pt") as file:
        header = file.metadata()
    assert (header["format"], header["version"]) == ("w2sd-noise-map", "1")
    assert json.loads(header["scale"]) == mapped.scale
    assert tuple(json.loads(header["fingerprints"])) == mapped.fingerprints


def rewritten(path: Path, matrix: Tensor | None = None, drop: str = "", **changes: str) -> None:
    with safe_open(path, "pt") as file:
        header, old = file.metadata(), file.get_tensor("matrix")
    header = {name: text for name, text in {**header, **changes}.items() if name != drop}
    save_file({"matrix": old if matrix is None else matrix}, path, header)


def test_files_that_are_no_noise_map_or_a_damaged_one_are_refused(kept: tuple[Mapped, Path], tmp_path: Path) -> None:
    mapped, path = kept
    whole = path.read_bytes()
    with pytest.raises(UserError, match="there is no noise map at"):
        Mapped.load(tmp_path / "absent.safetensors")
    with pytest.raises(UserError, match="there is no noise map at"):
        Mapped.load(tmp_path)
    for cut in (0, 4, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(UserError, match=r"damaged.*fit it again"):
            Mapped.load(path)
    save_file({"weight": torch.ones(2)}, path)
    with pytest.raises(UserError, match="is not a noise map"):
        Mapped.load(path)
    for changes, message in (
        ({"version": "2"}, "has version 2, not 1"),
        ({"drop": "scale"}, "damaged"),
        ({"ratio": "2"}, "damaged"),
        ({"scale": "much"}, "damaged"),
        ({"scale": '"2"'}, "damaged"),
        ({"scale": "-1.0"}, "scales above 0"),
        ({"reverse_scale": "NaN"}, "scales above 0"),
        ({"ratio": "[2, 2]"}, "ratio of blocks with a 1 in it"),
        ({"matrix": 1.1 * mapped.matrix}, "semi-orthogonal"),
        ({"matrix": mapped.matrix / 0}, "finite"),
        ({"matrix": mapped.matrix[0].clone()}, "two dimensions"),
    ):
        path.write_bytes(whole)
        rewritten(path, **changes)  # type: ignore[arg-type]
        with pytest.raises(UserError, match=message):
            Mapped.load(path)


def test_a_map_of_unnamed_vaes_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not know its VAEs"):
        fit((noise(9, 4, 4, 4), noise(9, 4, 4, 4, seed=1))).save(tmp_path / "map.safetensors")
    assert list(tmp_path.iterdir()) == []


# -- noise of its own -----------------------------------------------------------------------------------------------

SHAPE = torch.Size((2, 4, 6, 6))


def test_fresh_noise_is_new_at_each_call_and_the_same_in_each_run() -> None:
    fresh, x = Fresh(seed=3), torch.zeros(2, 16, 3, 3)
    first, second = fresh(x, SHAPE), fresh(x, SHAPE)
    assert not torch.equal(first, second)
    fresh.reset()
    assert torch.equal(fresh(x, SHAPE), first)
    assert torch.equal(fresh(x, SHAPE), second)
    assert torch.equal(Fresh(seed=3)(x, SHAPE), first)
    assert not torch.equal(Fresh(seed=4)(x, SHAPE), first)
    assert not torch.equal(Fresh(seed=4)(x, SHAPE), second), "the next seed is not the next call"


def test_fixed_noise_is_the_same_at_each_call() -> None:
    fixed, x = Fixed(seed=3), torch.zeros(2, 16, 3, 3)
    assert torch.equal(fixed(x, SHAPE), fixed(x + 1, SHAPE))
    assert not torch.equal(fixed(x, SHAPE), Fixed(seed=4)(x, SHAPE))


@pytest.mark.parametrize("kind", [Fresh, Fixed])
def test_seeded_noise_is_white_and_nobody_elses(kind: Any) -> None:
    x, shape = torch.zeros(50, 4, 20, 20), torch.Size((50, 4, 20, 20))
    before = torch.get_rng_state()
    drawn = kind(seed=0)(x, shape)
    assert torch.equal(torch.get_rng_state(), before)
    assert (covariance(drawn, 1) - torch.eye(4)).abs().max() < 5 * (2 / (50 * 400)) ** 0.5
    assert abs(drawn.mean().item()) < 5 / drawn.numel() ** 0.5
    # A pipeline called with the same seed starts from this noise; the weak model must not be told x_T again.
    start = torch.randn(shape, generator=tiny.generator(0))
    assert abs((drawn * start).mean().item()) < 5 / drawn.numel() ** 0.5
    assert torch.equal(kind(seed=0)(x[:1], torch.Size((1, 4, 20, 20))), drawn[:1]), "whatever else is in the batch"
    assert kind(seed=0)(x.double(), shape).dtype == torch.float64
    assert kind().scale is None


def test_the_identity_is_the_noise_itself_and_only_for_one_space() -> None:
    x = noise(2, 4, 6, 6)
    assert Identity()(x, x.shape) is x
    assert Identity().scale == 1.0
    with pytest.raises(UserError, match="equal sizes and channels"):
        Identity()(x, torch.Size((2, 4, 3, 3)))
    Identity().check(codec(), codec())
    with pytest.raises(UserError, match="serves one latent space"):
        Identity().check(codec(), codec(seed=13))


def test_maps_are_chosen_by_name_or_file(kept: tuple[Mapped, Path]) -> None:
    names = ["identity", "fresh", "fixed", str(kept[1])]
    chosen: list[NoiseMap] = [noise_map_of(name, 7) for name in names]
    assert [each.name for each in chosen] == ["identity", "fresh", "fixed", "mapped"]
    assert [getattr(each, "seed", 7) for each in chosen] == [7] * 4
    with pytest.raises(UserError, match="the noise map is 'mapped'; choose one of identity, fresh, fixed, or a fitted"):
        noise_map_of("mapped")
    with pytest.raises(UserError, match="there is no noise map at"):
        noise_map_of("absent.safetensors")
