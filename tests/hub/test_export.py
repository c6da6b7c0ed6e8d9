"""The folder of a family on the Hub: loads as remote code, needs nothing of this package, and is the same block."""

from __future__ import annotations

import ast
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ModularPipelineBlocks
from diffusers.utils import dynamic_modules_utils

from bridges.hub import export
from bridges.hub.families import FAMILIES
from tests.support.modular import FAMILIES as PIPELINES
from w2sd_video.hosting.reflection_block import ReflectionBlock, loops_of


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp(request.param) / "block"
    assert export.main(["--family", request.param, str(target)]) == 0
    return target


def test_the_family_is_diffusers_own(folder: Path) -> None:
    family = family_of(folder)
    module = importlib.import_module(family.home)
    for name in family.stages:
        assert issubclass(getattr(module, name), ModularPipelineBlocks)
    block = type("Block", (ReflectionBlock,), {"home": family.home, "stages": family.stages})()
    assert tuple(block._networks()) == family.networks
    names = {spec.name for spec in block.expected_components}
    assert {f"weak_{name}" for name in family.networks} <= names


def family_of(folder: Path) -> Any:
    name = json.loads((folder / "modular_config.json").read_text())["_class_name"]
    return next(family for family in FAMILIES.values() if family.class_name == name)


def test_its_code_stands_alone(folder: Path) -> None:
    files = {path.stem for path in folder.glob("*.py")}
    outside = set()
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.module in files
            elif isinstance(node, ast.ImportFrom):
                outside.add(str(node.module).partition(".")[0])
            elif isinstance(node, ast.Import):
                outside |= {alias.name.partition(".")[0] for alias in node.names}
    assert outside - sys.stdlib_module_names == {"torch", "diffusers"}
    text = (folder / "README.md").read_text()
    assert "num_reflections" in text and "{" not in text.replace("{}", "")
    assert "Apache" in (folder / "LICENSE").read_text()


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Remote code is copied here, and its modules are forgotten afterwards."""
    monkeypatch.setattr(dynamic_modules_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "modules")])
    for name in [name for name in sys.modules if name.startswith("diffusers_modules")]:
        monkeypatch.delitem(sys.modules, name)


def test_it_loads_as_remote_code_and_saves_and_loads_again(folder: Path, remote: None, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="trust_remote_code"):
        ModularPipelineBlocks.from_pretrained(str(folder))
    block = ModularPipelineBlocks.from_pretrained(str(folder), trust_remote_code=True)
    assert type(block).__module__.startswith("diffusers_modules")
    before = json.loads((folder / "modular_config.json").read_text())["auto_map"]
    block.save_pretrained(str(tmp_path / "again"))
    assert json.loads((tmp_path / "again" / "modular_config.json").read_text())["auto_map"] == before
    block.save_pretrained(str(folder))
    again = ModularPipelineBlocks.from_pretrained(str(folder), trust_remote_code=True)
    assert again.stages == block.stages and again.model_name == block.model_name


@pytest.mark.parametrize("name", PIPELINES)
def test_it_reflects_as_the_block_tested_here(name: str, remote: None, tmp_path: Path) -> None:
    pipeline = PIPELINES[name]
    assert export.main(["--family", name, str(tmp_path / "block")]) == 0
    block = ModularPipelineBlocks.from_pretrained(str(tmp_path / "block"), trust_remote_code=True)
    weak, given = pipeline.weak(), {"num_reflections": 2, "weak_guidance_scale": 1.0}
    pipe = pipeline.modular(block)
    pipe.update_components(**{f"weak_{network}": weak for network in pipeline.networks})
    ours = pipeline.modular(ReflectionBlock())
    for loop in loops_of(ours._blocks):
        loop.sub_blocks["reflect"].weak_networks = dict.fromkeys(pipeline.networks, weak)
    assert torch.equal(pipeline.call(pipe, **given), pipeline.call(ours, **given))


def test_an_unknown_family_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert export.main(["--family", "wam", str(tmp_path / "block")]) == 2
    assert "choose one of sdxl, flux" in capsys.readouterr().err
    assert not (tmp_path / "block").exists()


@pytest.mark.slow
def test_all_load_in_a_process_without_this_package(tmp_path: Path) -> None:
    for name in FAMILIES:
        assert export.main(["--family", name, str(tmp_path / name)]) == 0
    program = (
        "import sys\nfor name in ('w2sd_video', 'bridges', 'vbench_eval'): sys.modules[name] = None\n"
        "from diffusers import ModularPipelineBlocks\n"
        "for name in sys.argv[1:]:\n"
        "    print(type(ModularPipelineBlocks.from_pretrained(name, trust_remote_code=True)).__name__)"
    )
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HOME": str(tmp_path)}
    command = [sys.executable, "-c", program, *(str(tmp_path / name) for name in FAMILIES)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.split() == [family.class_name for family in FAMILIES.values()], done.stderr
