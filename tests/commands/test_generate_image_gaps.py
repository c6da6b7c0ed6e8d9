"""LoRAs, ControlNets and IP-Adapters as gaps of the command for pictures, from real files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from tests.hosting.test_hosting_parity import ip_adapter_weights
from tests.support import disk_pairs, tiny, tiny_controls, tiny_loras
from tests.support.family_programs import image as main
from w2sd_video.gaps.control_images import canny_edges
from w2sd_video.runs.picture_io import read_picture

QUICK = ("--steps", "3", "--reflections", "2", "--height", "16", "--width", "16", "--device", "cpu", "--quiet")
GUIDED = ("--guidance", "3", "--strong-guidance", "1", "--weak-guidance", "1")
PROMPT = "a cat"


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("gaps")
    pipe = disk_pairs.sdxl(1)
    pipe.save_pretrained(root / "sdxl")
    disk_pairs.sdxl(2).save_pretrained(root / "other")
    modules = [name for name, _ in pipe.unet.named_modules() if name.endswith("attn2.to_v")]
    for seed in (5, 6):
        tiny_loras.kohya_file(root / f"lora-{seed}.safetensors", pipe.unet, modules, seed, alpha=40.0)
    tiny_controls.controlnet(pipe.unet).save_pretrained(root / "net")
    noise = np.random.default_rng(1).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((16, 16)).save(root / "picture.png")
    Image.fromarray(noise).resize((40, 20)).save(root / "wide.png")
    canny_edges(Image.open(root / "picture.png")).save(root / "edges.png")
    (root / "ip").mkdir()
    weights = tiny.seeded(4, lambda: ip_adapter_weights(pipe.unet))
    flat = {f"{part}.{key}": value.detach().contiguous() for part, s in weights.items() for key, value in s.items()}
    save_file(flat, root / "ip" / "adapter.safetensors")
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPVisionConfig(**sizes, image_size=16, patch_size=8, projection_dim=pipe.unet.config.cross_attention_dim)
    encoder = tiny.seeded(8, lambda: CLIPVisionModelWithProjection(config))
    encoder.save_pretrained(root / "ip" / "image_encoder")
    CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=16).save_pretrained(root / "ip" / "image_encoder")
    return root


def words(disk: Path, *given: str) -> list[str]:
    """The command's words; @name is a file of the disk's."""
    asked = ["--strong", "@sdxl", "--prompt", PROMPT, *given]
    return [*QUICK, *(word.replace("@", f"{disk}/") for word in asked)]


def run(disk: Path, output: Path, *given: str) -> dict[str, Any]:
    assert main([*words(disk, *given), "--output", str(output)]) == 0
    return {(r := json.loads(line))["method"]: r for line in (output / "results.jsonl").read_text().splitlines()}


def pixels(output: Path, method: str) -> np.ndarray:
    return read_picture(output / method / f"{PROMPT}-0.png").pixels


BLOCK = "mid_block.attentions.0.transformer_blocks.0"
LORA = (*GUIDED, "--lora", "a=@lora-5.safetensors:0.8")
CONTROL = (*GUIDED, "--controlnet", "@net", "--control-image", "@picture.png")
ADAPTER = (*GUIDED, "--ip-adapter", "@ip/adapter.safetensors", "--ip-adapter-image", "@picture.png")
OFF = {
    "LoRA": (LORA, ("--weak-lora", "a:0.8")),
    "ControlNet": (CONTROL, ("--weak-control-scale", "1")),
    "IP-Adapter": (ADAPTER, ("--weak-ip-adapter-scale", "1")),
}


@pytest.fixture(scope="module")
def plain(disk: Path, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """The picture without any gap."""
    output = tmp_path_factory.mktemp("plain")
    run(disk, output, *GUIDED, "--methods", "strong")
    return pixels(output, "strong")


@pytest.mark.parametrize("gap", OFF)
def test_the_weak_side_by_itself_is_the_plain_pipeline_and_the_strong_one_is_not(
    gap: str, disk: Path, tmp_path: Path, plain: np.ndarray
) -> None:
    records = run(disk, tmp_path / "gap", *OFF[gap][0], "--methods", "weak,strong,w2sd,zero-gap,swapped")
    assert np.array_equal(pixels(tmp_path / "gap", "weak"), plain)
    made = [pixels(tmp_path / "gap", method) for method in ("weak", "strong", "w2sd", "zero-gap", "swapped")]
    assert len({picture.tobytes() for picture in made}) == 5
    assert [records[m]["num_evaluations"] for m in ("weak", "strong", "w2sd", "zero-gap", "swapped")] == [3, 3, 7, 7, 7]
    assert records["w2sd"]["num_rows"] == 3 * 2 + 2 * (1 + 1)


@pytest.mark.parametrize(
    ("gap", "value", "kept", "other"),
    [
        ("skip_layers", BLOCK, [BLOCK], "mid_block"),
        ("precision", "int2", "int2", "int3"),
    ],
)
def test_what_changes_the_network_makes_a_weak_side_of_every_method(
    gap: str, value: str, kept: Any, other: str, disk: Path, tmp_path: Path
) -> None:
    flag, methods = f"--weak-{gap.replace('_', '-')}", ("weak", "strong", "w2sd", "zero-gap", "swapped")
    records = run(disk, tmp_path, *GUIDED, flag, value, "--methods", ",".join(methods))
    assert len({pixels(tmp_path, method).tobytes() for method in methods}) == 5
    assert [records[method]["num_evaluations"] for method in methods] == [3, 3, 7, 7, 7]
    assert json.loads((tmp_path / "run.json").read_text())["pair"][f"weak_{gap}"] == kept
    assert main([*words(disk, flag, other, "--output", str(tmp_path / "none"))]) == 2


def test_a_weak_side_of_a_few_levels_is_asked_at_them_and_both_sides_at_the_strong_ones(
    disk: Path, tmp_path: Path
) -> None:
    pair = (*GUIDED, "--weak", "@other", "--methods", "strong,w2sd,zero-gap")
    made = {}
    for name, flags in {"all": (), "weak": ("--weak-levels", "turbo"), "both": ("--strong-levels", "turbo")}.items():
        records = run(disk, tmp_path / name, *pair, *flags)
        made[name] = {method: pixels(tmp_path / name, method).tobytes() for method in records}
        assert [records[method]["num_evaluations"] for method in ("strong", "w2sd", "zero-gap")] == [3, 7, 7]
    assert len({each["strong"] for each in made.values()}) == 1 and len({each["w2sd"] for each in made.values()}) == 3
    record = json.loads((tmp_path / "weak" / "run.json").read_text())["pair"]
    assert record["weak_levels"] == "turbo-4" and "strong_levels" not in record
    # Of the control it says nothing on the weak side: that is the strong one.
    assert made["all"]["zero-gap"] == made["weak"]["zero-gap"] != made["both"]["zero-gap"]


def test_swapping_the_sides_of_a_lora_gap_is_the_gap_the_other_way_round(disk: Path, tmp_path: Path) -> None:
    run(disk, tmp_path / "one", *LORA, "--weak-lora", "a:-1.5", "--methods", "weak,w2sd,swapped")
    turned = (*GUIDED, "--lora", "a=@lora-5.safetensors:-1.5", "--weak-lora", "a:0.8")
    run(disk, tmp_path / "other", *turned, "--methods", "strong,w2sd,swapped")
    for one, other in (("weak", "strong"), ("w2sd", "swapped"), ("swapped", "w2sd")):
        assert np.array_equal(pixels(tmp_path / "one", one), pixels(tmp_path / "other", other)), one


def test_several_loras_and_another_checkpoint_with_one_of_its_own(disk: Path, tmp_path: Path) -> None:
    two = (*LORA, "--lora", "b=@lora-6.safetensors:0.5", "--methods", "strong,w2sd")
    run(disk, tmp_path / "two", *two)
    run(disk, tmp_path / "one", *LORA, "--methods", "strong,w2sd")
    apart = (*LORA, "--weak", "@other", "--weak-lora", "b=@lora-6.safetensors:-1", "--methods", "weak,strong,w2sd")
    run(disk, tmp_path / "apart", *apart)
    run(
        disk,
        tmp_path / "alone",
        *GUIDED,
        "--strong",
        "@other",
        "--lora",
        "b=@lora-6.safetensors:-1",
        "--methods",
        "strong",
    )
    assert not np.array_equal(pixels(tmp_path / "two", "strong"), pixels(tmp_path / "one", "strong"))
    assert np.array_equal(pixels(tmp_path / "apart", "strong"), pixels(tmp_path / "one", "strong"))
    assert np.array_equal(pixels(tmp_path / "apart", "weak"), pixels(tmp_path / "alone", "strong"))
    assert len({pixels(tmp_path / name, "w2sd").tobytes() for name in ("one", "two", "apart")}) == 3


def test_the_edges_of_a_picture_are_what_is_followed_where_asked_for(disk: Path, tmp_path: Path) -> None:
    run(disk, tmp_path / "asked", *CONTROL, "--canny", "--methods", "strong")
    edges = tuple(word.replace("@picture", "@edges") for word in CONTROL)
    run(disk, tmp_path / "given", *edges, "--methods", "strong")
    run(disk, tmp_path / "picture", *CONTROL, "--methods", "strong")
    assert np.array_equal(pixels(tmp_path / "asked", "strong"), pixels(tmp_path / "given", "strong"))
    assert not np.array_equal(pixels(tmp_path / "asked", "strong"), pixels(tmp_path / "picture", "strong"))


def test_a_control_image_of_another_size_is_refused_or_resized(
    disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wide = [word.replace("@picture", "@wide") for word in CONTROL]
    assert main([*words(disk, *wide, "--methods", "strong"), "--output", str(tmp_path / "out")]) == 2
    assert "is 40 x 20 pixels and the output 16 x 16" in capsys.readouterr().err
    run(disk, tmp_path / "resized", *wide, "--resize-control", "--methods", "strong")


def test_gaps_of_every_kind_at_once(disk: Path, tmp_path: Path) -> None:
    everything = (*LORA, *CONTROL[6:], *ADAPTER[6:], "--weak", "@other", "--weak-prompt", "a dog")
    records = run(disk, tmp_path / "out", *everything, "--weak-guidance", "-1", "--methods", "w2sd,zero-gap")
    assert records["w2sd"]["num_rows"] == 3 * 2 + 2 * (1 + 2)
    assert not np.array_equal(pixels(tmp_path / "out", "w2sd"), pixels(tmp_path / "out", "zero-gap"))
    pair = json.loads((tmp_path / "out" / "run.json").read_text())["pair"]
    assert pair["loras"] == {"a": {"from": str(disk / "lora-5.safetensors"), "strong": 0.8, "weak": 0.0}}
    assert (pair["control"], pair["ip_adapter_scale"]) == ({"strong": 1.0, "weak": 0.0}, {"strong": 1.0, "weak": 0.0})


REFUSED = {
    "a LoRA of another family": (("--lora", "a=@net/diffusion_pytorch_model.safetensors:1"), "LoRA"),
    "a ControlNet that is none": (("--controlnet", "@ip", "--control-image", "@picture.png"), "ControlNet"),
    "an adapter without its encoder": (
        ("--ip-adapter", "@lora-5.safetensors", "--ip-adapter-image", "@picture.png"),
        "image_encoder",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_files_that_do_not_fit_are_refused(
    case: str, disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given, said = REFUSED[case]
    assert main([*words(disk, *GUIDED, *given), "--output", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err
