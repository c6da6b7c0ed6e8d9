"""The verb `static_filter`: the still videos that temporal_flickering is scored on."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from vbench_eval.commands.arguments import add_network_flags, add_output_flags, add_verb
from vbench_eval.errors import UserError

EXAMPLES = """\
examples:
  w2sd-vbench static_filter videos                    the prompts that the suite has for temporal_flickering, 5 of each
  w2sd-vbench static_filter --videos_path videos --filter_scope all     as VBench spells it; every still video
  w2sd-vbench static_filter videos --filter-scope list.json     prompts or file names of a JSON list
  w2sd-vbench score filter_results/filtered_videos --dimensions temporal_flickering

Written: filtered_static_video.json as VBench writes it, and copies of the still videos in filtered_videos/.
"""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Adds the verb."""
    parser = add_verb(
        subparsers, "static_filter", help="copy the videos that hold still, as VBench does", examples=EXAMPLES
    )
    parser.add_argument("folder", nargs="?", metavar="FOLDER", help="a folder of videos")
    parser.add_argument("--videos_path", metavar="FOLDER", help="the same, as VBench spells it")
    parser.add_argument(
        "--output",
        "--result_path",
        default="filter_results",
        metavar="FOLDER",
        help="where to write (default: filter_results)",
    )
    parser.add_argument(
        "--store-name", "--store_name", default="filtered_static_video.json", metavar="FILE", help="the file's name"
    )
    parser.add_argument(
        "--filter-scope",
        "--filter_scope",
        default="temporal_flickering",
        metavar="SCOPE",
        help="temporal_flickering, all, or a JSON list of prompts (default: temporal_flickering)",
    )
    parser.add_argument("--suite", "--full_json_dir", metavar="FILE", help="VBench_full_info.json")
    parser.add_argument("--model", "--backbone", metavar="FILE", help="raft-things.pth, or package.module:function")
    for spelled in ("--small", "--mixed_precision", "--alternate_corr"):
        parser.add_argument(spelled, action="store_true", help=argparse.SUPPRESS)
    add_network_flags(parser)
    add_output_flags(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    """Filters; the code is 1 if a video could not be read or, by the suite, a prompt has fewer than five."""
    from vbench_eval.static_filter import KEPT, filter_static, prompts_of_scope, write_filtered
    from vbench_eval.videos import find_videos

    if arguments.folder and arguments.videos_path:
        raise UserError("the folder is given twice; give FOLDER or --videos_path")
    if not (folder := arguments.folder or arguments.videos_path):
        raise UserError("no folder of videos is given; write w2sd-vbench static_filter FOLDER")
    if arguments.small:
        raise UserError("--small is RAFT's small network, which VBench's numbers do not come from; leave it out")
    if not Path(folder).is_dir():
        raise UserError(f"{folder} is no folder; give a folder of videos")
    videos = find_videos(Path(folder))
    if not videos:
        raise UserError(f"{folder} holds no videos")
    standard = arguments.filter_scope == "temporal_flickering"
    prompts = prompts_of_scope(arguments.filter_scope, videos, arguments.suite)

    from vbench_eval.backbones.registry import resolve
    from vbench_eval.selection import find_device

    network = resolve(
        "dynamic_degree",
        arguments.model,
        profile="vbench",
        device=find_device(arguments.device),
        dtype=arguments.dtype,
        offline=arguments.offline,
        allow_pickle=arguments.allow_pickle,
        cache=arguments.cache,
    )
    found = filter_static(videos, prompts, network, most=KEPT if standard else None)
    files = write_filtered(found, Path(arguments.output), arguments.store_name)
    short = [prompt for prompt, paths in found.static.items() if len(paths) < KEPT] if standard else []
    static = sum(map(len, found.static.values()))
    lines = [f"{static} of {found.looked_at} videos looked at are static"]
    lines += [f"{name} could not be looked at: {reason}" for name, reason in found.skipped.items()]
    if short:
        lines.append(f"{len(short)} of {len(prompts)} prompts have fewer than {KEPT} static videos")
    lines += [f"  {path}" for path in files]
    report = {
        "status": "incomplete" if short or found.skipped else "done",
        "static": static,
        "looked_at": found.looked_at,
        "skipped": found.skipped,
        "short": short,
        "files": [str(path) for path in files],
    }
    return int(bool(short or found.skipped)), {**report, "text": "\n".join(lines)}
