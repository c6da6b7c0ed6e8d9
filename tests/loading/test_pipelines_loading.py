"""Whole pipelines from folders and single files: they compute what was saved, or are refused before anything loads."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.loaders import single_file_utils
from safetensors.torch import load_file, save_file

from tests.support import disk_pairs, tiny
from tests.support.layouts import save_flux_file, save_sd15_file, save_single_file
from w2sd_video.errors import UserError
from w2sd_video.loading.describe import describe
from w2sd_video.loading.files import read_safetensors_header
from w2sd_video.loading.pipelines import load_pipeline

MAKERS = {"flux": tiny.flux, "sdxl": disk_pairs.sdxl, "sd15": tiny.sd15, "animatediff": tiny.animatediff_sdxl}
CALLS: dict[str, dict[str, Any]] = {"flux": tiny.FLUX_CALL, "animatediff": tiny.ANIMATEDIFF_CALL}


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pipelines")
    for name, make in MAKERS.items():
        make(1).save_pretrained(root / name)
    save_single_file(disk_pairs.sdxl(1), root / "sdxl.safetensors")
    save_single_file(disk_pairs.sdxl(1), root / "sdxl-no-text.safetensors", text=False)
    save_single_file(disk_pairs.sdxl(1), root / "sdxl-no-vae.safetensors", vae=False)
    save_sd15_file(tiny.sd15(1), root / "sd15.safetensors")
    save_flux_file(tiny.flux(1).transformer, root / "flux.safetensors")
    save_flux_file(tiny.flux(1).transformer, root / "flux-prefixed.safetensors", prefix="model.diffusion_model.")
    tiny.motion_adapter().save_pretrained(root / "motion")
    return root


@pytest.fixture
def tiny_flux_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers' converter knows one width of Flux, 3072; here it is told that of `tiny.flux_transformer`."""
    source = inspect.getsource(single_file_utils.convert_flux_transformer_checkpoint_to_diffusers)
    assert "inner_dim = 3072" in source
    scope = dict(vars(single_file_utils))
    exec(source.replace("inner_dim = 3072", "inner_dim = 32"), scope)
    loaders = importlib.import_module("diffusers.loaders.single_file_model")
    entry = {**loaders.SINGLE_FILE_LOADABLE_CLASSES["FluxTransformer2DModel"]}
    entry["checkpoint_mapping_fn"] = scope["convert_flux_transformer_checkpoint_to_diffusers"]
    monkeypatch.setitem(loaders.SINGLE_FILE_LOADABLE_CLASSES, "FluxTransformer2DModel", entry)


def picture(pipe: Any, kind: str) -> torch.Tensor:
    pipe.set_progress_bar_config(disable=True)
    call = CALLS.get(kind, tiny.IMAGE_CALL)
    output = pipe("a cat", num_inference_steps=2, generator=tiny.generator(), output_type="pt", **call)
    return output[0] if isinstance(output, tuple) else getattr(output, "images", getattr(output, "frames", None))


def assert_same_picture(pipe: Any, made: Any, kind: str) -> None:
    """Equal but for float32 rounding: tensors are equal, their alignment in memory and so the kernels may not be."""
    assert type(pipe) is type(made)
    ours, theirs = picture(pipe, kind), picture(made, kind)
    assert (ours - theirs).abs().max() < 1e-5 and theirs.std() > 0.01


def load(given: Path, **settings: Any) -> Any:
    return load_pipeline(str(given), role="strong", dtype=torch.float32, quiet=True, **settings)


@pytest.mark.parametrize("kind", MAKERS)
def test_a_folder_makes_the_picture_of_the_pipeline_that_was_saved(disk: Path, kind: str) -> None:
    pipe = load(disk / kind, video=kind == "animatediff")
    assert_same_picture(pipe, MAKERS[kind](1), kind)


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("sdxl.safetensors", "sdxl"),
        ("sdxl-no-text.safetensors", "sdxl"),
        ("sdxl-no-vae.safetensors", "sdxl"),
        ("sd15.safetensors", "sd15"),
        ("flux.safetensors", "flux"),
        ("flux-prefixed.safetensors", "flux"),
    ],
)
@pytest.mark.usefixtures("tiny_flux_width")
def test_a_single_file_makes_the_picture_of_its_pipeline(disk: Path, file: str, kind: str) -> None:
    pipe = load(disk / file, config=str(disk / kind))
    assert_same_picture(pipe, MAKERS[kind](1), kind)


def test_what_a_single_file_holds_comes_from_it_and_the_rest_from_its_config(disk: Path, tmp_path: Path) -> None:
    other = disk_pairs.sdxl(2, text_seed=20, vae_seed=21)
    other.save_pretrained(tmp_path / "other")
    whole = load(disk / "sdxl.safetensors", config=str(tmp_path / "other"))
    first = torch.equal(next(whole.unet.parameters()), next(other.unet.parameters()))
    assert not first and not torch.equal(next(whole.vae.parameters()), next(other.vae.parameters()))
    textless = load(disk / "sdxl-no-text.safetensors", config=str(tmp_path / "other"))
    assert torch.equal(next(textless.text_encoder.parameters()), next(other.text_encoder.parameters()))
    assert not torch.equal(next(textless.unet.parameters()), next(other.unet.parameters()))


def test_a_v_prediction_file_is_sampled_as_one(disk: Path, tmp_path: Path) -> None:
    marks = {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}
    file = save_single_file(disk_pairs.sdxl(1), tmp_path / "v.safetensors", **marks)
    config = load(file, config=str(disk / "sdxl")).scheduler.config
    assert (config.prediction_type, config.rescale_betas_zero_snr) == ("v_prediction", True)


def test_an_sdxl_checkpoint_with_motion_modules_is_animatediff(disk: Path) -> None:
    pipe = load(disk / "sdxl", motion_adapter=str(disk / "motion"), video=True)
    assert type(pipe).__name__ == "AnimateDiffSDXLPipeline"
    wanted = tiny.motion_unet(1).state_dict()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in pipe.unet.state_dict().items())


def test_an_overflowing_vae_is_widened_and_still_decodes(disk: Path) -> None:
    pipe = load_pipeline(str(disk / "sdxl"), role="weak", dtype=torch.float16, quiet=True)
    assert pipe.vae.dtype == torch.float32 and pipe.unet.dtype == torch.float16
    assert pipe.vae.decode(torch.zeros(1, 4, 2, 2, dtype=torch.float16), return_dict=False)[0].dtype == torch.float32


@pytest.mark.parametrize("kind", ["flux", "sdxl", "sd15", "animatediff"])
def test_a_description_says_what_planning_needs(disk: Path, kind: str) -> None:
    files = describe(str(disk / kind), "strong", video=kind == "animatediff")
    made = MAKERS[kind](1)
    assert files.class_name == type(made).__name__
    assert files.cell == 2 and files.part("vae") is not None
    assert files.multiple == 8  # of diffusers' own; a Flux cell of 2 x 2 pixels, packed by two, would take 4
    assert files.is_flow is (kind == "flux") and files.is_video is (kind == "animatediff")
    assert files.prediction == ("flow" if kind == "flux" else "epsilon")
    held = {name: getattr(made, name, None) for name in files.sizes}
    assert {"vae", "text_encoder"} <= held.keys() and held.keys() & {"unet", "transformer"}
    for name in held.keys() & {"unet", "transformer", "vae"}:
        assert files.sizes[name] == sum(tensor.numel() for tensor in held[name].state_dict().values()), name
    assert files.own_size == (256 if kind == "flux" else 16)


def test_a_hub_id_is_taken_as_given() -> None:
    files = describe("black-forest-labs/FLUX.1-dev", "strong")
    assert (files.kind, files.class_name, files.cell, files.own_size, files.is_video) == ("hub", None, None, None, None)


def test_describing_loads_no_torch(disk: Path) -> None:
    program = (
        "import sys; from w2sd_video.loading.describe import describe;"
        f"describe({str(disk / 'sdxl.safetensors')!r}, 'weak', config={str(disk / 'sdxl')!r});"
        "print(*{'torch', 'diffusers', 'transformers'} & sys.modules.keys())"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


# -- what is refused before anything is loaded -----------------------------------------------------------------------


def refused(given: Path | str, said: str, **settings: Any) -> None:
    with pytest.raises(UserError, match=said):
        describe(str(given), "weak", **settings)


def changed_index(folder: Path, **entries: Any) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, **entries}))


def test_what_is_not_there_is_refused(disk: Path, tmp_path: Path) -> None:
    refused(tmp_path / "none", "does not exist; give a diffusers folder, a single .safetensors file, or a hub id")
    refused(tmp_path, "has no model_index.json")
    refused(disk / "sdxl" / "unet", "has no model_index.json")
    refused(disk / "sdxl.safetensors", "give --weak-config: a diffusers folder")
    refused(
        disk / "sdxl.safetensors", "does not exist; give a diffusers folder or a hub id", config=str(tmp_path / "no")
    )
    refused(disk / "sdxl", "would go unused", config=str(disk / "sdxl"))
    (tmp_path / "model.ckpt").write_bytes(b"x")
    refused(tmp_path / "model.ckpt", "is a pickle, which can run code")


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder_2"])
def test_a_folder_with_a_truncated_or_missing_part_is_refused(disk: Path, tmp_path: Path, part: str) -> None:
    folder = Path(shutil.copytree(disk / "flux", tmp_path / "flux"))
    file = next((folder / part).glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-10])
    refused(folder, "cut short, corrupt")
    file.rename(file.with_suffix(".bin"))
    refused(folder, "its weights are pickles")
    describe(str(folder), "strong", allow_pickle=True)
    shutil.rmtree(folder / part)
    refused(folder, "holds no .safetensors weights; download it again")


def test_pipelines_that_cannot_be_bridged_are_refused_by_name(disk: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(disk / "sdxl", tmp_path / "sdxl"))
    changed_index(folder, _class_name="StableDiffusionXLImg2ImgPipeline")
    refused(folder, "Img2ImgPipeline, which needs more than text")
    for part, said in (("vae", "without a VAE"), ("scheduler", "without a scheduler"), ("unet", "without a denoiser")):
        changed_index(folder, _class_name="StableDiffusionXLPipeline", **{part: [None, None]})
        refused(folder, said)
        changed_index(folder, **{part: ["diffusers", "Any"]})
    refused(disk / "animatediff", "makes videos")
    (folder / "vae" / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKLWan"}))
    refused(folder, "AutoencoderKLWan, which is no image VAE")


def test_code_that_comes_with_a_checkpoint_is_not_run(disk: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(disk / "sdxl", tmp_path / "sdxl"))
    changed_index(folder, unet=["my_networks", "MyUNet"])
    with pytest.raises(UserError, match=r"needs the class MyUNet of my_networks.*is not run"):
        load(folder)


def test_classes_that_take_code_from_a_checkpoint_are_refused_before_it_is_loaded(disk: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(disk / "sdxl", tmp_path / "sdxl"))
    changed_index(folder, text_encoder=["transformers", "AutoModel"])
    refused(folder, "AutoModel, which takes its class from the checkpoint's own code; that code is not run")


def changed_config(folder: Path, **entries: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **entries}))


def test_quantised_weights_are_named_before_they_are_loaded(disk: Path, tmp_path: Path) -> None:
    file = tmp_path / "file.safetensors"
    for name, kind in (
        ("double_blocks.0.img_mod.lin.scale_weight", "scaled fp8"),
        ("double_blocks.0.img_mod.lin.weight_scale", "scaled fp8"),
        ("scaled_fp8", "scaled fp8"),
        ("double_blocks.0.img_mod.lin.comfy_quant", "scaled fp8"),
        ("transformer.weight.quant_state.bitsandbytes__nf4", "bitsandbytes"),
    ):
        save_file({name: torch.zeros(2)}, file)
        refused(file, rf"quantised weights \({kind}: .*give one in 16 or 32 bits", config=str(disk / "flux"))
    folder = Path(shutil.copytree(disk / "sdxl", tmp_path / "sdxl"))
    changed_config(folder / "unet", quantization_config={"quant_method": "bitsandbytes_4bit"})
    refused(folder, "quantised by bitsandbytes_4bit; pip install bitsandbytes, or give weights in 16 or 32 bits")


def test_headers_are_read_without_loading_waiting_or_recursing(tmp_path: Path) -> None:
    nested = b'{"a":' * 100_000
    for name, content in (("deep", len(nested).to_bytes(8, "little") + nested), ("empty", b""), ("text", b"no" * 99)):
        (tmp_path / f"{name}.safetensors").write_bytes(content)
        with pytest.raises(UserError, match=rf"{name}\.safetensors is cut short, corrupt or no safetensors file"):
            read_safetensors_header(tmp_path / f"{name}.safetensors")
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(UserError, match="is no file"):
        read_safetensors_header(tmp_path / "pipe.safetensors")


def test_single_files_of_other_families_are_refused_by_what_they_look_like(disk: Path, tmp_path: Path) -> None:
    file = tmp_path / "file.safetensors"
    config = {"config": str(disk / "sdxl")}
    zero = torch.zeros(4, 4)
    for names, said in (
        (["lora_unet_down.weight"], "looks like a LoRA"),
        (["double_blocks.0.img_attn.qkv.weight", "double_stream_modulation.lin.weight"], "a relative of Flux.1"),
        (["down_blocks.0.resnets.0.conv1.weight"], "one network in diffusers' layout"),
        (["something"], "looks like something else"),
        (["img_in.weight_scale_weight"], "quantised"),
    ):
        save_file({name: zero.clone() for name in names}, file)
        refused(file, said, **config)
    tensors = {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(8, 9, 3, 3)}
    save_file(tensors, file)
    refused(file, "takes 9 input channels", **config)
    save_file(
        {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(8, 4, 3, 3), "cond_stage_model.model.x": zero},
        file,
    )
    refused(file, "of the SD 2 family", **config)
    refused(disk / "sd15.safetensors", "is of the family of StableDiffusionPipeline, its config", **config)
    flux = load_file(disk / "flux.safetensors")
    save_file({**flux, "img_in.weight": torch.zeros(32, 96)}, file)
    refused(file, "takes 96 input channels and makes 16", config=str(disk / "flux"))


def test_a_config_folder_must_hold_what_the_file_lacks(disk: Path, tmp_path: Path) -> None:
    config = Path(shutil.copytree(disk / "sdxl", tmp_path / "config", ignore=shutil.ignore_patterns("*.safetensors")))
    describe(str(disk / "sdxl.safetensors"), "weak", config=str(config))
    refused(disk / "sdxl-no-vae.safetensors", "holds no vae, and its config folder", config=str(config))
    refused(disk / "sdxl-no-text.safetensors", "holds no text_encoder, and its config folder", config=str(config))


@pytest.mark.usefixtures("tiny_flux_width")
def test_a_flux_file_that_its_config_does_not_describe_is_refused(disk: Path, tmp_path: Path) -> None:
    schnell = tiny.flux(1, guidance_embeds=False)
    schnell.save_pretrained(tmp_path / "schnell")
    with pytest.raises(UserError, match=r"its config describes .*-schnell differ"):
        load(disk / "flux.safetensors", config=str(tmp_path / "schnell"))


def test_a_pipeline_of_pictures_is_refused_where_videos_are_asked_for(disk: Path) -> None:
    with pytest.raises(UserError, match=r"makes pictures.*give one that makes videos"):
        load(disk / "sdxl", video=True)
    with pytest.raises(UserError, match=r"a motion adapter goes with an SDXL or SD 1\.5 checkpoint"):
        load(disk / "flux", motion_adapter=str(disk / "motion"), video=True)
