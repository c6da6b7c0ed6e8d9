"""Which side Algorithm 2 took as the strong one, selection by selection (imports no torch)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

CHOICES = "choices.png"
STRONG, WEAK = "s", "w"  # letters of a record's "choices": the side that was taken as the strong one


def as_text(choices: Sequence[Sequence[bool]]) -> str:
    """Returns a letter per selection of a run of one sample: the side that was taken as the strong one.

    `choices` are those of `Run.choices`: per selection and sample, whether it was the second side, the weak one.
    """
    return "".join(WEAK if chosen[0] else STRONG for chosen in choices)


def check_text(text: object) -> None:
    """Raises ValueError for what is not made of such letters."""
    if not isinstance(text, str) or not set(text) <= {STRONG, WEAK}:
        raise ValueError(f"choices are {text!r}, not letters {STRONG} and {WEAK}")


def share_weak(texts: Sequence[str]) -> float:
    """Returns the share of selections, 0 to 1, in which the weak side was taken as the strong one."""
    letters = "".join(texts)
    return letters.count(WEAK) / len(letters) if letters else 0.0


def write_choices(path: Path, rows: Mapping[str, str], steps: Sequence[int], *, noun: str = "picture") -> bool:
    """Draws the choices as a PNG (`figures.choices`); returns False, and writes nothing, without matplotlib."""
    from w2sd_video.report import figures

    if figures.available():
        figures.save(figures.choices(rows, steps, noun=noun), path)
    return figures.available()
