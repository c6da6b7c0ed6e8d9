"""The verb `images`: a folder of pictures to the scores of the paper's image tables."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vbench_eval.commands.arguments import (
    add_network_flags,
    add_output_flags,
    add_place_flags,
    add_verb,
    positive,
    table,
)
from vbench_eval.errors import UserError
from vbench_eval.images import IMAGE_METRICS, QUESTIONS

EXAMPLES = f"""\
examples:
  w2sd-vbench images pictures/w2sd                                                  PickScore, HPS v2.1 and AES
  w2sd-vbench images pictures/w2sd --metrics hps_v2.1 --baseline pictures/strong    with the win rate
  w2sd-vbench images pictures/w2sd --metrics clip_i,dino --reference photos
  w2sd-vbench images pictures/w2sd --metrics fid,is --reference imagenet.npz        needs w2sd-video[metrics]
  w2sd-vbench images pictures/w2sd --metrics mps --plugin mps=my.judge:prefer --baseline pictures/strong
  w2sd-vbench images pictures/w2sd --metrics geneval2 --plugin geneval2=my.answers:make    questions about pictures
  w2sd-vbench images pictures/w2sd --weights pickscore=/models/pickscore

metrics:
{chr(10).join(f"  {metric.name:<14}{metric.summary}" for metric in IMAGE_METRICS.values())}

Prompts come from --prompts, else from the results.jsonl of a generator, else from names "<prompt>-<index>.png". A
metric without its weights is reported as unavailable, never as a number.

written to --output: NAME_images.json with every picture's scores, and NAME_images/statistics-*.npz of FID and IS.
"""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Adds the verb."""
    parser = add_verb(subparsers, "images", help="score a folder of pictures by the image metrics", examples=EXAMPLES)
    parser.add_argument("folder", metavar="FOLDER", help="a folder of pictures of one method")
    parser.add_argument(
        "--metrics", nargs="+", metavar="NAME", help="names or comma lists (default: pickscore,hps_v2.1,aes)"
    )
    parser.add_argument(
        "--prompts",
        metavar="FILE",
        help="JSON {file name: prompt}, or text with a prompt per picture in order of names",
    )
    parser.add_argument("--baseline", metavar="FOLDER", help="pictures of the same names by another method")
    parser.add_argument("--reference", metavar="PATH", help="a folder of pictures; for fid also statistics (.npz)")
    parser.add_argument(
        "--plugin",
        action="append",
        default=[],
        metavar="METRIC=CHOICE",
        help="package.module:function or TorchScript file",
    )
    machine = add_network_flags(parser)
    machine.add_argument("--batch", type=positive, default=16, metavar="N", help="pictures at a time (default: 16)")
    parser.add_argument(
        "--weights", action="append", default=[], metavar="NAME=PATH", help="a path or hub id to take for these weights"
    )
    add_output_flags(parser)
    add_place_flags(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    """Scores and reports."""
    from vbench_eval.backbones.weights import named
    from vbench_eval.files import cleaned, held, write_json
    from vbench_eval.images.scoring import DEFAULT, score_images
    from vbench_eval.progress import bars
    from vbench_eval.results import check_name
    from vbench_eval.selection import find_device, versions

    name = check_name(arguments.name or Path(arguments.folder).resolve().name)
    weights, plugins = _pairs(arguments.weights, "--weights"), _pairs(arguments.plugin, "--plugin")
    for key in weights:
        named(key)
    if strangers := [key for key in plugins if key not in ("mps", *QUESTIONS)]:
        raise UserError(f"--plugin names {strangers[0]!r}; only mps, {', '.join(QUESTIONS)} take one")
    device = find_device(arguments.device)
    folder = Path(arguments.output)
    with held(folder):
        report = score_images(
            arguments.folder,
            arguments.prompts,
            arguments.metrics or DEFAULT,
            reference=arguments.reference,
            baseline=arguments.baseline,
            weights=weights,
            plugins=plugins,
            device=device,
            dtype=arguments.dtype,
            batch=arguments.batch,
            offline=arguments.offline,
            allow_pickle=arguments.allow_pickle,
            cache=arguments.cache,
            statistics=folder / f"{name}_images",
            progress=bars("picture", quiet=arguments.quiet),
        )
        report, notes = cleaned({**report, "versions": versions(device)})
        path = folder / f"{name}_images.json"
        write_json(path, report)
    lacking = [metric for metric, found in report["metrics"].items() if found["value"] is None]
    status = "incomplete" if lacking or report["skipped"] else "done"
    short = {
        metric: {key: value for key, value in found.items() if key not in ("per_picture", "baseline", "provenance")}
        for metric, found in report["metrics"].items()
    }
    summary = {**report, "metrics": short, "status": status, "report": str(path), "notes": notes}
    return int(status != "done"), {**summary, "text": _text(report, path)}


def _text(report: dict[str, Any], path: Path) -> str:
    rows: list[tuple[str, ...]] = [("metric", "value", "interval", "win rate", "unit")]
    after = []
    for metric, found in report["metrics"].items():
        if found["value"] is None:
            after.append(f"{metric} is unavailable: {found.get('unavailable') or found.get('reason')}")
            continue
        rate = found.get("against_baseline", {}).get("win_rate")
        won = f"{100 * rate['value']:.1f}% {_limits(rate, 100)}" if rate else "-"
        rows.append((metric, f"{found['value']:.4f}", _limits(found), won, found["unit"]))
        if "note" in found:
            after.append(f"note: {metric} is {found['note']}")
    after += [f"skipped {item['path']}: {item['reason']}" for item in report["skipped"]]
    beside = f", beside {report['pairs']} of {report['baseline']}" if report["baseline"] else ""
    head = f"{report['pictures']} pictures of {report['folder']}{beside}"
    return "\n".join([head, *([table(rows)] if len(rows) > 1 else []), *after, f"  {path}"])


def _limits(found: dict[str, Any], factor: float = 1) -> str:
    if found.get("low") is None:
        return "-"
    digits = 1 if factor > 1 else 4
    return f"[{factor * found['low']:.{digits}f}, {factor * found['high']:.{digits}f}]"


def _pairs(words: Sequence[str], flag: str) -> dict[str, str]:
    pairs = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not (key and equals and value):
            raise UserError(f"{flag} is {word!r}; write NAME=CHOICE")
        pairs[key] = value
    return pairs
