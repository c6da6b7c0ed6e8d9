"""Pairs written to disk as folders and single files, loaded back, and everything that must be refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from diffusers import AnimateDiffSDXLPipeline, StableDiffusionXLPipeline, UNetMotionModel
from ldm_layout import save_single_file
from safetensors.torch import load_file, save_file

from w2sd_video.adapters.animatediff import tensors_of
from w2sd_video.adapters.checkpoints import LDM_UNET
from w2sd_video.adapters.loading import load_pair
from w2sd_video.adapters.memory import unique_bytes
from w2sd_video.adapters.specification import check_pair_specification
from w2sd_video.errors import UserError


def sdxl(seed: int, text_seed: int = 10, vae_seed: int = 12, **vae: Any) -> StableDiffusionXLPipeline:
    """As `tiny.sdxl`, with text encoders of two widths, as SDXL's are: single files are told apart by them."""
    pipe = tiny.sdxl(seed)
    pipe.register_modules(
        vae=tiny.vae(vae_seed, **vae),
        text_encoder=tiny.clip_text_encoder(text_seed, hidden=12),
        text_encoder_2=tiny.clip_text_encoder(text_seed + 3, hidden=20, projection=True),
    )
    return pipe


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("checkpoints")
    strong, weak = sdxl(1), sdxl(2)
    strong.save_pretrained(root / "strong")
    weak.save_pretrained(root / "weak")
    tiny.motion_adapter().save_pretrained(root / "motion")
    save_single_file(strong, root / "strong.safetensors")
    save_single_file(weak, root / "weak.safetensors")
    save_single_file(weak, root / "weak-no-text.safetensors", text=False)
    tiny.animatediff_sdxl(1).save_pretrained(root / "video")
    tiny.sdxl_unet(2).save_pretrained(root / "network" / "unet")
    config = root / "config"
    shutil.copytree(root / "strong", config, ignore=shutil.ignore_patterns("*.safetensors"))
    return {path.name: str(path) for path in root.iterdir()}


def pointers(module: torch.nn.Module) -> dict[str, int]:
    return {name: tensor.data_ptr() for name, tensor in tensors_of(module).items()}


def weights_of(seed: int) -> dict[str, torch.Tensor]:
    return tensors_of(tiny.motion_unet(seed))


def assert_holds(module: torch.nn.Module, wanted: dict[str, torch.Tensor]) -> None:
    found = tensors_of(module)
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if not torch.equal(found[name], wanted[name])] == []


def assert_motion_shared(pair: Any) -> None:
    ours, theirs = pointers(pair.pipe.unet), pointers(pair.weak_unet)
    assert {name for name in ours if ours[name] == theirs[name]} >= {name for name in ours if "motion_modules" in name}
    motion = sum(tensor.nbytes for name, tensor in tensors_of(pair.weak_unet).items() if "motion_modules" in name)
    both = unique_bytes(pair.pipe.unet, pair.weak_unet)
    assert pair.report.shared_bytes == unique_bytes(pair.pipe.unet) + unique_bytes(pair.weak_unet) - both >= motion > 0
    assert unique_bytes(pair.pipe.unet, pair.pipe.motion_adapter) == unique_bytes(pair.pipe.unet)


@pytest.mark.parametrize("strong", ["strong", "strong.safetensors"])
@pytest.mark.parametrize("weak", ["weak", "weak.safetensors"])
def test_folders_and_single_files_load_to_the_same_weights_and_share_the_motion_modules(
    disk: dict[str, str], strong: str, weak: str
) -> None:
    config = disk["config"] if strong == "strong.safetensors" and weak == "weak.safetensors" else None
    pair = load_pair(disk[strong], disk[weak], disk["motion"], config=config, device="cpu")
    assert_holds(pair.pipe.unet, weights_of(1))
    assert isinstance(pair.weak, UNetMotionModel)  # the text encoders are equal, so a bare network is enough
    assert_holds(pair.weak, weights_of(2))
    assert_holds(pair.pipe.vae, tensors_of(tiny.vae()))
    assert_holds(pair.pipe.text_encoder, tensors_of(tiny.clip_text_encoder(10, hidden=12)))
    assert_holds(pair.pipe.text_encoder_2, tensors_of(tiny.clip_text_encoder(13, hidden=20, projection=True)))
    assert_motion_shared(pair)


def test_the_same_checkpoint_on_both_sides_takes_no_second_storage(disk: dict[str, str]) -> None:
    pair = load_pair(disk["strong"], disk["strong.safetensors"], disk["motion"], device="cpu")
    assert unique_bytes(pair.pipe.unet, pair.weak_unet) == unique_bytes(pair.pipe.unet)
    assert pair.report.shared_bytes == unique_bytes(pair.pipe.unet)


def test_a_saved_video_pipeline_and_a_folder_with_one_network_load_as_the_bundled_demo_does(
    disk: dict[str, str],
) -> None:
    pair = load_pair(disk["video"], disk["network"], device="cpu", num_frames=16)
    assert_holds(pair.pipe.unet, weights_of(1))
    assert_holds(pair.weak_unet, weights_of(2))
    assert_motion_shared(pair)
    assert dict(pair.pipe.scheduler.config)["beta_schedule"] == "scaled_linear"  # the pipeline's own, as it was saved
    frames = pair.pipe("a ring", num_inference_steps=1, output_type="np", **tiny.ANIMATEDIFF_CALL).frames
    assert frames.shape == (1, 2, 16, 16, 3)


def test_a_strong_side_that_is_one_network_takes_every_other_part_from_the_weak_one(disk: dict[str, str]) -> None:
    pair = load_pair(disk["network"], disk["video"], device="cpu")
    assert_holds(pair.pipe.unet, weights_of(2))
    assert_holds(pair.weak_unet, weights_of(1))
    assert_holds(pair.pipe.vae, tensors_of(tiny.vae()))
    assert dict(pair.pipe.scheduler.config)["beta_schedule"] == "scaled_linear"
    assert any("holds no VAE" in note for note in pair.report.notes)
    with pytest.raises(UserError, match="two text encoders"):
        check_pair_specification(disk["network"], disk["network"], disk["motion"])


def test_sides_with_motion_modules_of_their_own_keep_them_and_it_is_noted(disk: dict[str, str], tmp_path: Path) -> None:
    tiny.motion_unet(2, adapter_seed=9).save_pretrained(tmp_path)
    pair = load_pair(disk["video"], str(tmp_path), device="cpu")
    assert_holds(pair.weak_unet, tensors_of(tiny.motion_unet(2, adapter_seed=9)))
    assert any("motion modules of their own" in note for note in pair.report.notes)


def test_an_image_checkpoint_gets_the_schedule_of_the_motion_modules_and_keeps_its_prediction_type(
    disk: dict[str, str],
) -> None:
    pair = load_pair(disk["strong"], disk["weak"], disk["motion"], device="cpu", scheduler={"beta_end": 0.02})
    config = dict(pair.pipe.scheduler.config)
    assert (config["beta_schedule"], config["beta_end"], config["prediction_type"]) == ("linear", 0.02, "epsilon")


def test_a_weak_motion_unet_brings_the_motion_modules_for_an_image_checkpoint(
    disk: dict[str, str], tmp_path: Path
) -> None:
    tiny.motion_unet(2).save_pretrained(tmp_path / "unet")
    pair = load_pair(disk["strong"], str(tmp_path), device="cpu")
    assert_holds(pair.pipe.unet, weights_of(1))
    assert_motion_shared(pair)


def test_loading_twice_gives_equal_videos_in_half_precision_although_the_vae_overflows_there(
    disk: dict[str, str],
) -> None:
    # The stock pipeline cannot decode at all here: it widens only part of a VAE with force_upcast.
    videos = []
    for _ in range(2):
        pair = load_pair(disk["strong"], disk["weak"], disk["motion"], device="cpu", dtype="float16")
        assert (pair.pipe.unet.dtype, pair.weak_unet.dtype, pair.pipe.vae.dtype) == (
            torch.float16,
            torch.float16,
            torch.float32,
        )
        call = {"num_inference_steps": 1, "output_type": "np", "generator": tiny.generator(3)}
        videos.append(torch.from_numpy(pair.pipe("a ring", **call, **tiny.ANIMATEDIFF_CALL).frames))
    assert videos[0].isfinite().all()
    assert torch.equal(*videos)


# -- text -----------------------------------------------------------------------------------------------------------


def test_sides_with_other_text_encoders_encode_each_with_its_own(disk: dict[str, str], tmp_path: Path) -> None:
    sdxl(2, text_seed=40).save_pretrained(tmp_path)
    pair = load_pair(disk["strong"], str(tmp_path), disk["motion"], device="cpu")
    assert isinstance(pair.weak, AnimateDiffSDXLPipeline)
    inputs = pair.encode("a ring", "blue")
    assert inputs.weak is not None
    for side, pipe in ((inputs.strong, pair.pipe), (inputs.weak, pair.weak)):
        stock = pipe.encode_prompt("a ring", negative_prompt="blue")
        names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
        for name, wanted in zip(names, stock, strict=True):
            assert torch.equal(side[name], wanted)
    assert not torch.equal(inputs.strong["prompt_embeds"], inputs.weak["prompt_embeds"])
    assert pair.weak.vae is pair.pipe.vae
    assert_motion_shared(pair)


def test_each_distinct_text_is_encoded_once_and_stays_when_the_encoders_are_freed(disk: dict[str, str]) -> None:
    pair = load_pair(disk["strong"], disk["weak"], disk["motion"], device="cpu")
    calls = []
    pair.pipe.text_encoder.register_forward_hook(lambda *_: calls.append(1))
    first = pair.encode("a ring", "blue")
    pair.encode("a square", "blue")
    again = pair.encode("a ring", "blue")
    unprompted = pair.encode("a ring")
    assert len(calls) == 3  # a ring, a square, blue
    assert first.weak is None
    assert not unprompted.strong["negative_prompt_embeds"].any()  # SDXL's zeros for no negative prompt
    stock = pair.pipe("a ring", negative_prompt="blue", **quick(5)).frames
    encoder_bytes = unique_bytes(pair.pipe.text_encoder, pair.pipe.text_encoder_2)
    before = unique_bytes(*modules(pair.pipe))
    pair.free_text_encoders()
    assert unique_bytes(*modules(pair.pipe)) == before - encoder_bytes
    assert all(torch.equal(first.strong[name], again.strong[name]) for name in first.strong)
    assert torch.equal(torch.from_numpy(stock), torch.from_numpy(pair.pipe(**first.strong, **quick(5)).frames))
    assert torch.equal(pair.encode("a ring").strong["prompt_embeds"], first.strong["prompt_embeds"])
    with pytest.raises(UserError, match="'a cross' was not encoded before"):
        pair.encode("a cross")


def quick(seed: int) -> dict[str, Any]:
    call = {"guidance_scale": 3.0, "num_inference_steps": 1, "output_type": "np", "generator": tiny.generator(seed)}
    return {**call, **tiny.ANIMATEDIFF_CALL}


def modules(pipe: Any) -> list[torch.nn.Module]:
    return [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]


def test_a_single_file_without_text_encoders_uses_the_other_sides_and_says_so(disk: dict[str, str]) -> None:
    pair = load_pair(disk["strong"], disk["weak-no-text.safetensors"], disk["motion"], device="cpu")
    assert isinstance(pair.weak, UNetMotionModel)
    assert any("holds no text encoders" in note for note in pair.report.notes)
    pair = load_pair(disk["weak-no-text.safetensors"], disk["strong.safetensors"], disk["motion"], device="cpu",
                     config=disk["config"])  # fmt: skip
    assert_holds(pair.pipe.text_encoder, tensors_of(tiny.clip_text_encoder(10, hidden=12)))
    both = disk["weak-no-text.safetensors"]
    with pytest.raises(UserError, match="holds SDXL's two text encoders; give one side as a whole"):
        check_pair_specification(both, both, disk["motion"], config=disk["config"])


# -- the VAE --------------------------------------------------------------------------------------------------------


def test_another_vae_of_the_same_scaling_is_noted_and_the_strong_one_decodes(
    disk: dict[str, str], tmp_path: Path
) -> None:
    sdxl(2, vae_seed=50).save_pretrained(tmp_path)
    pair = load_pair(disk["strong"], str(tmp_path), disk["motion"], device="cpu")
    assert_holds(pair.pipe.vae, tensors_of(tiny.vae()))
    assert any("VAEs differ" in note for note in pair.report.notes)


def test_another_scaling_of_the_latents_is_refused_before_loading(disk: dict[str, str], tmp_path: Path) -> None:
    sdxl(2, scaling_factor=0.5).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"VAE scaling_factor is 0\.13025 in .* and 0\.5 in"):
        check_pair_specification(disk["strong"], str(tmp_path), disk["motion"])


# -- refusals -------------------------------------------------------------------------------------------------------


def refused(match: str, *given: str, **settings: Any) -> None:
    with pytest.raises(UserError, match=match):
        check_pair_specification(*given, **settings)
    with pytest.raises(UserError, match=match):
        load_pair(*given, device="cpu", **settings)


def test_what_does_not_exist_is_refused(disk: dict[str, str], tmp_path: Path) -> None:
    refused("strong checkpoint '/no/such.safetensors' does not exist", "/no/such.safetensors", disk["weak"])
    refused("weak checkpoint 'sdxl' does not exist", disk["strong"], "sdxl")
    refused("motion adapter '/no/such' is no folder", disk["strong"], disk["weak"], "/no/such")
    refused("holds no network", str(tmp_path), disk["weak"])
    refused("config folder /no/such does not exist", disk["strong.safetensors"], disk["weak"], disk["motion"],
            config="/no/such")  # fmt: skip


def test_hub_ids_are_taken_without_touching_the_network(disk: dict[str, str]) -> None:
    found = check_pair_specification("owner/strong", disk["weak.safetensors"], "owner/motion")
    assert (found.strong.kind, found.weak_config, found.needs_network) == ("hub", "owner/strong", True)
    assert not check_pair_specification(disk["strong"], disk["weak"], disk["motion"]).needs_network
    with pytest.raises(UserError, match="cannot load the unet of owner/strong"):  # the tests run offline
        load_pair("owner/strong", disk["weak"], disk["motion"], device="cpu")


def test_two_single_files_need_a_config_folder(disk: dict[str, str]) -> None:
    files = (disk["strong.safetensors"], disk["weak.safetensors"], disk["motion"])
    refused("is a single file and needs the configs and tokenizers", *files)
    refused("lacks model_index.json", *files, config=disk["motion"])


@pytest.mark.parametrize("keep", [0.5, 0.0001], ids=["half the file", "half the header"])
def test_a_truncated_file_is_refused_by_name(disk: dict[str, str], tmp_path: Path, keep: float) -> None:
    whole = Path(disk["weak.safetensors"]).read_bytes()
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(whole[: int(len(whole) * keep)])
    refused(r"damaged\.safetensors is (cut short|corrupt)", disk["strong"], str(damaged), disk["motion"])


def test_garbage_and_truncated_folders_are_refused_by_name(disk: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "noise.safetensors").write_bytes(bytes(range(256)) * 40)
    refused(r"noise\.safetensors is corrupt", disk["strong"], str(tmp_path / "noise.safetensors"), disk["motion"])
    shutil.copytree(disk["weak"], tmp_path / "weak")
    weights = tmp_path / "weak" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    refused(
        r"diffusion_pytorch_model\.safetensors is cut short", disk["strong"], str(tmp_path / "weak"), disk["motion"]
    )
    weights.unlink()
    refused("holds no .safetensors weights", disk["strong"], str(tmp_path / "weak"), disk["motion"])


def test_a_checkpoint_that_lacks_a_tensor_is_refused_instead_of_left_random(
    disk: dict[str, str], tmp_path: Path
) -> None:
    shutil.copytree(disk["weak"], tmp_path / "weak")
    weights = tmp_path / "weak" / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    del tensors["add_embedding.linear_1.weight"]
    save_file(tensors, weights)
    with pytest.raises(UserError, match=r"lacks 1 tensors.*add_embedding\.linear_1\.weight"):
        load_pair(disk["strong"], str(tmp_path / "weak"), disk["motion"], device="cpu")
    tensors = load_file(disk["weak.safetensors"])
    del tensors["model.diffusion_model.out.2.bias"]
    save_file(tensors, tmp_path / "weak.safetensors")
    with pytest.raises(UserError, match=r"the unet of .*weak\.safetensors lacks tensors, which would be random"):
        load_pair(disk["strong"], str(tmp_path / "weak.safetensors"), disk["motion"], device="cpu")


def test_a_checkpoint_that_holds_more_than_its_config_describes_is_refused(
    disk: dict[str, str], tmp_path: Path
) -> None:
    shutil.copytree(disk["weak"], tmp_path / "weak")
    weights = tmp_path / "weak" / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({**load_file(weights), "third_block.weight": torch.zeros(1)}, weights)
    with pytest.raises(UserError, match=r"holds 1 tensors that its config has no place for: third_block\.weight"):
        load_pair(disk["strong"], str(tmp_path / "weak"), disk["motion"], device="cpu")
    path = save_single_file(sdxl(2), tmp_path / "more.safetensors", **{LDM_UNET + "more.weight": torch.zeros(1)})
    with pytest.raises(UserError, match=r"more\.safetensors holds \d+ tensors and its config describes \d+"):
        load_pair(disk["strong"], str(path), disk["motion"], device="cpu")


def test_progress_bars_are_silenced_on_request_and_come_back(
    disk: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    load_pair(disk["strong"], disk["weak"], disk["motion"], device="cpu", quiet=True)
    assert "%" not in capfd.readouterr().err
    load_pair(disk["strong"], disk["weak"], disk["motion"], device="cpu")
    assert "100%" in capfd.readouterr().err


def test_pickles_are_refused_unless_allowed(disk: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "weak.ckpt"
    torch.save({"state_dict": load_file(disk["weak.safetensors"])}, path)
    refused("is a pickle, which can run code", disk["strong"], str(path), disk["motion"])
    pair = load_pair(disk["strong"], str(path), disk["motion"], device="cpu", allow_pickle=True)
    assert_holds(pair.weak_unet, weights_of(2))
    shutil.copytree(disk["weak"], tmp_path / "folder")
    weights = tmp_path / "folder" / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()
    refused("weights are pickles", disk["strong"], str(tmp_path / "folder"), disk["motion"])
    pair = load_pair(disk["strong"], str(tmp_path / "folder"), disk["motion"], device="cpu", allow_pickle=True)
    assert_holds(pair.weak_unet, weights_of(2))


def test_other_families_are_refused_as_files_and_as_folders(disk: dict[str, str], tmp_path: Path) -> None:
    tensors = load_file(disk["weak.safetensors"])
    first = "model.diffusion_model.input_blocks.0.0.weight"
    inpainting = {**tensors, first: torch.zeros(8, 9, 3, 3)}
    sd15 = {name: tensor for name, tensor in tensors.items() if "label_emb" not in name}
    lora = {"lora_unet_down.weight": torch.zeros(1)}
    for name, content, match in (
        ("inpainting", inpainting, "takes 9 input channels; allowed: 4"),
        ("sd15", sd15, "SD1.5 / SD2 family"),
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
    ("settings", "match"),
    [
        ({"offload": "disk"}, "offload is 'disk'; choose one of none, model, sequential, group"),
        ({"offload": "model"}, "the device is cpu; leave offload out"),
        ({"dtype": "int8"}, "dtype is int8; choose one of float32, float16, bfloat16"),
        ({"device": "warp"}, "device 'warp' cannot be used here"),
    ],
)
def test_settings_are_refused_by_name(disk: dict[str, str], settings: dict[str, str], match: str) -> None:
    with pytest.raises(UserError, match=match):
        load_pair(disk["strong"], disk["weak"], disk["motion"], **{"device": "cpu", **settings})


def test_checking_a_specification_and_estimating_its_memory_import_no_torch(disk: dict[str, str]) -> None:
    program = (
        "import sys\n"
        "from w2sd_video.adapters.specification import check_pair_specification\n"
        "from w2sd_video.adapters.estimate import estimate_memory\n"
        "from w2sd_video.presets import PRESETS\n"
        f"pair = check_pair_specification({disk['strong']!r}, {disk['weak.safetensors']!r}, {disk['motion']!r})\n"
        "estimate_memory(pair, dtype='float16', height=64, width=64, num_frames=2)\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'numpy'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)\n"
    )
    root = Path(__file__).resolve().parents[1]
    result = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
