"""Files for tests, made on the spot: videos, lossless where a test counts grey levels, and a suite of prompts."""

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Frames = NDArray[np.uint8]  # [T, H, W, 3]
LOSSLESS = {"codec": "libx264rgb", "pixels": "rgb24", "options": {"crf": "0", "preset": "ultrafast"}}


def write_video(
    path: Path,
    frames: Frames,
    *,
    fps: Fraction | int = 8,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    options: dict[str, str] | None = None,
    milliseconds: list[int] | None = None,
    rotation: int = 0,
    tags: tuple[int, int] | None = None,
    muxing: dict[str, str] | None = None,
) -> Path:
    """Encodes frames with PyAV; `milliseconds` gives each its own time, `tags` are the matrix and the range (H.273)."""
    with av.open(str(path), "w", options=muxing or {}) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixels
        stream.options = options or {}
        if rotation:
            stream.set_display_rotation(rotation)
        if tags:
            coder = stream.codec_context
            coder.colorspace = coder.color_primaries = coder.color_trc = tags[0]
            coder.color_range = tags[1]
        if milliseconds:
            stream.codec_context.time_base = Fraction(1, 1000)
        for index, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            if milliseconds:
                picture.pts, picture.time_base = milliseconds[index], Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


def write_animation(path: Path, frames: Frames, milliseconds: list[int]) -> Path:
    images = [Image.fromarray(frame) for frame in frames]
    images[0].save(path, save_all=True, append_images=images[1:], duration=milliseconds, loop=0, lossless=True)
    return path


def write_pictures(folder: Path, frames: Frames, names: list[str] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / (names[index] if names else f"{index:04d}.png"))
    return folder


def patterned(count: int = 16, height: int = 64, width: int = 96, seed: int = 0) -> Frames:
    """Frames of random 8-pixel squares, no two alike, few enough colours for a gif."""
    squares = np.random.default_rng(seed).integers(0, 256, (count, -(-height // 8), -(-width // 8), 3), dtype=np.uint8)
    return squares.repeat(8, axis=1).repeat(8, axis=2)[:, :height, :width]


def levels(count: int = 16, step: int = 15, height: int = 64, width: int = 96) -> Frames:
    """Grey frames, each `step` brighter than the one before."""
    grey = (np.arange(count) * step).astype(np.uint8)
    return np.broadcast_to(grey[:, None, None, None], (count, height, width, 3)).copy()


def moving_square(count: int = 16, dx: int = 4, dy: int = 0, height: int = 64, width: int = 96) -> Frames:
    """A white 16 x 16 square on black, which starts at (2, 2) and moves by (dx, dy) pixels from frame to frame."""
    frames = np.zeros((count, height, width, 3), np.uint8)
    for index, frame in enumerate(frames):
        top, left = 2 + index * dy, 2 + index * dx
        assert top + 16 <= height and left + 16 <= width
        frame[top : top + 16, left : left + 16] = 255
    return frames


# A stand-in for VBench's suite file: its layout, group sizes and traps, with prompts of our own.
SUITE_SIZES = {  # entries per group of the official file
    ("subject_consistency", "dynamic_degree", "motion_smoothness"): 72,
    ("overall_consistency", "aesthetic_quality", "imaging_quality"): 93,
    ("scene", "background_consistency"): 86,
    ("temporal_flickering",): 75,
    ("object_class",): 79,
    ("multiple_objects",): 82,
    ("human_action",): 100,
    ("color",): 85,
    ("spatial_relationship",): 84,
    ("appearance_style",): 90,
    ("temporal_style",): 100,
}
TWICE = ("a beach in the style of woodcuts", "the harbour, oil painting")  # in two groups each
CASES = ("A quiet landscape", "a quiet landscape")
CEDILLA = "façades in the rain"


def suite_entries() -> list[dict]:
    """946 entries with 944 distinct prompts."""
    made = []
    for group, size in SUITE_SIZES.items():
        for number in range(size):
            entry = {"prompt_en": f"{group[0].replace('_', ' ')} scene {number}.", "dimension": list(group)}
            if group == ("color",):
                entry["auxiliary_info"] = {"color": {"color": "red"}}
            made.append(entry)
    first = {entry["dimension"][0]: place for place, entry in reversed(list(enumerate(made)))}
    overall, style, scene = first["overall_consistency"], first["appearance_style"], first["scene"]
    for number, prompt in enumerate(TWICE):
        made[overall + number]["prompt_en"] = made[style + number]["prompt_en"] = prompt
    made[scene]["prompt_en"], made[scene + 1]["prompt_en"] = CASES
    made[scene + 2]["prompt_en"] = CEDILLA
    return made


def write_suite(folder: Path, content: object = None, name: str = "VBench_full_info.json") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(suite_entries() if content is None else content), encoding="utf-8")
    return path
