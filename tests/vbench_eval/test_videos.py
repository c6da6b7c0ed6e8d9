"""Frames out of files, folders and memory are the frames that went in."""

import unicodedata
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from tests.support.vbench_files import LOSSLESS, Frames, levels, patterned, write_animation, write_pictures, write_video
from vbench_eval.errors import UserError
from vbench_eval.video_info import in_chunks
from vbench_eval.videos import FramesInMemory, Video, find_videos, open_video


def frames_of(video: Video, **options: int) -> Frames:
    return torch.cat(list(video.chunks(**options))).numpy()


EXACT = [
    ("mp4", LOSSLESS),
    ("m4v", LOSSLESS),
    ("MP4", LOSSLESS),
    ("mov", LOSSLESS),
    ("mkv", {"codec": "ffv1", "pixels": "bgr0"}),
    ("avi", {"codec": "ffv1", "pixels": "bgr0"}),
]


@pytest.mark.parametrize("suffix, how", EXACT, ids=[suffix for suffix, _ in EXACT])
def test_a_lossless_file_gives_back_every_bit(tmp_path, suffix, how):
    frames = patterned(16, 32, 48)
    written = write_video(tmp_path / f"video.{suffix.lower()}", frames, **how)
    video = open_video(written.rename(tmp_path / f"video.{suffix}"))
    assert np.array_equal(frames_of(video), frames)
    assert np.array_equal(frames_of(video), frames), "a video can be read again"
    info = video.info
    assert (info.fps, info.average_fps, info.variable_rate, info.directory) == (8, 8, False, False)
    assert (info.height, info.width) == (32, 48)
    assert info.declared_frames in (16, None)
    assert info.codec == ("h264" if how is LOSSLESS else "ffv1")
    assert info.decoder.startswith("pyav ")


@pytest.mark.parametrize("height, width", [(63, 61), (1, 1), (17, 2)])
def test_odd_sizes_are_not_rounded(tmp_path, height, width):
    frames = patterned(4, height, width)
    video = open_video(write_video(tmp_path / "odd.mkv", frames, codec="ffv1", pixels="bgr0"))
    assert (video.info.height, video.info.width) == (height, width)
    assert np.array_equal(frames_of(video), frames)


LOSSY = [
    ("mp4", "libx264", "h264"),
    ("mp4", "mpeg4", "mpeg4"),
    ("mov", "mpeg4", "mpeg4"),
    ("webm", "libvpx", "vp8"),
    ("webm", "libvpx-vp9", "vp9"),
    ("mkv", "libx264", "h264"),
    ("avi", "mpeg4", "mpeg4"),
]


@pytest.mark.parametrize("suffix, codec, name", LOSSY, ids=[f"{codec}-{suffix}" for suffix, codec, _ in LOSSY])
def test_a_lossy_file_gives_every_frame_once_and_in_order(tmp_path, suffix, codec, name):
    frames = levels(step=15)
    video = open_video(write_video(tmp_path / f"video.{suffix}", frames, codec=codec, options={"b": "2M"}))
    means = frames_of(video).mean(axis=(1, 2, 3))
    assert np.abs(means - np.arange(16) * 15).max() < 7.5, "each is nearest to its own level"
    assert (video.info.fps, video.info.codec) == (8, name)


@pytest.mark.parametrize("suffix", ["gif", "webp"])
def test_an_animation_gives_every_stored_frame_and_the_rate_of_its_times(tmp_path, suffix):
    frames = patterned()
    video = open_video(write_animation(tmp_path / f"video.{suffix}", frames, [120, 130] * 8))
    assert np.array_equal(frames_of(video), frames)
    assert (video.info.fps, video.info.variable_rate) == (8, False)
    assert video.info.container == suffix
    uneven = open_video(write_animation(tmp_path / f"uneven.{suffix}", frames, [100, 300] * 8))
    assert (uneven.info.fps, uneven.info.variable_rate) == (5, True)


def test_one_frame_is_a_video(tmp_path):
    frames = patterned(1)
    write_video(tmp_path / "one.mp4", frames, **LOSSLESS)
    write_pictures(tmp_path, frames, ["one.png"])
    write_animation(tmp_path / "one.gif", frames, [100])
    for name in ("one.mp4", "one.png", "one.gif"):
        video = open_video(tmp_path / name)
        assert np.array_equal(frames_of(video), frames)
        assert (video.info.declared_frames, video.info.directory) == (1, False)


@pytest.mark.parametrize("rate", [Fraction(30000, 1001), 12, 25, 60])
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_an_even_rate_is_the_containers_own_although_times_are_rounded(tmp_path, rate, suffix):
    # mkv writes times in whole milliseconds: 33, 34, 33, ... at 29.97 frames per second
    info = open_video(write_video(tmp_path / f"video.{suffix}", patterned(), fps=rate)).info
    assert info.fps == pytest.approx(float(rate), rel=1e-6)
    assert info.average_fps == info.fps
    assert not info.variable_rate


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_variable_rate_loses_no_frame_and_is_told(tmp_path, suffix):
    frames = patterned(9)
    times = [0, 125, 250, 375, 500, 750, 1000, 1250, 1500]  # 8 steps in 1.5 seconds
    how = LOSSLESS if suffix == "mp4" else {"codec": "ffv1", "pixels": "bgr0"}
    video = open_video(write_video(tmp_path / f"video.{suffix}", frames, milliseconds=times, **how))
    assert np.array_equal(frames_of(video), frames)
    assert video.info.variable_rate
    assert video.info.average_fps == pytest.approx(8 / 1.5, rel=1e-3)


def test_frames_that_an_edit_list_hides_are_not_of_the_video(tmp_path):
    frames = patterned(8)
    times = [-1000, -100, 0, 125, 250, 375, 500, 625]  # mp4 hides what comes before 0
    video = open_video(write_video(tmp_path / "edited.mp4", frames, milliseconds=times, **LOSSLESS))
    assert np.array_equal(frames_of(video), frames[2:])
    assert (video.info.declared_frames, video.info.variable_rate) == (8, False)
    assert video.info.average_fps == pytest.approx(8)


@pytest.mark.parametrize("rotation", [0, 90, 180, -90])
def test_frames_stand_as_a_player_shows_them(tmp_path, rotation):
    frames = patterned(2)
    video = open_video(write_video(tmp_path / "turned.mp4", frames, rotation=rotation, **LOSSLESS))
    expected = np.stack([np.rot90(frame, rotation // 90) for frame in frames])
    assert (video.info.height, video.info.width) == expected.shape[1:3]
    assert np.array_equal(frames_of(video), expected)


def test_colours_follow_the_tags_of_the_stream_and_the_tags_are_told(tmp_path):
    # One picture without structure, stored as the same Y, Cb, Cr under different tags.
    import av

    y, cb, cr = 100, 100, 170
    stored = np.full((96, 64), y, np.uint8)  # 64 rows of luma, then 16 rows of each colour plane
    stored[64:80], stored[80:] = cb, cr

    def written(name: str, tags: tuple[int, int] | None) -> Path:
        with av.open(str(tmp_path / name), "w") as container:
            stream = container.add_stream("libx264", rate=8)
            stream.height = stream.width = 64
            stream.pix_fmt, stream.options = "yuv420p", {"qp": "0"}
            if tags:
                stream.codec_context.colorspace, stream.codec_context.color_range = tags
            container.mux(stream.encode(av.VideoFrame.from_ndarray(stored, format="yuv420p")))
            container.mux(stream.encode(None))
        return tmp_path / name

    def expected(red_difference: float, blue_difference: float, *, limited: bool) -> list[float]:
        """RGB by the definition: Y' = Kr R + Kg G + Kb B, Cr = (R - Y') / (2 - 2 Kr), Cb = (B - Y') / (2 - 2 Kb)."""
        luma = (y - 16) * 255 / 219 if limited else y
        scale = 255 / 224 if limited else 1
        red = luma + red_difference * scale * (cr - 128)
        blue = luma + blue_difference * scale * (cb - 128)
        kr, kb = 1 - red_difference / 2, 1 - blue_difference / 2
        return [red, (luma - kr * red - kb * blue) / (1 - kr - kb), blue]

    cases = {
        "untagged.mp4": (None, expected(1.402, 1.772, limited=True), {}),
        "601.mp4": ((6, 1), expected(1.402, 1.772, limited=True), {"colorspace": "smpte170m", "color_range": "tv"}),
        "709.mp4": ((1, 1), expected(1.5748, 1.8556, limited=True), {"colorspace": "bt709", "color_range": "tv"}),
        "full.mp4": ((1, 2), expected(1.5748, 1.8556, limited=False), {"colorspace": "bt709", "color_range": "pc"}),
    }
    for name, (tags, colour, told) in cases.items():
        video = open_video(written(name, tags))
        assert video.info.colour == told
        got = frames_of(video)[0, 32, 32].astype(float)
        assert np.abs(got - colour).max() <= 3, name  # green is a sum of three numbers whose fractions are cut off
    red601, red709, red_full = (cases[name][1][0] for name in ("601.mp4", "709.mp4", "full.mp4"))
    assert min(abs(red709 - red601), abs(red709 - red_full)) > 6, "no colour is within reach of another tag's"


@pytest.mark.parametrize(
    "name", ["cat:dog.mp4", "100%d [x]*?.mp4", unicodedata.normalize("NFD", "façades.mp4"), "-x.mp4"]
)
def test_any_name_is_a_file_and_never_an_address_or_a_pattern(tmp_path, name, monkeypatch):
    frames = patterned(3)
    write_video(tmp_path / "plain.mp4", frames, **LOSSLESS).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    video = open_video(name)
    assert np.array_equal(frames_of(video), frames)
    assert video.info.path == name


@pytest.mark.parametrize("capacity", [1, 3, 5, 16, 100])
def test_chunks_fill_half_of_the_memory_they_may_take(tmp_path, capacity):
    frames = patterned()
    allowed = 2 * capacity * frames[0].nbytes
    write_video(tmp_path / "a.mp4", frames, **LOSSLESS)
    write_animation(tmp_path / "a.webp", frames, [125] * 16)
    write_pictures(tmp_path / "a", frames)
    for name in ("a.mp4", "a.webp", "a"):
        video = open_video(tmp_path / name)
        for max_bytes in (allowed, allowed + 1):
            chunks = list(video.chunks(max_bytes))
            assert [len(chunk) for chunk in chunks[:-1]] == [capacity] * (len(chunks) - 1)
            assert all(2 * chunk.untyped_storage().nbytes() <= allowed for chunk in chunks)
            assert np.array_equal(torch.cat(chunks).numpy(), frames)


def test_a_frame_that_is_larger_than_allowed_still_comes_alone(tmp_path):
    video = open_video(write_video(tmp_path / "a.mp4", patterned(4), **LOSSLESS))
    assert [len(chunk) for chunk in video.chunks(max_bytes=10)] == [1, 1, 1, 1]


def test_a_chunk_is_given_out_before_the_frames_behind_it_are_read():
    read = 0

    def source() -> Iterator[Frames]:
        nonlocal read
        for frame in patterned(10, 8, 8):
            read += 1
            yield frame

    chunks = in_chunks(source(), 8, 8, max_bytes=2 * 3 * 8 * 8 * 3)
    seen = []
    for chunk in chunks:
        seen.append((len(chunk), read))
    assert seen == [(3, 3), (3, 6), (3, 9), (1, 10)]


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
    "frames, fps, told",
    [
        ([], 8, "give at least one"),
        (np.zeros((0, 8, 8, 3), np.uint8), 8, r"shape \(0, 8, 8, 3\)"),
        (np.zeros((8, 8, 3), np.uint8), 8, r"shape \(8, 8, 3\); give \[T, H, W, 3\]"),
        (np.zeros((4, 8, 8), np.uint8), 8, r"shape \(4, 8, 8\)"),
        (np.zeros((2, 4, 8, 8, 3), np.uint8), 8, r"shape \(2, 4, 8, 8, 3\)"),
        (np.zeros((4, 8, 8, 3), np.int64), 8, "int64; give uint8"),
        (np.full((4, 8, 8, 3), 200.0), 8, r"floats from 200 to 200; floats must be in 0\.\.1"),
        (torch.full((4, 8, 8, 3), -1.0), 8, "floats from -1"),
        (torch.full((4, 8, 8, 3), torch.nan), 8, "floats from nan"),
        ([np.zeros((8, 8, 3), np.uint8)], 8, "holds ndarray; give Pillow images"),
        ([Image.new("RGB", (8, 8)), Image.new("RGB", (9, 8))], 8, r"sizes \(8, 8\) and \(9, 8\)"),
        *((FRAMES, fps, "fps is") for fps in (0, -8, float("nan"), float("inf"))),
    ],
)
def test_what_are_no_frames_is_refused_with_what_is_allowed(frames, fps, told):
    with pytest.raises(UserError, match=told):
        FramesInMemory(frames, fps=fps)


def test_what_is_known_of_a_video_is_json(tmp_path):
    import json

    write_video(tmp_path / "a.mp4", levels(3), tags=(1, 1))
    write_animation(tmp_path / "a.gif", levels(3), [100] * 3)
    for video in (open_video(tmp_path / "a.mp4"), open_video(tmp_path / "a.gif"), FramesInMemory(FRAMES)):
        data = json.loads(json.dumps(video.info.as_json(), allow_nan=False))
        assert data["width"] == video.info.width and data["colour"] == video.info.colour
    assert open_video(tmp_path / "a.mp4").info.as_json()["colour"]["colorspace"] == "bt709"
