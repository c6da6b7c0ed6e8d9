"""The verbs about weights: what is here, what is missing and where to get it, without the network."""

import json

from tests.support import vbench_stand_ins
from vbench_eval.commands import main


def test_doctor_says_for_every_dimension_what_it_needs_and_where_to_get_it(capsys):
    assert main(["doctor", "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)["weights"]
    assert {row["dimension"] for row in rows} == {*vbench_stand_ins.ALL, "temporal_flickering"}
    for row in rows:
        assert row["found"] is None
        if row["dimension"] != "temporal_flickering":
            assert row["licence"] and row["size"] and row["where"] and (row["command"] or "plug-in" in row["problem"])
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert said.split("metrics of pictures:")[0].count("MISSING") == 7 and "CC-BY-NC-4.0, no commercial use" in said
    assert "fetch raft_things" in said


def test_doctor_says_which_weights_the_metrics_of_pictures_lack(capsys):
    from vbench_eval.images import IMAGE_METRICS

    assert main(["doctor", "--format", "json"]) == 0
    rows = {row["backbone"]: row for row in json.loads(capsys.readouterr().out)["picture_weights"]}
    assert set(rows) == {name for metric in IMAGE_METRICS.values() for name in metric.weights}
    assert rows["clip_vit_b_32"]["metrics"] == ["clip_t", "clip_i"] and rows["inception"]["metrics"] == ["fid", "is"]
    assert all(row["found"] is None and row["command"] for row in rows.values())
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "fetch hps_v2.1" in said and "pickscore, hps_v2.1, hps_v2" in said


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
