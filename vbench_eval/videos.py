"""Anything that holds frames, opened as a `Video`; and the videos of a folder."""

from __future__ import annotations

from pathlib import Path

from vbench_eval.errors import UserError
from vbench_eval.frames_in_memory import FramesInMemory
from vbench_eval.pictures import ANIMATIONS, PICTURES, Animation, PictureFolder, pictures_in
from vbench_eval.video_files import VideoFile
from vbench_eval.video_info import CHUNK_BYTES, Video, VideoError, VideoInfo

__all__ = ["CHUNK_BYTES", "FramesInMemory", "Video", "VideoError", "VideoInfo", "find_videos", "open_video"]

CONTAINERS = (".mp4", ".mov", ".webm", ".mkv", ".m4v", ".avi")
SUFFIXES = (*CONTAINERS, *ANIMATIONS)


def open_video(path: str | Path) -> Video:
    """Returns the video at `path`: mp4, mov, webm, mkv, m4v, avi, gif, webp, a picture or a folder of pictures. Capital
    letters in the suffix make no difference.

    Raises VideoError, saying why, for what cannot be read.
    """
    path = Path(path)
    try:
        return _opened(path)
    except OSError as error:
        raise VideoError(error.strerror or str(error)) from error


def _opened(path: Path) -> Video:
    if not path.exists():
        raise VideoError("the link leads nowhere" if path.is_symlink() else "there is no such file")
    if not path.is_dir() and not path.is_file():
        raise VideoError("this is no file but a pipe or a device")
    suffix = path.suffix.lower()
    if path.is_dir() or suffix in PICTURES:
        return PictureFolder(path)
    if suffix in ANIMATIONS:
        return Animation(path)
    if suffix in CONTAINERS:
        return VideoFile(path)
    raise VideoError(
        f"{suffix or 'a file without a suffix'} is not read; {', '.join(SUFFIXES)} are, and folders of png"
    )


def find_videos(folder: str | Path) -> list[Path]:
    """Returns the videos of a folder, by name: its video files, and each folder in it that holds pictures only.

    A folder that holds pictures and no video is itself the one video; a file is that file. Hidden entries are passed
    over. An entry that cannot be looked at is among them, so that its scoring says why. Raises UserError if there is no
    such folder.
    """
    folder = Path(folder)
    if not folder.exists():
        raise UserError(f"{folder} does not exist; give a folder of videos or a video")
    if not folder.is_dir():
        return [folder]
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    videos = [
        entry for entry in entries if (_may_be_pictures(entry) if entry.is_dir() else entry.suffix.lower() in SUFFIXES)
    ]
    return videos if videos or not _is_picture_folder(folder) else [folder]


def _may_be_pictures(folder: Path) -> bool:
    try:
        return _is_picture_folder(folder)
    except OSError:
        return True


def _is_picture_folder(folder: Path) -> bool:
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    others = any(entry.is_dir() or entry.suffix.lower() in SUFFIXES for entry in entries)
    return not others and bool(pictures_in(folder))
