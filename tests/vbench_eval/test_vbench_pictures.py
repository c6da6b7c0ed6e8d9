"""Folders of pictures, frames in memory, and what of a folder is a video."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from tests.support.vbench_files import Frames, levels, patterned, write_animation, write_pictures, write_video
from vbench_eval.errors import UserError
from vbench_eval.videos import FramesInMemory, Video, find_videos, open_video

ROOT = Path(__file__).resolve().parents[2]


def frames_of(video: Video) -> Frames:
    return torch.cat(list(video.chunks())).numpy()


def test_a_folder_of_pictures_is_a_video_without_a_rate(tmp_path):
    frames = patterned()
    video = open_video(write_pictures(tmp_path / "a cat-0", frames))
    assert np.array_equal(frames_of(video), frames)
    assert video.info.directory
    assert (video.info.fps, video.info.declared_frames, video.info.codec) == (0, 16, "png")
    assert (video.info.height, video.info.width) == (64, 96)
    assert video.info.decoder.startswith("pillow ")


def test_a_rate_written_into_the_pictures_is_the_folders(tmp_path):
    for name, text, rate in (("a", "12.5", 12.5), ("b", "fast", 0), ("c", "nan", 0), ("d", "-8", 0)):
        (tmp_path / name).mkdir()
        chunks = PngImagePlugin.PngInfo()
        chunks.add_text("fps", text)
        Image.fromarray(patterned(1)[0]).save(tmp_path / name / "0.png", pnginfo=chunks)
        assert open_video(tmp_path / name).info.fps == rate


@pytest.mark.parametrize(
    "names",
    [
        ["0.png", "1.png", "2.png", "10.png"],  # by letters 10 would come before 2
        ["frame_8.PNG", "frame_9.png", "frame_10.png", "frame_0011.png"],
        ["a.png", "b1.png", "b2.png", "c.png"],
        ["1-1.png", "1-2.png", "2-1.png", "10-1.png"],
    ],
)
def test_pictures_come_in_the_order_of_their_numbers(tmp_path, names):
    frames = levels(4)
    write_pictures(tmp_path / "a", frames, names)
    write_pictures(tmp_path / "a", patterned(1), [".hidden.png"])
    (tmp_path / "a" / "notes.txt").write_text("not a picture")
    assert np.array_equal(frames_of(open_video(tmp_path / "a")), frames)


def test_pictures_of_every_mode_become_8_bit_rgb(tmp_path):
    colour = patterned(1, 16, 16)[0]
    grey = colour[..., 0]
    pictures = {
        "palette.png": (Image.fromarray(colour).quantize(256), colour),
        "alpha.png": (Image.fromarray(np.dstack([colour, np.full_like(grey, 7)])), colour),
        "grey.png": (Image.fromarray(grey), np.dstack([grey] * 3)),
        "deep.png": (Image.fromarray((grey.astype(np.uint16) << 8) + 77), np.dstack([grey] * 3)),
        "plain.bmp": (Image.fromarray(colour), colour),
        "plain.tiff": (Image.fromarray(colour), colour),
    }
    for name, (image, expected) in pictures.items():
        image.save(tmp_path / name)
        assert np.array_equal(frames_of(open_video(tmp_path / name))[0], expected), name


def test_a_picture_stands_as_its_orientation_says(tmp_path):
    frame = patterned(1)[0]
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter when shown
    Image.fromarray(frame).save(tmp_path / "turned.png", exif=exif)
    video = open_video(tmp_path / "turned.png")
    assert (video.info.height, video.info.width) == (96, 64)
    assert np.array_equal(frames_of(video)[0], np.rot90(frame, -1))


def test_videos_of_a_folder_are_its_files_and_its_folders_of_pictures(tmp_path):
    frames = patterned(2)
    for name in ("b.mp4", "A.MP4", "c.gif", ".hidden.mp4"):
        (tmp_path / name).write_bytes(b"")
    write_pictures(tmp_path / "pictures", frames)
    (tmp_path / "pictures" / ".x.mp4").write_bytes(b"")
    write_pictures(tmp_path / "mixed", frames)
    (tmp_path / "mixed" / "x.mp4").write_bytes(b"")
    write_pictures(tmp_path / "nested" / "inner", frames)
    write_pictures(tmp_path / ".pictures", frames)
    write_pictures(tmp_path, frames, ["cover.png", "thumb.jpg"])
    (tmp_path / "results.jsonl").write_text("{}")
    assert [path.name for path in find_videos(tmp_path)] == ["A.MP4", "b.mp4", "c.gif", "pictures"]
    assert find_videos(tmp_path / "b.mp4") == [tmp_path / "b.mp4"]
    assert find_videos(tmp_path / "pictures") == [tmp_path / "pictures"]
    (tmp_path / "empty").mkdir()
    assert find_videos(tmp_path / "empty") == []
    with pytest.raises(UserError, match="nowhere does not exist"):
        find_videos(tmp_path / "nowhere")


FRAMES = patterned(5, 8, 24)
LAYOUTS = {
    "array": FRAMES,
    "read-only array": np.frombuffer(FRAMES.tobytes(), np.uint8).reshape(FRAMES.shape),
    "tensor": torch.from_numpy(FRAMES),
    "images": [Image.fromarray(frame) for frame in FRAMES],
    "tuple of images": tuple(Image.fromarray(frame) for frame in FRAMES),
    "channels first": FRAMES.transpose(0, 3, 1, 2),
    "batch of one": FRAMES[None],
    "batch of one, channels first": torch.from_numpy(FRAMES.transpose(0, 3, 1, 2).copy())[None],
    "floats": FRAMES.astype(np.float32) / 255,
    "doubles": FRAMES / 255.0,
    "half precision": torch.from_numpy(FRAMES).half() / 255,
    "with a gradient": (torch.from_numpy(FRAMES).float() / 255).requires_grad_(),
    "floats a third of a level off": (torch.from_numpy(FRAMES).double() + 1 / 3).clamp(max=255) / 255,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_frames_in_memory_are_the_frames_in_any_layout(layout):
    video = FramesInMemory(LAYOUTS[layout], fps=12, name="made")
    for _ in range(2):
        assert np.array_equal(frames_of(video), FRAMES)
    info = video.info
    assert (info.path, info.fps, info.average_fps, info.height, info.width) == ("made", 12, 12, 8, 24)
    assert (info.declared_frames, info.container, info.directory) == (5, "memory", False)


def test_frames_that_are_three_pixels_wide_are_taken_as_channels_last():
    frames = patterned(2, 3, 3)
    assert np.array_equal(frames_of(FramesInMemory(frames)), frames)


@pytest.mark.parametrize(
    "frames, told",
    [
        ([], "give at least one"),
        (np.zeros((0, 8, 8, 3), np.uint8), r"shape \(0, 8, 8, 3\)"),
        (np.zeros((8, 8, 3), np.uint8), r"shape \(8, 8, 3\); give \[T, H, W, 3\]"),
        (np.zeros((4, 8, 8), np.uint8), r"shape \(4, 8, 8\)"),
        (np.zeros((2, 4, 8, 8, 3), np.uint8), r"shape \(2, 4, 8, 8, 3\)"),
        (np.zeros((4, 8, 8, 3), np.int64), "int64; give uint8"),
        (np.full((4, 8, 8, 3), 200.0), r"floats from 200 to 200; floats must be in 0\.\.1"),
        (torch.full((4, 8, 8, 3), -1.0), "floats from -1"),
        (torch.full((4, 8, 8, 3), torch.nan), "floats from nan"),
        ([np.zeros((8, 8, 3), np.uint8)], "holds ndarray; give Pillow images"),
        ([Image.new("RGB", (8, 8)), Image.new("RGB", (9, 8))], r"sizes \(8, 8\) and \(9, 8\)"),
    ],
)
def test_what_are_no_frames_is_refused_with_what_is_allowed(frames, told):
    with pytest.raises(UserError, match=told):
        FramesInMemory(frames)  # type: ignore[arg-type]


@pytest.mark.parametrize("fps", [0, -8, float("nan"), float("inf")])
def test_a_rate_that_is_none_is_refused(fps):
    with pytest.raises(UserError, match="fps is"):
        FramesInMemory(FRAMES, fps=fps)


def test_what_is_known_of_a_video_is_json(tmp_path):
    import json

    write_video(tmp_path / "a.mp4", levels(3), tags=(1, 1))
    write_animation(tmp_path / "a.gif", levels(3), [100] * 3)
    for video in (open_video(tmp_path / "a.mp4"), open_video(tmp_path / "a.gif"), FramesInMemory(FRAMES)):
        data = json.loads(json.dumps(video.info.as_json(), allow_nan=False))
        assert data["width"] == video.info.width and data["colour"] == video.info.colour
    assert open_video(tmp_path / "a.mp4").info.as_json()["colour"]["colorspace"] == "bt709"


def test_importing_the_evaluator_loads_nothing_heavy():
    program = (
        "import sys, vbench_eval;"
        "from vbench_eval import dimensions, profiles, protocols, videos;"
        "print(*{'torch', 'transformers', 'numpy', 'PIL', 'av'} & sys.modules.keys());"
        "from vbench_eval import UserError, open_video, FramesInMemory, VideoError, find_videos;"
        "print(open_video.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["", "open_video"]
