"""Pairs written to disk as folders and single files, and loaded back."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from diffusers import AnimateDiffSDXLPipeline, AutoencoderKL, MotionAdapter, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from tests.support import tiny
from tests.support.disk_pairs import assert_holds, loaded_pair, sdxl, told, weights_of, write_checkpoints
from w2sd_video.errors import UserError
from w2sd_video.loading.animatediff import tensors_of
from w2sd_video.loading.pair_description import describe_pair
from w2sd_video.loading.pairs import load_pair
from w2sd_video.loading.sharing import modules_of, unique_bytes


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return write_checkpoints(tmp_path_factory.mktemp("checkpoints"))


def pointers(module: torch.nn.Module) -> dict[str, int]:
    return {name: tensor.data_ptr() for name, tensor in tensors_of(module).items()}


def assert_motion_shared(pair: Any) -> None:
    ours, theirs = pointers(pair.pipe.unet), pointers(pair.weak_unet)
    assert {name for name in ours if ours[name] == theirs[name]} >= {name for name in ours if "motion_modules" in name}
    motion = sum(tensor.nbytes for name, tensor in tensors_of(pair.weak_unet).items() if "motion_modules" in name)
    both = unique_bytes(pair.pipe.unet, pair.weak_unet)
    assert unique_bytes(pair.pipe.unet) + unique_bytes(pair.weak_unet) - both >= motion > 0
    assert unique_bytes(pair.pipe.unet, pair.pipe.motion_adapter) == unique_bytes(pair.pipe.unet)


@pytest.mark.parametrize("strong", ["strong", "strong.safetensors"])
@pytest.mark.parametrize("weak", ["weak", "weak.safetensors"])
def test_folders_and_single_files_load_to_the_same_weights_and_share_the_motion_modules(
    disk: dict[str, str], strong: str, weak: str
) -> None:
    config = disk["config"] if strong == "strong.safetensors" and weak == "weak.safetensors" else None
    pair = loaded_pair(disk[strong], disk[weak], disk["motion"], config=config)
    assert_holds(pair.pipe.unet, weights_of(1))
    assert_holds(pair.weak_unet, weights_of(2))
    modules = [part for pipe in (pair.pipe, pair.weak) for part in modules_of(pipe)]
    assert unique_bytes(*modules) == unique_bytes(*modules_of(pair.pipe), pair.weak_unet), "all else is kept once"
    assert_holds(pair.pipe.vae, tensors_of(tiny.vae()))
    assert_holds(pair.pipe.text_encoder, tensors_of(tiny.clip_text_encoder(10, hidden=12)))
    assert_holds(pair.pipe.text_encoder_2, tensors_of(tiny.clip_text_encoder(13, hidden=20, projection=True)))
    assert_motion_shared(pair)


@pytest.mark.parametrize(
    "saved", [{"variant": "fp16"}, {"max_shard_size": "100KB"}, {"variant": "fp16", "max_shard_size": "100KB"}]
)
def test_half_size_variants_and_shards_are_found(disk: dict[str, str], tmp_path: Path, saved: dict[str, str]) -> None:
    sdxl(2).save_pretrained(tmp_path / "weak", **saved)
    files = [file.name for file in (tmp_path / "weak" / "unet").glob("*.safetensors")]
    assert all((".fp16" in name) == ("variant" in saved) for name in files)
    assert (len(files) > 1) == ("max_shard_size" in saved)
    given = (disk["strong"], str(tmp_path / "weak"), disk["motion"])
    assert_holds(loaded_pair(*given).weak_unet, weights_of(2))
    if len(files) > 1:
        (tmp_path / "weak" / "unet" / files[0]).unlink()
        with pytest.raises(UserError, match=f"index.* names {files[0]}, which is not there"):
            describe_pair(*given)


def test_the_same_checkpoint_on_both_sides_takes_no_second_storage(disk: dict[str, str]) -> None:
    pair = loaded_pair(disk["strong"], disk["strong.safetensors"], disk["motion"])
    assert unique_bytes(pair.pipe.unet, pair.weak_unet) == unique_bytes(pair.pipe.unet)


def test_a_saved_video_pipeline_and_a_folder_with_one_network_load_as_the_bundled_demo_does(
    disk: dict[str, str],
) -> None:
    pair = loaded_pair(disk["video"], disk["network"], num_frames=16)
    assert_holds(pair.pipe.unet, weights_of(1))
    assert_holds(pair.weak_unet, weights_of(2))
    assert_motion_shared(pair)
    assert dict(pair.pipe.scheduler.config)["beta_schedule"] == "scaled_linear"  # the pipeline's own, as it was saved
    frames = pair.pipe("a ring", num_inference_steps=1, output_type="np", **tiny.ANIMATEDIFF_CALL).frames
    assert frames.shape == (1, 2, 16, 16, 3)


def test_a_strong_side_that_is_one_network_takes_every_other_part_from_the_weak_one(disk: dict[str, str]) -> None:
    pair = loaded_pair(disk["network"], disk["video"])
    assert_holds(pair.pipe.unet, weights_of(2))
    assert_holds(pair.weak_unet, weights_of(1))
    assert_holds(pair.pipe.vae, tensors_of(tiny.vae()))
    assert dict(pair.pipe.scheduler.config)["beta_schedule"] == "scaled_linear"
    assert any("holds no VAE" in note for note in pair.notes)
    with pytest.raises(UserError, match="two text encoders"):
        describe_pair(disk["network"], disk["network"], disk["motion"])


def test_sides_with_motion_modules_of_their_own_keep_them_and_it_is_noted(disk: dict[str, str], tmp_path: Path) -> None:
    tiny.motion_unet(2, adapter_seed=9).save_pretrained(tmp_path)
    pair = loaded_pair(disk["video"], str(tmp_path))
    assert_holds(pair.weak_unet, tensors_of(tiny.motion_unet(2, adapter_seed=9)))
    assert any("motion modules of their own" in note for note in pair.notes)


def test_an_image_checkpoint_gets_the_schedule_of_the_motion_modules_and_keeps_its_prediction_type(
    disk: dict[str, str],
) -> None:
    pair = loaded_pair(disk["strong"], disk["weak"], disk["motion"])
    config = dict(pair.pipe.scheduler.config)
    assert (config["beta_schedule"], config["timestep_spacing"], config["prediction_type"]) == (
        *("linear", "trailing"),
        "epsilon",
    )


def test_a_weak_motion_unet_brings_the_motion_modules_for_an_image_checkpoint(
    disk: dict[str, str], tmp_path: Path
) -> None:
    tiny.motion_unet(2).save_pretrained(tmp_path / "unet")
    pair = loaded_pair(disk["strong"], str(tmp_path))
    assert_holds(pair.pipe.unet, weights_of(1))
    assert_motion_shared(pair)


def test_loading_twice_gives_equal_videos_in_half_precision_although_the_vae_overflows_there(
    disk: dict[str, str],
) -> None:
    # The stock pipeline cannot decode at all here: it widens only part of a VAE with force_upcast.
    videos = []
    for _ in range(2):
        pair = loaded_pair(disk["strong"], disk["weak"], disk["motion"], dtype="float16")
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
    pair = loaded_pair(disk["strong"], str(tmp_path), disk["motion"])
    assert isinstance(pair.weak, AnimateDiffSDXLPipeline)
    inputs = told(pair, "a ring", "blue", free=False)
    for side, pipe in ((inputs["strong"], pair.pipe), (inputs["weak"], pair.weak)):
        stock = pipe.encode_prompt("a ring", negative_prompt="blue")
        names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
        for name, wanted in zip(names, stock, strict=True):
            assert torch.equal(side[name], wanted)
    assert not torch.equal(inputs["strong"]["prompt_embeds"], inputs["weak"]["prompt_embeds"])
    assert pair.weak.vae is pair.pipe.vae
    assert_motion_shared(pair)


def test_encoded_prompts_stand_for_the_text_when_the_encoders_are_freed(disk: dict[str, str]) -> None:
    pair = loaded_pair(disk["strong"], disk["weak"], disk["motion"])
    unprompted = told(pair, "a ring", free=False)
    assert all(torch.equal(unprompted["weak"][name], each) for name, each in unprompted["strong"].items())
    assert not unprompted["strong"]["negative_prompt_embeds"].any()  # SDXL's zeros for no negative prompt
    stock = pair.pipe("a ring", negative_prompt="blue", **quick(5)).frames
    encoder_bytes = unique_bytes(pair.pipe.text_encoder, pair.pipe.text_encoder_2)
    before = unique_bytes(*modules_of(pair.pipe))
    first = told(pair, "a ring", "blue")["strong"]
    assert unique_bytes(*modules_of(pair.pipe)) == before - encoder_bytes
    assert torch.equal(torch.from_numpy(stock), torch.from_numpy(pair.pipe(**first, **quick(5)).frames))


def quick(seed: int) -> dict[str, Any]:
    call = {"guidance_scale": 3.0, "num_inference_steps": 1, "output_type": "np", "generator": tiny.generator(seed)}
    return {**call, **tiny.ANIMATEDIFF_CALL}


def test_a_single_file_without_text_encoders_uses_the_other_sides_and_says_so(disk: dict[str, str]) -> None:
    pair = loaded_pair(disk["strong"], disk["weak-no-text.safetensors"], disk["motion"])
    assert any("holds no text encoders" in note for note in pair.notes)
    pair = loaded_pair(disk["weak-no-text.safetensors"], disk["strong.safetensors"], disk["motion"],
                     config=disk["config"])  # fmt: skip
    assert_holds(pair.pipe.text_encoder, tensors_of(tiny.clip_text_encoder(10, hidden=12)))
    both = disk["weak-no-text.safetensors"]
    with pytest.raises(UserError, match="holds SDXL's two text encoders; give one side as a whole"):
        describe_pair(both, both, disk["motion"], config=disk["config"])


# -- the VAE --------------------------------------------------------------------------------------------------------


def test_another_vae_of_the_same_scaling_is_noted_and_the_strong_one_decodes(
    disk: dict[str, str], tmp_path: Path
) -> None:
    sdxl(2, vae_seed=50).save_pretrained(tmp_path)
    pair = loaded_pair(disk["strong"], str(tmp_path), disk["motion"])
    assert_holds(pair.pipe.vae, tensors_of(tiny.vae()))
    assert any("VAEs differ" in note for note in pair.notes)
    described = describe_pair(disk["strong"], str(tmp_path), disk["motion"])
    (alone,) = load_pair(described, wanted=("weak",), dtype=torch.float32, quiet=True).values()
    assert_holds(alone.unet, weights_of(2))
    assert_holds(alone.vae, tensors_of(tiny.vae()))


def test_another_scaling_of_the_latents_is_refused_before_loading(disk: dict[str, str], tmp_path: Path) -> None:
    sdxl(2, scaling_factor=0.5).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"do not share a latent space.*scale 0\.13025 and 0\.5"):
        describe_pair(disk["strong"], str(tmp_path), disk["motion"])


def test_progress_bars_are_silenced_on_request_and_come_back(
    disk: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    loaded_pair(disk["strong"], disk["weak"], disk["motion"], quiet=True)
    assert "%" not in capfd.readouterr().err
    loaded_pair(disk["strong"], disk["weak"], disk["motion"], quiet=False)
    assert "100%" in capfd.readouterr().err


# A hub id resolves through the hub's cache folder, which stands in for the hub.
@pytest.mark.parametrize("weak", ["owner/weak", "weak.safetensors"])
def test_hub_ids_load_from_the_hubs_cache_and_are_checked_before_their_weights_are_read(
    disk: dict[str, str], weak: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("strong", "weak", "motion"):
        repository = tmp_path / f"models--owner--{name}"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text("0" * 40)
        shutil.copytree(disk[name], repository / "snapshots" / ("0" * 40))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    given = ("owner/strong", disk.get(weak, weak), "owner/motion")
    for kind in (UNet2DConditionModel, AutoencoderKL, MotionAdapter, CLIPTextModel, CLIPTextModelWithProjection):
        monkeypatch.setattr(kind, "from_pretrained", None)  # parts are read tensor by tensor
    pair = loaded_pair(*given, dtype="bfloat16", num_frames=16, quiet=True)
    wanted = {name: tensor.to(torch.bfloat16) for name, tensor in weights_of(2).items()}
    assert_holds(pair.weak_unet, wanted)
    shared = unique_bytes(pair.pipe.unet) + unique_bytes(pair.weak_unet) - unique_bytes(pair.pipe.unet, pair.weak_unet)
    assert shared >= sum(tensor.nbytes for name, tensor in wanted.items() if "motion_modules" in name)
    with pytest.raises(UserError, match="17 frames asked for; the motion modules of the motion adapter allow at most"):
        loaded_pair(*given, num_frames=17)
