"""Frames to files and back: mp4 (H.264), gif, webp and folders of png, with the settings inside the file.

Frames are uint8 RGB arrays `[F, H, W, 3]`. Files appear under their final name only when complete: they are written
beside it, flushed to the disk and renamed. The same frames and settings give the same bytes.
"""

from __future__ import annotations

import io
import itertools
import json
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vbench_eval.files import PARTIAL, sync_folder, write_bytes
from vbench_eval.pictures import Animation, Colour, pictures_in
from vbench_eval.videos import CONTAINERS, open_video
from w2sd_video.errors import UserError
from w2sd_video.runs.tasks import Medium, Sound

FORMATS = ("mp4", "gif", "webp", "png")
CRF = 12  # x264's constant quality: well below what the eye tells apart (17 or so), so that scores measure the model
MIN_FPS, MAX_FPS = 0.1, 1000  # slower ones overflow a gif's times and are not exact fractions in an mp4
MAX_GIF_FPS = 50  # browsers play a gif frame of less than 2 hundredths of a second at 10 fps
SOUND_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
SOUND_BITS = 192_000  # a second
LAYOUTS = {1: "mono", 2: "stereo"}
_NOT_WRITTEN = (".avi", ".mov", ".mkv", ".webm", ".m4v", ".jpg", ".png")  # else taken for a folder's name


@dataclass(frozen=True)
class Video:
    """A video read back: frames `[F, H, W, 3]` uint8 RGB, frames per second, and the settings found in the file ({} if
    none).
    """

    frames: NDArray[np.uint8]
    fps: float
    metadata: dict[str, Any] = field(default_factory=dict)


def check_format(video_format: str, height: int, width: int, fps: float) -> None:
    """Raises UserError if videos of this size and rate cannot be written in this format as they are."""
    if video_format not in FORMATS:
        raise UserError(f"video format is {video_format!r}; choose one of {', '.join(FORMATS)}")
    if not MIN_FPS <= fps <= MAX_FPS:
        raise UserError(f"fps is {fps}; it must be from {MIN_FPS} to {MAX_FPS}")
    if video_format == "mp4" and (height % 2 or width % 2):
        raise UserError(
            f"frames are {width}x{height}; mp4 (H.264 yuv420p) needs even sides: choose an even size, or gif, webp or "
            "png, which take any size (nothing is resized silently)"
        )
    if video_format == "gif" and fps > MAX_GIF_FPS:
        raise UserError(f"fps is {fps}; a gif plays at most {MAX_GIF_FPS}: choose mp4 or webp, or a lower fps")


def write_video(
    path: str | Path,
    frames: NDArray[np.uint8],
    fps: float,
    metadata: Mapping[str, Any] | None = None,
    *,
    sound: Sound | None = None,
) -> None:
    """Writes frames `[F, H, W, 3]` (uint8 RGB) in the format the name's suffix says; without one, a folder of png.

    mp4: H.264, yuv420p, BT.709 limited range, constant quality 12, exact frame count and rate, no B-frames (every
    player then agrees about the first time stamp). Flat areas come back within 3 of 255; colour (not brightness) is
    halved in resolution, as yuv420p is.
    gif: 256 colours a frame, times in hundredths of a second. webp and png: lossless.
    The metadata goes in as JSON: the mp4's and gif's comment, webp's EXIF description, a text chunk `settings` of
    every png.
    A sound goes into an mp4, as AAC, no longer than the frames; other formats hold none.

    Raises UserError for frames, a rate or a sound that the format cannot hold as they are, OSError if the disk refuses.
    """
    path = Path(path)
    if path.suffix.lower() in _NOT_WRITTEN:
        raise UserError(f"cannot write {path.suffix} files; choose one of {', '.join(FORMATS)}")
    video_format = path.suffix[1:].lower() if path.suffix.lower() in (".mp4", ".gif", ".webp") else "png"
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
        raise UserError(f"frames are {frames.dtype} {frames.shape}; give uint8 [F, H, W, 3] with at least one frame")
    check_format(video_format, frames.shape[1], frames.shape[2], fps)
    settings = dict(metadata or {})
    if video_format in ("gif", "webp"):
        settings.setdefault("fps", fps)  # these two store times, rounded; the reader needs the rate itself
        settings.setdefault("num_frames", len(frames))  # a webp of equal frames only is one picture without a time
    text = json.dumps(settings, ensure_ascii=True)
    if video_format == "png":
        _write_png_folder(path, frames, fps, text)
    else:
        if video_format == "mp4":
            encoded = _mp4(frames, fps, text, sound)
        else:
            encoded = {"gif": _gif, "webp": _webp}[video_format](frames, fps, text)
        write_bytes(path, encoded)


def read_video(path: str | Path, *, most: int | None = None, background: Colour | None = None) -> Video:
    """Returns the frames, rate and settings of what `write_video` wrote, or of any other video, animation, picture or
    folder of pictures; of more than `most` frames the first.

    What is transparent shows the `background`, or without one the colour that is hidden below. Raises UserError if
    there is no video there.
    """
    path = Path(path)
    try:
        source = open_video(path, background=background)
        metadata = _read_settings(path)
        fps = float(metadata.get("fps") or source.info.average_fps)
        if isinstance(source, Animation) and any(source.times):
            frames = list(itertools.islice(source.frames_in_time(fps), most))
        else:
            frames = list(itertools.islice(source.frames(), most))
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"{path} cannot be read as a video: {error}") from error
    if isinstance(source, Animation) and not sum(
        source.times
    ):  # a webp of equal frames only is one picture without a time
        frames = (frames * int(metadata.get("num_frames", 1)))[:most]
    if len({frame.shape for frame in frames}) > 1:
        raise UserError(f"{path} cannot be read as a video: its frames are of several sizes")
    return Video(np.stack(frames), fps, metadata)


def video_medium(fps: float) -> Medium:
    """Returns how videos of this rate become files: each in the format its path says, comparisons as mp4."""
    return Medium(
        "video",
        ".mp4",
        write=lambda path, frames, settings, **more: write_video(path, frames, fps, settings, **more),
        read=lambda path: read_video(path).frames,
        fps=fps,
    )


def rgb_to_yuv420(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Returns a frame `[H, W, 3]` as planar BT.709 limited-range 4:2:0, `[H * 3 / 2, W]`; colour is the mean of each
    2x2 square.

    Done here in float32 rather than by swscale, whose fast path is off by several levels at edges.
    """
    height, width, _ = frame.shape
    red, green, blue = (frame[..., channel].astype(np.float32) / 255 for channel in range(3))
    luma = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    planes = [16 + 219 * luma]
    for channel, scale in ((blue, 1.8556), (red, 1.5748)):
        chroma = ((channel - luma) / scale).reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3))
        planes.append(128 + 224 * chroma)
    flat = np.concatenate([plane.ravel() for plane in planes])
    return np.rint(flat).astype(np.uint8).reshape(height * 3 // 2, width)


def _mp4(frames: NDArray[np.uint8], fps: float, text: str, sound: Sound | None = None) -> bytes:
    import av

    buffer = io.BytesIO()  # in memory, so that a full disk is met by plain file writing and reported as such
    with av.open(buffer, "w", format="mp4") as container:
        container.metadata["comment"] = text
        stream: Any = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        # Macroblock-tree rate control reads beyond its arrays on small frames: one file in 200 came out different.
        stream.options = {"crf": str(CRF), "preset": "medium", "x264-params": "mbtree=0"}
        codec = stream.codec_context
        codec.thread_count = 1  # x264's output depends on the number of threads
        codec.max_b_frames = 0
        codec.colorspace = codec.color_primaries = codec.color_trc = 1  # BT.709
        codec.color_range = 1  # limited
        heard = None if sound is None else _sound_stream(container, sound)
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(rgb_to_yuv420(frame), format="yuv420p")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
        if sound is not None and heard is not None:
            longest = math.ceil(len(frames) / fps * sound.rate)
            samples = np.ascontiguousarray(sound.samples[:, :longest].clip(-1, 1), np.float32)
            played = av.AudioFrame.from_ndarray(samples, format="fltp", layout=LAYOUTS[len(samples)])
            played.sample_rate, played.pts = sound.rate, 0
            container.mux(heard.encode(played))
            container.mux(heard.encode(None))
    return buffer.getvalue()


def _sound_stream(container: Any, sound: Sound) -> Any:
    """The stream of a sound, to be made before anything is written."""
    if sound.samples.ndim != 2 or len(sound.samples) not in LAYOUTS or not sound.samples.shape[1]:
        raise UserError(
            f"the sound is {list(sound.samples.shape)}; give one or two channels, [channels, samples], with a sample"
        )
    if sound.rate not in SOUND_RATES:
        rates = ", ".join(map(str, SOUND_RATES))
        raise UserError(f"the sound's rate is {sound.rate} Hz; an mp4 holds AAC of {rates}")
    stream = container.add_stream("aac", rate=sound.rate)
    stream.layout = LAYOUTS[len(sound.samples)]
    stream.bit_rate = SOUND_BITS
    return stream


def _gif(frames: NDArray[np.uint8], fps: float, text: str) -> bytes:
    ends = [
        round(100 * (i + 1) / fps) for i in range(len(frames))
    ]  # hundredths; rounded from the start, so errors do not add up
    durations = [10 * (end - start) for start, end in zip([0, *ends], ends, strict=False)]
    return _animation(frames, "GIF", duration=durations, comment=text.encode())


def _webp(frames: NDArray[np.uint8], fps: float, text: str) -> bytes:
    from PIL import Image

    exif = Image.Exif()
    exif[0x010E] = text  # ImageDescription
    ends = [round(1000 * (i + 1) / fps) for i in range(len(frames))]
    durations = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    return _animation(frames, "WEBP", duration=durations, lossless=True, exact=True, method=4, exif=exif.tobytes())


def _animation(frames: NDArray[np.uint8], kind: str, **options: Any) -> bytes:
    from PIL import Image

    images = [Image.fromarray(frame) for frame in frames]
    buffer = io.BytesIO()
    images[0].save(buffer, kind, save_all=True, append_images=images[1:], loop=0, **options)
    return buffer.getvalue()


def _write_png_folder(path: Path, frames: NDArray[np.uint8], fps: float, text: str) -> None:
    from PIL import Image, PngImagePlugin

    partial = path.with_name(f".{path.name}{PARTIAL}")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir()
        for number, frame in enumerate(frames):
            chunks = PngImagePlugin.PngInfo()
            chunks.add_text("settings", text)
            chunks.add_text("fps", str(fps))
            buffer = io.BytesIO()
            Image.fromarray(frame).save(buffer, "PNG", pnginfo=chunks)
            write_bytes(partial / f"{number:04d}.png", buffer.getvalue())
        if path.is_dir():
            shutil.rmtree(path)
        os.replace(partial, path)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    sync_folder(path.parent)


def _read_settings(path: Path) -> dict[str, Any]:
    """The settings that `write_video` puts into a file; {} if there are none."""
    if path.suffix.lower() in CONTAINERS:
        import av

        with av.open(f"file:{path}", metadata_errors="replace") as container:
            return settings_in(container.metadata.get("comment", ""))
    from PIL import Image

    file = next(iter(pictures_in(path)), None) if path.is_dir() else path
    if file is None:
        return {}
    with Image.open(file) as image:
        text = image.info.get("settings") or image.info.get("comment") or image.getexif().get(0x010E, "")
    return settings_in(text.decode("utf-8", "replace") if isinstance(text, bytes) else text)


def settings_in(text: Any) -> dict[str, Any]:
    """Returns the settings in the text of a file; {} for other programs' texts."""
    try:
        value = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
