"""Where the weights of backbones are found, and what is said when they are not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vbench_eval import dimensions
from vbench_eval.backbones import weights as table
from vbench_eval.backbones.finding import content_sha256, find, places, sha256
from vbench_eval.backbones.registry import WEIGHTS_OF, Unavailable, inventory, resolve
from vbench_eval.errors import UserError


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """A machine without weights: every place that is looked at lies in an empty folder."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("VBENCH_EVAL_CACHE", "VBENCH_CACHE_DIR", "HF_HOME", "HF_HUB_CACHE", "TORCH_HOME"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def put(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


MUSIQ = "musiq_spaq_ckpt-358bb6af.pth"


def hub_file(machine: Path, repository: str, name: str, revision: str = "c0ffee") -> Path:
    home = machine / "home/.cache/huggingface/hub" / f"models--{repository.replace('/', '--')}"
    put(home / "refs/main", revision.encode())
    return put(home / "snapshots" / revision / name)


def test_places_are_looked_at_in_the_stated_order(machine, monkeypatch):
    cache, vbench = machine / "ours", machine / "theirs"
    monkeypatch.setenv("VBENCH_EVAL_CACHE", str(cache))
    monkeypatch.setenv("VBENCH_CACHE_DIR", str(vbench))
    given = put(machine / "mine.pth")
    order = [
        hub_file(machine, "chaofengc/IQA-PyTorch-Weights", MUSIQ),
        put(machine / "home/.cache/torch/hub/pyiqa" / MUSIQ),
        put(vbench / "pyiqa_model" / MUSIQ),
        put(cache / MUSIQ),
        put(machine / "other" / MUSIQ),
    ]
    assert find("musiq_spaq", str(given)) == find("musiq_spaq", f"path:{given}") == given
    assert find("musiq_spaq", cache=machine / "other") == order[4]
    for last in (3, 2, 1, 0):
        assert find("musiq_spaq") == order[last]
        order[last].unlink()
    with pytest.raises(Unavailable):
        find("musiq_spaq")


@pytest.mark.parametrize("name", [n for n, w in table.WEIGHTS.items() if w.vbench and not w.sha256])
def test_vbenchs_own_cache_folder_is_used_as_it_stands(machine, name):
    path = put(machine / "home/.cache/vbench" / table.WEIGHTS[name].vbench)
    assert find(name) == path


@pytest.mark.parametrize("name", ["dino_vitb16", "clip_vit_b_32", "clip_vit_l_14", "dino_vits16", "pickscore"])
def test_folders_are_found_by_the_names_people_give_them_but_only_whole(machine, name):
    hub = table.WEIGHTS[name].hub
    cache = machine / "ours"
    for folder in (name, hub.replace("/", "--"), hub.partition("/")[2]):
        put(cache / folder / "config.json")
        with pytest.raises(Unavailable):
            find(name, cache=cache)
        whole = put(cache / folder / "model.safetensors")
        assert find(name, cache=cache) == cache / folder
        whole.unlink()
    config = hub_file(machine, hub, "config.json")
    with pytest.raises(Unavailable):
        find(name)
    put(config.parent / "pytorch_model.bin")
    assert find(name) == find(name, hub) == config.parent


def test_a_tokenizer_alone_is_enough_where_no_network_is_meant(machine):
    config = hub_file(machine, "laion/CLIP-ViT-H-14-laion2B-s32B-b79K", "config.json")
    assert find("clip_vit_h_14") == config.parent


def test_a_hub_id_of_weights_that_are_one_file_means_that_file(machine):
    file = hub_file(machine, "someone/RAFT-copy", "raft-things.pth")
    other = hub_file(machine, "someone/RAFT-copy", "sub/other.pth")
    assert find("musiq_spaq", "someone/RAFT-copy/sub/other.pth") == other
    with pytest.raises(UserError, match="sha256"):  # under the published name it must be the published file
        find("raft_things", "someone/RAFT-copy")
    assert find("raft_things", str(file.rename(file.with_name("tuned.pth")))).name == "tuned.pth"


def test_a_missing_file_is_told_with_name_size_licence_addresses_and_one_command():
    with pytest.raises(Unavailable) as error:
        resolve("dynamic_degree", profile="vbench")
    message = str(error.value)
    for part in (
        "raft-things.pth",
        "21 MB",
        "BSD-3-Clause",
        "https://huggingface.co/ddrfan/RAFT/resolve/main/raft-things.pth",
        "https://dl.dropboxusercontent.com/s/4j4z58wuv8o0mfz/models.zip",
        "python scripts/evaluate_vbench.py fetch raft_things",
        ".cache/vbench/raft_model/models",
    ):
        assert part in message, message
    assert error.value.weights == "raft_things"


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        ("/no/such/file.pth", "does not exist"),
        ("path:someone/thing", "does not exist"),
        ("someone/thing", "no path here.*hf download someone/thing raft-things.pth"),
        ("no.such.module:factory", "cannot be imported"),
        ("math:no_such_name", "cannot be imported"),
        ("math:pi", "is a float, not a function"),
    ],
)
def test_a_choice_that_cannot_be_is_refused_with_its_reason(choice, told):
    with pytest.raises(UserError, match=told):
        resolve("dynamic_degree", choice, profile="vbench")


def test_a_file_that_is_not_the_published_one_is_refused_by_both_hashes(machine):
    path = put(machine / "home/.cache/vbench/raft_model/models/raft-things.pth", b"abc")
    of_abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1
    with pytest.raises(UserError, match=rf"{path}.*{of_abc}.*fcfa4125d641"):
        find("raft_things")


def test_a_hash_is_computed_again_only_for_a_file_that_changed(machine):
    cache = machine / "ours"
    cache.mkdir()
    path = put(machine / "file", b"abc")
    first = sha256(path, cache=cache)
    assert str(path) in (cache / "sha256.json").read_text()
    written = path.stat().st_mtime_ns
    put(path, b"abd")
    os.utime(path, ns=(written, written))  # to size and time the same file: it is not read again
    assert sha256(path, cache=cache) == first
    os.utime(path, ns=(written, written + 1_000_000))
    assert sha256(path, cache=cache) != first
    assert sha256(put(machine / "elsewhere", b"abc"), cache=machine / "absent") == first


def test_hash_of_a_folder_is_that_of_its_network_however_many_files(machine):
    whole = put(machine / "one/model.safetensors", b"abc")
    put(machine / "one/config.json", b"{}")
    assert content_sha256(whole.parent) == sha256(whole)
    for part in "12":
        put(machine / f"two/model-0000{part}-of-00002.safetensors", part.encode())
    before = content_sha256(machine / "two")
    put(machine / "two/model-00002-of-00002.safetensors", b"changed")
    assert len(before) == 64 and content_sha256(machine / "two") != before
    assert content_sha256(put(machine / "none/config.json").parent) == ""


def test_inventory_has_a_row_per_weights_of_every_dimension_and_says_what_is_here(machine):
    path = put(machine / "home/.cache/vbench/pyiqa_model" / MUSIQ)
    put(machine / "home/.cache/vbench/raft_model/models/raft-things.pth", b"cut short")
    rows = {(row["dimension"], row["backbone"]): row for row in inventory()}
    assert {dimension for dimension, _ in rows} == set(dimensions.OFFICIAL) == set(WEIGHTS_OF)
    assert rows["imaging_quality", "musiq_spaq"]["found"] == str(path)
    assert rows["temporal_flickering", None]["what"] == "needs no weights"
    assert "sha256" in rows["dynamic_degree", "raft_things"]["problem"]
    amt = rows["motion_smoothness", "amt_s"]
    assert amt["found"] is None and amt["licence"] == "CC-BY-NC-4.0" and amt["commercial_ok"] is False
    lacking = rows["aesthetic_quality", "clip_vit_l_14"]
    assert (
        lacking["found"] is None
        and lacking["command"].endswith("fetch clip_vit_l_14")
        and "1710 MB" in lacking["problem"]
    )


def test_taking_stock_loads_neither_torch_nor_transformers():
    code = (
        "import sys; from vbench_eval.backbones.registry import inventory; inventory();"
        "assert not {'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).resolve().parents[2])


def test_dimension_without_weights_needs_no_backbone_and_takes_none():
    assert resolve("temporal_flickering", profile="fixed") is None
    with pytest.raises(UserError, match="needs no backbone"):
        resolve("temporal_flickering", "some/thing", profile="fixed")
    with pytest.raises(UserError, match=r"scene.*choose one of subject_consistency"):
        resolve("scene", profile="vbench")
    with pytest.raises(UserError, match="choose one of vbench, fixed"):
        resolve("dynamic_degree", profile="best")


def test_every_place_of_every_entry_can_be_named():
    for name, weights in table.WEIGHTS.items():
        assert weights.name == name and list(places(weights))
        assert weights.file or weights.hub
        assert weights.origins and all(origin.startswith("https://") for origin in weights.origins)
        assert weights.sha256 == "" or len(bytes.fromhex(weights.sha256)) == 32
