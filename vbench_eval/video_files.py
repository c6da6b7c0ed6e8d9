"""Video files through PyAV: mp4, mov, webm, mkv, avi.

Frames come as ffmpeg makes them: all of them, whatever their times, turned the way a player shows them, converted to
RGB by the matrix and range that the stream's colour tags name. Of 8-bit video OpenCV (4.14, 5.0) gives the same bits,
and decord (0.6) where the sides are even or the colour is not halved: compared on H.264, VP8, VP9, MPEG-4 and FFV1,
untagged and tagged BT.601 or BT.709, limited and full range, turned or not. Of 10 bits both differ from us.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vbench_eval.video_info import CHUNK_BYTES, VideoError, VideoInfo, check_size, in_chunks

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

# The numbers of ITU-T H.273 by ffmpeg's names; rarer ones are given as numbers.
_PRIMARIES = {1: "bt709", 5: "bt470bg", 6: "smpte170m", 9: "bt2020", 12: "smpte432"}
_TRANSFERS = {1: "bt709", 6: "smpte170m", 8: "linear", 13: "iec61966-2-1", 16: "smpte2084", 18: "arib-std-b67"}
_MATRICES = {0: "gbr", 1: "bt709", 5: "bt470bg", 6: "smpte170m", 9: "bt2020nc"}
# A file's content alone must not make ffmpeg open other files or addresses, as a playlist named .mp4 would.
_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi"}


class VideoFile:
    """A file with a video stream; frames are decoded anew by every call of `chunks`."""

    def __init__(self, path: str | Path) -> None:
        self._path = str(path)
        self.info, self._expected = _inspect(self._path)

    def frames(self) -> Iterator[NDArray[np.uint8]]:
        """See `Video.frames`."""
        return _frames(self._path)

    def chunks(self, max_bytes: int = CHUNK_BYTES) -> Iterator[Tensor]:
        """See `Video.chunks`."""
        info = self.info
        yield from in_chunks(self.frames(), info.height, info.width, max_bytes=max_bytes, expected=self._expected)


@contextmanager
def _opened(path: str) -> Iterator[Any]:
    """An open container; whatever goes wrong while it is read becomes a VideoError."""
    import av

    try:
        # "file:" because a name with a colon would be taken for an address; texts inside may be in any encoding.
        with av.open(f"file:{path}", options=_OPTIONS, metadata_errors="replace") as container:
            yield container
    except VideoError:
        raise
    except (av.FFmpegError, OSError, ValueError, RuntimeError, MemoryError) as error:
        text = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise VideoError(f"it cannot be read as a video: {text[:1].lower()}{text[1:]}") from error


def _frames(path: str) -> Iterator[NDArray[np.uint8]]:
    with _opened(path) as container:
        for index, frame in enumerate(container.decode(_video_stream(container))):
            if frame.is_corrupt:
                raise VideoError(f"its frame {index} is damaged")
            check_size(frame.height, frame.width)  # it may change on the way
            yield upright(frame)


def scaled_frames(path: str | Path, places: Sequence[int], side: int) -> NDArray[np.uint8]:
    """Returns the frames at these places as `[places, side, side, 3]`, uint8 RGB, whatever their shape, as decord (0.6)
    scales them to the same bits: by swscale's bilinear filter, from the file's own colours. Decodes the file anew.
    """
    import numpy as np
    from av.filter import Graph

    found: dict[int, NDArray[np.uint8]] = {}
    with _opened(str(path)) as container:
        stream = _video_stream(container)
        graph = Graph()
        nodes = [
            graph.add_buffer(template=stream),
            graph.add("scale", f"{side}:{side}:flags=bilinear"),
            graph.add("format", "rgb24"),
            graph.add("buffersink"),
        ]
        for first, second in pairwise(nodes):
            first.link_to(second)
        graph.configure()
        for index, frame in enumerate(container.decode(stream)):
            if index in places:
                turns = _quarter_turns(frame)
                graph.push(frame)
                found[index] = np.rot90(graph.pull().to_ndarray(), turns)
            if len(found) == len(set(places)):
                break
    if lacking := sorted(set(places) - set(found)):
        raise VideoError(f"its frame {lacking[0]} is not there when it is read again")
    return np.stack([found[place] for place in places])


def upright(frame: Any) -> NDArray[np.uint8]:
    """Returns a decoded frame as `[H, W, 3]`, uint8 RGB, in the quarter turn that its display matrix asks for."""
    import numpy as np

    # Bicubic is how OpenCV brings halved colour to full size where ffmpeg has no faster way of its own (odd sides).
    picture = frame.to_ndarray(format="rgb24", interpolation="BICUBIC")
    return np.rot90(picture, _quarter_turns(frame))


def _quarter_turns(frame: Any) -> int:
    return round(getattr(frame, "rotation", 0) / 90) % 4  # counter-clockwise; not known to PyAV before 14.1


def _inspect(path: str) -> tuple[VideoInfo, int]:
    """Returns what is known of the file, and how many frames to expect. Reads it through, decodes one frame."""
    import av

    with _opened(path) as container:
        stream = _video_stream(container)
        check_size(stream.codec_context.height, stream.codec_context.width)
        first, packets = _scan(container, stream)
        _check_complete(container, stream, packets)
        turned = _quarter_turns(first) % 2 == 1
        fps = float(stream.average_rate or stream.guessed_rate or 0)
        info = VideoInfo(
            path=path,
            fps=fps,
            width=first.height if turned else first.width,
            height=first.width if turned else first.height,
            declared_frames=stream.frames or None,
            container=container.format.name,
            codec=stream.codec_context.name,
            decoder=f"pyav {av.__version__}",
            colour=_colour_tags(first),
            variable_rate=packets.variable_rate,
            average_fps=packets.rate_near(fps),
        )
        return info, packets.shown


def _video_stream(container: Any) -> Any:
    for stream in container.streams.video:
        if stream.codec_context is None:
            raise VideoError("its codec is not known to this build of ffmpeg")
        if "attached_pic" not in str(stream.disposition):  # a cover picture is no video
            return stream
    raise VideoError("it holds no video stream")


@dataclass(frozen=True)
class _Packets:
    """The times (seconds, ascending) of a stream's shown packets, how exact they are (seconds), their number."""

    times: tuple[float, ...]
    tick: float
    shown: int

    @property
    def steps(self) -> list[float]:
        return [after - before for before, after in zip(self.times, self.times[1:], strict=False)]

    @property
    def variable_rate(self) -> bool:
        if len(self.times) < 3:
            return False
        usual = statistics.median(self.steps)
        # Times are multiples of a tick (1 ms in mkv and webm), so that equal steps may be written one tick apart.
        return any(abs(step - usual) > max(1.5 * self.tick, 0.02 * usual) for step in self.steps)

    def rate_near(self, fps: float) -> float:
        """Returns frames per second by the times; `fps` itself where the two agree but for the rounding of times."""
        span = self.times[-1] - self.times[0] if len(self.times) > 1 else 0.0
        if span <= 0:
            return fps
        rate = (len(self.times) - 1) / span
        return fps if abs(rate - fps) <= 0.01 * fps else rate


def _scan(container: Any, stream: Any) -> tuple[Any, _Packets]:
    first, times, shown = None, [], 0
    tick = float(stream.time_base or 0)
    for packet in container.demux(stream):
        if first is None:
            first = next(iter(packet.decode()), None)  # an empty packet, at the end, empties the decoder
        if packet.size and not packet.is_discard:  # an edit list may hide frames
            shown += 1
            time = packet.pts if packet.pts is not None else packet.dts
            times += [] if time is None else [time * tick]
    if first is None:
        raise VideoError("it holds no frame")
    return first, _Packets(tuple(sorted(times)), tick, shown)


def _check_complete(container: Any, stream: Any, packets: _Packets) -> None:
    """Raises VideoError if the file's own index or length says that its end is missing: ffmpeg may just stop."""
    kind, size = container.format.name, container.size
    entries = getattr(stream, "index_entries", ()) if "mp4" in kind else ()
    missing = sum(entry.pos + entry.size > size for entry in entries) if size > 0 else 0
    if "avi" in kind:
        missing = max(0, stream.frames - packets.shown)
    if missing:
        raise VideoError(f"the file is cut short: {missing} of its {stream.frames} frames lie past its end")
    if "matroska" in kind and len(container.streams) == 1 and container.duration and len(packets.times) > 1:
        step = statistics.median(packets.steps)
        declared, found = container.duration / 1e6, packets.times[-1] + step
        # The last frame of a variable rate may be meant to stay for long.
        if declared - found > (0.25 * declared if packets.variable_rate else 0.5 * step):
            raise VideoError(f"the file is cut short: it claims {declared:.3f} seconds and holds {found:.3f}")


def _colour_tags(frame: Any) -> dict[str, str]:
    tags = {}
    for key, names in (
        ("colorspace", _MATRICES),
        ("color_range", {1: "tv", 2: "pc"}),
        ("color_primaries", _PRIMARIES),
        ("color_trc", _TRANSFERS),
    ):
        number = int(getattr(frame, key))
        if number != (0 if key == "color_range" else 2):  # these say "unspecified"
            tags[key] = names.get(number, str(number))
    return tags
