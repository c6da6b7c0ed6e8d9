"""ControlNets, IP-Adapters and schedulers by the command for videos, from real files."""

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
from tests.support import tiny, tiny_controls
from tests.support.family_programs import video as main
from w2sd_video.commands.checks import read_control_frames
from w2sd_video.errors import UserError
from w2sd_video.gaps.control_images import canny_edges
from w2sd_video.runs.video_io import read_video, write_video

pytestmark = (
    pytest.mark.slow
)  # tests/gaps and tests/hosting hold ControlNets and IP-Adapters; these repeat them through the program

FRAMES = 3
SIZES = ("--height", "16", "--width", "16", "--num-frames", str(FRAMES))
QUICK = ("--steps", "3", "--reflections", "2", "--device", "cpu", "--quiet", *SIZES)
GUIDED = ("--guidance", "3", "--strong-guidance", "1", "--weak-guidance", "1")  # no gap in guidance
ALL = ("--methods", "weak,strong,w2sd,zero-gap,swapped")
SD15 = ("--strong", "@sd15", "--motion-adapter", "@motion")
SDXL = ("--strong", "@sdxl-video")
CONTROL = ("--controlnet", "@net", "--control-video", "@control.mp4")
ADAPTER = ("--ip-adapter", "@ip/adapter.safetensors", "--ip-adapter-image", "@frames/0.png")
XL_ADAPTER = ("--ip-adapter", "@ip-xl/adapter.safetensors", "--ip-adapter-image", "@frames/0.png")


def save_ip_adapter(folder: Path, unet: Any) -> None:
    folder.mkdir()
    weights = tiny.seeded(4, lambda: ip_adapter_weights(unet))
    flat = {f"{part}.{key}": value.detach().contiguous() for part, s in weights.items() for key, value in s.items()}
    save_file({key: 4 * value for key, value in flat.items()}, folder / "adapter.safetensors")  # random ones do little
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPVisionConfig(**sizes, image_size=16, patch_size=8, projection_dim=unet.config.cross_attention_dim)
    encoder = tiny.seeded(8, lambda: CLIPVisionModelWithProjection(config))
    encoder.save_pretrained(folder / "image_encoder")
    CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=16).save_pretrained(folder / "image_encoder")


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("video-controls")
    pipe = tiny.sd15(1)
    pipe.save_pretrained(root / "sd15")
    tiny.motion_adapter().save_pretrained(root / "motion")
    tiny.animatediff_sdxl(1).save_pretrained(root / "sdxl-video")
    tiny.sdxl(1).save_pretrained(root / "sdxl")
    tiny_controls.controlnet(pipe.unet).save_pretrained(root / "net")
    save_ip_adapter(root / "ip", pipe.unet)
    save_ip_adapter(root / "ip-xl", tiny.sdxl_unet())
    noise = np.random.default_rng(1).integers(0, 255, (FRAMES, 16, 16, 3), dtype=np.uint8)
    write_video(root / "control.mp4", noise, 8)
    write_video(root / "wide.mp4", np.repeat(noise, 2, axis=2), 8)
    for name, frames in (("frames", read_video(root / "control.mp4").frames), ("still", noise[:1].repeat(FRAMES, 0))):
        (root / name).mkdir()
        for number, frame in enumerate(frames):
            Image.fromarray(frame).save(root / name / f"{number}.png")
    Image.fromarray(noise[0]).save(root / "still.png")
    (root / "edges").mkdir()
    for number, frame in enumerate(read_video(root / "control.mp4").frames):
        canny_edges(Image.fromarray(frame)).save(root / "edges" / f"{number}.png")
    return root


def words(disk: Path, *given: str) -> list[str]:
    """The command's words; @name is a file of the disk's."""
    return [*QUICK, "--prompt", "a cat", *(word.replace("@", f"{disk}/") for word in given)]


def run(disk: Path, output: Path, *given: str) -> dict[str, Any]:
    """The records by method, the frames of each under "pixels"."""
    assert main([*words(disk, *given), "--output", str(output)]) == 0
    records = [json.loads(line) for line in (output / "results.jsonl").read_text().splitlines()]
    return {r["method"]: {**r, "pixels": read_video(output / r["path"]).frames} for r in records}


def alike(one: Any, other: Any) -> bool:
    return bool(np.array_equal(one["pixels"], other["pixels"]))


GAPS = {
    "ControlNet": (SD15, CONTROL),
    "IP-Adapter": (SD15, ADAPTER),
    "IP-Adapter on SDXL": (SDXL, XL_ADAPTER),
}


@pytest.mark.parametrize("gap", GAPS)
def test_the_weak_side_by_itself_is_the_plain_pipeline_and_every_method_makes_another_video(
    gap: str, disk: Path, tmp_path: Path
) -> None:
    pair, given = GAPS[gap]
    made = run(disk, tmp_path / "gap", *pair, *GUIDED, *given, *ALL)
    weak = ("--weak", pair[1]) if pair is SDXL else ()  # without a gap of the pipeline its pairs have two checkpoints
    plain = run(disk, tmp_path / "plain", *pair, *weak, *GUIDED, "--methods", "strong")
    assert alike(made["weak"], plain["strong"])
    assert len({record["pixels"].tobytes() for record in made.values()}) == 5
    assert {m: r["num_evaluations"] for m, r in made.items()} == {m: 3 if m in ("weak", "strong") else 7 for m in made}
    assert made["w2sd"]["num_rows"] == 3 * 2 + 2 * (1 + 1)
    assert all(record["pixels"].shape == (FRAMES, 16, 16, 3) for record in made.values())


def test_a_video_its_frames_in_a_folder_and_one_picture_for_all_frames_are_followed(disk: Path, tmp_path: Path) -> None:
    def strong(name: str, *given: str) -> Any:
        made = run(disk, tmp_path / name, *SD15, *GUIDED, "--controlnet", "@net", "--methods", "strong", *given)
        return made["strong"]

    video = strong("video", "--control-video", "@control.mp4")
    assert alike(video, strong("folder", "--control-image", "@frames"))
    still = strong("still", "--control-image", "@still.png")
    assert alike(still, strong("repeated", "--control-image", "@still")) and not alike(still, video)
    edges = strong("canny", "--control-video", "@control.mp4", "--canny")
    assert alike(edges, strong("edges", "--control-image", "@edges")) and not alike(edges, video)
    strong("resized", "--control-video", "@wide.mp4", "--resize-control")


def test_a_hub_id_is_refused_by_its_index_before_its_weights_are_fetched(
    disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    index = {"_class_name": "StableDiffusionXLPipeline"}
    monkeypatch.setattr("w2sd_video.loading.parts.Source.config", lambda self, part: index)
    given = words(disk, "--strong", "owner/name", "--motion-adapter", "@motion", *CONTROL)
    assert main([*given, "--output", str(tmp_path / "out")]) == 2
    assert "no ControlNet for videos of AnimateDiff on SDXL" in capsys.readouterr().err


def test_frames_in_a_folder_are_taken_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (10, 2, 9, 1):
        Image.new("RGB", (16, 16), (number, 0, 0)).save(tmp_path / f"frame-{number}.png")
    frames = read_control_frames(tmp_path, 16, 16, 4)
    assert [frame.getpixel((0, 0)) for frame in frames] == [(number, 0, 0) for number in (1, 2, 9, 10)]
    with pytest.raises(UserError, match="more than 2 frames and the output 2"):
        read_control_frames(tmp_path, 16, 16, 2)


def test_an_animation_is_a_control_video_too(tmp_path: Path) -> None:
    shown = np.random.default_rng(2).integers(0, 255, (FRAMES, 16, 16, 3), dtype=np.uint8)
    write_video(tmp_path / "control.webp", shown, 8)
    frames = read_control_frames(tmp_path / "control.webp", 16, 16, FRAMES)
    assert np.array_equal(np.stack([np.asarray(frame) for frame in frames]), shown)
