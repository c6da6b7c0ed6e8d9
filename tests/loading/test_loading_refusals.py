"""Checkpoints that must be refused: missing, damaged, of another family, not made for each other."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from tests.support import tiny
from tests.support.disk_pairs import assert_holds, loaded_pair, sdxl, weights_of, write_checkpoints
from tests.support.layouts import save_single_file
from w2sd_video.errors import UserError
from w2sd_video.loading.files import LDM_UNET
from w2sd_video.loading.memory import memory_plan
from w2sd_video.loading.pair_description import describe_pair
from w2sd_video.loading.placement import choose_device, choose_dtype


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return write_checkpoints(tmp_path_factory.mktemp("checkpoints"))


def refused(match: str, *given: str, **settings: Any) -> None:
    with pytest.raises(UserError, match=match):
        describe_pair(*given, **settings)


def test_what_does_not_exist_is_refused(disk: dict[str, str], tmp_path: Path) -> None:
    refused("strong side '/no/such.safetensors' does not exist", "/no/such.safetensors", disk["weak"])
    refused("weak side 'sdxl' does not exist", disk["strong"], "sdxl")
    refused("motion adapter '/no/such' is no folder", disk["strong"], disk["weak"], "/no/such")
    refused("holds no network", str(tmp_path), disk["weak"])
    refused("config /no/such does not exist", disk["strong.safetensors"], disk["weak"], disk["motion"],
            config="/no/such")  # fmt: skip


def test_hub_ids_are_taken_without_touching_the_network(disk: dict[str, str]) -> None:
    found = describe_pair("owner/strong", disk["weak.safetensors"], "owner/motion")
    assert (found.strong.kind, found.weak.config, found.needs_network) == ("hub", "owner/strong", True)
    assert not describe_pair(disk["strong"], disk["weak"], disk["motion"]).needs_network
    with pytest.raises(UserError, match=r"cannot load the unet of owner/strong.*check the hub id and"):  # offline
        loaded_pair("owner/strong", disk["weak"], disk["motion"])


def test_two_single_files_need_a_config_folder(disk: dict[str, str]) -> None:
    files = (disk["strong.safetensors"], disk["weak.safetensors"], disk["motion"])
    refused("is a single file and needs the configs and tokenizers", *files)
    refused("has no model_index.json", *files, config=disk["motion"])


@pytest.mark.parametrize("keep", [0.5, 0.0001], ids=["half the file", "half the header"])
def test_a_truncated_file_is_refused_by_name(disk: dict[str, str], tmp_path: Path, keep: float) -> None:
    whole = Path(disk["weak.safetensors"]).read_bytes()
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(whole[: int(len(whole) * keep)])
    refused(r"damaged\.safetensors is cut short, corrupt", disk["strong"], str(damaged), disk["motion"])


def test_garbage_and_truncated_folders_are_refused_by_name(disk: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "noise.safetensors").write_bytes(bytes(range(256)) * 40)
    refused(
        r"noise\.safetensors is cut short, corrupt", disk["strong"], str(tmp_path / "noise.safetensors"), disk["motion"]
    )
    shutil.copytree(disk["weak"], tmp_path / "weak")
    weights = tmp_path / "weak" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    refused(
        r"diffusion_pytorch_model\.safetensors is cut short", disk["strong"], str(tmp_path / "weak"), disk["motion"]
    )
    weights.unlink()
    shutil.rmtree(tmp_path / "weak" / "tokenizer")
    shutil.copy(Path(disk["weak"]) / "unet" / weights.name, weights)
    with pytest.raises(UserError, match=r"weak/tokenizer has none of tokenizer\.json, vocab\.json"):
        loaded_pair(disk["strong"], str(tmp_path / "weak"), disk["motion"])
    weights.unlink()
    refused("holds no .safetensors weights", disk["strong"], str(tmp_path / "weak"), disk["motion"])


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (
            lambda t: t.pop("add_embedding.linear_1.weight"),
            r"lacks 1 tensors.*: add_embedding\.linear_1\.weight; download",
        ),
        (lambda t: [t.pop(name) for name in sorted(t)[:12]], r"lacks 12 tensors.*: (\S+, ){10}\.\.\.; download"),
        (
            lambda t: t.update({"more.weight": torch.zeros(1)}),
            "holds 1 tensors that its config has no place for: more.weight",
        ),
        (
            lambda t: t.update({"conv_out.bias": torch.zeros(3)}),
            r"holds 1 tensors of another shape.*: conv_out\.bias \(of \(3,\), the config describes \(4,\)\)",
        ),
    ],
    ids=["missing", "many missing", "extra", "another shape"],
)
def test_a_network_whose_tensors_are_not_its_classs_is_refused_before_any_is_read(
    disk: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any, match: str
) -> None:
    strong = shutil.copytree(disk["weak"], tmp_path / "strong")
    weights = Path(strong) / "unet" / "diffusion_pytorch_model.safetensors"
    change(tensors := load_file(weights))
    save_file(tensors, weights)
    monkeypatch.setattr(UNet2DConditionModel, "from_pretrained", lambda *_, **__: pytest.fail("weights were read"))
    with pytest.raises(UserError, match=match):
        loaded_pair(str(strong), disk["strong"], disk["motion"])


def test_a_single_file_with_other_tensors_than_its_config_describes_is_refused(
    disk: dict[str, str], tmp_path: Path
) -> None:
    tensors = load_file(disk["weak.safetensors"])
    del tensors["model.diffusion_model.out.2.bias"]
    save_file(tensors, tmp_path / "weak.safetensors")
    with pytest.raises(UserError, match=r"the unet of .*weak\.safetensors lacks tensors, which would be random"):
        loaded_pair(disk["strong"], str(tmp_path / "weak.safetensors"), disk["motion"])
    path = save_single_file(sdxl(2), tmp_path / "more.safetensors", **{LDM_UNET + "more.weight": torch.zeros(1)})
    with pytest.raises(UserError, match=r"more\.safetensors holds \d+ tensors and its config describes \d+"):
        loaded_pair(disk["strong"], str(path), disk["motion"])


def test_pickles_are_refused_unless_allowed(disk: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "weak.ckpt"
    torch.save({"state_dict": load_file(disk["weak.safetensors"])}, path)
    refused("is a pickle, which can run code", disk["strong"], str(path), disk["motion"])
    pair = loaded_pair(disk["strong"], str(path), disk["motion"], allow_pickle=True)
    assert_holds(pair.weak_unet, weights_of(2))
    shutil.copytree(disk["weak"], tmp_path / "folder")
    weights = tmp_path / "folder" / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()
    refused("weights are pickles", disk["strong"], str(tmp_path / "folder"), disk["motion"])
    pair = loaded_pair(disk["strong"], str(tmp_path / "folder"), disk["motion"], allow_pickle=True)
    assert_holds(pair.weak_unet, weights_of(2))


def test_other_families_are_refused_as_files_and_as_folders(disk: dict[str, str], tmp_path: Path) -> None:
    tensors = load_file(disk["weak.safetensors"])
    first = "model.diffusion_model.input_blocks.0.0.weight"
    inpainting = {**tensors, first: torch.zeros(8, 9, 3, 3)}
    sd15 = {name: tensor for name, tensor in tensors.items() if "label_emb" not in name}
    lora = {"lora_unet_down.weight": torch.zeros(1)}
    for name, content, match in (
        ("inpainting", inpainting, "takes 9 input channels, not 4"),
        ("sd15", sd15, "is of the family of StableDiffusionPipeline"),
        ("lora", lora, "looks like a LoRA"),
    ):
        save_file(content, tmp_path / f"{name}.safetensors")
        refused(match, disk["strong"], str(tmp_path / f"{name}.safetensors"), disk["motion"])
    tiny.sd15_unet().save_pretrained(tmp_path / "sd15" / "unet")
    refused("addition_embed_type None", disk["strong"], str(tmp_path / "sd15"), disk["motion"])
    inpainting_folder = tmp_path / "inpainting" / "unet"
    tiny.sdxl_unet().save_pretrained(inpainting_folder)
    edit_json(inpainting_folder / "config.json", in_channels=9)
    refused("takes 9 channels and returns 4", disk["strong"], str(tmp_path / "inpainting"), disk["motion"])


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_sides_that_predict_other_things_are_refused(disk: dict[str, str], tmp_path: Path) -> None:
    shutil.copytree(disk["weak"], tmp_path / "weak")
    edit_json(tmp_path / "weak" / "scheduler" / "scheduler_config.json", prediction_type="v_prediction")
    refused(
        "prediction_type is epsilon in .* and v_prediction in", disk["strong"], str(tmp_path / "weak"), disk["motion"]
    )
    marked = save_single_file(sdxl(2), tmp_path / "marked.safetensors", v_pred=torch.zeros(1))
    refused("prediction_type is epsilon in .* and v_prediction in", disk["strong"], str(marked), disk["motion"])


def test_motion_adapters_that_do_not_fit_are_refused_before_loading(disk: dict[str, str], tmp_path: Path) -> None:
    shutil.copytree(disk["motion"], tmp_path / "motion")
    pair = (disk["strong"], disk["weak"])
    refused("no motion modules|holds motion modules; give a motion adapter", *pair)
    refused("17 frames asked for; the motion modules of the motion adapter allow at most 16", *pair, disk["motion"],
            num_frames=17)  # fmt: skip
    refused("17 frames asked for", disk["video"], disk["network"], num_frames=17)
    edit_json(tmp_path / "motion" / "config.json", block_out_channels=[16, 32])
    refused(r"block_out_channels is \[16, 32\], the UNet has \[8, 16\]", *pair, str(tmp_path / "motion"))
    refused("both sides hold motion modules", disk["video"], disk["video"], disk["motion"])


@pytest.mark.parametrize(
    ("chosen", "given", "match"),
    [
        (memory_plan, "disk", "memory is 'disk'; choose one of resident, weak-offload, model-offload, group"),
        (memory_plan, "model", "'model-offload' keeps networks off an accelerator, but the device is cpu"),
        (choose_dtype, "int8", "dtype is int8; choose one of float32, float16, bfloat16"),
        (lambda given, _: choose_device(given), "warp", "device 'warp' cannot be used here"),
    ],
)
def test_settings_are_refused_by_name(chosen: Any, given: str, match: str) -> None:
    with pytest.raises(UserError, match=match):
        chosen(given, "cpu")


def test_checking_a_specification_and_estimating_its_memory_import_no_torch(disk: dict[str, str]) -> None:
    program = (
        "import sys\n"
        "from w2sd_video.loading.pair_description import describe_pair\n"
        "from w2sd_video.loading.sizes import sizes_of\n"
        "from w2sd_video.presets import PRESETS\n"
        f"pair = describe_pair({disk['strong']!r}, {disk['weak.safetensors']!r}, {disk['motion']!r})\n"
        "assert all(sizes_of(side).networks['unet'] for side in (pair.strong, pair.weak))\n"
        "heavy = {'torch', 'diffusers', 'transformers'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)\n"
    )
    root = Path(__file__).resolve().parents[2]
    result = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


def test_a_tokenizer_of_bytes_has_no_vocabulary(disk: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "bytes"
    shutil.copytree(disk["weak"], folder)
    index = json.loads((folder / "model_index.json").read_text())
    index["tokenizer_2"] = ["transformers", "ByT5Tokenizer"]
    (folder / "model_index.json").write_text(json.dumps(index))
    shutil.rmtree(folder / "tokenizer_2")
    refused(r"tokenizer_2 has none of tokenizer_config\.json", disk["strong"], str(folder), disk["motion"])
    (folder / "tokenizer_2").mkdir()
    (folder / "tokenizer_2" / "tokenizer_config.json").write_text('{"tokenizer_class": "ByT5Tokenizer"}')
    assert describe_pair(disk["strong"], str(folder), disk["motion"]).weak is not None
