"""Where backbones are found, what is said when they are not, and the plug-in that stands in for AMT."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from vbench_eval import dimensions
from vbench_eval.backbones import weights as table
from vbench_eval.backbones.amt import AmtInterpolator
from vbench_eval.backbones.finding import find, places
from vbench_eval.backbones.hashing import content_sha256, sha256
from vbench_eval.backbones.loading import as_dtype, load_state, load_strictly, usable_device
from vbench_eval.backbones.registry import WEIGHTS_OF, Unavailable, inventory, resolve
from vbench_eval.errors import UserError
from vbench_eval.profiles import get_profile
from vbench_eval.video_info import VideoError


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


def test_places_are_looked_at_in_the_stated_order(machine, monkeypatch) -> None:
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
def test_vbenchs_own_cache_folder_is_used_as_it_stands(machine, name) -> None:
    path = put(machine / "home/.cache/vbench" / table.WEIGHTS[name].vbench)
    assert find(name) == path


@pytest.mark.parametrize("name", ["dino_vitb16", "clip_vit_b_32", "clip_vit_l_14", "dino_vits16", "pickscore"])
def test_folders_are_found_by_the_names_people_give_them_but_only_whole(machine, name) -> None:
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


def test_a_tokenizer_alone_is_enough_where_no_network_is_meant(machine) -> None:
    config = hub_file(machine, "laion/CLIP-ViT-H-14-laion2B-s32B-b79K", "config.json")
    assert find("clip_vit_h_14") == config.parent


def test_a_hub_id_of_weights_that_are_one_file_means_that_file(machine) -> None:
    file = hub_file(machine, "someone/RAFT-copy", "raft-things.pth")
    other = hub_file(machine, "someone/RAFT-copy", "sub/other.pth")
    assert find("musiq_spaq", "someone/RAFT-copy/sub/other.pth") == other
    with pytest.raises(UserError, match="sha256"):  # under the published name it must be the published file
        find("raft_things", "someone/RAFT-copy")
    assert find("raft_things", str(file.rename(file.with_name("tuned.pth")))).name == "tuned.pth"


def test_a_missing_file_is_told_with_name_size_licence_addresses_and_one_command() -> None:
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
def test_a_choice_that_cannot_be_is_refused_with_its_reason(choice, told) -> None:
    with pytest.raises(UserError, match=told):
        resolve("dynamic_degree", choice, profile="vbench")


def test_a_file_that_is_not_the_published_one_is_refused_by_both_hashes(machine) -> None:
    path = put(machine / "home/.cache/vbench/raft_model/models/raft-things.pth", b"abc")
    of_abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1
    with pytest.raises(UserError, match=rf"{path}.*{of_abc}.*fcfa4125d641"):
        find("raft_things")


def test_a_hash_is_computed_again_only_for_a_file_that_changed(machine) -> None:
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


def test_hash_of_a_folder_is_that_of_its_network_however_many_files(machine) -> None:
    whole = put(machine / "one/model.safetensors", b"abc")
    put(machine / "one/config.json", b"{}")
    assert content_sha256(whole.parent) == sha256(whole)
    for part in "12":
        put(machine / f"two/model-0000{part}-of-00002.safetensors", part.encode())
    before = content_sha256(machine / "two")
    put(machine / "two/model-00002-of-00002.safetensors", b"changed")
    assert len(before) == 64 and content_sha256(machine / "two") != before
    assert content_sha256(put(machine / "none/config.json").parent) == ""


def test_inventory_has_a_row_per_weights_of_every_dimension_and_says_what_is_here(machine) -> None:
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


def test_taking_stock_loads_neither_torch_nor_transformers() -> None:
    code = (
        "import sys; from vbench_eval.backbones.registry import inventory; inventory();"
        "assert not {'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent)


def test_dimension_without_weights_needs_no_backbone_and_takes_none() -> None:
    assert resolve("temporal_flickering", profile="fixed") is None
    with pytest.raises(UserError, match="needs no backbone"):
        resolve("temporal_flickering", "some/thing", profile="fixed")
    with pytest.raises(UserError, match=r"scene.*choose one of subject_consistency"):
        resolve("scene", profile="vbench")
    with pytest.raises(UserError, match="choose one of vbench, fixed"):
        resolve("dynamic_degree", profile="best")


def test_every_place_of_every_entry_can_be_named() -> None:
    for name, weights in table.WEIGHTS.items():
        assert weights.name == name and list(places(weights))
        assert weights.file or weights.hub
        assert weights.origins and all(origin.startswith("https://") for origin in weights.origins)
        assert weights.sha256 == "" or len(bytes.fromhex(weights.sha256)) == 32


# --- state files


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("ran"),))


def test_a_pickle_that_would_run_code_is_not_opened_unless_allowed(machine, monkeypatch) -> None:
    monkeypatch.chdir(machine)
    torch.save({"weight": torch.zeros(2), "evil": Evil()}, machine / "evil.pth")
    with pytest.raises(UserError, match="--allow-pickle"):
        load_state(machine / "evil.pth")
    assert not (machine / "ran").exists()
    with pytest.raises(UserError, match="a table with weight, evil"):  # opened, and not a state
        load_state(machine / "evil.pth", allow_pickle=True)
    assert (machine / "ran").exists()


def test_prefixes_and_wrappings_of_states_are_taken_off(machine) -> None:
    weight = torch.arange(3.0)
    for number, state in enumerate(
        ({"a.weight": weight}, {"module.a.weight": weight}, {"state_dict": {"module.a.weight": weight}, "epoch": 3})
    ):
        path = machine / f"{number}.pth"
        torch.save(state, path)
        found = load_state(path)
        assert list(found) == ["a.weight"] and torch.equal(found["a.weight"], weight)


@pytest.mark.parametrize("content", [b"", b"not a network", b"PK\x03\x04 cut"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_damaged_files_are_refused_by_name(machine, content, suffix) -> None:
    path = put(machine / f"damaged{suffix}", content)
    with pytest.raises(UserError, match=f"damaged{suffix}"):
        load_state(path)


def test_many_wrong_keys_are_counted_not_listed() -> None:
    with pytest.raises(
        UserError, match=r"missing: 0\.weight, 0\.bias, 1\.weight, 1\.bias, 2\.weight, 2\.bias and 2 more\)"
    ):
        load_strictly(nn.Sequential(*(nn.Linear(1, 1) for _ in range(4))), {}, source="it")


def test_types_and_devices_that_are_not_there_are_refused_with_those_that_are() -> None:
    assert as_dtype(None) is torch.float32 and as_dtype("bfloat16") is as_dtype(torch.bfloat16) is torch.bfloat16
    with pytest.raises(UserError, match="int8; choose one of float32, float16, bfloat16"):
        as_dtype("int8")
    for device in ("cuda:99", "nonsense"):
        with pytest.raises(UserError, match=f"{device}.*cpu always can"):
            usable_device(device)


# --- motion_smoothness and plug-ins


class Blend(nn.Module):
    """Keeps AMT's contract as an exported network does."""

    def forward(self, first: torch.Tensor, second: torch.Tensor, embt: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"imgt_pred": first + embt[0, 0, 0, 0] * (second - first)}


class Built(nn.Module):
    """Keeps AMT's contract as its own code does."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, first, second, embt, scale_factor=None, eval=False):
        assert scale_factor == 1.0 and eval is True and embt.shape == (1, 1, 1, 1)
        return {"imgt_pred": self.weight * (first + second) * embt}


class Constant:
    """A flow estimator of somebody's own."""

    name, pad_multiple = "constant", 1

    def __init__(self, device) -> None:
        self.device = device

    def flow(self, a, b):
        return torch.ones(len(a), 2, *a.shape[2:])

    def provenance(self):
        return {"id": "constant", "device": self.device}


def nothing() -> int:
    return 3


def pair(count: int = 2, height: int = 32, width: int = 48) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.rand(count, 3, height, width, generator=generator) for _ in range(2))
    return first, second


def test_without_a_plug_in_motion_smoothness_is_unavailable_and_the_licence_said() -> None:
    with pytest.raises(
        Unavailable, match=r"CC-BY-NC-4.0.*not for commercial use.*--backbone motion_smoothness=path:FILE"
    ):
        resolve("motion_smoothness", profile="vbench")


def test_an_exported_network_interpolates_once_it_is_trusted(machine) -> None:
    first, second = pair()
    half = torch.full((1, 1, 1, 1), 0.5)
    torch.jit.trace(Blend(), (first[:1], second[:1], half), strict=False).save(machine / "amt.pt")
    torch.export.save(torch.export.export(Blend(), (first[:1], second[:1], half)), machine / "amt.pt2")
    for name in ("amt.pt", "amt.pt2"):
        choice = f"path:{machine / name}"
        with pytest.raises(UserError, match=r"program.*--allow-pickle"):
            resolve("motion_smoothness", choice, profile="vbench")
        found = resolve("motion_smoothness", choice, profile="vbench", allow_pickle=True)
        assert isinstance(found, AmtInterpolator) and found.pad_multiple == 16
        torch.testing.assert_close(found.midpoint(first, second), (first + second) / 2, rtol=0, atol=1e-6)
        assert found.provenance()["commercial_ok"] is False and len(found.provenance()["sha256"]) == 64


def test_an_exported_network_that_cannot_take_a_size_fails_that_video_alone(machine) -> None:
    first, second = pair(1)
    torch.export.save(torch.export.export(Blend(), (first, second, torch.full((1, 1, 1, 1), 0.5))), machine / "amt.pt2")
    found = resolve("motion_smoothness", str(machine / "amt.pt2"), profile="vbench", allow_pickle=True)
    with pytest.raises(VideoError, match="64x32 with padding"):
        found.midpoint(*pair(1, 32, 64))


def test_a_bare_checkpoint_is_refused_because_the_network_is_not_ours(machine) -> None:
    torch.save({"state_dict": {"weight": torch.zeros(1)}}, machine / "amt-s.pth")
    with pytest.raises(UserError, match=r"no exported network.*CC-BY-NC-4\.0"):
        resolve("motion_smoothness", str(machine / "amt-s.pth"), profile="vbench", allow_pickle=True)


def test_a_function_may_build_the_network_or_the_whole_backbone() -> None:
    first, second = pair()
    found = resolve("motion_smoothness", f"{__name__}:Built", profile="vbench")
    torch.testing.assert_close(found.midpoint(first, second), (first + second) / 2, rtol=0, atol=1e-6)
    assert found.provenance()["file"] == f"{__name__}:Built"
    constant = resolve("dynamic_degree", f"{__name__}:Constant", profile="vbench", device="cpu")
    assert isinstance(constant, Constant) and constant.device == "cpu"
    assert dimensions.build("dynamic_degree", get_profile("vbench"), constant)


@pytest.mark.parametrize("dimension", ["dynamic_degree", "motion_smoothness", "imaging_quality"])
def test_a_function_that_makes_something_else_is_refused_by_the_protocol_it_lacks(dimension) -> None:
    kind = dimensions.BACKBONE_KINDS[dimension]
    with pytest.raises(UserError, match=f"returned a int.*needs a {kind}"):
        resolve(dimension, f"{__name__}:nothing", profile="vbench")


class Wrong(Built):
    def forward(self, first, second, embt, scale_factor=None, eval=False):
        return {"flow": first}


def test_a_network_that_does_not_return_a_frame_is_refused() -> None:
    with pytest.raises(UserError, match="returned NoneType for frames"):
        resolve("motion_smoothness", f"{__name__}:Wrong", profile="vbench").midpoint(*pair())
