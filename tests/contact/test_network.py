"""Nothing is fetched for what lies here, and no code of a checkpoint is run: by the source, and by running programs.

Sockets are refused in all tests (tests/support/network.py); here the hub's client believes that it may use them.
"""

from __future__ import annotations

import ast
import re
import socket
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.conformance import families
from tests.conformance.families import FAMILIES, Family
from tests.support import programs
from tests.support import vbench_image_networks as nets
from tests.support.network import ATTEMPTS
from vbench_eval import network
from w2sd_video.errors import UserError
from w2sd_video.loading.describe import describe
from w2sd_video.loading.files import local_only

ROOT = Path(__file__).parents[2]
SOURCES = [file for room in ("w2sd_video", "bridges", "vbench_eval") for file in sorted((ROOT / room).rglob("*.py"))]
AUTO = re.compile(r"\bAuto(Model|Tokenizer|Config|Processor|ImageProcessor|FeatureExtractor|Pipeline)\w*")


def calls(file: Path, name: str) -> Iterator[ast.Call]:
    for node in ast.walk(_tree(file)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == name:
            yield node


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a user, who may use the network."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.delenv("TRANSFORMERS_OFFLINE")


def test_no_class_is_chosen_by_a_folder_and_no_code_of_one_is_run() -> None:
    assert [file.name for file in SOURCES if AUTO.search(_code(file))] == []
    told = [
        (file.name, ast.unparse(node.value))
        for file in SOURCES
        for node in ast.walk(_tree(file))
        if isinstance(node, ast.keyword) and node.arg == "trust_remote_code"
    ]
    assert told and {value for _, value in told} == {"False"}, told


@cache
def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


@cache
def _code(file: Path) -> str:
    tree = _tree(file)
    return " ".join(
        ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Name | ast.ImportFrom | ast.keyword)
    )


@pytest.mark.parametrize("name", ["from_pretrained", "from_single_file", "load_ip_adapter"])
def test_every_call_that_loads_says_whether_anything_may_be_fetched(name: str) -> None:
    for file in SOURCES:
        for call in calls(file, name) if name in file.read_text(encoding="utf-8") else ():
            told = ast.unparse(call)
            assert "local_files_only" in told or "**place" in told or "**settings" in told, f"{file}:{call.lineno}"


def test_one_module_alone_talks_to_anybody() -> None:
    talking = re.compile(
        r"hf_hub_download|snapshot_download|urlopen\(|requests\.|HfApi|list_repo|model_info|create_connection"
    )
    assert [str(file.relative_to(ROOT)) for file in SOURCES if talking.search(file.read_text())] == [
        "vbench_eval/network.py"
    ]


@pytest.mark.usefixtures("online")
def test_a_hub_that_does_not_answer_is_asked_once_and_refused_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[object] = []

    def silent(address: object, timeout: float) -> None:
        asked.append(address)
        raise TimeoutError

    monkeypatch.setattr(network.socket, "create_connection", silent)
    for name in network.PROXIES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    network.answers.cache_clear()
    try:
        for _ in range(2):
            with pytest.raises(network.Unreachable, match=r"config\.json of some/model .*the hub does not answer"):
                network.hub_file("some/model", "config.json")
        assert local_only("some/model") and network.hub_names("some/model") == []
        assert asked == [("huggingface.co", 443)]
    finally:
        network.answers.cache_clear()


@pytest.mark.usefixtures("online")
def test_a_path_is_never_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "answers", lambda address: True)
    assert not local_only("some-owner/some-model")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert local_only("some-owner/some-model")
    for given in (
        tmp_path,
        "./owner/model",
        "/owner/model",
        "~/owner",
        "../a",
        "a/b/c",
        "w2sd_video/loading",
        "x.safetensors",
    ):
        assert local_only(given), given


@pytest.mark.usefixtures("online")
@pytest.mark.parametrize("given", ["./not/there", "/not/there", "not/there.safetensors"])
def test_a_path_that_is_not_there_is_refused_and_not_looked_for_elsewhere(given: str) -> None:
    with pytest.raises(UserError, match="does not exist"):
        describe(given, "strong")


@pytest.mark.usefixtures("online")
@pytest.mark.parametrize(
    "family", [each for each in FAMILIES if "wan" not in each.words], ids=lambda family: family.name
)
def test_no_program_asks_the_network_for_what_is_here(family: Family, tmp_path: Path) -> None:
    families.make(family, tmp_path, tmp_path / "out", ["--methods", "w2sd", family.count, "1"])
    assert ATTEMPTS == []


@pytest.mark.usefixtures("online")
def test_scoring_with_local_weights_asks_the_network_for_nothing(tmp_path: Path) -> None:
    nets.save_pictures(nets.pictures(2, seed=1), tmp_path / "made", ["a cat-0.png", "a dog-0.png"])
    nets.save_clip(nets.clip(1), tmp_path / "clip")
    words = f"--metrics clip_t --weights clip_vit_b_32={tmp_path / 'clip'} --device cpu --output {tmp_path / 'out'}"
    assert programs.run(f"w2sd-vbench images {tmp_path / 'made'} {words}", tmp_path).code == 0
    lacking = programs.run(f"w2sd-vbench images {tmp_path / 'made'} --metrics aes --output {tmp_path / 'b'}", tmp_path)
    assert lacking.code in (1, 2)
    assert "by path" in lacking.err
    assert ATTEMPTS == []


def test_sockets_are_refused_here() -> None:
    with pytest.raises(OSError, match="no test goes onto the network"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)
    with pytest.raises(OSError, match="no test goes onto the network"):
        socket.getaddrinfo("huggingface.co", 443)
    ATTEMPTS.clear()  # these were meant
