"""The total score: dimensions from any number of result files, ours and VBench's own, as its score script adds them up.

VBench's script takes a dimension that is nowhere for 0. Here the score is over what is there, is called partial, and
says what is missing; it is official only if all sixteen are there, measured as VBench measures them.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vbench_eval.aggregation import QUALITY, SEMANTIC, Partial, normalised, quality_score, semantic_score, total_score
from vbench_eval.errors import UserError
from vbench_eval.files import parse_json, read_bytes, write_json
from vbench_eval.profiles import PROFILES, is_vbench
from vbench_eval.result_reading import EVAL_SUFFIX, REPORT_SUFFIX

SIXTEEN = (*QUALITY, *SEMANTIC)
REMEDY = f"give files that end in {EVAL_SUFFIX}, as VBench and the verb score write them, folders or zip files of them"


@dataclass(frozen=True)
class Total:
    """What the files hold together.

    Attributes:
        results: by dimension its part of the result file: the aggregate, and the list of videos where there is one.
        sources: by dimension the file it was read from.
        doubts: why the numbers are not VBench's although the dimensions are, a sentence each.
    """

    results: Mapping[str, list[Any]]
    sources: Mapping[str, str]
    doubts: tuple[str, ...] = ()
    aggregates: Mapping[str, float | None] = field(default_factory=dict)

    @property
    def score(self) -> Partial:
        return total_score(self.aggregates)

    @property
    def official(self) -> bool:
        """Whether all sixteen dimensions are there, and nothing is known against any."""
        return self.score.complete and not self.doubts

    @property
    def verdict(self) -> str:
        """Returns "official", or why it is not."""
        if self.official:
            return "official: all 16 dimensions are there"
        missing = self.score.missing
        lacking = [f"partial: over {16 - len(missing)} of 16; missing {', '.join(missing)}"] if missing else []
        return "; ".join([*lacking, *(f"not official: {doubt}" for doubt in self.doubts)])

    def to_json(self) -> dict[str, Any]:
        scores = (quality_score(self.aggregates), semantic_score(self.aggregates), self.score)
        return {
            "official": self.official,
            "verdict": self.verdict,
            "dimensions": {
                name: {"aggregate": self.aggregates[name], "normalised": value, "source": self.sources[name]}
                for name, value in normalised(self.aggregates).items()
            },
            **{score.name: score.to_json() for score in scores},
        }


def read_total(paths: Iterable[str | Path]) -> Total:
    """Returns the dimensions of the files together: result files, folders of them, zip files as VBench's script takes.

    Raises UserError for a file that holds no results, a dimension that two files have with different numbers, and a
    number that is none of the leaderboard's scale (0 to 1).
    """
    results: dict[str, list[Any]] = {}
    sources: dict[str, str] = {}
    doubts: dict[str, None] = {}
    for path in map(Path, paths):
        for source, data, report in result_files(path):
            for key, value in data.items():
                name = key.replace(" ", "_")
                found = value if isinstance(value, list) and value else [value]
                number = found[0]
                if name not in SIXTEEN:
                    continue
                if isinstance(number, bool) or not isinstance(number, int | float) or not abs(number) <= 1.001:
                    raise UserError(
                        f"{source}: {key} is {number!r:.60}, not a number of VBench's from 0 to 1; {REMEDY}"
                    )
                if name in results and results[name][0] != number:
                    raise UserError(
                        f"{name} is {results[name][0]} in {sources[name]} and {number} in {source}; give one of them"
                    )
                results[name], sources[name] = found, source
            doubts |= dict.fromkeys(_doubts(source, data, report))
    if not results:
        raise UserError(f"none of VBench's dimensions is in {', '.join(map(str, paths))}; {REMEDY}")
    aggregates = {name: float(results[name][0]) if name in results else None for name in SIXTEEN}
    return Total(results, sources, tuple(doubts), aggregates)


def write_total(total: Total, folder: Path, name: str) -> list[Path]:
    """Writes NAME_eval_results.json with all dimensions, and NAME.zip of it for VBench's cal_final_score.py."""
    path, archive = folder / f"{name}{EVAL_SUFFIX}", folder / f"{name}.zip"
    write_json(path, dict(total.results))
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr(zipfile.ZipInfo(path.name), path.read_bytes())
    return [path, archive]


def result_files(path: Path) -> Iterable[tuple[str, dict[str, Any], Mapping[str, Any] | None]]:
    """Yields each result file's name, content and, where it lies beside it, our report of the same run."""
    if path.is_dir():
        inside = sorted(path.glob(f"*{EVAL_SUFFIX}"))
        if not inside:
            raise UserError(f"folder {path} holds no *{EVAL_SUFFIX}; {REMEDY}")
        for file in inside:
            yield from result_files(file)
        return
    data = read_bytes(path, "results")
    if path.suffix.lower() == ".zip":
        try:
            with zipfile.ZipFile(path) as archive:
                members = [name for name in archive.namelist() if name.endswith(".json")]
                for name in sorted(members):
                    content = parse_json(archive.read(name), path / name, "results")
                    if isinstance(content, dict):  # the other file of VBench's is a list
                        yield f"{path}/{name}", content, None
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
            raise UserError(f"{path} cannot be read as a zip file ({error}); {REMEDY}") from error
        return
    content = parse_json(data, path, "results")
    if not isinstance(content, dict) or "schema" in content:
        kind = "a report or manifest" if isinstance(content, dict) else "a list (is it the full_info file?)"
        raise UserError(f"{path} is {kind}; {REMEDY}")
    beside = path.with_name(path.name.removesuffix(EVAL_SUFFIX) + REPORT_SUFFIX)
    report = None
    if path.name.endswith(EVAL_SUFFIX) and beside.is_file():
        try:
            found = json.loads(beside.read_text(encoding="utf-8"))
            report = found if isinstance(found, dict) else None
        except (OSError, ValueError):
            report = None
    yield str(path), content, report


def _doubts(source: str, data: Mapping[str, Any], report: Mapping[str, Any] | None) -> Iterable[str]:
    stand_ins = [
        key
        for key, value in data.items()
        if isinstance(value, list) and len(value) > 1 and isinstance(value[1], list)
        for entry in value[1][:1]
        if isinstance(entry, dict) and str(entry.get("backbone", "")).startswith("proxy:")
    ]
    if stand_ins:
        yield f"{', '.join(stand_ins)} of {source} is a proxy's"
    if report is None:
        return
    profile = report.get("profile")
    if isinstance(profile, str) and profile in PROFILES and not is_vbench(PROFILES[profile]):
        yield f"{source} was measured with the profile {profile}"
    if report.get("mode") not in (None, "vbench_standard"):
        yield f"{source} was measured in mode {report['mode']}, not each dimension on its own prompts of the suite"
    stamp = report.get("stamp")
    if isinstance(stamp, dict) and stamp.get("long"):
        yield f"{source} was measured over clips (--long)"
    check = report.get("completeness")
    if isinstance(check, dict) and check.get("missing"):
        yield f"{source} lacks {len(check['missing'])} of {check.get('expected')} videos"
