"""The program `w2sd export-nodes`: writes the folder that ComfyUI installs (imports no torch)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bridges.standalone import licence, standalone, write_folder
from w2sd_video import __version__
from w2sd_video.errors import exit_code

ROOM = "bridges.comfyui"
HERE = Path(__file__).resolve().parent
ENTRY = '"""Weak-to-Strong Diffusion with Reflection (W2SD), arXiv 2502.00473, as nodes."""\n\n'
ENTRY += "from .nodes import comfy_entrypoint\n\n"
ENTRY += '__all__ = ["comfy_entrypoint"]\n'
METADATA = """\
[project]
name = "w2sd"
description = "Weak-to-Strong Diffusion with Reflection: a strong model reflected with a weak one, training-free."
version = "{version}"
license = {{ file = "LICENSE" }}
requires-python = ">=3.10"
dependencies = []

[tool.comfy]
PublisherId = "{publisher}"
DisplayName = "W2SD"
Icon = ""
requires-comfyui = ">=0.3.64"
"""


def pack(publisher: str = "your-publisher-id") -> dict[str, str]:
    """Returns the files of the pack: its nodes, what they need of core, metadata, a README and workflows."""
    files = {"__init__.py": ENTRY, "pyproject.toml": METADATA.format(version=__version__, publisher=publisher)}
    files |= standalone([f"{ROOM}.nodes"], rooms=[ROOM])
    files["README.md"] = (HERE / "README.md").read_text(encoding="utf-8")
    files["LICENSE"] = licence()
    for workflow in sorted((HERE / "example_workflows").glob("*.json")):
        files[f"example_workflows/{workflow.name}"] = workflow.read_text(encoding="utf-8")
    return files


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program and returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="w2sd export-nodes",
        description="Write the ComfyUI node pack: put the folder into ComfyUI/custom_nodes, or publish it with "
        "`comfy node publish` from inside it.",
    )
    parser.add_argument("folder", help="the folder to write, new or empty or of an earlier run")
    parser.add_argument("--publisher", default="your-publisher-id", help="your id of the Comfy Registry")
    arguments = parser.parse_args(sys.argv[1:] if argv is None else list(argv))

    def write() -> int:
        files = pack(arguments.publisher)
        folder = write_folder(arguments.folder, files, marks=("nodes.py",))
        print(f"{folder}: {len(files)} files; move it into ComfyUI/custom_nodes and start ComfyUI anew")
        return 0

    return exit_code(write)
