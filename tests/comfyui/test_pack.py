"""The folder ComfyUI installs: complete without this package, the same numbers, workflows that fit its nodes."""

from __future__ import annotations

import ast
import importlib.util
import json
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch

from bridges.comfyui import export
from bridges.standalone import standalone, write_folder
from tests.comfyui.test_nodes import Bench
from w2sd_video.errors import UserError

HERE = Path(export.__file__).parent
WORKFLOWS = sorted((HERE / "example_workflows").glob("*.json"))


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("custom_nodes") / "w2sd"
    assert export.main([str(folder), "--publisher", "someone"]) == 0
    return folder


def test_it_needs_nothing_but_comfyui_and_torch(pack: Path) -> None:
    files = {path.stem for path in pack.glob("*.py")}
    outside, names = set(), set()
    for path in pack.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                if node.level:
                    assert node.level == 1 and node.module in files, path
                else:
                    outside.add(str(node.module).partition(".")[0])
            elif isinstance(node, ast.Import):
                outside |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.Name):
                names.add(node.id)
    assert outside - sys.stdlib_module_names == {"torch", "comfy", "comfy_api"}
    assert not outside & {"subprocess", "requests", "pickle"} and not names & {"eval", "exec"}


def test_its_metadata_is_what_the_registry_asks_for(pack: Path) -> None:
    metadata = tomllib.loads((pack / "pyproject.toml").read_text())
    assert metadata["tool"]["comfy"]["PublisherId"] == "someone"
    assert "comfyui" not in metadata["project"]["name"].lower() and metadata["project"]["dependencies"] == []
    assert "Apache" in (pack / "LICENSE").read_text() and (pack / "README.md").is_file()


def test_it_samples_as_the_nodes_tested_here_do(host: Any, pack: Path) -> None:
    name = "somewhere_x_custom_nodes_x_w2sd"  # ComfyUI loads packs under names like this
    spec = importlib.util.spec_from_file_location(name, pack / "__init__.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    coroutine = module.comfy_entrypoint()
    with pytest.raises(StopIteration) as ended:
        coroutine.send(None)
    with pytest.raises(StopIteration) as listed:
        ended.value.value.get_node_list().send(None)
    theirs = {node.GET_SCHEMA().node_id for node in listed.value.value}
    assert theirs == {node.GET_SCHEMA().node_id for node in nodes_of(host)}
    bench = Bench(host, "eps")
    ours = bench.run(bench.guider(), bench.sampler(3))
    copied = sys.modules[f"{name}.nodes"]
    bench.host = type(host)(**{**vars(host), "nodes": copied})
    assert torch.equal(bench.run(bench.guider(), bench.sampler(3)), ours)
    for loaded in [loaded for loaded in sys.modules if loaded.startswith(name)]:
        del sys.modules[loaded]


def nodes_of(host: Any) -> list[Any]:
    with pytest.raises(StopIteration) as listed:
        host.nodes.W2SDExtension().get_node_list().send(None)
    return listed.value.value


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_fit_the_schema_of_the_nodes(host: Any, path: Path) -> None:
    workflow = json.loads(path.read_text())
    schemas = {node.GET_SCHEMA().node_id: node.GET_SCHEMA() for node in nodes_of(host)}
    kinds = [node["class_type"] for node in workflow.values()]
    assert "W2SDSampler" in kinds and "SamplerCustomAdvanced" in kinds
    for name, node in workflow.items():
        schema = schemas.get(node["class_type"])
        for value in node["inputs"].values():
            if isinstance(value, list):
                assert value[0] in workflow, f"node {name} is linked to one that is not there"
        if schema is not None:
            fits(node, {each.id: each for each in schema.inputs})
    if host.real:
        valid_in_comfyui(workflow, schemas, nodes_of(host))


def fits(node: dict[str, Any], inputs: dict[str, Any]) -> None:
    assert set(node["inputs"]) <= set(inputs)
    assert {name for name, each in inputs.items() if not each.optional} <= set(node["inputs"])
    for name, value in node["inputs"].items():
        given, low = inputs[name], getattr(inputs[name], "min", None)
        widget = getattr(given, "default", None) is not None
        assert isinstance(value, list) != widget, f"{name} is {value!r}"
        if low is not None:
            assert low <= value <= given.max
        if getattr(given, "options", None):
            assert value in given.options


def valid_in_comfyui(workflow: dict[str, Any], schemas: dict[str, Any], classes: list[Any]) -> None:
    """ComfyUI's own check, as it is made when a workflow is queued; files are taken to be there."""
    import asyncio

    import execution
    import folder_paths
    import nodes

    loop = asyncio.new_event_loop()
    loop.run_until_complete(nodes.init_builtin_extra_nodes())
    nodes.NODE_CLASS_MAPPINGS.update(zip(schemas, classes, strict=True))
    files = [value for node in workflow.values() for value in node["inputs"].values() if str(value).endswith("tensors")]
    listed, folder_paths.get_filename_list = folder_paths.get_filename_list, lambda _: files
    try:
        valid, error, _, errors = loop.run_until_complete(execution.validate_prompt("1", workflow, None))
    finally:
        folder_paths.get_filename_list = listed
    assert valid, (error, errors)


def test_folders_with_other_things_in_them_are_left_alone(tmp_path: Path, pack: Path) -> None:
    assert export.main([str(pack)]) == 0, "an earlier one is written anew"
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="holds 1 other files"):
        write_folder(tmp_path, {"nodes.py": ""}, marks=("nodes.py",))
    assert export.main([str(tmp_path)]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(UserError, match="is a file"):
        write_folder(tmp_path / "mine.txt", {}, marks=())


def test_a_copy_that_would_not_be_complete_is_not_made() -> None:
    with pytest.raises(ValueError, match="import it from the module that defines it"):
        standalone(["bridges.pixel.bridged"], rooms=["bridges.pixel"])
    names = standalone(["w2sd_video.core.sampling"], rooms=["w2sd_video.core"])
    assert {"sampling.py", "algorithms.py", "paths.py", "errors.py"} <= set(names)
