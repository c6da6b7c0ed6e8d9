"""What sampling starts from: pictures, masks, first and last frames, videos; on tiny pipelines saved to disk."""

from __future__ import annotations

import functools
import importlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from tests.support import tiny, tiny_conditioned, tiny_loops
from tests.support.family_programs import image as image_program
from tests.support.family_programs import video as video_program
from w2sd_video.commands.app import family_named
from w2sd_video.commands.checks import check_one_space
from w2sd_video.commands.engine import check_words
from w2sd_video.commands.families.pair_memory import rows_of
from w2sd_video.commands.measuring import frames_of
from w2sd_video.commands.rehearsing import rehearse_pair
from w2sd_video.commands.starts import Start
from w2sd_video.errors import UserError
from w2sd_video.hosting.calls import call_signature
from w2sd_video.loading.pipeline_families import FAMILIES, LAYOUTS, layouts_apart
from w2sd_video.loading.pipelines import begun_from, chosen_scheduler, reflectable_scheduler
from w2sd_video.presets import PRESETS
from w2sd_video.runs.picture_io import read_picture
from w2sd_video.runs.video_io import read_video

QUICK = ("--steps", "3", "--reflections", "2", "--device", "cpu", "--prompt", "a cat")
SHADES = np.stack(np.broadcast_arrays(*np.ogrid[0:256:16, 0:256:16], np.full((16, 16), 90)), -1).astype(np.uint8)
PURE_NOISE = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction"}
NOISED = [
    (family, name) for family in FAMILIES for start, name in family.classes.items() if start in family.noised
]  # fmt: skip


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("starts")
    tiny.sd15(1).save_pretrained(root / "sd15")
    tiny.flux(1).save_pretrained(root / "flux")
    tiny.wan(1).save_pretrained(root / "wan")
    Image.fromarray(SHADES).save(root / "picture.png")
    Image.fromarray(SHADES[:8]).save(root / "low.png")
    half = np.where(np.arange(16) < 8, 0, 255).astype(np.uint8)
    Image.fromarray(np.tile(half, (16, 1))).save(root / "mask.png")
    Image.new("L", (16, 16)).save(root / "black.png")
    (root / "text.png").write_text("no picture")
    for name in ("cogvideox_i2v", "kandinsky5_i2v"):
        getattr(tiny_conditioned, name)()[0].save_pretrained(root / name)
    cogvideox = root / "cogvideox_i2v" / "scheduler" / "scheduler_config.json"  # as THUDM's
    cogvideox.write_text(json.dumps({**json.loads(cogvideox.read_text()), **PURE_NOISE}))
    shutil.copytree(root / "kandinsky5_i2v", root / "kandinsky5_t2i")
    index = root / "kandinsky5_t2i" / "model_index.json"
    index.write_text(index.read_text().replace("I2VPipeline", "T2IPipeline"))
    inpainting = tiny.sd15(1)
    inpainting.save_pretrained(root / "nine")
    config = root / "nine" / "unet" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "in_channels": 9}))
    return root


@pytest.mark.parametrize(("family", "name"), NOISED, ids=[name for _, name in NOISED])
def test_steps_of_a_part_of_the_grid_are_counted_as_each_pipeline_counts_them(family: Any, name: str) -> None:
    kind = getattr(diffusers, name)
    for denoise in (0.05, 0.3, 0.55, 0.6, 0.85, 1.0):
        for steps in (1, 3, 28):
            start = Start(name, denoise=denoise, rounds_up=family.rounds_up)
            count = start.grid(steps)
            scheduler = SimpleNamespace(timesteps=torch.arange(count), order=1, set_begin_index=lambda index: None)
            needed = {"device": "cpu"} if name == "StableDiffusionXLImg2ImgPipeline" else {}
            counted = kind.get_timesteps.__code__.co_varnames[1:5]
            needed |= {"timesteps": scheduler.timesteps} if "timesteps" in counted[:3] else {}
            needed |= {"device": "cpu"} if "device" in counted else {}
            made = kind.get_timesteps(
                SimpleNamespace(scheduler=scheduler), num_inference_steps=count, strength=denoise, **needed
            )
            assert len(made[0]) == steps == made[1], (denoise, steps)
            assert abs(steps - denoise * count) < 1  # as near to that part as steps allow


@functools.cache
def stock(folder: Path, kind: str, steps: int, **arguments: Any) -> np.ndarray:
    """The picture of diffusers' own pipeline for the same noise."""
    pipe = getattr(diffusers, kind).from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    pictures = {name: Image.open(folder.parent / file) for name, file in arguments.items() if "image" in name}
    made = pipe(
        "a cat",
        **arguments | pictures,
        num_inference_steps=steps,
        guidance_scale=3.0,
        generator=torch.Generator("cpu").manual_seed(0),
        output_type="np",
    ).images[0]
    return np.rint(made.clip(0, 1) * 255)


@pytest.mark.parametrize(
    ("model", "words", "kind", "grid"),
    [
        ("sd15", "--image picture.png --denoise 0.5", "StableDiffusionImg2ImgPipeline", 6),
        ("flux", "--image picture.png --mask mask.png --denoise 0.7", "FluxInpaintPipeline", 4),
    ],
)
def test_pictures_start_from_a_picture_as_diffusers_has_it(
    model: str, words: str, kind: str, grid: int, disk: Path, tmp_path: Path
) -> None:
    given = [str(disk / word) if word.endswith(".png") else word for word in words.split()]
    command = [*QUICK, "--strong", str(disk / model), *given, "--guidance", "3", "--weak-guidance", "1", "--quiet"]
    assert image_program([*command, "--methods", "strong,w2sd", "--output", str(tmp_path)]) == 0
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert {line["method"]: line["num_evaluations"] for line in lines} == {"strong": 3, "w2sd": 7}
    made = {name: read_picture(tmp_path / name / "a cat-0.png").pixels.astype(float) for name in ("strong", "w2sd")}
    arguments: dict[str, Any] = {"image": "picture.png", "strength": float(words.split()[-1])}
    if "mask" in words:
        arguments |= {"mask_image": "mask.png", "height": 16, "width": 16}
    expected = stock(disk / model, kind, grid, **arguments)
    assert np.abs(made["strong"] - expected).max() <= 1  # rounding
    assert np.abs(made["w2sd"] - made["strong"]).max() > 2
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["pair"]["image"] == str(disk / "picture.png")
    assert record["settings"]["denoise"] == arguments["strength"]


REFUSED = {
    "denoise alone": ("image", "sd15", "--denoise 0.5", "without something to start from"),
    "mask alone": ("image", "sd15", "--mask mask.png", "--mask is given without --image"),
    "nothing there": ("image", "sd15", "--image none.png", "there is no picture"),
    "no picture": ("image", "sd15", "--image text.png", "cannot read the picture to start from"),
    "another size": ("image", "sd15", "--image low.png --height 16 --width 16", "16 x 8 pixels and the output 16 x 16"),
    "a mask of another size": ("image", "sd15", "--image picture.png --mask low.png", "16 x 8 pixels"),
    "a mask of nothing": ("image", "sd15", "--image picture.png --mask black.png", "nothing to make anew"),
    "too small a part": ("image", "sd15", "--image picture.png --denoise 0.01 --steps 50", "at most 1000"),
    "an inpainting network": ("image", "nine", "--image picture.png", "trained to fill in a mask"),
    "a picture to follow": ("image", "sd15", "--image picture.png --controlnet x/y", "picture of its own"),
    "no first frames": ("video", "wan", "--image picture.png", "was not trained for WanImageToVideoPipeline"),
    "too few frames after the first": (
        *("video", "kandinsky5_i2v", "--image picture.png --num-frames 13 --resize-image --height 32 --width 32"),
        "13; from a first frame Kandinsky 5 makes 17 or more",
    ),
    "sizes of which there are a few": ("image", "kandinsky5_t2i", "--height 512 --width 512", "make 1024 x 1024, 1408"),
    "two starts": ("video", "wan", "--image picture.png --video picture.png", "one of the two"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_started_from_is_refused_with_the_plan(case: str, disk: Path) -> None:
    family, model, words, message = REFUSED[case]
    given = [str(disk / word) if word.endswith(".png") else word for word in words.split()]
    command = ["--steps", "3", "--reflections", "2", "--prompt", "a cat", "--strong", str(disk / model), *given]
    with pytest.raises(UserError, match=message):
        check_words(family_named(family), [*command, "--weak-guidance", "1"])


def test_noise_of_which_there_is_no_inversion_is_reflected_as_a_difference(disk: Path) -> None:
    command = [*QUICK, "--strong", str(disk / "cogvideox_i2v"), "--image", str(disk / "picture.png"), "--num-frames=9"]
    plan = check_words(family_named("video"), [*command, "--height=16", "--width=16", "--weak-guidance=1"])
    assert plan.reflection.mode == "fused"  # type: ignore[union-attr]
    rehearse_pair(plan)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"starts at pure noise.*--mode fused"):
        rehearse_pair(replace(plan, reflection=replace(plan.reflection, mode="paper")))  # type: ignore[type-var, union-attr]
    modes = {name: preset.reflection.mode for name, preset in PRESETS.items() if preset.family == "CogVideoX"}
    assert modes and set(modes.values()) == {"fused"}


def test_every_family_has_classes_of_diffusers_that_take_what_it_says() -> None:
    for family in FAMILIES:
        for start, name in family.classes.items():
            taken = call_signature(getattr(diffusers, name)).parameters
            wanted = {"text": [], "image": ["image"], "mask": ["image", "mask_image"], "video": ["video"]}[start]
            wanted = [*wanted, *(["strength"] if start in family.noised and start != "text" else [])]
            if start == "image" and family.last_image:
                wanted.append("last_image")
            if start == "text":
                wanted += [*(["height", "width"] if family.size else []), *family.extra]
                wanted += [family.frames_name] if family.makes_videos else []
            if family.scale != "guider":
                wanted.append(family.scale)
            wanted += [family.rate_name] if family.rate_name else []
            assert [each for each in wanted if each not in taken] == [], name
            assert ("negative_prompt" in taken) is family.negative, name


def test_rows_are_counted_as_each_side_guides() -> None:
    flux, chroma, ideogram = (next(f for f in FAMILIES if f.name == n) for n in ("Flux", "Chroma", "Ideogram 4"))

    def rows(role: str, strong: Any, weak: Any, *scales: float) -> int:
        files = SimpleNamespace(weak=SimpleNamespace(pipelines=weak))
        plan: Any = SimpleNamespace(embedded=strong.embedded, pipelines=strong, files=files, preset=None)
        return rows_of(plan, role, *scales)

    assert [rows("strong", flux, chroma, 3.5), rows("weak", flux, chroma, 1), rows("weak", flux, chroma, 3)] == [
        1,
        1,
        2,
    ]
    assert [rows("strong", chroma, flux, 3.5), rows("weak", chroma, flux, 3.5)] == [2, 1]
    assert [rows("strong", ideogram, None, 1), rows("weak", ideogram, None, 0)] == [2, 2]


def test_pictures_are_found_in_what_each_family_returns() -> None:
    kandinsky = importlib.import_module("diffusers.pipelines.kandinsky5.pipeline_output").KandinskyImagePipelineOutput
    picture = np.zeros((1, 8, 8, 3))
    for output in (diffusers.ImagePipelineOutput(picture), kandinsky(picture)):
        assert frames_of(output).shape == (1, 8, 8, 3)


def test_latents_of_one_vae_that_are_kept_otherwise_are_refused_by_name_before_loading() -> None:
    kinds = {name: f"{name}Pipeline" for name in ("Flux", "Chroma", "ZImage", "HiDreamImage", "Krea2", "QwenImage")}
    assert layouts_apart(kinds["Flux"], kinds["Chroma"]) is layouts_apart(kinds["Krea2"], kinds["QwenImage"]) is None
    for weak, kept in (("ZImage", "Z-Image as a list"), ("HiDreamImage", r"HiDream as \[B, C, h, w\]")):
        sides = [SimpleNamespace(part=lambda _: None, network=None, class_name=kinds[n]) for n in ("Flux", weak)]
        with pytest.raises(UserError, match=rf"latents are kept by Flux as tokens .* and {kept}.*w2sd bridge"):
            check_one_space(*sides)  # type: ignore[arg-type]
    assert {family.layout for family in FAMILIES} == set(LAYOUTS)


def test_the_size_of_a_picture_is_that_of_the_output(disk: Path) -> None:
    command = [*QUICK, "--strong", str(disk / "sd15"), "--image", str(disk / "low.png"), "--weak-guidance", "1"]
    plan = check_words(family_named("image"), command)
    assert (plan.height, plan.width, plan.start.denoise) == (8, 16, 0.6)  # type: ignore[union-attr]
    resized = check_words(family_named("image"), [*command, "--resize-image", "--height", "16", "--width", "16"])
    assert (resized.height, resized.width) == (16, 16)


def test_cogvideox_keeps_its_shifted_noise_levels() -> None:
    own = diffusers.CogVideoXDPMScheduler(
        snr_shift_scale=1.0, rescale_betas_zero_snr=True, prediction_type="v_prediction"
    )
    taken, remark = reflectable_scheduler(own, "strong")
    assert type(taken) is diffusers.CogVideoXDDIMScheduler and "cannot be reflected" in remark
    assert torch.equal(taken.alphas_cumprod, own.alphas_cumprod) and taken.config.prediction_type == "v_prediction"
    with pytest.raises(UserError, match="does not have the noise levels"):
        chosen_scheduler(own, "euler", "strong")


def _run_of_videos(root: Path, output: Path, *words: str) -> dict[str, Any]:
    quick = [*QUICK, "--quiet", "--methods", "strong,w2sd", "--weak-guidance", "1", "--guidance", "3"]
    assert video_program([*quick, *words, "--output", str(output)]) == 0
    return json.loads((output / "run.json").read_text())


def test_videos_start_from_their_first_and_last_frame(disk: Path, tmp_path: Path) -> None:
    pipe, _ = tiny_loops.wan_i2v()
    pipe.save_pretrained(disk / "frames")
    sizes = ["--strong", str(disk / "frames"), "--height", "16", "--width", "16", "--num-frames", "5"]
    frames = ["--image", str(disk / "picture.png"), "--last-image", str(disk / "picture.png")]
    record = _run_of_videos(disk, tmp_path / "made", *sizes, *frames)
    made = {name: read_video(tmp_path / "made" / name / "a cat-0.mp4") for name in ("strong", "w2sd")}
    assert made["w2sd"].frames.shape == (5, 16, 16, 3) and made["w2sd"].fps == 16
    assert not np.array_equal(made["w2sd"].frames, made["strong"].frames)
    assert record["pair"]["last_image"] == str(disk / "picture.png") and "denoise" not in record["settings"]


@pytest.mark.slow
def test_the_sound_of_ltx2_is_in_its_files(disk: Path, tmp_path: Path) -> None:
    tiny_loops.ltx2_from_text().save_pretrained(disk / "ltx2")
    sizes = ["--strong", str(disk / "ltx2"), "--height", "32", "--width", "32", "--num-frames", "5"]
    _run_of_videos(disk, tmp_path / "made", *sizes)
    for method in ("strong", "w2sd"):
        with av.open(str(tmp_path / "made" / method / "a cat-0.mp4")) as file:
            assert (file.streams.audio[0].rate, file.streams.audio[0].channels) == (24000, 2)
            assert sum(frame.samples for frame in file.decode(audio=0)) >= 1


def test_parts_of_one_pipeline_make_another_of_its_family() -> None:
    pipe = tiny.sd15(1)
    made = begun_from(pipe, "StableDiffusionInpaintPipeline", "a folder")
    assert type(made) is diffusers.StableDiffusionInpaintPipeline and made.unet is pipe.unet
    with pytest.raises(UserError, match="is one for WanPipeline"):
        begun_from(tiny.wan(1), "WanImageToVideoPipeline", "a folder")
    with pytest.raises(UserError, match="make no FluxImg2ImgPipeline"):
        begun_from(pipe, "FluxImg2ImgPipeline", "a folder")
