"""The verb `fetch`: get published weights by name."""

from __future__ import annotations

import argparse
from typing import Any

from vbench_eval.commands.arguments import add_output_flags, add_verb, add_weight_flags
from vbench_eval.errors import UserError

EXAMPLES = """\
examples:
  w2sd-vbench fetch raft_things musiq_spaq     by the names that `w2sd-vbench doctor` lists
  w2sd-vbench fetch facebook/dino-vitb16       or by hub id, org/name or org/name/file
  w2sd-vbench fetch table12                    what the dimensions of the paper's Table 12 need, where it may be fetched
  w2sd-vbench fetch all --offline              say where what is here lies, and what is missing; touch no network

Weights have licences of their own, which doctor lists. AMT-S, of motion_smoothness, is non-commercial, never fetched.
"""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Adds the verb."""
    parser = add_verb(subparsers, "fetch", help="get weights by name", examples=EXAMPLES)
    parser.add_argument("names", nargs="+", metavar="NAME", help="names of weights, hub ids, all, or table12")
    add_weight_flags(parser)
    add_output_flags(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    """Fetches each; the code is 1 if one could not be had."""
    from vbench_eval.backbones.fetching import fetch
    from vbench_eval.progress import bars

    results = []
    for name in _names(arguments.names):
        try:
            path = fetch(
                name,
                offline=arguments.offline,
                cache=arguments.cache,
                progress=bars("B", scaled=True, quiet=arguments.quiet),
            )
            results.append({"name": name, "path": str(path), "reason": None})
        except UserError as error:
            results.append({"name": name, "path": None, "reason": str(error)})
    missing = [result for result in results if result["path"] is None]
    text = "\n".join(f"{result['name']}: {result['path'] or result['reason']}" for result in results)
    status = "incomplete" if missing else "done"
    return int(bool(missing)), {"status": status, "weights": results, "text": text}


def _names(words: list[str]) -> list[str]:
    from vbench_eval.backbones.fetching import fetchable_names, of_name

    table_12 = ["dino_vitb16", "clip_vit_b_32", "clip_vit_l_14", "aesthetic_linear", "raft_things", "musiq_spaq"]
    groups = {"all": fetchable_names(), "table12": table_12}
    names = [name for word in words for part in word.split(",") if part for name in groups.get(part, [part])]
    return [of_name(name).name for name in dict.fromkeys(names)]
