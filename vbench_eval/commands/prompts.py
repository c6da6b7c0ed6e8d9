"""The verb `prompts`: draw a fixed set of prompts, and write what a generator reads."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from vbench_eval.commands.arguments import add_output_flags, add_verb, positive
from vbench_eval.errors import UserError
from vbench_eval.settings import GROUPS, parse_dimensions
from vbench_eval.suite import ALL_DIMENSIONS, Suite, read_suite

MANIFEST_FILE = "manifest.json"
EXAMPLES = """\
examples:
  w2sd-vbench prompts --suite VBench_full_info.json --num-prompts 200 --seed 0 --samples 1 --output outputs/table12
  w2sd-vbench prompts --suite sample --num-prompts 4 --output outputs/vbench     our own few prompts, for a first look
  w2sd-vbench prompts --dimensions dynamic_degree --output outputs/dynamic       all 72 of one dimension, 5 videos each
  w2sd-video --prompts outputs/table12/prompts.txt --output outputs/table12/videos     hand them to a generator

The suite is VBench's VBench_full_info.json (a path, its folder, or the copy of an installed vbench package, which is
the default); it is not part of this package. The manifest fixes the set for good: the same seed always draws the same
prompts, and scoring with --manifest says which videos are missing.
"""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Adds the verb."""
    parser = add_verb(
        subparsers, "prompts", help="draw prompts from VBench's suite and fix them in a manifest", examples=EXAMPLES
    )
    parser.add_argument(
        "--suite",
        "--full_json_dir",
        metavar="FILE",
        help="VBench_full_info.json, a folder that holds it, or sample (default: that of an installed vbench package)",
    )
    parser.add_argument(
        "--dimensions",
        "--dimension",
        nargs="+",
        default=["table12"],
        metavar="NAME",
        help="prompts of these dimensions: names (VBench-2.0's too, of its suite), comma lists, all, semantic, vbench "
        "or table12 (default: table12)",
    )
    parser.add_argument("--num-prompts", type=positive, metavar="N", help="how many (default: all there are)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the draw (default: 0)")
    parser.add_argument(
        "--samples",
        type=positive,
        metavar="N",
        help="videos per prompt (default: VBench's 5, and 25 for temporal_flickering; the paper's Table 12 has 1)",
    )
    parser.add_argument(
        "--output", default="outputs/vbench", metavar="FOLDER", help="where to write (default: outputs/vbench)"
    )
    add_output_flags(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    """Writes manifest.json and the prompt file, and reports what was drawn."""
    from vbench_eval.files import held
    from vbench_eval.manifest import sample, write_manifest, write_prompts

    suite = read_suite(arguments.suite)
    wanted = _dimensions(arguments.dimensions, suite)
    manifest = sample(suite, wanted, arguments.num_prompts, arguments.seed, samples=arguments.samples)
    folder = Path(arguments.output)
    with held(folder):
        write_manifest(folder / MANIFEST_FILE, manifest)
        prompt_file, notes = write_prompts(folder, manifest)
    most = max(prompt.samples for prompt in manifest.prompts)
    warnings = [*suite.warnings(), *notes]
    if len({prompt.samples for prompt in manifest.prompts}) > 1:
        warnings.append("not every prompt needs the same number of videos; manifest.json has the number of each")
    report = {
        "status": "done",
        "manifest": str(folder / MANIFEST_FILE),
        "prompts": str(prompt_file),
        "num_prompts": len(manifest.prompts),
        "num_videos": manifest.num_videos,
        "seed": manifest.seed,
        "dimensions": list(manifest.dimensions),
        "suite": dict(manifest.suite),
        "warnings": warnings,
    }
    lines = [
        f"{len(manifest.prompts)} prompts of {suite.path.name} "
        + ("(all there are)" if manifest.seed is None else f"(drawn with seed {manifest.seed})")
        + f" for {', '.join(manifest.dimensions)}",
        f"  {prompt_file}    a prompt per line, for the generator",
        f"  {folder / MANIFEST_FILE}  which prompts, for good",
        f"next: w2sd-video --prompts {prompt_file} --num-videos {most} --output {folder / 'videos'}",
        f"then: w2sd-vbench score {folder / 'videos' / 'w2sd'} --manifest {folder / MANIFEST_FILE}",
    ]
    if not arguments.quiet:
        lines += [f"note: {warning}" for warning in warnings]
    return 0, {**report, "text": "\n".join(lines)}


def _dimensions(words: list[str], suite: Suite) -> tuple[str, ...]:
    """The names, groups resolved; those of another suite, such as VBench-2.0's, are taken as that suite has them."""
    parts = [part.strip() for word in words for part in word.split(",") if part.strip()]
    names = tuple(dict.fromkeys(name for part in parts for name in GROUPS.get(part, (part,))))
    if strangers := [name for name in names if name not in (*ALL_DIMENSIONS, *suite.dimensions)]:
        known = suite.dimensions if set(suite.dimensions) - set(ALL_DIMENSIONS) else ALL_DIMENSIONS
        raise UserError(f"{', '.join(strangers)} has no prompts in {suite.path.name}; choose from {', '.join(known)}")
    return names or parse_dimensions(words)
