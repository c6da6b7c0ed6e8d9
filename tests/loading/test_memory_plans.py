"""What a pair takes by each memory plan: the estimate against counted bytes, the plan that fits, whose turn it is."""

from __future__ import annotations

import gc
import json
import shutil
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel, MotionAdapter, UNet2DConditionModel, UNetMotionModel
from diffusers import WanTransformer3DModel as Wan
from safetensors.torch import load_file, save_file

from tests.support import tiny
from tests.support.disk_pairs import loaded_pair, write_checkpoints
from tests.support.family_programs import image_request, planned, video_request
from tests.support.live import activations
from w2sd_video.commands.app import family_named
from w2sd_video.commands.engine import memory_of, on_device, plan_of
from w2sd_video.commands.families.pair_memory import CODES
from w2sd_video.commands.machines import choose_memory
from w2sd_video.commands.request import Request
from w2sd_video.errors import UserError
from w2sd_video.gaps.precision import rounded
from w2sd_video.loading.memory import (
    GIB,
    MEMORY_PLANS,
    Estimate,
    Load,
    Machine,
    Sides,
    estimate_memory,
    memory_size,
)
from w2sd_video.loading.placement import kept_in_fp8, place
from w2sd_video.loading.sharing import unique_bytes
from w2sd_video.loading.sizes import KNOWN
from w2sd_video.loading.turns import Turns

ROOT = Path(__file__).resolve().parents[2]
BF16 = torch.bfloat16


def estimate(request: Request, device: str = "cuda", dtype: str = "bfloat16") -> Estimate:
    family = family_named(request.family)
    found = memory_of(family, replace(plan_of(family, request), device=device, dtype=dtype))
    assert found is not None
    return found


def paper(**settings: Any) -> Estimate:
    return estimate(video_request(preset="juggernaut-vs-sdxl", prompts=("x",), **settings))


def bridge(**settings: Any) -> Estimate:
    return estimate(Request("bridge", preset="flux-vs-sdxl", prompts=("x",), **settings))


# -- the targets ------------------------------------------------------------------------------------------------------


def test_the_papers_pair_of_videos_takes_what_was_measured_and_fits_12_and_8_gb() -> None:
    found = paper()
    # Shared motion modules and VAE, text encoders freed, guidance as a batch of 2: 19.7 GB; one row at a time 15.3.
    assert found.plans["resident"].peak == pytest.approx(19.7e9, rel=0.005)
    assert paper(guidance=1.0, strong_guidance=1.0).plans["resident"].peak == pytest.approx(15.3e9, rel=0.005)
    assert found.choose(Machine(24 * GIB)) == "resident"
    assert found.choose(Machine(12 * GIB)) == "group"
    assert paper(height=512, width=512).choose(Machine(8 * GIB)) == "group"
    assert paper(height=512, width=512).choose(Machine(9 * GIB)) == "weak-offload"


def test_flux_over_sdxl_fits_24_gb_in_turns_and_12_gb_layer_by_layer() -> None:
    found = bridge()
    assert found.choose(Machine(24 * GIB)) == "model-offload"
    assert found.choose(Machine(12 * GIB)) == "group"
    assert found.choose(Machine(24 * GIB, host=16 * GIB)) is None, "29 GB wait on the host"
    assert found.choose(Machine(48 * GIB, host=16 * GIB)) == "resident"
    assert list(found.plans["resident"].device) == ["encode", "fit", "sample", "decode"]


def test_a_smaller_plan_takes_less_of_the_device_in_every_phase() -> None:
    for found in (paper(), bridge()):
        for phase in found.plans["resident"].device:
            sizes = [found.plans[name].device[phase] for name in MEMORY_PLANS]
            assert sizes == sorted(sizes, reverse=True), phase


@pytest.mark.parametrize("preset", ["wan21-size", "wan22-guidance", "animatediff-sd15"])
def test_every_known_family_is_estimated(preset: str) -> None:
    found = estimate(video_request(preset=preset, prompts=("x",)))
    assert 2 * GIB < found.plans["resident"].peak < 80 * GIB


def test_what_is_not_known_is_not_estimated() -> None:
    family = family_named("image")
    request = image_request(strong="someone/something", prompts=("x",), weak_guidance=0, height=512, width=512)
    assert memory_of(family, replace(plan_of(family, request), device="cuda", dtype="float16")) is None


# -- activations, counted on the meta device ---------------------------------------------------------------------------

SDXL_UNET = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
}


def zeros(*shape: int) -> torch.Tensor:
    return torch.zeros(*shape, dtype=BF16)


def _unet(rows: int) -> int:
    def call(network: Any) -> None:
        network(zeros(rows, 4, 64, 64), torch.tensor(1), zeros(rows, 77, 2048))

    return activations(lambda: UNet2DConditionModel(**SDXL_UNET), call, BF16)


def _motion() -> int:
    def make() -> Any:
        adapter = MotionAdapter(
            block_out_channels=(320, 640, 1280), use_motion_mid_block=False, motion_norm_num_groups=32
        )
        return UNetMotionModel.from_unet2d(UNet2DConditionModel(**SDXL_UNET), adapter, load_weights=False)

    return activations(make, lambda n: n(zeros(1, 4, 2, 32, 32), torch.tensor(1), zeros(2, 77, 2048)), BF16)


def _flux() -> int:
    def call(network: Any) -> None:
        texts = zeros(1, 512, 4096), zeros(1, 768), zeros(1), zeros(1024, 3), zeros(512, 3), zeros(1)
        network(zeros(1, 1024, 64), *texts)

    made = {"guidance_embeds": True, "num_layers": 1, "num_single_layers": 1}
    return activations(lambda: FluxTransformer2DModel(**made), call, BF16)


def _wan() -> int:
    sizes = {"num_attention_heads": 12, "attention_head_dim": 128, "ffn_dim": 8960, "num_layers": 1}
    return activations(
        lambda: Wan(**sizes), lambda n: n(zeros(1, 16, 9, 60, 104), torch.zeros(1), zeros(1, 512, 4096)), BF16
    )


def _decode(batch: int) -> int:
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
    vae = {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, **blocks}
    return activations(lambda: AutoencoderKL(**vae), lambda vae: vae.decode(zeros(batch, 4, 32, 32)), BF16)


COUNTED = {
    "a UNet": (lambda: _unet(1), lambda: KNOWN["SDXL"].alive(512, 512, None)),
    "two rows of it": (lambda: _unet(2), lambda: 2 * KNOWN["SDXL"].alive(512, 512, None)),
    "motion modules": (_motion, lambda: KNOWN["SDXL"].alive(256, 256, 2, moving=True)),
    "Flux": (_flux, lambda: KNOWN["Flux"].alive(512, 512, None)),
    "Wan": (_wan, lambda: KNOWN["Wan 1.3B"].alive(480, 832, 33)),
    "a VAE": (lambda: _decode(1), lambda: KNOWN["SDXL"].decoded(256, 256, None)),
    "a batch of pictures in it": (lambda: _decode(3), lambda: KNOWN["SDXL"].decoded(256, 256, None, 3)),
}


@pytest.mark.parametrize("name", COUNTED)
def test_activations_are_within_a_tenth_of_what_is_counted(name: str) -> None:
    counted, estimated = COUNTED[name]
    assert 2 * estimated() == pytest.approx(counted(), rel=0.1)


def test_what_is_made_together_is_counted_together() -> None:
    def of(**settings: Any) -> Estimate:
        return estimate(image_request(preset="finetune-sdxl", prompts=("x",), num=8, **settings))

    one, four, few = of(), of(batch=4), estimate(image_request(preset="finetune-sdxl", prompts=("x",), num=2, batch=4))
    assert four.activations == {name: 4 * size for name, size in one.activations.items()}
    assert few.activations == {name: 2 * size for name, size in one.activations.items()}, "no more than there are"


# -- weights, against what loading takes -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_estimate_of_the_weights_is_what_loading_takes(tmp_path: Path, dtype: str) -> None:
    for side in (1, 2):
        tiny.sdxl(side).save_pretrained(tmp_path / str(side))
    tiny.motion_adapter().save_pretrained(tmp_path / "motion")
    given = (str(tmp_path / "1"), str(tmp_path / "2"), str(tmp_path / "motion"))

    def of(*sides: str) -> Estimate:
        sizes = {"height": 16, "width": 16, "num_frames": 2}
        named = dict(zip(("strong", "weak", "motion_adapter"), sides, strict=True))
        return estimate(video_request(**named, prompts=("x",), **sizes), dtype=dtype)

    found, pair = of(*given), loaded_pair(*given, dtype=dtype)
    networks = unique_bytes(pair.pipe.unet) + unique_bytes(pair.weak_unet) - unique_bytes(pair.pipe.motion_adapter)
    assert found.networks == networks
    assert found.weights["vae"] == unique_bytes(pair.pipe.vae)
    encoders = (pair.pipe.text_encoder, pair.pipe.text_encoder_2)
    assert found.weights["text_encoders"] == sum(tensor.nbytes for part in encoders for tensor in part.parameters())
    assert of(given[0], given[0], given[2]).networks == unique_bytes(pair.pipe.unet)


def test_what_two_sides_have_alike_is_estimated_once(tmp_path: Path) -> None:
    tiny.sdxl(1).save_pretrained(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    settings = {"strong": str(tmp_path / "one"), "weak": str(tmp_path / "two"), "prompts": ("x",), "height": 16}

    def of() -> Estimate:
        return estimate(image_request(**settings, width=16, guidance=2, weak_guidance=1), "cpu", "float32")

    equal = of().weights
    assert (equal["strong"], equal["weak"]) == (0, 0)
    assert equal["shared"] == unique_bytes(tiny.sdxl(1).unet) and equal["vae"] == unique_bytes(tiny.sdxl(1).vae)
    file = tmp_path / "two/unet/diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, file)
    differing = of().weights
    assert (differing["strong"], differing["weak"], differing["shared"]) == (equal["shared"], equal["shared"], 0)
    assert differing["vae"] == equal["vae"] and differing["text_encoders"] == equal["text_encoders"]


def test_weights_at_other_precisions_are_estimated_by_their_bytes() -> None:
    half = paper().weights
    with torch.device("meta"):
        unet = UNet2DConditionModel(**SDXL_UNET, transformer_layers_per_block=[1, 2, 10]).to(BF16)
    kept_in_fp8([unet])
    numbers = sum(parameter.numel() for parameter in unet.parameters())
    small = sum(parameter.nbytes for parameter in unet.parameters()) / numbers
    assert paper(fp8=True).weights["strong"] == pytest.approx(half["strong"] * small / 2, rel=0.02)
    assert paper(fp8=True).weights["text_encoders"] == half["text_encoders"]
    packed = replace(KNOWN["SDXL"], packed=GIB)
    sides = Sides(packed, KNOWN["SDXL"], (Load(2, 64, 64), Load(2, 64, 64)))
    weights = estimate_memory(sides, dtype="bfloat16", device="cuda").weights
    assert (weights["strong"], weights["weak"]) == (GIB, 2 * KNOWN["SDXL"].networks["unet"])
    weight = torch.randn(640, 640)
    for precision, size in CODES.items():
        held = rounded(weight, precision)
        scales = 0 if held.scales is None else held.scales.nbytes
        assert size == pytest.approx((held.codes.nbytes + scales) / weight.numel(), rel=0.02), precision


@pytest.mark.parametrize("role", ["strong", "weak"])
def test_a_side_that_no_method_asks_is_not_counted(role: str, tmp_path: Path) -> None:
    both, one = paper(), paper(methods=(role,))
    assert one.weights["weak"] == 0 and one.weights["shared"] == both.weights["shared"]
    assert one.weights["strong"] == both.weights[role]
    assert one.plans["resident"].peak == both.plans["resident"].peak - both.weights["weak"]
    tiny.flux(1).save_pretrained(tmp_path / "flux")
    tiny.sdxl(1).save_pretrained(tmp_path / "sdxl")
    words = {
        "strong": str(tmp_path / "flux"),
        "weak": str(tmp_path / "sdxl"),
        "prompts": ("x",),
        "height": 64,
        "width": 64,
    }
    request = Request("bridge", **words, methods=(role,))
    found = memory_of(family_named("bridge"), replace(plan_of(family_named("bridge"), request), dtype="float32"))
    kept = {"strong": "transformer", "weak": "unet"}[role]
    network = getattr(tiny.flux(1) if role == "strong" else tiny.sdxl(1), kept)
    assert found is not None and found.weights["strong"] == 4 * sum(each.numel() for each in network.parameters())
    assert (found.weights["weak"], "fit" in found.plans["resident"].host) == (0, False)


# -- the plan that fits -----------------------------------------------------------------------------------------------


def test_auto_is_the_fastest_plan_that_fits_and_refused_where_none_does() -> None:
    done = replace(planned(video_request(preset="juggernaut-vs-sdxl", prompts=("x",), memory="auto")), device="cuda")
    found = paper()
    assert choose_memory(done, found, Machine(80 * GIB)).memory == "resident"
    taken = choose_memory(done, found, Machine(16 * GIB))
    told = "memory plan weak-offload: the fastest that fits 16.0 GB; resident, the fastest, takes 19.1 GB"
    assert (taken.memory, taken.notes[-1]) == ("weak-offload", told)
    assert choose_memory(done, None, Machine(GIB)).memory == "resident", "nothing is known"
    with pytest.raises(UserError, match=r"sequential, the least, takes 8\.9 GB .* there are 4\.0 and \?; choose"):
        choose_memory(done, found, Machine(4 * GIB))


def test_auto_is_the_default_and_counts_what_the_process_itself_holds_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """The models of the run before are used again, or let go of before others are loaded."""
    free, held = 2 * GIB, 20 * GIB
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 24 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: held)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "card")
    monkeypatch.setattr("w2sd_video.loading.placement.choose_device", lambda given: given)
    monkeypatch.setattr("w2sd_video.loading.placement.choose_dtype", lambda given, device: torch.float16)
    done = replace(planned(video_request(preset="juggernaut-vs-sdxl", prompts=("x",))), device="cuda")
    assert done.memory == "auto"
    assert on_device(done, family_named("video"))[0].memory == "resident"
    held = 14 * GIB
    assert on_device(done, family_named("video"))[0].memory == "weak-offload"


@pytest.mark.parametrize(
    ("text", "size"), [("12GB", 12 * GIB), ("12", 12 * GIB), ("11.5 gib", int(11.5 * GIB)), ("8000MB", 8000 * 2**20)]
)
def test_sizes_of_memory_are_read(text: str, size: int) -> None:
    assert memory_size(text) == size


@pytest.mark.parametrize("text", ["", "lots", "-1GB", "0", "1e3", "12TB"])
def test_what_is_no_size_of_memory_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="give it as 12GB"):
        memory_size(text)


# -- dry runs ---------------------------------------------------------------------------------------------------------


def test_plans_of_local_folders_files_and_bundled_pairs_load_no_torch(tmp_path: Path) -> None:
    files = write_checkpoints(tmp_path)
    tiny.flux(1).save_pretrained(tmp_path / "flux")
    small = ["--height", "16", "--width", "16", "--prompt", "x", "--dry-run", "--format", "json"]
    weak = ["--weak", files["weak.safetensors"]]
    elsewhere = ["--device", "cuda", "--gpu-memory", "12GB", "--host-memory", "16GB", "--memory", "auto"]
    lines = [
        ["image", "--strong", files["strong"], *weak, "--weak-config", files["config"], "--guidance", "2", *small],
        ["video", "--strong", files["strong"], *weak, "--motion-adapter", files["motion"], *small, *elsewhere],
        ["bridge", "--strong", str(tmp_path / "flux"), "--weak", files["strong"], *small, *elsewhere],
        *([name, "--dry-run", "--format", "json"] for name in ("image", "video", "bridge", "moe")),
    ]
    program = (
        "import json, sys, time; from w2sd_video.commands.app import main\n"
        f"for words in json.loads({json.dumps(json.dumps(lines))}):\n"
        "    begin = time.process_time(); assert main(words) == 0, words\n"
        "    assert time.process_time() - begin < 1, words\n"
        "print(*{'torch', 'diffusers', 'transformers'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *reports, heavy = done.stdout.splitlines()
    assert heavy == ""
    for report in map(json.loads, reports[1:3]):
        assert (report["device"], report["dtype"], report["memory"]) == ("cuda", "bfloat16", "resident")
        found = report["memory_plans"]
        assert found["machine"] == {"gpu": 12288, "host": 16384} and list(found["plans"]) == list(MEMORY_PLANS)
    assert list(json.loads(reports[0])["memory_plans"]["plans"]) == ["resident"], "on a CPU there is nothing to choose"


# -- turns ------------------------------------------------------------------------------------------------------------


def test_in_turns_one_network_is_on_the_device_and_what_both_share_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)
    second.bias = first.bias
    held = (first.weight, second.weight, first.bias)
    host = [tensor.data_ptr() for tensor in held]
    monkeypatch.setattr(Turns, "brought", lambda self, tensor: tensor.clone())  # a copy stands in for the accelerator
    turns = Turns(torch.device("cpu"))
    turns.add([first, second])

    def there() -> list[bool]:
        return [tensor.data_ptr() != waiting for tensor, waiting in zip(held, host, strict=True)]

    assert there() == [False] * 3
    places = []
    for module, moved in (
        (first, [True, False, True]),
        (second, [False, True, True]),
        (first, [True, False, True]),
    ):
        module(torch.zeros(1, 8))
        assert there() == moved
        places.append(first.bias.data_ptr())
    assert len(set(places)) == 1, "the bias of both stays where it is"
    turns.take(None)
    assert there() == [False] * 3


def test_what_a_module_changes_in_its_buffers_in_its_turn_is_kept() -> None:
    first, second = torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 3)
    turns = Turns(torch.device("cpu"))
    turns.add([first, second])
    second(first(torch.arange(6.0).view(2, 3)))
    first(torch.zeros(2, 3))
    assert first.num_batches_tracked == 2


def test_dropped_modules_are_not_kept_by_the_turns() -> None:
    pipe = tiny.sdxl(1)
    place(pipe, None, "cpu", "model-offload")
    assert hasattr(pipe.text_encoder, "_hf_hook") and hasattr(pipe.unet, "_hf_hook")
    pipe("x", height=16, width=16, num_inference_steps=1, output_type="latent")
    gone = weakref.ref(pipe.text_encoder)
    pipe.register_modules(text_encoder=None)
    gc.collect()
    assert gone() is None
