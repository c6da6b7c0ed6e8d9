"""Where weights are found, how they are fetched and opened, and what is said when they are not there."""

import hashlib
import io
import json
import os
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

import pytest
import torch
from torch import nn

from vbench_eval import dimensions, network
from vbench_eval.backbones import fetching
from vbench_eval.backbones import weights as table
from vbench_eval.backbones.fetching import download, fetch, fetchable_names, of_name
from vbench_eval.backbones.finding import content_sha256, find, places, sha256
from vbench_eval.backbones.loading import as_dtype, load_state, load_strictly, usable_device
from vbench_eval.backbones.registry import WEIGHTS_OF, Unavailable, inventory, resolve
from vbench_eval.commands import main
from vbench_eval.errors import UserError
from vbench_eval.images import IMAGE_METRICS


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """A machine without weights, whose environment does not forbid the network: every place is an empty folder."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("VBENCH_EVAL_CACHE", "VBENCH_CACHE_DIR", "HF_HOME", "HF_HUB_CACHE", "TORCH_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
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
    told = ("raft-things.pth", "21 MB", "BSD-3-Clause", "python scripts/evaluate_vbench.py fetch raft_things")
    told += ("https://huggingface.co/ddrfan/RAFT/resolve/main/raft-things.pth", ".cache/vbench/raft_model/models")
    told += ("https://dl.dropboxusercontent.com/s/4j4z58wuv8o0mfz/models.zip",)
    assert [part for part in told if part not in str(error.value)] == [] and error.value.weights == "raft_things"


@pytest.mark.parametrize(
    ("dimension", "choice", "told"),
    [
        ("dynamic_degree", "/no/such/file.pth", "does not exist"),
        ("dynamic_degree", "path:someone/thing", "does not exist"),
        ("dynamic_degree", "someone/thing", "no path here.*hf download someone/thing raft-things.pth"),
        ("dynamic_degree", "no.such.module:factory", "cannot be imported"),
        ("dynamic_degree", "math:no_such_name", "cannot be imported"),
        ("dynamic_degree", "math:pi", "is a float, not a function"),
        ("temporal_flickering", "some/thing", "needs no backbone"),
        ("color", None, r"color.*choose one of subject_consistency"),
    ],
)
def test_a_choice_that_cannot_be_is_refused_with_its_reason(dimension, choice, told):
    with pytest.raises(UserError, match=told):
        resolve(dimension, choice, profile="vbench")
    assert resolve("temporal_flickering", profile="fixed") is None
    with pytest.raises(UserError, match="choose one of vbench, vbench-ngpus, fixed"):
        resolve("dynamic_degree", profile="best")


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
    rows = {row["backbone"]: row for row in inventory()}
    assert {row["dimension"] for row in rows.values()} <= set(dimensions.MEASURED) == set(WEIGHTS_OF)
    assert rows["musiq_spaq"]["found"] == str(path) and "sha256" in rows["raft_things"]["problem"]
    assert rows[None]["what"] == "needs no weights" and rows[None]["dimension"] == "temporal_flickering"
    amt, lacking = rows["amt_s"], rows["clip_vit_l_14"]
    assert amt["found"] is None and amt["licence"] == "CC-BY-NC-4.0" and amt["commercial_ok"] is False
    assert lacking["found"] is None and lacking["command"].endswith("fetch clip_vit_l_14")
    assert "1710 MB" in lacking["problem"]


def test_every_place_of_every_entry_can_be_named():
    for name, weights in table.WEIGHTS.items():
        assert weights.name == name and list(places(weights))
        assert weights.file or weights.hub
        assert weights.origins and all(origin.startswith("https://") for origin in weights.origins)
        assert weights.sha256 == "" or len(bytes.fromhex(weights.sha256)) == 32


BODY = bytes(range(256)) * 40_000  # more than one block


class Server:
    """Files by path; remembers the ranges that were asked for. May cut an answer short, or not know ranges."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str | None] = []
        self.cut: int | None = None
        self.ranges = True
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                wanted = self.headers.get("Range")
                owner.asked.append(wanted)
                body = owner.files.get(self.path)
                if body is None:
                    self.send_error(404)
                    return
                start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and owner.ranges else 0
                if start >= len(body):
                    self.send_error(416)
                    return
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(body) - start))
                self.end_headers()
                self.wfile.write(body[start:] if owner.cut is None else body[start : owner.cut])

            def log_message(self, *arguments: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


@pytest.fixture
def server():
    made = Server()
    yield made
    made.close()


def entry(monkeypatch, **changes) -> None:
    """Makes "musiq_spaq" an entry of our own server's."""
    plain = {"hub": "", "hub_file": "", "member": "", "sha256": ""}
    weights = table.Weights(**(vars(table.WEIGHTS["musiq_spaq"]) | plain | {"file": "net.pth"} | changes))
    monkeypatch.setitem(table.WEIGHTS, "musiq_spaq", weights)


def test_a_download_appears_under_its_name_only_when_complete(server, tmp_path):
    server.files["/net"] = BODY
    seen: list[tuple[str, int, int]] = []
    target = tmp_path / "deep" / "net.pth"
    names: list[bool] = []

    def progress(name: str, have: int, total: int) -> None:
        seen.append((name, have, total))
        names.append(target.exists())

    assert download(f"{server.address}/net", target, progress=progress) == target
    assert target.read_bytes() == BODY and not any(names)
    assert seen[-1] == ("net.pth", len(BODY), len(BODY)) and len(seen) > 5
    assert [path.name for path in target.parent.iterdir()] == ["net.pth"]


def test_a_download_that_was_cut_short_is_continued_where_it_ended(server, tmp_path):
    server.files["/net"], server.cut = BODY, 3_000_000
    target = tmp_path / "net.pth"
    with pytest.raises(OSError, match="3000000 of 10240000 bytes"):
        download(f"{server.address}/net", target)
    assert not target.exists()
    server.cut = None
    download(f"{server.address}/net", target)
    assert server.asked == [None, "bytes=3000000-"] and target.read_bytes() == BODY


@pytest.mark.parametrize("part", [BODY[:1000], BODY, BODY + b"too much"])
@pytest.mark.parametrize("ranges", [True, False])
def test_whatever_lies_in_the_part_file_the_result_is_the_whole_file(server, tmp_path, part, ranges):
    server.files["/net"], server.ranges = BODY, ranges
    (tmp_path / "net.pth.part").write_bytes(part)
    assert download(f"{server.address}/net", tmp_path / "net.pth").read_bytes() == BODY


def test_fetch_puts_the_file_where_it_is_found_from_then_on(server, machine, monkeypatch):
    server.files["/net"] = BODY
    entry(monkeypatch, url=f"{server.address}/net", sha256=hashlib.sha256(BODY).hexdigest())
    path = fetch("musiq_spaq", offline=False, cache=machine / "ours")
    assert path == machine / "ours" / "net.pth" == find("musiq_spaq", cache=machine / "ours")
    assert fetch("musiq_spaq", cache=machine / "ours") == path and len(server.asked) == 1  # found: not fetched again
    with pytest.raises(Unavailable):  # looking for weights that nobody named downloads nothing
        find("musiq_spaq", cache=machine / "other", offline=False)
    assert len(server.asked) == 1


def test_a_member_of_an_archive_is_taken_out_and_the_archive_dropped(server, machine, monkeypatch):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("models/other.pth", b"other")
        archive.writestr("models/net.pth", BODY)
    server.files["/models.zip"] = packed.getvalue()
    entry(monkeypatch, url=f"{server.address}/models.zip", member="models/net.pth")
    assert fetch("musiq_spaq", offline=False, cache=machine / "ours").read_bytes() == BODY
    assert [path.name for path in (machine / "ours").iterdir()] == ["net.pth"]


@pytest.mark.parametrize(
    ("path", "told"), [("net", "the published file has"), ("gone", r"HTTP Error 404.*net\.pth")], ids=["other", "gone"]
)
def test_a_file_that_is_not_the_published_one_or_not_there_is_told_and_not_kept(
    server, machine, monkeypatch, path, told
):
    server.files["/net"] = b"an error page"
    entry(monkeypatch, url=f"{server.address}/{path}", sha256=hashlib.sha256(BODY).hexdigest())
    with pytest.raises(Unavailable, match=told):
        fetch("musiq_spaq", offline=False, cache=machine / "ours")
    assert not (machine / "ours" / "net.pth").exists()


@pytest.mark.parametrize("way", ["argument", "environment"])
def test_nothing_is_asked_of_the_network_offline(server, monkeypatch, way):
    entry(monkeypatch, url=f"{server.address}/net")
    if way == "environment":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(Unavailable, match="offline"):
        fetch("musiq_spaq", offline=way == "argument")
    assert server.asked == []


def test_weights_that_are_of_no_use_alone_are_not_fetched():
    assert "amt_s" not in fetchable_names() and "raft_things" in fetchable_names()
    with pytest.raises(UserError, match=r"CC-BY-NC-4\.0.*not fetched"):
        fetch("amt_s", offline=False)
    with pytest.raises(UserError, match=r"no weights are called 'raft'; there are dino_vitb16, "):
        fetch("raft", offline=False)


class Hub:
    """Stands in for the hub's client: repositories as tables of files, which land in a folder."""

    def __init__(self, folder: Path, files: dict[str, set[str]]) -> None:
        self.folder, self.files, self.asked = folder, files, list[str]()

    def answers(self, monkeypatch: pytest.MonkeyPatch) -> Self:
        import huggingface_hub

        monkeypatch.setattr(network, "answers", lambda address: True)
        monkeypatch.setattr(huggingface_hub, "hf_hub_download", self)
        return self

    def __call__(self, repository: str, file: str) -> str:
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        self.asked.append(file)
        if repository not in self.files:
            raise LocalEntryNotFoundError("no connection")
        if file not in self.files[repository]:
            raise EntryNotFoundError(file)
        path = self.folder / repository / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"{}")
        return str(path)


def test_a_hub_folder_is_fetched_with_one_network_and_the_tokenizer_files_there_are(tmp_path, monkeypatch):
    files = {"config.json", "tokenizer.json", "pytorch_model.bin", "model.safetensors", "flax_model.msgpack"}
    hub = Hub(tmp_path, {"openai/clip-vit-base-patch32": files}).answers(monkeypatch)
    folder = fetch("clip_vit_b_32", offline=False)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    hub.files = {"facebook/dino-vitb16": {"config.json", "pytorch_model.bin"}}
    assert (fetch("dino_vitb16", offline=False) / "pytorch_model.bin").exists()
    with pytest.raises(Unavailable, match="no connection"):
        fetch("pickscore", offline=False)
    hub.files = {"yuvalkirstain/PickScore_v1": {"config.json"}}
    with pytest.raises(Unavailable, match=r"has none of model.safetensors, pytorch_model.bin"):
        fetch("pickscore", offline=False)


def test_a_hub_id_means_its_entry_of_the_table_or_whatever_the_hub_has_of_that_name(machine, monkeypatch):
    files = {"config.json", "model.safetensors"}
    hub = Hub(machine, {"facebook/dino-vitb16": files, "some/vit": files, "some/flow": {"deep/net.pth"}}).answers(
        monkeypatch
    )
    assert of_name("facebook/dino-vitb16").name == "dino_vitb16"
    assert of_name("xswu/HPSv2/HPS_v2.1_compressed.pt").name == "hps_v2.1"
    assert fetch("facebook/dino-vitb16", offline=False) == fetch("dino_vitb16", offline=False)
    assert (fetch("some/vit", offline=False) / "model.safetensors").is_file()
    assert fetch("some/flow/deep/net.pth", offline=False).name == "net.pth"
    asked = len(hub.asked)
    with pytest.raises(Unavailable, match=r"hf download some/flow deep/net\.pth"):
        fetch("some/flow/deep/net.pth", offline=True)
    with pytest.raises(UserError, match=r"xswu/HPSv2 holds hps_v2\.1 and hps_v2; name one"):
        fetch("xswu/HPSv2", offline=False)
    with pytest.raises(UserError, match=r"CC-BY-NC-4\.0.*not fetched"):
        fetch("lalala125/AMT", offline=False)
    assert len(hub.asked) == asked


def test_the_hub_is_tried_before_the_address_for_weights_that_have_both(server, machine, monkeypatch):
    server.files["/net"] = BODY
    hub = Hub(machine, {}).answers(monkeypatch)
    entry(monkeypatch, url=f"{server.address}/net", hub="some/one", hub_file="net.pth")
    assert fetch("musiq_spaq", offline=False, cache=machine / "ours").read_bytes() == BODY
    assert hub.asked == ["net.pth"] and len(server.asked) == 1
    hub.files = {"some/one": {"net.pth"}}
    assert fetching.fetch("musiq_spaq", offline=False, cache=machine / "none").read_bytes() == b"{}"


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("ran"),))


def test_a_pickle_that_would_run_code_is_not_opened_unless_allowed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": torch.zeros(2), "evil": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match="--allow-pickle"):
        load_state(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()
    with pytest.raises(UserError, match="a table with weight, evil"):  # opened, and not a state
        load_state(tmp_path / "evil.pth", allow_pickle=True)
    assert (tmp_path / "ran").exists()


def test_prefixes_and_wrappings_of_states_are_taken_off(tmp_path):
    weight = torch.arange(3.0)
    plain, wrapped = {"a.weight": weight}, {"module.a.weight": weight}
    for state in (plain, wrapped, {"state_dict": wrapped, "epoch": 3}):
        torch.save(state, tmp_path / "state.pth")
        found = load_state(tmp_path / "state.pth")
        assert list(found) == ["a.weight"] and torch.equal(found["a.weight"], weight)


@pytest.mark.parametrize("content", [b"", b"not a network", b"PK\x03\x04 cut"])
def test_damaged_files_are_refused_by_name(tmp_path, content):
    for suffix in (".pth", ".safetensors"):
        (tmp_path / f"damaged{suffix}").write_bytes(content)
        with pytest.raises(UserError, match=f"damaged{suffix}"):
            load_state(tmp_path / f"damaged{suffix}")


def test_many_wrong_keys_are_counted_not_listed():
    told = r"missing: 0\.weight, 0\.bias, 1\.weight, 1\.bias, 2\.weight, 2\.bias and 2 more\)"
    with pytest.raises(UserError, match=told):
        load_strictly(nn.Sequential(*(nn.Linear(1, 1) for _ in range(4))), {}, source="it")


def test_types_and_devices_that_are_not_there_are_refused_with_those_that_are():
    assert as_dtype(None) is torch.float32 and as_dtype("bfloat16") is as_dtype(torch.bfloat16) is torch.bfloat16
    with pytest.raises(UserError, match="int8; choose one of float32, float16, bfloat16"):
        as_dtype("int8")
    for device in ("cuda:99", "nonsense"):
        with pytest.raises(UserError, match=f"{device}.*cpu always can"):
            usable_device(device)


def test_doctor_says_for_every_dimension_and_metric_what_it_needs_and_where_to_get_it(capsys):
    assert main(["doctor", "--format", "json"]) == 0
    report = json.loads(capsys.readouterr().out)
    rows = report["weights"]
    assert {row["dimension"] for row in rows} == set(dimensions.MEASURED)
    for row in rows:
        assert row["found"] is None
        if row["dimension"] != "temporal_flickering":
            assert row["licence"] and row["size"] and row["where"] and (row["command"] or "plug-in" in row["problem"])
    rows = {row["backbone"]: row for row in report["picture_weights"]}
    assert set(rows) == {name for metric in IMAGE_METRICS.values() for name in metric.weights}
    assert rows["clip_vit_b_32"]["metrics"] == ["clip_t", "clip_i"] and rows["inception"]["metrics"] == ["fid", "is"]
    assert all(row["found"] is None and row["command"] for row in rows.values())
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert said.split("metrics of pictures:")[0].count("MISSING") == 20 and "CC-BY-NC-4.0, no commercial use" in said
    assert "fetch raft_things" in said and "fetch hps_v2.1" in said and "pickscore, hps_v2.1, hps_v2" in said


def test_fetch_offline_touches_no_network_and_says_where_to_get_what_is_missing(capsys, monkeypatch):
    import socket

    def refuse(*arguments: object) -> None:
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert main(["fetch", "table12", "--offline", "--format", "json"]) == 1
    weights = json.loads(capsys.readouterr().out)["weights"]
    assert [one["name"] for one in weights][-2:] == ["raft_things", "musiq_spaq"]
    assert all(one["path"] is None and "https://" in one["reason"] for one in weights)


def test_fetch_finds_what_is_here_already(tmp_path, capsys):
    (tmp_path / "sa_0_4_vit_l_14_linear.pth").write_bytes(b"weights")
    assert main(["fetch", "aesthetic_linear", "--offline", "--cache", str(tmp_path)]) == 0
    assert str(tmp_path / "sa_0_4_vit_l_14_linear.pth") in capsys.readouterr().out
