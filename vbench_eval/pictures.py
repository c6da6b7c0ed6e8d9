"""Pictures as frames: a folder of them is a video, a single one is a video of one frame, a gif or webp holds its own.

All through Pillow, as VBench reads them; alpha is dropped, unless a `background` is given to blend it with.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vbench_eval.video_info import CHUNK_BYTES, VideoError, VideoInfo, check_size, in_chunks

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
ANIMATIONS = (".gif", ".webp")


def pictures_in(folder: Path, kinds: tuple[str, ...] = PICTURES) -> list[Path]:
    """Returns the pictures of a folder in the order of their names, numbers in them counted as numbers: VBench sorts by
    letters, which puts frame 10 before frame 2 unless they are written with equally many digits.
    """
    files = [file for file in folder.iterdir() if file.suffix.lower() in kinds and not file.name.startswith(".")]
    return sorted(files, key=lambda file: _reading_order(file.name))


def _reading_order(name: str) -> tuple[Any, ...]:
    parts = re.split(r"([0-9]+)", name)
    return (*((int(part), "") if i % 2 else (0, part) for i, part in enumerate(parts)), (0, name))


Colour = tuple[int, int, int]


def as_rgb(image: Any, background: Colour | None = None) -> NDArray[np.uint8]:
    """Returns a Pillow image as `[H, W, 3]`, uint8 RGB; of 16 bits the upper 8 are kept, floats are from 0 to 1 or 255.

    What is transparent shows the `background`; without one the colour that is hidden below.
    """
    import numpy as np
    from PIL import Image

    if image.mode.startswith("I") or image.mode == "F":
        grey = np.asarray(image)
        low, high = grey.min(), grey.max()
        most = 255 if image.mode == "F" else 65535
        if not (low >= 0 and high <= most):  # false for NaN, too
            raise VideoError(f"its pixels are from {low:g} to {high:g}; they are read from 0 to {most}: scale them")
        if image.mode == "F":
            grey = np.rint(grey * (255 if high <= 1 else 1))
        elif image.mode != "I" or high > 255:
            grey = grey >> 8
        return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
    if background is not None and image.has_transparency_data:
        below = Image.new("RGBA", image.size, (*background, 255))
        image = Image.alpha_composite(below, image.convert("RGBA"))
    return np.asarray(image.convert("RGB"))


def read_picture(path: str | Path, *, background: Colour | None = None) -> tuple[NDArray[np.uint8], dict[str, Any]]:
    """Returns the pixels `[H, W, 3]`, uint8 RGB, of a picture, the way up its camera says, and what Pillow tells of it.

    Raises VideoError for what cannot be read, and for a file of several pictures.
    """
    with _opened(Path(path)) as image:
        if (count := getattr(image, "n_frames", 1)) > 1:
            raise VideoError(f"it holds {count} pictures; give one")
        return as_rgb(image, background), dict(image.info)


def is_moving(path: Path) -> bool:
    """Returns whether a file of a picture's kind holds several: an animated png, a tiff of many pages."""
    with _opened(path) as image:
        return getattr(image, "n_frames", 1) > 1


class PictureFolder:
    """The pictures of a folder, or one picture file, as a video; each is opened when it is its turn."""

    def __init__(self, path: str | Path, background: Colour | None = None) -> None:
        import PIL

        path, self._background = Path(path), background
        self._files = (pictures_in(path) or pictures_in(path, (".webp",))) if path.is_dir() else [path]
        if not self._files:
            raise VideoError(f"the folder holds no picture ({', '.join(PICTURES)})")
        with _opened(self._files[0]) as image:
            width, height = image.size
            kind = str(image.format).lower()
            fps = _rate(image.info.get("fps"))
        self.info = VideoInfo(
            path=str(path),
            fps=fps,
            width=width,
            height=height,
            declared_frames=len(self._files),
            container="folder" if path.is_dir() else kind,
            codec=kind,
            decoder=f"pillow {PIL.__version__}",
            directory=path.is_dir(),
            average_fps=fps,
        )

    def chunks(self, max_bytes: int = CHUNK_BYTES) -> Iterator[Tensor]:
        """See `Video.chunks`."""
        info = self.info
        yield from in_chunks(self.frames(), info.height, info.width, max_bytes=max_bytes, expected=len(self._files))

    def frames(self) -> Iterator[NDArray[np.uint8]]:
        """See `Video.frames`."""
        for file in self._files:
            yield read_picture(file, background=self._background)[0]


class Animation:
    """A gif or webp: each stored frame once, however long it is shown, as VBench counts them. Many writers store equal
    neighbours as one frame, so that a still clip may hold a single one.
    """

    def __init__(self, path: str | Path, background: Colour | None = None) -> None:
        import PIL

        self._path, self._background = Path(path), background
        self.times: list[float] = []  # seconds that each frame is shown
        times = self.times
        with _opened(self._path) as image:
            width, height = image.size
            kind, count = str(image.format).lower(), int(getattr(image, "n_frames", 1))
            for index in range(count):
                image.seek(index)
                image.load()  # a webp tells the time of a frame only then
                times.append(float(image.info.get("duration", 0)) / 1000)
        rate = count / sum(times) if sum(times) > 0 else 0.0
        self.info = VideoInfo(
            path=str(path),
            fps=rate,
            width=width,
            height=height,
            declared_frames=count,
            container=kind,
            codec=kind,
            decoder=f"pillow {PIL.__version__}",
            # Times are hundredths of a second in a gif: 0.12 and 0.13 are one rate (8 per second).
            variable_rate=max(times) - min(times) > 0.0101,
            average_fps=rate,
        )

    def chunks(self, max_bytes: int = CHUNK_BYTES) -> Iterator[Tensor]:
        """See `Video.chunks`."""
        info = self.info
        yield from in_chunks(self.frames(), info.height, info.width, max_bytes=max_bytes, expected=info.declared_frames)

    def frames(self) -> Iterator[NDArray[np.uint8]]:
        """See `Video.frames`."""
        with _opened(self._path) as image:
            for index in range(self.info.declared_frames or 1):
                image.seek(index)
                yield as_rgb(image, self._background)

    def frames_in_time(self, fps: float) -> Iterator[NDArray[np.uint8]]:
        """Gives each frame as often as it is shown at this rate: writers join equal neighbours into a longer one."""
        elapsed, given = 0.0, 0
        for frame, time in zip(self.frames(), self.times, strict=True):
            elapsed += time
            count = max(1, round(elapsed * fps) - given)
            given += count
            yield from [frame] * count


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """An open picture, upright and of a readable size; whatever goes wrong while it is read becomes a VideoError."""
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as image:
            check_size(image.height, image.width)
            if getattr(image, "n_frames", 1) > 1:
                yield image
                return
            upright = ImageOps.exif_transpose(image)
            upright.format = image.format  # a turned copy has forgotten it
            yield upright
    except VideoError:
        raise
    # Pillow reports damaged files as any of these; too large ones as an error of its own.
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError, Image.DecompressionBombError) as error:
        raise VideoError(f"{file.name} cannot be read as a picture: {str(error) or type(error).__name__}") from error


def _rate(text: Any) -> float:
    try:
        rate = float(text)
    except (TypeError, ValueError):
        return 0.0
    return rate if 0 < rate < 1e6 else 0.0
