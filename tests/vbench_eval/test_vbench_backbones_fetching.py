"""Downloads: continued where they were cut, verified, and never tried offline. The server is this machine's own."""

import hashlib
import io
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from vbench_eval.backbones import fetching
from vbench_eval.backbones import weights as table
from vbench_eval.backbones.fetching import download, fetch, fetchable_names, of_name
from vbench_eval.backbones.finding import Unavailable, find
from vbench_eval.errors import UserError

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


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """A machine without weights and without a proxy, whose environment does not forbid the network."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("VBENCH_EVAL_CACHE", "VBENCH_CACHE_DIR", "HF_HOME", "HF_HUB_CACHE", "TORCH_HOME", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path


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


def test_a_file_that_is_not_the_published_one_is_not_kept(server, machine, monkeypatch):
    server.files["/net"] = b"an error page"
    entry(monkeypatch, url=f"{server.address}/net", sha256=hashlib.sha256(BODY).hexdigest())
    with pytest.raises(Unavailable, match="the published file has"):
        fetch("musiq_spaq", offline=False, cache=machine / "ours")
    assert not (machine / "ours" / "net.pth").exists()


def test_an_address_that_does_not_answer_is_told_with_the_others(server, machine, monkeypatch):
    entry(monkeypatch, url=f"{server.address}/gone")
    with pytest.raises(Unavailable, match=r"HTTP Error 404.*net\.pth"):
        fetch("musiq_spaq", offline=False, cache=machine / "ours")


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
    import huggingface_hub

    files = {"config.json", "tokenizer.json", "pytorch_model.bin", "model.safetensors", "flax_model.msgpack"}
    hub = Hub(tmp_path, {"openai/clip-vit-base-patch32": files})
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hub)
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
    import huggingface_hub

    files = {"config.json", "model.safetensors"}
    hub = Hub(machine, {"facebook/dino-vitb16": files, "some/vit": files, "some/flow": {"deep/net.pth"}})
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hub)
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
    import huggingface_hub

    server.files["/net"] = BODY
    hub = Hub(machine, {})
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hub)
    entry(monkeypatch, url=f"{server.address}/net", hub="some/one", hub_file="net.pth")
    assert fetch("musiq_spaq", offline=False, cache=machine / "ours").read_bytes() == BODY
    assert hub.asked == ["net.pth"] and len(server.asked) == 1
    hub.files = {"some/one": {"net.pth"}}
    assert fetching.fetch("musiq_spaq", offline=False, cache=machine / "none").read_bytes() == b"{}"
