"""What makes two sets of weights one: signs survive every rounding, and values agree as closely as bfloat16 tells."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from w2sd_video.loading.describe import Weights
from w2sd_video.loading.fingerprints import Fingerprint, difference, fingerprint, same_weights


def weights(seed: int = 0) -> dict[str, Tensor]:
    made = torch.Generator().manual_seed(seed)
    shapes = {"conv": (40, 30, 3, 3), "attention": (64, 64), "bias": (64,), "large": (400, 400), "zeros": (8,)}
    found = {name: torch.randn(shape, generator=made) * 0.02 for name, shape in shapes.items()}
    return {**found, "norm": 1 + 0.1 * torch.rand(64, generator=made), "zeros": torch.zeros(8)}


def read(path: Path, tensors: dict[str, Tensor], prefix: str = "") -> Fingerprint:
    save_file({prefix + name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return fingerprint(Weights((path,), prefix))


def test_a_copy_in_any_precision_is_the_same_weights(tmp_path: Path) -> None:
    original = weights()
    original["bias"] = original["bias"] * 1e-7  # which float16 loses to underflow, but for the sign
    ours = read(tmp_path / "original.safetensors", original)
    for number, dtypes in enumerate(
        [[torch.float16], [torch.bfloat16], [torch.float16, torch.bfloat16], [torch.bfloat16, torch.float64]]
    ):
        copy = original
        for dtype in dtypes:
            copy = {name: tensor.to(dtype) for name, tensor in copy.items()}
        theirs = read(tmp_path / f"copy-{number}.safetensors", copy)
        assert theirs.name == ours.name and same_weights(ours, theirs) and same_weights(theirs, ours)


def test_names_order_files_and_trailing_dimensions_do_not_matter(tmp_path: Path) -> None:
    original = weights()
    ours = read(tmp_path / "original.safetensors", original)
    renamed = {f"block.{9 - i}": tensor for i, tensor in enumerate(original.values())}
    renamed["block.8"] = original["attention"][:, :, None, None]  # a convolution of one pixel
    assert same_weights(ours, read(tmp_path / "renamed.safetensors", renamed, "first_stage_model."))
    names = list(original)
    save_file({name: original[name] for name in names[:3]}, tmp_path / "one.safetensors")
    save_file({name: original[name] for name in names[3:]}, tmp_path / "two.safetensors")
    assert same_weights(ours, fingerprint(Weights((tmp_path / "one.safetensors", tmp_path / "two.safetensors"))))


@pytest.mark.parametrize("name", ["conv", "attention", "bias", "large", "norm"])
def test_a_change_of_one_tensor_is_seen(tmp_path: Path, name: str) -> None:
    original = weights()
    ours = read(tmp_path / "original.safetensors", original)
    noise = torch.randn(original[name].shape, generator=torch.Generator().manual_seed(1))
    tuned = {**original, name: original[name] + 0.05 * original[name].abs().mean() * noise}
    assert not same_weights(ours, read(tmp_path / "tuned.safetensors", tuned))
    scaled = {**original, name: original[name] * 1.05}  # whose signs are all the same
    theirs = read(tmp_path / "scaled.safetensors", scaled)
    assert theirs.name == ours.name and not same_weights(ours, theirs)


def test_the_distance_of_weights_is_their_relative_difference(tmp_path: Path) -> None:
    original = weights()
    ours = read(tmp_path / "original.safetensors", original)
    assert difference(ours, ours) == 0
    scaled = read(tmp_path / "scaled.safetensors", {name: tensor * 1.25 for name, tensor in original.items()})
    assert difference(ours, scaled) == pytest.approx(0.25, rel=1e-5)  # float32 rounding
    assert difference(ours, read(tmp_path / "less.safetensors", {"conv": original["conv"]})) is None
    unrelated = difference(ours, read(tmp_path / "other.safetensors", weights(1)))
    assert unrelated is not None and 1.0 < unrelated < 1.8  # sqrt(2) for independent tensors


def test_only_parts_of_large_tensors_are_read(tmp_path: Path) -> None:
    large = {"large": torch.randn(2000, 2000, generator=torch.Generator().manual_seed(3))}
    ours = read(tmp_path / "large.safetensors", large)
    assert same_weights(ours, read(tmp_path / "copy.safetensors", {"large": large["large"].half()}))
    tuned = {"large": large["large"] + 0.01 * torch.randn(2000, 2000, generator=torch.Generator().manual_seed(4))}
    assert not same_weights(ours, read(tmp_path / "tuned.safetensors", tuned))
