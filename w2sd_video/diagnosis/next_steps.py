"""The command to run after a verdict, as words that the command understands (imports no torch)."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from w2sd_video.commands.options import option_of, options_of
from w2sd_video.diagnosis.asking import Question
from w2sd_video.diagnosis.sides import Side
from w2sd_video.diagnosis.verdicts import Verdict
from w2sd_video.errors import UserError

Check = Callable[[Sequence[str]], None]
"""Raises `UserError` for words that a command would refuse before it loads a model."""

PROMPT = "a lighthouse at dusk"
MEASURED = ("steps", "seed", "seeds", "files_only", "device", "dtype", "memory", "output", "format", "quiet")
# The settings of a pair that the bridge has; those of its presets are other ones.
BRIDGED = (
    *("strong", "weak", "config", "weak_config", "allow_pickle", "negative_prompt", "guidance", "weak_guidance"),
    *("height", "width", "prompt", "prompts"),
)


@dataclass(frozen=True)
class NextStep:
    """A command line, and why it would be refused as it stands (None: it would not)."""

    line: str
    problem: str | None = None


def next_step(
    verdict: Verdict,
    question: Question,
    sides: tuple[Side | None, Side | None],
    settings: Sequence[str] = (),
    *,
    check: Check,
) -> NextStep | None:
    """Returns what to run next, with `settings` (a recommendation's flags) where the pair is reflected directly; None
    where nothing can be run.
    """
    strong, weak = sides
    if verdict.name == "undecided":
        fetch = [side.given for side in sides if side is not None and side.kind == "hub"]
        return NextStep(" && ".join(shlex.join(["hf", "download", given]) for given in fetch)) if fetch else None
    if verdict.name == "refuse" or strong is None:
        return None
    two_architectures = weak is not None and weak.kind != "network" and _differ(strong, weak)
    if verdict.name == "share" and not (two_architectures and not question.videos):
        return _direct(question, settings, check)
    return _bridged(question, strong, check)


def _direct(question: Question, settings: Sequence[str], check: Check) -> NextStep:
    carried = {option.field for option in options_of(question.family)} - {*MEASURED}
    words = _flags(question, [option.field for option in options_of("diagnose") if option.field in carried])
    return _checked(("w2sd", question.family, *words, *_prompt(question, words), *settings), check)


def _bridged(question: Question, strong: Side, check: Check) -> NextStep:
    words = _flags(question, BRIDGED)
    for flag, given in (("--strong", question.strong), ("--weak", question.weak)):
        if flag not in words and given is not None:
            words += [flag, given]
    if strong.makes_videos or question.motion_adapter is not None:
        words.append("--video")
        words += ["--motion-adapter", question.motion_adapter] if question.motion_adapter is not None else []
    return _checked(("w2sd", "bridge", *words, *_prompt(question, words)), check)


def _flags(question: Question, names: Sequence[str]) -> list[str]:
    words: list[str] = []
    for name in names:
        value = question.flags.get(name)
        if value is None:
            continue
        flag = option_of("diagnose", name).names[0]
        if value is True:
            words.append(flag)
            continue
        for each in value if isinstance(value, list) else [value]:
            words += [flag, f"{each:g}" if isinstance(each, float) else str(each)]
    return words


def _prompt(question: Question, words: Sequence[str]) -> list[str]:
    own = question.flags.keys() & {"prompt", "prompts", "prompt_pairs"} or "--strong" not in words
    bundled = question.flags.get("preset") in (None, "demo", "picture-demo")
    return (
        []
        if own and (bundled or question.flags.keys() & {"prompt", "prompts", "prompt_pairs"})
        else ["--prompt", PROMPT]
    )


def _differ(strong: Side, weak: Side) -> bool:
    kinds = [side.network.get("_class_name") for side in (strong, weak)]
    return None not in kinds and kinds[0] != kinds[1]


def _checked(words: tuple[str, ...], check: Check) -> NextStep:
    try:
        check(words)
    except UserError as error:
        return NextStep(shlex.join(words), str(error))
    return NextStep(shlex.join(words))
