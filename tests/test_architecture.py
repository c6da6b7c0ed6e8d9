"""Who may know whom: the arrows between the rooms, checked by reading every import in the source."""

import ast
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("w2sd_video", "bridges", "vbench_eval", "scripts")
HEAVY = {"torch", "diffusers", "transformers", "accelerate", "peft"}


@dataclass(frozen=True)
class Import:
    importer: str  # dotted module, "w2sd_video.core.paths"
    target: str  # dotted module or attribute, "torch.Tensor"
    line: int
    when: str  # "load" (runs when the module is imported), "call" (inside a function) or "typing"

    @property
    def root(self) -> str:
        return self.target.partition(".")[0]

    def __str__(self) -> str:
        return f"{self.importer} (line {self.line}) imports {self.target}"


def within(module: str, room: str) -> bool:
    return module == room or module.startswith(room + ".")


def dotted(file: Path) -> str:
    parts = list(file.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(file: Path) -> list[Import]:
    found: list[Import] = []
    module, is_package = dotted(file), file.name == "__init__.py"

    def visit(node: ast.AST, when: str) -> None:
        if isinstance(node, ast.Import):
            found.extend(Import(module, alias.name, node.lineno, when) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parent = module.split(".") if is_package else module.split(".")[:-1]
            base = parent[: len(parent) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            found.extend(Import(module, f"{source}.{alias.name}", node.lineno, when) for alias in node.names)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            when = "call" if when == "load" else when
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for guarded in node.body:
                visit(guarded, "typing")
            for other in node.orelse:
                visit(other, when)
            return
        for child in ast.iter_child_nodes(node):
            visit(child, when)

    visit(ast.parse(file.read_text(encoding="utf-8"), str(file)), "load")
    return found


FILES = {dotted(file): file for room in ROOMS for file in sorted((ROOT / room).rglob("*.py"))}
IMPORTS = [found for file in FILES.values() for found in imports_of(file)]


def wrong(importers: str, targets: tuple[str, ...], *, but: tuple[str, ...] = ()) -> list[str]:
    """The imports, at any time, of ``targets`` by modules of the room ``importers`` other than those in ``but``."""
    return [
        str(found)
        for found in IMPORTS
        if within(found.importer, importers)
        and not any(within(found.importer, room) for room in but)
        and any(within(found.target, target) for target in targets)
    ]


def test_the_reader_sees_imports_of_every_kind() -> None:
    assert {"w2sd_video.core.paths", "w2sd_video.hosting", "w2sd_video.core"} <= FILES.keys()
    targets = {(found.importer, found.target) for found in IMPORTS}
    assert ("w2sd_video.core.paths", "torch.Tensor") in targets
    assert ("w2sd_video.core.algorithms", "w2sd_video.core.levels.Level") in targets
    lazily = {found.when for found in IMPORTS if found.importer == "w2sd_video"}
    assert {"call", "typing"} <= lazily
    assert wrong("w2sd_video.core", ("torch",)), "a rule that looks for torch in core finds it"


FLOORS = (  # a room knows rooms on lower floors, and never one above it or beside it
    ("errors",),
    ("core", "pair"),
    ("latents", "gaps"),
    ("hosting",),
    ("loading",),
    ("presets", "demo", "report"),
    ("runs",),
    ("commands",),
    ("diagnosis",),
)
FLOOR = {f"w2sd_video.{room}": floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def test_every_room_of_the_library_has_a_floor() -> None:
    rooms = {".".join(module.split(".")[:2]) for module in FILES if module.startswith("w2sd_video.")}
    rooms -= {"w2sd_video.__main__"}
    assert rooms == FLOOR.keys()
    assert len(rooms) <= 15


def test_arrows_point_downwards_only() -> None:
    upward = set()
    for found in IMPORTS:
        if found.importer in ("w2sd_video", "w2sd_video.__main__"):
            continue
        room, target = (".".join(name.split(".")[:2]) for name in (found.importer, found.target))
        if room in FLOOR and target in FLOOR and room != target and FLOOR[target] >= FLOOR[room]:
            upward.add((room.removeprefix("w2sd_video."), target.removeprefix("w2sd_video.")))
    assert upward - {("pair", "core")} == set()


def test_core_imports_torch_and_itself_only() -> None:
    allowed = {"torch", *sys.stdlib_module_names}
    own = ("w2sd_video.core", "w2sd_video.errors")
    strangers = [
        str(found)
        for found in IMPORTS
        if within(found.importer, "w2sd_video.core")
        and found.root not in allowed
        and not any(within(found.target, room) for room in own)
    ]
    assert strangers == []


def test_the_library_does_not_know_experiments() -> None:
    assert [
        str(found) for found in IMPORTS if found.root == "experiments" and not within(found.importer, "scripts")
    ] == []
    assert any(found.root == "experiments" for found in IMPORTS), "a rule that looks for experiments finds them"


def test_nothing_imports_scripts_or_tests() -> None:
    assert [str(f) for f in IMPORTS if f.root in {"scripts", "tests"}] == []


def test_vbench_eval_knows_only_folders_of_videos() -> None:
    assert wrong("vbench_eval", ("w2sd_video", "bridges", "scripts")) == []


def test_vbench_eval_needs_none_of_what_makes_vbench_hard_to_install() -> None:
    libraries = ("torchvision", "decord", "detectron2", "vbench", "clip", "open_clip", "timm", "pyiqa")
    assert wrong("vbench_eval", libraries) == []
    # OpenCV's flow is there for those who name it, and nothing else asks for it.
    assert wrong("vbench_eval", ("cv2",), but=("vbench_eval.proxies.opencv",)) == []
    assert wrong("vbench_eval", ("vbench_eval.proxies.opencv",)) == []


def test_of_vbench_eval_formulas_do_not_know_networks_nor_anything_the_commands() -> None:
    backbones = ("vbench_eval.backbones", "vbench_eval.images", "transformers")
    assert wrong("vbench_eval.dimensions", backbones) == []
    assert wrong("vbench_eval.proxies", backbones) == []
    assert wrong("vbench_eval", ("vbench_eval.commands",), but=("vbench_eval.commands",)) == []
    assert wrong("vbench_eval.commands", ("vbench_eval.commands",)), "a rule that looks for the commands finds them"


def test_of_the_bridges_one_command_asks_for_scores_of_pictures_only() -> None:
    files = ("bridges.pixel.mapped",)  # written by the one writer, which every room may use
    assert wrong("bridges", ("vbench_eval",), but=("bridges.dit_moe.results", *files)) == []
    borders = ("vbench_eval.images", "vbench_eval.errors", "vbench_eval.files")
    asked = [found for found in IMPORTS if within(found.importer, "bridges") and found.root == "vbench_eval"]
    assert [str(found) for found in asked if not any(within(found.target, border) for border in borders)] == []
    assert asked, "a rule about an arrow that does not exist is no rule"


def test_the_library_does_not_know_its_users() -> None:
    rewards = "w2sd_video.commands.rewards"  # networks of the evaluation, by name, as rewards of Algorithm 2
    assert wrong("w2sd_video", ("bridges", "scripts")) == []
    shared = ("files", "figures", "pages", "statistics", "videos", "pictures", "video_info", "errors", "network")
    borders = tuple(f"vbench_eval.{name}" for name in shared)
    users = [found for found in IMPORTS if within(found.importer, "w2sd_video") and found.root == "vbench_eval"]
    strangers = [found for found in users if not any(within(found.target, border) for border in borders)]
    scorers = "w2sd_video.commands.sweep.scoring"  # proxies of the evaluation as scores
    suites = "w2sd_video.commands.suites"  # a suite's prompts as a run, scored by the program's own verbs
    assert [str(found) for found in strangers if found.importer not in (rewards, scorers, suites)] == []
    of_suites = tuple(f"vbench_eval.{name}" for name in ("suite", "manifest", "commands.main"))
    assert not [
        str(found)
        for found in strangers
        if found.importer == suites
        and not (found.when in ("call", "typing") and any(within(found.target, name) for name in of_suites))
    ]
    asked = [found for found in IMPORTS if found.importer == rewards and found.root in ROOMS[1:]]
    assert asked and all(within(found.target, "vbench_eval.images") and found.when == "call" for found in asked)


def test_only_the_rooms_that_must_know_diffusers_do() -> None:
    libraries = ("diffusers", "peft", "transformers", "accelerate")
    rooms = ("gaps", "latents", "hosting", "loading")
    assert wrong("w2sd_video", libraries, but=tuple(f"w2sd_video.{room}" for room in rooms)) == []


def loads(module: str, seen: set[str] | None = None) -> set[str]:
    """Everything that importing ``module`` imports in turn: our modules, and the roots of others."""
    seen = set() if seen is None else seen
    if module in seen or module not in FILES:
        return seen
    seen.add(module)
    for found in IMPORTS:
        if found.importer != module or found.when != "load":
            continue
        parts = found.target.split(".")
        if parts[0] not in ROOMS:
            seen.add(parts[0])
        for end in range(1, len(parts) + 1):
            loads(".".join(parts[:end]), seen)
    return seen


LIGHT = (
    *(
        "w2sd_video",
        "w2sd_video.pair",
        "w2sd_video.core.options",
        "w2sd_video.presets",
        "w2sd_video.commands.prompts",
        "w2sd_video.commands.app",
    ),
    *("w2sd_video.commands.engine", "w2sd_video.commands.families.image", "w2sd_video.commands.families.video"),
    *("w2sd_video.commands.sweep.program", "w2sd_video.commands.arena.program"),
    "w2sd_video.diagnosis.program",
    *("bridges.pixel.family", "bridges.dit_moe.family", "bridges.comfyui.export", "bridges.hub.export"),
    *("vbench_eval", "vbench_eval.commands", "vbench_eval.settings", "vbench_eval.scoring", "vbench_eval.comparing"),
    *("vbench_eval.dimensions", "vbench_eval.proxies", "vbench_eval.images", "vbench_eval.backbones.registry"),
    *("vbench_eval.suite", "vbench_eval.manifest", "vbench_eval.results", "vbench_eval.inputs", "vbench_eval.videos"),
)


@pytest.mark.parametrize("module", LIGHT)
def test_settings_and_arguments_are_read_without_loading_torch(module: str) -> None:
    assert module in FILES
    assert loads(module) & HEAVY == set()


def test_python_agrees_that_nothing_heavy_is_loaded_with_the_command() -> None:
    """Names that a package makes on first use do not show in the source; the interpreter knows."""
    program = f"import sys, {', '.join(LIGHT)}; print(*set({sorted(HEAVY)}) & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_no_module_does_anything_when_imported() -> None:
    """No call stands alone at the top of a module: no folders, environment variables, filters or downloads."""
    acting = []
    for module, file in FILES.items():
        if within(module, "scripts"):
            continue
        body = ast.parse(file.read_text(encoding="utf-8")).body
        acting += [
            f"{module} line {node.lineno}: {ast.unparse(node)}"
            for node in body
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
        ]
        acting += [
            f"{module} line {node.lineno}: {ast.unparse(node)}"
            for node in body
            if isinstance(node, ast.Assign) and "environ" in ast.unparse(node.targets[0])
        ]
    assert acting == []


def test_files_have_telling_names_and_a_readable_length() -> None:
    for module, file in FILES.items():
        assert file.stem not in {"utils", "util", "helpers", "common", "misc"}, f"{module} needs a name that says what"
        lines = len(file.read_text(encoding="utf-8").splitlines())
        assert lines <= 500, f"{module} has {lines} lines; 500 is the most: is it one thought?"


def test_the_architecture_page_names_only_files_that_exist() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"[\w/]+\.py\b", page))
    assert len(named) > 15
    known = {str(file.relative_to(ROOT)) for file in [*FILES.values(), *(ROOT / "tests").rglob("*.py")]}
    assert [name for name in sorted(named) if not any(("/" + path).endswith("/" + name) for path in known)] == []


def test_make_reads_every_target_of_the_makefile() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert {"test", "demo", "bench"} <= set(targets)
    shown = subprocess.run(["make", "-n", *targets], cwd=ROOT, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
