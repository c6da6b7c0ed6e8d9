"""FID and IS: the Inception network, closed forms of both, and the statistics that are kept."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tests.support.vbench_image_networks import Means
from vbench_eval.errors import UserError
from vbench_eval.images import frechet, inception
from vbench_eval.images.sources import PictureError


@pytest.fixture
def small(monkeypatch):
    pytest.importorskip("torchmetrics")
    monkeypatch.setattr(frechet, "FEATURES", 16)
    monkeypatch.setattr(frechet, "SPLITS", 1)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


def write_pictures(folder: Path, count: int, size: int = 8) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:02}.png" for number in range(count)]
    for number, path in enumerate(paths):
        values = torch.randint(0, 256, (size, size + number % 2, 3), generator=generator(number), dtype=torch.uint8)
        Image.fromarray(values.numpy()).save(path)
    return paths


# -- the distance and the score --------------------------------------------------------------------------------------


def test_fid_of_gaussians_whose_covariances_commute_is_the_closed_form(small):
    """|m1 - m2|^2 + sum over axes of (s1 - s2)^2: the square root of a product of commuting matrices is that of their
    eigenvalues, the same in any orthonormal basis.
    """
    draw = np.random.default_rng(0)
    basis = np.linalg.qr(draw.normal(size=(16, 16)))[0]
    one, two = draw.uniform(0.5, 2, 16), draw.uniform(0.5, 2, 16)  # deviations along the axes
    first, second = draw.normal(size=16), draw.normal(size=16)
    found = {"mu": first, "sigma": basis * one**2 @ basis.T, "count": 50}
    ideal = {"mu": second, "sigma": basis * two**2 @ basis.T}  # a file without a count
    wanted = ((first - second) ** 2).sum() + ((one - two) ** 2).sum()
    # States hold count * mean mean^T + ..., of the order of 1e3; their differences lose 3 of float64's 15 digits.
    assert frechet.frechet_distance(found, ideal) == pytest.approx(wanted, rel=1e-11)
    assert frechet.frechet_distance(ideal, found) == pytest.approx(wanted, rel=1e-11)


def test_statistics_are_the_mean_and_covariance_of_the_features(small, tmp_path):
    paths = write_pictures(tmp_path, 7)
    network = Means()
    found = frechet.gather(paths, lambda: network, weights="w")
    features = []
    for path in paths:
        pixels = torch.from_numpy(np.asarray(Image.open(path), np.float32)).permute(2, 0, 1)[None] / 255
        features.append(nn.functional.adaptive_avg_pool2d(pixels, 4).mean(1).flatten().double().numpy())
    assert found["count"] == 7 and sorted(network.seen) == [3, 4], "two sizes, each in one batch"
    # float32 features up to 1: the order of sums inside the pooling may differ by some of its 6e-8.
    assert np.allclose(found["mu"], np.mean(features, 0), atol=1e-6)
    assert np.allclose(found["sigma"], np.cov(np.array(features).T), atol=1e-6)


def test_the_score_of_sure_logits_is_the_number_of_classes_shown(small, tmp_path):
    found = frechet.gather(write_pictures(tmp_path, 8), Means, weights="w")
    assert frechet.inception_score(found) == (pytest.approx(4, rel=1e-12), None), "a fifth class never shows"


def test_the_score_of_parts_is_their_mean_and_deviation(small, tmp_path, monkeypatch):
    monkeypatch.setattr(frechet, "SPLITS", 3)
    paths = write_pictures(tmp_path, 9)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(frechet.SHUFFLE))
    numbers = [int(number) % 4 for number in order]  # of the 5 pictures of the first size, then the 4 of the other
    shown = []
    for part in (numbers[:3], numbers[3:6], numbers[6:]):
        shares = [part.count(label) / 3 for label in set(part)]
        shown.append(math.exp(-sum(share * math.log(share) for share in shares)))  # sure logits: KL is the entropy
    mean, deviation = frechet.inception_score(frechet.gather(paths, Means, weights="w"))
    assert mean == pytest.approx(np.mean(shown), rel=1e-9) and deviation == pytest.approx(
        np.std(shown, ddof=1), rel=1e-9
    )


# -- what is kept ----------------------------------------------------------------------------------------------------


def test_statistics_are_made_again_only_of_other_pictures_or_weights(small, tmp_path):
    paths = write_pictures(tmp_path / "pictures", 4)
    kept = tmp_path / "kept" / "statistics.npz"
    made = []

    def network() -> Any:
        made.append(1)
        return Means()

    found = frechet.gather(paths, network, weights="w", kept=kept)
    again = frechet.gather(paths, network, weights="w", kept=kept)
    assert len(made) == 1 and again["is"] == found["is"] and np.array_equal(again["mu"], found["mu"])
    frechet.gather(paths, network, weights="other", kept=kept)
    frechet.gather(paths[:3], network, weights="other", kept=kept)
    assert len(made) == 3
    Image.new("RGB", (50, 50)).save(paths[0])
    frechet.gather(paths[:3], network, weights="other", kept=kept)
    assert len(made) == 4 and [path.name for path in kept.parent.iterdir()] == ["statistics.npz"]


def test_a_broken_picture_is_told_left_out_and_never_kept(small, tmp_path):
    paths = write_pictures(tmp_path, 5)
    whole = frechet.gather(paths[1:], Means, weights="w")
    paths[0].write_bytes(paths[0].read_bytes()[:40])
    with pytest.raises(PictureError, match=r"00\.png cannot be read"):
        frechet.gather(paths, Means, weights="w")
    told: list[Path] = []
    seen: list[int] = []
    kept = tmp_path / "statistics.npz"
    found = frechet.gather(
        paths, Means, weights="w", kept=kept, bad=lambda path, error: told.append(path), progress=seen.append
    )
    assert told == [paths[0]] and found["count"] == 4 and seen[-1] == 5
    assert np.allclose(found["mu"], whole["mu"], atol=1e-12) and not kept.exists()


def test_fewer_than_two_pictures_have_no_statistics(small, tmp_path):
    with pytest.raises(UserError, match="1 of 1 pictures can be read"):
        frechet.gather(write_pictures(tmp_path, 1), Means, weights="w")


@pytest.mark.parametrize("names", [("mu",), ("sigma",), ("mu", "sigma")])
def test_statistics_of_another_kind_are_refused(names, tmp_path):
    np.savez(tmp_path / "other.npz", **{name: np.zeros(4) for name in names})
    with pytest.raises(UserError, match="must be"):
        frechet.read_statistics(tmp_path / "other.npz")
    (tmp_path / "no.npz").write_text("no archive")
    with pytest.raises(UserError, match="cannot be read"):
        frechet.read_statistics(tmp_path / "no.npz")


# -- the network -----------------------------------------------------------------------------------------------------


def test_inception_has_the_layers_and_the_parameters_of_fids():
    """torchvision states 27 161 264 parameters, of which 3 326 696 are its auxiliary and 2 049 000 its last layer."""
    with torch.device("meta"):
        network = inception.Inception().eval()
        features, logits = network(torch.empty(2, 3, 40, 30))
    assert (features.shape, logits.shape) == ((2, 2048), (2, 1008))
    own = [parameter.numel() for name, parameter in network.named_parameters() if not name.startswith("fc.")]
    assert sum(own) == 27_161_264 - 3_326_696 - 2_049_000
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    assert shapes["Mixed_5b.branch5x5_2.conv.weight"] == (64, 48, 5, 5)
    assert shapes["Mixed_6c.branch7x7dbl_4.conv.weight"] == (160, 160, 7, 1)
    assert shapes["Mixed_7a.branch7x7x3_4.bn.running_var"] == (192,)
    assert shapes["Mixed_7c.branch3x3dbl_3b.conv.weight"] == (384, 384, 3, 1)


def test_inceptions_averages_leave_the_padding_out_and_its_last_block_takes_the_maximum():
    x = torch.rand(1, 4, 5, 5, generator=generator())
    for pool in ("average", "maximum"):
        block = inception.Mixed(4, {}, pool, 4).eval()
        nn.init.dirac_(block.branch_pool.conv.weight)
        corner = x[:, :, :2, :2].flatten(2)
        wanted = corner.mean(-1) if pool == "average" else corner.amax(-1)
        scale = (1 + block.branch_pool.bn.eps) ** -0.5
        assert torch.allclose(block(x)[:, :, 0, 0], wanted * scale, rtol=1e-6)


@pytest.mark.parametrize("content", [{"fc.weight": torch.zeros(2)}, [1], b"", b"garbage", b"PK\x03\x04", b"\x80\x02."])
def test_other_weights_than_inceptions_are_refused(content, tmp_path):
    if isinstance(content, bytes):
        (tmp_path / "weights.pth").write_bytes(content)
    else:
        torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(UserError, match=r"Inception.*pt_inception-2015-12-05"):
        inception.load_inception(tmp_path / "weights.pth")
