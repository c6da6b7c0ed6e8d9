"""Folders of modules that run without this package: what other software installs or loads (imports no torch).

Modules are copied as they are, with the modules of ours that they import, side by side and importing each other
relatively; so what runs there is the code that is tested here.
"""

from __future__ import annotations

import ast
import pkgutil
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from w2sd_video import __version__
from w2sd_video.errors import UserError

OURS = ("w2sd_video", "bridges", "vbench_eval", "scripts")
PARTS: Mapping[str, tuple[str, ...]] = {"w2sd_video.errors": ("UserError",)}
"""Modules of which these classes alone are copied: they need nothing else of theirs."""
HEADER = f"# Copied from w2sd-video {__version__} (Apache-2.0), where it is tested; changes belong there.\n"


def standalone(modules: Sequence[str], *, rooms: Sequence[str]) -> dict[str, str]:
    """Returns the text of each file, by its name, of ``modules`` (dotted) and all of ours that they need.

    Modules of ``rooms`` keep their own names; of others the names of their rooms come before.

    Raises:
        ValueError: an import that cannot be made relative (a whole package, or a module of ours by `import`).
    """
    files: dict[str, str] = {}
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        name = f"{stem(module, rooms)}.py"
        if name in files:
            continue
        text, needed = _relative(module, rooms)
        files[name] = HEADER + text
        waiting += needed
    return files


def stem(module: str, rooms: Sequence[str]) -> str:
    """Returns the name of a module's copy: core_paths for w2sd_video.core.paths."""
    for prefix in (*(f"{room}." for room in rooms), "w2sd_video.", "bridges."):
        if module.startswith(prefix):
            return module.removeprefix(prefix).replace(".", "_")
    return module.replace(".", "_")


def write_folder(folder: str | Path, files: Mapping[str, str], *, marks: Iterable[str]) -> Path:
    """Writes files into a folder, which may be there if it is empty or an older one of the same kind.

    Raises:
        UserError: the folder has other things in it (none of the names in ``marks``), or is a file.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; give a folder, new or empty")
    held = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if held and not held.intersection(marks):
        raise UserError(f"{folder} holds {len(held)} other files; give a folder that is new, empty or written by this")
    for name, text in files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    return folder


def licence() -> str:
    """Returns the text of the licence under which copies are passed on."""
    clone = Path(__file__).resolve().parents[1] / "LICENSE"
    if clone.is_file():
        return clone.read_text(encoding="utf-8")
    return str(metadata.distribution("w2sd-video").read_text("licenses/LICENSE"))


def source(module: str) -> str:
    """Returns the text of a module, which is not imported."""
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise ValueError(f"there is no module {module}")
    return Path(spec.origin).read_text(encoding="utf-8")


def _relative(module: str, rooms: Sequence[str]) -> tuple[str, list[str]]:
    """A module's text with its imports of ours made relative, and the modules these name."""
    text = source(module)
    if module in PARTS:
        kept = {node.name: ast.get_source_segment(text, node) for node in _classes(text)}
        return "\n\n".join(str(kept[name]) for name in PARTS[module]) + "\n", []
    lines = text.splitlines(keepends=True)
    needed: list[str] = []
    for node in sorted(_imports(text), key=lambda node: -node.lineno):
        if isinstance(node, ast.Import):
            if any(alias.name.partition(".")[0] in OURS for alias in node.names):
                raise ValueError(f"{module} line {node.lineno}: an import that has no relative form")
            continue
        if node.level or (node.module or "").partition(".")[0] not in OURS:
            continue
        homes: dict[str, list[str]] = {}
        for alias in node.names:
            written = alias.name if alias.asname is None else f"{alias.name} as {alias.asname}"
            homes.setdefault(_home(str(node.module), alias.name, module), []).append(written)
        indent = " " * node.col_offset
        new = [f"{indent}from .{stem(home, rooms)} import {', '.join(names)}\n" for home, names in homes.items()]
        lines[node.lineno - 1 : node.end_lineno] = new
        needed += homes
    return "".join(lines), needed


def _home(module: str, name: str, importer: str) -> str:
    """The module that defines what a package passes on."""
    spec = find_spec(module)
    if spec is None or spec.submodule_search_locations is None:
        return module
    modules = [f"{module}.{found.name}" for found in pkgutil.iter_modules(spec.submodule_search_locations)]
    homes = [each for each in modules if name in _defined(source(each))]
    if len(homes) != 1:
        raise ValueError(f"{importer} imports {name} from {module}; import it from the module that defines it")
    return homes[0]


def _defined(text: str) -> set[str]:
    """The names that a module defines at its top: classes, functions and values."""
    names = set()
    for node in ast.parse(text).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return names


def _classes(text: str) -> list[ast.ClassDef]:
    return [node for node in ast.parse(text).body if isinstance(node, ast.ClassDef)]


def _imports(text: str) -> list[ast.Import | ast.ImportFrom]:
    return [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import | ast.ImportFrom)]
