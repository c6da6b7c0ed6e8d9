"""What every experiment does: a grid of methods, scores kept in files, tables beside controls, one command line.

An experiment names its methods, makes the samples of one and says what they score; the rest is here. Imports no torch
until something is made.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import pickle
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from vbench_eval.statistics import Interval, percentile_interval
from w2sd_video.errors import UserError, exit_code
from w2sd_video.report.figures import Point, curve, save
from w2sd_video.runs.progress import calm_libraries

if TYPE_CHECKING:
    from torch import Tensor

DRAWS = 10_000  # of a bootstrap over samples
S = TypeVar("S")  # a dataclass of tensors, numbers and text: what a method scored
Progress = Callable[[int], object]
"""Called with the number of samples that are done."""


# --- command line ----------------------------------------------------------------------------------------------------


def score_parser(about: str | None, *, count: int, what: str, output: str, weights: str) -> argparse.ArgumentParser:
    """The parser of a score_*.py program: the flags that all of them have."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=count, help=f"{what} (default {count})")
    parser.add_argument("--weights", type=Path, help=weights)
    parser.add_argument("--output", type=Path, default=Path(output), help=f"where results are kept (default {output})")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's own choice)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def train_parser(about: str | None, *, name: str, threads: int | None = 1) -> argparse.ArgumentParser:
    """The parser of a train_*.py program; `threads` None for one that always takes one."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    for flag, end, what in (("output", "weights", "where it is written"), ("work", "training", "checkpoints")):
        folder = Path(f"outputs/{name}-{end}")
        parser.add_argument(f"--{flag}", type=Path, default=folder, help=f"{what} (default {folder})")
    parser.add_argument("--seed", type=int, default=0, help="of all random numbers (default 0: the bundled weights')")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    if threads is not None:
        parser.add_argument("--threads", type=int, default=threads, help=f"CPU threads (default {threads})")
    return parser


def program(parser: argparse.ArgumentParser, words: list[str] | None, run: Callable[[argparse.Namespace], int]) -> int:
    """The exit code of `run` with the flags parsed; a `UserError` is one line and code 2."""
    options = parser.parse_args(words)
    calm_libraries()
    return exit_code(lambda: run(options))


def check_counts(options: argparse.Namespace, **least: int) -> None:
    """Raises UserError for --count, --threads and others below their least value (1 unless named)."""
    for name in {"count": 1, "threads": 1, **least}:
        number = getattr(options, name, None)
        if number is not None and number < least.get(name, 1):
            raise UserError(f"--{name} is {number}; it must be at least {least.get(name, 1)}")


def chosen(names: str | None, known: Iterable[str], what: str = "method") -> list[str]:
    """The names of a comma-separated list, all of the known ones for None; UserError for an unknown one."""
    known = list(known)
    found = known if names is None else [name.strip() for name in names.split(",")]
    unknown = [name for name in found if name not in known]
    if unknown:
        raise UserError(f"unknown {what} {unknown[0]!r}; choose from {', '.join(known)}")
    return found


def make_folders(*folders: Path) -> None:
    """Makes them now, so that what cannot be written is refused before hours of work."""
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)


def set_threads(number: int | None) -> None:
    import torch

    if number:
        torch.set_num_threads(number)


# --- the grid and its scores -----------------------------------------------------------------------------------------


def fingerprint(*places: Path) -> str:
    """A hash of all weight files in these folders, so that scores of other weights are not taken for these."""
    digest = hashlib.sha256()
    for place in places:
        for path in [place] if place.is_file() else sorted(place.rglob("*.safetensors")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Scores(Generic[S]):
    """Scores of type `kind` in `folder`, a file for each key, with the settings that they were made by.

    A `Score` is kept as JSON; other kinds, which have many numbers, as torch's files.
    """

    folder: Path
    kind: type[S]
    settings: Callable[[Any], object] = repr

    def path(self, key: str) -> Path:
        return self.folder / f"{key}.{'json' if self.kind is Score else 'pt'}"

    def get(self, key: str, method: Any) -> S | None:
        """The score of a method, None where there is none, a damaged one, or one made with other settings."""
        import torch

        path = self.path(key)
        try:
            if path.suffix == ".json":
                record = json.loads(path.read_text(encoding="utf-8"))
                record["score"]["correct"] = torch.tensor(record["score"]["correct"]).bool()
            else:
                record = torch.load(path, weights_only=True)
            return self.kind(**record["score"]) if record["settings"] == repr(self.settings(method)) else None
        except (OSError, RuntimeError, EOFError, ValueError, KeyError, TypeError, pickle.UnpicklingError):
            return None

    def put(self, key: str, method: Any, score: S) -> None:
        """Writes a score, complete or not at all."""
        import torch

        beside = self.folder / f"{key}.{os.getpid()}"  # two processes may share a folder
        record = {"settings": repr(self.settings(method)), "score": vars(score)}
        if isinstance(score, Score):
            record["score"] = {**vars(score), "correct": score.correct.int().tolist()}
            beside.write_text(json.dumps(record), encoding="utf-8")
        else:
            torch.save(record, beside)
        os.replace(beside, self.path(key))

    def fill(
        self, grid: Mapping[str, Any], make: Callable[[str, Any, Progress], S], *, count: int, quiet: bool
    ) -> None:
        """Makes what is missing: `make(key, method, progress)` for each key of the grid without a score."""
        from tqdm import tqdm

        for key, method in grid.items():
            if self.get(key, method) is None:
                with tqdm(total=count, desc=key, disable=quiet or not sys.stderr.isatty()) as bar:
                    score = make(key, method, bar.update)
                self.put(key, method, score)

    def finished(self, grid: Mapping[str, Any]) -> dict[str, S]:
        """The scores that there are, in the order of the grid."""
        found = {key: self.get(key, method) for key, method in grid.items()}
        return {key: score for key, score in found.items() if score is not None}


@dataclass(frozen=True)
class Score:
    """What an oracle read in N samples: booleans [N, A] for A attributes; and what a sample cost.

    Attributes:
        num_rows: batch rows through the networks; a guided evaluation has two.
        notes: other numbers, by name.
    """

    correct: Tensor
    num_evaluations: int
    num_rows: int
    seconds: float
    notes: Mapping[str, float] = field(default_factory=dict)

    @property
    def all(self) -> Tensor:
        """Samples with all attributes right, [N] booleans."""
        return self.correct.all(dim=1)

    def shares(self) -> list[str]:
        """Cells: the share right in each attribute, and in all."""
        return [f"{n:.3f}" for n in [*self.correct.double().mean(dim=0).tolist(), self.all.double().mean().item()]]

    def minus(self, control: Score | None) -> str:
        """A cell: the paired difference in all attributes with its interval; "-" without a control, or to itself."""
        return "-" if control is None or control is self else paired_interval(self.all, control.all).text(signed=True)


def paired_interval(one: Tensor, other: Tensor) -> Interval:
    """The mean of one - other over pairs [N] made from the same noise, with its percentile bootstrap interval."""
    return percentile_interval(one.double() - other.double(), draws=DRAWS)


def markdown(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""

    def line(cells: Sequence[object]) -> str:
        return "| " + " | ".join(map(str, cells)) + " |"

    return "\n".join([line(head), "|" + "---|" * len(head), *map(line, rows)])


# --- bars and curves -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bar:
    """A claim about two methods: the mean difference is at least `least`, and `side` says what else must hold.

    `side` is "above" or "below" (the whole interval lies there), "mean below" (the mean does) or "equal" (all samples).
    """

    claim: str
    method: str
    against: str
    least: float = 0.0
    side: str = "above"

    def holds(self, scores: Mapping[str, Score]) -> bool:
        one, other = scores[self.method], scores[self.against]
        found = paired_interval(one.all, other.all)
        assert found.low is not None and found.high is not None
        return {
            "above": found.value >= self.least and found.low > 0,
            "below": found.high < 0,
            "mean below": found.value < 0,
            "equal": bool((one.correct == other.correct).all()),
        }[self.side]

    def verdict(self, scores: Mapping[str, Score]) -> str:
        if self.method not in scores or self.against not in scores:
            return f"not run  {self.claim}"
        found = scores[self.method].minus(scores[self.against])
        return f"{'met   ' if self.holds(scores) else 'MISSED'}   {self.claim}: {found}"


@dataclass(frozen=True)
class Curve:
    """The share right over one setting: the axis's label, its values, and by line the method at each value."""

    label: str
    values: tuple[float, ...]
    lines: Mapping[str, tuple[Any, ...]]

    def table(self, scores: Mapping[str, Score]) -> str:
        """A Markdown table from scores by the methods' keys: a row per value, a column per line, with intervals."""
        rows = []
        for place, value in enumerate(self.values):
            found = [scores.get(line[place].key) for line in self.lines.values()]
            rows.append([f"{value:g}", *("-" if score is None else _share(score).text() for score in found)])
        return markdown([self.label, *self.lines], rows)

    def draw(self, scores: Mapping[str, Score], title: str, path: Path) -> bool:
        """Draws the curve, if every point of it is there; returns whether it did."""
        if any(method.key not in scores for line in self.lines.values() for method in line):
            return False
        points = {name: [_point(scores[m.key]) for m in line] for name, line in self.lines.items()}
        save(curve(title, self.label, self.values, points), path)
        return True


def _share(score: Score) -> Interval:
    return percentile_interval(score.all, draws=DRAWS)


def _point(score: Score) -> Point:
    found = _share(score)
    return Point(found.value, found.low, found.high)


def grid_picture(pictures: Tensor, columns: int, rows: int, scale: int, path: Path) -> None:
    """The first pictures [N, C, H, W] uint8 as a sheet, row after row, `scale` times as large."""
    from PIL import Image

    rows = max(1, min(rows, len(pictures) // columns))
    sheet = pictures[: rows * columns].expand(-1, 3, -1, -1).unflatten(0, (rows, -1))
    sheet = sheet.permute(0, 3, 1, 4, 2).flatten(0, 1).flatten(1, 2)  # [rows * H, columns * W, 3]
    picture = Image.fromarray(sheet.contiguous().numpy())
    picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST).save(path)
