"""From the arguments to what is diagnosed: two checkpoints, and the same pair as the commands plan it (no torch)."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from w2sd_video.commands.app import family_named
from w2sd_video.commands.command_line import request_of
from w2sd_video.commands.plan import Plan
from w2sd_video.commands.request import Request
from w2sd_video.diagnosis.sides import Side, read_side
from w2sd_video.diagnosis.verdicts import Verdict, judge
from w2sd_video.errors import UserError
from w2sd_video.loading.files import read_json
from w2sd_video.loading.pair_description import describe_pair
from w2sd_video.loading.pipeline_families import makes_videos
from w2sd_video.presets import PRESETS, get_preset
from w2sd_video.runs.progress import Progress

STEPS, PROMPTS = 12, 4
WORDS = {  # a gap in words, by the flag that makes it
    "weak_guidance": "guidance",
    "weak_loras": "LoRA scales",
    "loras": "LoRA scales",
    "weak_prompt": "prompts",
    "prompt_pairs": "prompts",
    "weak_negative_prompt": "negative prompts",
    "controlnet": "a ControlNet",
    "ip_adapter": "an IP-Adapter",
}


@dataclass(frozen=True)
class Question:
    """What is asked: `strong` and `weak` as they were given or as the preset has them, `videos` whether the pair makes
    videos, `flags` the flags that were given, by name.
    """

    strong: str
    weak: str | None
    videos: bool
    motion_adapter: str | None
    flags: Mapping[str, Any]
    arguments: argparse.Namespace
    gaps: tuple[str, ...]

    @property
    def family(self) -> str:
        """The command that makes the pair's videos or pictures."""
        return "video" if self.videos else "image"


def question_of(arguments: argparse.Namespace) -> Question:
    """Returns what is asked for.

    Raises:
        UserError: an unknown preset, or sides that do not go together.
    """
    flags = {
        name: value
        for name, value in vars(arguments).items()
        if value is not None and name not in ("format", "quiet", "files_only")
    }
    if arguments.preset is not None and arguments.preset not in PRESETS:
        get_preset(arguments.preset)  # which says so
    if arguments.weak is not None and arguments.strong is None and arguments.preset is None:
        raise UserError("--weak is given without --strong; give both, or a --preset whose strong side is to be used")
    if arguments.weak_config is not None and arguments.weak is None:
        raise UserError("--weak-config is for a --weak that is a single file; leave it out")
    name = arguments.preset or ("demo" if arguments.strong is None else None)
    preset = None if name is None else get_preset(name)
    strong: str | None = arguments.strong or (preset.pair.strong.checkpoint if preset else None)
    weak = arguments.weak or (preset.pair.weak.checkpoint if preset else None)
    assert strong is not None
    adapter = arguments.motion_adapter or (preset.motion_adapter if preset else None)
    videos = preset.is_video if preset else adapter is not None or _makes_videos(strong)
    differing = [WORDS[flag] for flag in WORDS if flag in flags]
    if preset is not None:
        ours, theirs = preset.pair.strong, preset.pair.weak
        differing += ["guidance"] if theirs.guidance not in (None, ours.guidance) else []
        differing += ["LoRA scales"] if theirs.loras != ours.loras else []
        differing += ["a ControlNet"] if preset.controlnet else []
        differing += ["an IP-Adapter"] if preset.ip_adapter else []
        differing += ["prompts"] if any("prompt-pairs" in need for need in preset.needs) else []
    if preset is None and not videos and weak is None and "weak_guidance" not in flags:
        differing += _own_pair_gap(arguments)
    return Question(strong, weak, videos, adapter, flags, arguments, tuple(dict.fromkeys(differing)))


def verdict_on(question: Question) -> tuple[Verdict, Side | None, Side | None]:
    """Returns the verdict of the files, and the sides as far as they could be read.

    Raises:
        UserError: a side does not exist.
    """
    arguments = question.arguments
    pickles = bool(arguments.allow_pickle)
    read: list[Side | None] = []
    weak_config = arguments.weak_config or (arguments.config if question.videos else None)
    for given, role, config in ((question.strong, "strong", arguments.config), (question.weak, "weak", weak_config)):
        if given is None:
            read.append(None)
            continue
        single = Path(given).expanduser().is_file()
        try:
            read.append(read_side(given, role, config=config if single else None, allow_pickle=pickles))
        except FileNotFoundError as error:
            raise UserError(str(error)) from error
        except UserError as error:
            return Verdict("refuse", str(error)), *_padded(read)
    strong, weak = read
    assert strong is not None
    adapted = question.motion_adapter is not None
    found = judge(strong, weak, gaps=question.gaps, adapted=adapted)
    if found.reflects_directly and weak is not None and question.videos and put_together(strong):
        try:  # the loading's own conditions on motion modules, channels and predictions
            describe_pair(
                question.strong,
                weak.given,
                question.motion_adapter,
                config=arguments.config,
                allow_pickle=pickles,
            )
        except UserError as error:
            found = replace(found, name="refuse", reason=str(error))
    return found, strong, weak


def put_together(strong: Side) -> bool:
    """Whether its videos are AnimateDiff's on SDXL, whose sides lend each other what one lacks."""
    return (strong.class_name or "").startswith(("AnimateDiffSDXL", "StableDiffusionXL"))


def planned(question: Question, progress: Progress) -> Plan:
    """Returns the pair as the command that makes its videos or pictures plans it, with the measurement's prompts and
    steps.

    Raises:
        UserError: as those commands, or a number of steps or seeds that cannot be had.
    """
    from w2sd_video.commands.engine import plan_of

    if (seeds := seeds_of(question)) < 1:
        raise UserError(f"--seeds is {seeds}; give at least 1 noise per prompt")
    family = family_named(question.family)
    asked = request_of("diagnose", question.arguments, progress.note)
    steps = STEPS if asked.steps is None else asked.steps
    values = {**asked.given, "steps": steps, "methods": ("strong", "w2sd", "zero-gap"), "output": None}
    empty = Request(question.family)
    done = plan_of(family, empty.changed(**{name: value for name, value in values.items() if empty.has(name)}))
    if done.steps < 3:
        raise UserError(f"--steps is {done.steps}; give at least 3, so that there are levels to compare")
    return done if asked.prompts else replace(done, prompts=done.prompts[:PROMPTS], stems=done.stems[:PROMPTS])


def seeds_of(question: Question) -> int:
    """Returns how many noises each prompt is measured from."""
    return 1 if question.arguments.seeds is None else int(question.arguments.seeds)


def steps_of_run(question: Question) -> int:
    """Returns the sampling steps that a run of the pair would have: the preset's, or those of pairs of one's own."""
    arguments = question.arguments
    if arguments.preset is not None or arguments.strong is None:
        return get_preset(arguments.preset or "demo").steps
    return get_preset("juggernaut-vs-sdxl" if question.videos else "guidance-sdxl").steps


def _padded(read: list[Side | None]) -> tuple[Side | None, Side | None]:
    first, second = [*read, None, None][:2]
    return first, second


def _makes_videos(strong: str) -> bool:
    index = Path(strong).expanduser() / "model_index.json"
    try:
        return index.is_file() and makes_videos(str(read_json(index).get("_class_name")))
    except UserError:  # said when the side is read
        return False


def _own_pair_gap(arguments: argparse.Namespace) -> list[str]:
    """A strong side alone is guidance over guidance only if a scale says so."""
    return ["guidance"] if arguments.strong_guidance not in (None, arguments.guidance) else []
