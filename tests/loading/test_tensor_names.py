"""Tensors known by config alone: the names and shapes of real classes, and what is refused without building any."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from tests.support import layouts, tiny, tiny_families
from tests.support.real_size_files import UNET
from tests.support.tiny_loras import kohya_file
from w2sd_video.errors import UserError
from w2sd_video.loading.describe import Description, describe
from w2sd_video.loading.files import LDM_UNET, check_weights
from w2sd_video.loading.tensor_checks import check_names
from w2sd_video.loading.tensor_names import expected_tensors

SMALL_FLUX = {"num_layers": 1, "num_single_layers": 1, "num_attention_heads": 2, "attention_head_dim": 16}
CLASSES: dict[str, tuple[Any, dict[str, Any], Callable[[Any], dict[str, Any]]]] = {
    "SDXL": (UNet2DConditionModel, UNET, layouts.unet_to_ldm),
    "SD 1.5": (UNet2DConditionModel, {"cross_attention_dim": 768, "attention_head_dim": 8}, layouts.unet_to_ldm),
    "Flux.1-dev": (FluxTransformer2DModel, {**SMALL_FLUX, "guidance_embeds": True}, layouts.flux_to_original),
    "Flux.1-schnell": (FluxTransformer2DModel, SMALL_FLUX, layouts.flux_to_original),
}
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize("name", CLASSES)
def test_a_config_tells_the_tensors_of_its_class_in_both_layouts(name: str) -> None:
    kind, settings, original = CLASSES[name]
    with torch.device("meta"):
        network = kind(**settings)
    config = {**network.config, "_class_name": kind.__name__}
    for found, wanted in (
        (expected_tensors(config), network.state_dict()),
        (expected_tensors(config, original=True), original(network)),
    ):
        shapes = {key.removeprefix(LDM_UNET): tuple(tensor.shape) for key, tensor in wanted.items()}
        assert found == shapes


def test_a_config_with_other_layers_tells_nothing() -> None:
    config = {**UNET, "_class_name": "UNet2DConditionModel"}
    assert expected_tensors(config) is not None
    for other in ({"time_cond_proj_dim": 256}, {"down_block_types": ["AttnDownBlock2D"] * 3}, {"act_fn": "gelu"}):
        assert expected_tensors({**config, **other}) is None, other
    assert expected_tensors({"_class_name": "UNetMotionModel"}) is None


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("names")
    tiny.sdxl(1).save_pretrained(root / "sdxl")
    tiny_families.sd3(1).save_pretrained(root / "sd3")
    tiny_families.sd3(2).save_pretrained(root / "other")
    kohya_file(
        root / "fits.safetensors", tiny.sdxl(1).unet, ["down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"]
    )
    save_file({"lora_unet_mid_block_nowhere.lora_down.weight": torch.zeros(2, 8)}, root / "foreign.safetensors")
    save_file(
        {"lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q.lora_down.weight": torch.zeros(2, 7)},
        root / "narrow.safetensors",
    )
    return root


def folder(path: Path) -> Description:
    return describe(str(path), "strong")


def test_what_was_checked_is_said_and_what_was_not_is_not(good: Path) -> None:
    loras = {"strong": [("a", str(good / "fits.safetensors"))]}
    assert check_names({"strong": folder(good / "sdxl")}, loras) == ("strong unet", "LoRA a")
    assert check_names({"strong": folder(good / "sd3")}, {}) == ()
    both = {"strong": folder(good / "sd3"), "weak": folder(good / "other")}
    assert check_names(both, {}) == ("transformer of both sides against each other",)


@pytest.mark.parametrize(
    ("lora", "said"),
    [
        ("foreign", r"has 1 of 1 tensors without .*nowhere.* \(no such layer\)"),
        ("narrow", r"\(for 7, the layer has \d+\)"),
    ],
)
def test_a_lora_for_other_layers_is_refused_by_its_names(good: Path, lora: str, said: str) -> None:
    with pytest.raises(UserError, match=f"does not fit UNet2DConditionModel: .*{said}"):
        check_names({"strong": folder(good / "sdxl")}, {"strong": [("a", str(good / f"{lora}.safetensors"))]})


def test_sides_of_one_config_must_have_the_same_tensors(good: Path, tmp_path: Path) -> None:
    shutil.copytree(good / "other", tmp_path / "other")
    file = tmp_path / "other/transformer/diffusion_pytorch_model.safetensors"
    held = load_file(file)
    save_file({name: held[name] for name in sorted(held)[12:]}, file)
    with pytest.raises(UserError, match=r"other lacks 12 tensors of that of \S*sd3, .*: (\S+, ){10}\.\.\.; download"):
        check_names({"strong": folder(good / "sd3"), "weak": folder(tmp_path / "other")}, {})


def test_shards_that_lack_what_their_index_names_are_refused(good: Path, tmp_path: Path) -> None:
    held = load_file(good / "sdxl" / WEIGHTS)
    names = sorted(held)
    parts = {"a.safetensors": names[:5], "b.safetensors": names[5:]}
    for part, own in parts.items():
        save_file({name: held[name] for name in own if name != names[7]}, tmp_path / part)
    index = {"weight_map": {name: part for part, own in parts.items() for name in own}}
    (tmp_path / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=f"names 1 tensors that its files do not hold: {names[7]}; download"):
        check_weights(tmp_path, "the unet")
