"""What is to be scored: the videos of a folder, what each is of, and whether they are all there (decodes nothing)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vbench_eval.backbones.weights import CATEGORIES
from vbench_eval.detections import LIKE, asked_phrases
from vbench_eval.errors import UserError
from vbench_eval.folders import Completeness, FolderVideo, check_completeness, read_folder
from vbench_eval.journal import VideoKey, key_of
from vbench_eval.manifest import SAMPLES, Manifest, read_manifest, sample
from vbench_eval.naming import nfc
from vbench_eval.results import MODES, check_name, default_name
from vbench_eval.suite import ALL_DIMENSIONS, added_words, read_category, read_suite
from vbench_eval.video_info import About

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


@dataclass(frozen=True)
class InputVideo:
    """A video to score, with the prompt it shows (None where nobody says), what its generator wrote down of it, and
    what the prompt suite adds to its prompt, by dimension.
    """

    path: Path
    key: VideoKey
    prompt: str | None
    index: int | None
    generation: Mapping[str, Any]
    words: Mapping[str, Any] = field(default_factory=dict)
    picture: str | None = None

    @property
    def about(self) -> About:
        return About(self.prompt, self.words, self.picture)


@dataclass(frozen=True)
class Inputs:
    """The videos to score, sorted by name.

    Attributes:
        folder: their paths are relative to it.
        mode: "custom_input" (every dimension on every video), "vbench_standard" (each on its own prompts) or
            "vbench_category" (every dimension on the videos of a list of prompts).
        manifest: which videos there should be; None if nobody says.
        check: the outcome of comparing the two; None without a manifest.
        notes: sentences for the user.
    """

    folder: Path
    videos: tuple[InputVideo, ...]
    mode: str = "custom_input"
    manifest: Manifest | None = None
    check: Completeness | None = None
    notes: tuple[str, ...] = ()

    @property
    def paths(self) -> list[Path]:
        return [video.path for video in self.videos]

    @property
    def completeness(self) -> dict[str, Any] | None:
        """Returns what the report says of missing videos."""
        return None if self.check is None else self.check.to_json()

    @property
    def default_name(self) -> str:
        """Returns the folder's name if a run may be called so, else VBench's name with the time."""
        name = self.videos[0].path.stem if self.folder == self.videos[0].path.parent and len(self.videos) == 1 else ""
        for candidate in (self.folder.resolve().name, name):
            try:
                return check_name(candidate)
            except UserError:
                continue
        return default_name()

    def incomplete(self) -> str | None:
        """Returns what is missing, in one sentence, or None if nothing is (or nobody knows what there should be)."""
        if self.check is None or self.check.complete:
            return None
        return "; ".join(self.check.lines())

    def wants(self, video: InputVideo, dimension: str) -> bool:
        """Whether the dimension is measured on this video."""
        if dimension in LIKE and asked_phrases(dimension, video.about) is None:
            return False
        if self.mode != "vbench_standard" or dimension not in ALL_DIMENSIONS:
            return True
        return dimension in self._belongs.get(nfc(video.prompt or ""), ()) and (video.index or 0) < SAMPLES

    @property
    def _belongs(self) -> dict[str, tuple[str, ...]]:
        return {nfc(prompt.prompt): prompt.dimensions for prompt in self.manifest.prompts} if self.manifest else {}


def find_inputs(
    folder: str | Path,
    *,
    manifest: str | Path | None = None,
    prompt_file: str | Path | Mapping[str, str] | None = None,
    prompt: str | None = None,
    suite: str | Path | None = None,
    mode: str = "custom_input",
    category: str | None = None,
    dimensions: Iterable[str] = (),
    image_folder: str | Path | None = None,
) -> Inputs:
    """Returns the videos of a folder (or one video) with their prompts.

    With a manifest only its videos are taken; others are named in a note. Mode "vbench_standard" needs to know which
    prompts belong to which dimension: from the manifest, else from `suite` (VBench_full_info.json, or None for the copy
    of an installed vbench package), of which the prompts of `dimensions` are then expected, with VBench's indices 0 to
    4. Mode "vbench_category" takes the videos of the prompts of `category`, one of VBench's or a file of prompts, in
    every dimension. A manifest is checked against a suite that is given beside it. Either says what VBench adds to a
    prompt (the style of appearance_style, say). `prompt` is that of a single video; `image_folder` holds the pictures
    that videos were made from, for VBench-I2V's dimensions.

    Raises UserError for a folder without videos, and for files that cannot be used.
    """
    if mode not in MODES:
        raise UserError(f"mode is {mode!r}; choose one of {', '.join(MODES)}")
    plan = None
    listed = _category(category, mode, manifest)
    if manifest is not None:
        plan = read_manifest(Path(manifest), None if suite is None else read_suite(suite))
    notes: list[str] = []
    if plan is None and mode == "vbench_standard":
        plan = sample(
            read_suite(suite), [name for name in dimensions if name in ALL_DIMENSIONS] or None, samples=SAMPLES
        )
    known = read_suite(suite).prompts if plan is None and suite is not None else plan.prompts if plan else ()
    words = added_words(known)
    if prompt is not None:
        prompt_file = _single_prompt(Path(folder), prompt, prompt_file)
    found = read_folder(
        folder,
        prompts=[one.prompt for one in plan.prompts] if plan else listed,
        ids=plan.ids if plan else None,
        prompt_file=prompt_file,
    )
    root = found.path if found.path.is_dir() else found.path.parent
    if not found.videos:
        raise UserError(f"{root} holds no videos (mp4, mov, webm, mkv, m4v, avi, gif, webp, or folders of pictures)")
    check, videos = None, list(found.videos)
    if listed:
        videos, said = _of_category(videos, listed, root)
        notes += said
    if plan is not None:
        check = check_completeness(plan, found)
        spare = {*check.surplus, *(name for names in check.repeated.values() for name in names[1:])}
        videos = [video for video in videos if video.name not in spare]
        if not videos:
            raise UserError(
                f"none of the {len(found.videos)} videos in {root} is one of the {check.expected} that are asked for, "
                f'such as "{plan.prompts[0].prompt}-0.mp4"; give the folder that was made from these prompts'
            )
        if not check.complete or check.surplus:
            notes += check.lines()
    else:
        notes += _repeated(videos)
    pictures = {} if image_folder is None else _pictures(Path(image_folder), known)
    inputs = tuple(_input(video, root, words, pictures) for video in videos)
    return Inputs(root, inputs, mode, plan, check, tuple(notes))


def _category(category: str | None, mode: str, manifest: str | Path | None) -> tuple[str, ...]:
    """The prompts that mode vbench_category scores; none in other modes."""
    if mode != "vbench_category":
        if category is not None:
            raise UserError(f"--category is for --mode vbench_category, and the mode is {mode}; leave one of them out")
        return ()
    if manifest is not None:
        raise UserError("a manifest fixes the prompts, and so does --mode vbench_category; use one of them")
    categories = [category] if category is not None else list(CATEGORIES)  # without one, all, as VBench means it
    return tuple(dict.fromkeys(prompt for name in categories for prompt in read_category(name)))


def _of_category(
    videos: list[FolderVideo], prompts: tuple[str, ...], root: Path
) -> tuple[list[FolderVideo], list[str]]:
    """The videos of these prompts, whole: VBench takes each whose name begins like one of them."""
    known = {nfc(prompt) for prompt in prompts}
    kept = [video for video in videos if nfc(video.prompt) in known]
    if not kept:
        raise UserError(
            f"none of the {len(videos)} videos in {root} is of the category's {len(prompts)} prompts, such as "
            f'"{prompts[0]}-0.mp4"; give the folder that was made from them'
        )
    absent = len(known - {nfc(video.prompt) for video in kept})
    notes = [f"{absent} of the category's {len(prompts)} prompts have no video"] if absent else []
    if len(kept) < len(videos):
        notes.append(f"{len(videos) - len(kept)} videos are of no prompt of the category and left out")
    return kept, notes


def _input(
    video: FolderVideo, root: Path, words: Mapping[str, Mapping[str, Any]], pictures: Mapping[str, Path]
) -> InputVideo:
    prompt = nfc(video.prompt or "")
    picture = pictures.get(prompt)
    return InputVideo(
        video.path,
        key_of(video.path, root),
        video.prompt,
        video.index,
        video.generation,
        words.get(prompt, {}),
        None if picture is None else str(picture),
    )


def _pictures(folder: Path, prompts: Iterable[Any]) -> dict[str, Path]:
    """The pictures of a folder, and of those inside it, by prompt: the one that VBench-I2V's suite names for it
    ("image_name"), else the one that is called like it.
    """
    if not folder.is_dir():
        raise UserError(f"--image-folder is {folder}, which is no folder; give the one with the videos' pictures")
    found = {path.name: path for path in sorted(folder.rglob("*")) if path.suffix.lower() in PICTURES}
    if not found:
        raise UserError(f"{folder} holds no pictures ({', '.join(PICTURES)})")
    by_prompt = {nfc(Path(name).stem): path for name, path in found.items()}
    for prompt in prompts:
        for entry in prompt.entries:
            if (picture := found.get(str(entry.get("image_name", "")))) is not None:
                by_prompt[nfc(prompt.prompt)] = picture
    return by_prompt


def _single_prompt(path: Path, prompt: str, prompt_file: object) -> dict[str, str]:
    if prompt_file is not None:
        raise UserError("a prompt and a prompt file are given; use one of them")
    if path.is_dir():
        raise UserError(f"--prompt is for a single video, and {path} is a folder; give --prompt-file for its videos")
    return {path.name: prompt}


def _repeated(videos: Iterable[FolderVideo]) -> list[str]:
    """Notes on files that are the same prompt and index, whichever counts: nothing says which."""
    names: dict[tuple[str, int], list[str]] = {}
    for video in videos:
        names.setdefault((nfc(video.prompt), video.index), []).append(video.name)
    return [
        f"{len(group)} files are {prompt!r}, index {index}: {', '.join(group[:3])}; all are scored"
        for (prompt, index), group in names.items()
        if len(group) > 1
    ]
