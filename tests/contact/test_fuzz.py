"""Thousands of damaged files, seeded: every reader refuses them in words, none ends in a traceback or hangs.

Each subject is a folder of good files with a reader; a case damages one of the files (bytes, or values of its JSON).
"""

from __future__ import annotations

import contextlib
import copy
import json
import random
import shutil
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from bridges.dit_moe.demo import WEIGHTS as DIT_MOE
from bridges.dit_moe.files import describe_checkpoint, vae_factor
from bridges.dit_moe.labels import read_labels
from bridges.pixel.family import FAMILY as BRIDGE
from bridges.pixel.mapped import Mapped
from vbench_eval.comparing import compare
from vbench_eval.errors import UserError as ScoringError
from vbench_eval.folders import read_folder
from vbench_eval.journal import merged, read_entries
from vbench_eval.manifest import _digest, read_manifest, sample, write_manifest
from vbench_eval.result_reading import read_report, read_results
from vbench_eval.suite import read_suite
from w2sd_video.commands.engine import check_words
from w2sd_video.commands.families.image import FAMILY as IMAGE
from w2sd_video.commands.families.video import FAMILY as VIDEO
from w2sd_video.commands.prompts import read_prompt_pairs, read_prompts
from w2sd_video.commands.sweep.scoring import _read as read_known
from w2sd_video.demo import PICTURE_WEIGHTS, WEIGHTS
from w2sd_video.errors import UserError
from w2sd_video.loading.describe import Weights, describe
from w2sd_video.loading.files import found_lora, read_safetensors_header
from w2sd_video.loading.fingerprints import fingerprint
from w2sd_video.runs.journal import Journal

REFUSALS = (UserError, ScoringError)
JSON_OF_MODELS = ("*/*.json", "*/*/config.json", "*/*/scheduler_config.json")
SECONDS = 3.0  # no case takes longer
DEEP = "@deep-{}@"
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 3, 10**30, -(10**9), 0.5, float("nan"), float("inf"), "", "x", "../../x", "\ud800"),
    *([], {}, [[]], [None], ["a", "b"], [1.5, "x"], {"a": 1}, [0], [-1, 10**18], "9" * 5000, "1e999", int("9" * 4000)),
    *(DEEP.format(depth) for depth in (200, 950, 3000, 100_000)),
)


@dataclass(frozen=True)
class Subject:
    """`write` makes the good files in a folder; `damage` says which of them are damaged; `read` reads them."""

    write: Callable[[Path], Any]
    read: Callable[[Path], Any]
    damage: tuple[str, ...]
    cases: int


def odd_bytes(data: bytes, chance: random.Random) -> bytes:
    """The bytes with a few flipped, cut out, repeated, put in, or with all of them replaced."""
    at = chance.randrange(len(data) + 1)
    match chance.randrange(8):
        case 0:
            return data[:at]
        case 1:
            changed = bytearray(data)
            for _ in range(chance.choice((1, 2, 8))):
                changed[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            return bytes(changed)
        case 2:
            return data[:at] + chance.randbytes(chance.choice((1, 4, 40))) + data[at:]
        case 3:
            return data[:at] + data[at + chance.choice((1, 8, 100)) :]
        case 4:
            return data[:at] + b"\xff\xfe\x80" + data[at:]
        case 5:
            return data + data[at:]
        case 6:
            return data[:at] + chance.choice((b"[", b'{"a":', b"\0", b'"', b"\n", b"1e999,", b"-")) * 2 + data[at:]
        case _:
            return chance.choice(
                (b"", b"[" * 100_000, b'{"a":' * 100_000, b"null", b"[]", b"{}", b"\xef\xbb\xbf", b"7")
            )


def odd_json(value: Any, chance: random.Random) -> str:
    """The JSON text of the value with one or two of its places replaced by something odd, left out, or renamed."""
    value = copy.deepcopy(value)
    for _ in range(chance.choice((1, 1, 2))):
        places = [*_places(value)]
        if not places:
            break
        holder, key = chance.choice(places)
        match chance.randrange(6):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[f"{key}x"] = holder.pop(key)
            case _:
                holder[key] = chance.choice(ODD)
    text = json.dumps(value)
    for depth in (200, 950, 3000, 100_000):
        opened, closed = chance.choice((("[", "]"), ('{"a":', "}")))
        inside = "1" if opened == '{"a":' else ""
        text = text.replace(json.dumps(DEEP.format(depth)), opened * depth + inside + closed * depth, 1)
    return text


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield value, key
        yield from _places(item)


def damaged(data: bytes, name: str, chance: random.Random) -> bytes:
    """One damaged version of a file: of its bytes, of its JSON, of a line of it, or of a safetensors header."""
    if chance.random() < 0.3 or not name.endswith((".json", ".jsonl", ".safetensors")):
        return odd_bytes(data, chance)
    if name.endswith(".json"):
        return odd_json(json.loads(data), chance).encode("utf-8")
    if name.endswith(".jsonl"):
        lines = data.splitlines()
        number = chance.randrange(len(lines))
        lines[number] = odd_json(json.loads(lines[number]), chance).encode("utf-8")
        return b"\n".join(lines) + b"\n"
    length = int.from_bytes(data[:8], "little")
    header = odd_json(json.loads(data[8 : 8 + length]), chance).encode("utf-8")
    told = chance.choice((len(header), len(header), len(header), length, 2**63, 2**40, 0))
    return told.to_bytes(8, "little") + header + data[8 + length :]


@contextmanager
def bounded(seconds: float) -> Iterator[None]:
    """Inside, what takes longer is ended by an error."""

    def late(number: int, frame: Any) -> None:
        raise TimeoutError(f"still reading after {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _copied(*sources: tuple[Path, str]) -> Callable[[Path], None]:
    """Copies folders of checkpoints: JSON is copied, weights are linked to."""

    def write(folder: Path) -> None:
        for source, name in sources:
            for file in source.rglob("*"):
                place = folder / name / file.relative_to(source)
                if file.is_dir():
                    place.mkdir(parents=True, exist_ok=True)
                elif file.suffix == ".safetensors":
                    place.parent.mkdir(parents=True, exist_ok=True)
                    place.symlink_to(file)
                else:
                    place.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(file, place)

    return write


def _pair_words(folder: Path) -> list[str]:
    return ["--strong", str(folder / "strong"), "--weak", str(folder / "weak"), "--prompt", "a cat", "--device", "cpu"]


def _plan(family: Any, *more: str) -> Callable[[Path], Any]:
    return lambda folder: check_words(family, [*_pair_words(folder), *more])


RUN = {
    "preset": "p",
    "pair": {"strong": {"guidance": 3.0}, "weak": {"loras": [["art", 0.5]]}},
    "device": "cpu",
    "settings": {"steps": 4, "size": [8, 8]},
    "prompts": ["a", "b"],
    "seeds": [0, 1],
    "dtype": "float32",
    "methods": ["w2sd"],
    "command": "x",
    "versions": {"torch": "1"},
    "notes": ["n"],
    "later_versions": [],
}
RECORD = {
    "method": "w2sd",
    "prompt": "a",
    "index": 0,
    "seed": 0,
    "path": "w2sd/a-0.png",
    "status": "done",
    "bytes": 3,
    "sha256": "0",
    "num_evaluations": 9,
    "num_rows": 9,
    "seconds": 0.5,
    "peak_memory_mb": 1.5,
    "choices": "sw",
}


def _run(folder: Path) -> None:
    (folder / "w2sd").mkdir()
    (folder / "w2sd" / "a-0.png").write_bytes(b"abc")
    (folder / "run.json").write_text(json.dumps(RUN))
    failed = {"method": "w2sd", "prompt": "b", "index": 0, "seed": 1, "status": "failed", "reason": "no"}
    (folder / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in (RECORD, failed)))


def _taken_up(folder: Path) -> None:
    with Journal(folder, RUN) as journal:
        journal.note("read again")
        journal.settle([("w2sd", "a", 0)])


def _results(folder: Path) -> None:
    videos = [{"video_path": f"a cat-{n}.mp4", "video_results": 0.5 + n / 10, "cnt_per_video": 7} for n in range(3)]
    pictures = [{"video_path": f"a cat-{n}.mp4", "video_results": 50.0 + n} for n in range(3)]
    data = {"subject_consistency": [0.6, videos], "imaging_quality": [0.51, pictures], "temporal_flickering": [0.9, []]}
    (folder / "a_eval_results.json").write_text(json.dumps(data))


def _report(folder: Path) -> None:
    for name in ("a", "b"):
        videos = [
            {
                "path": f"/x/{name}/a cat-{n}.mp4",
                "prompt": "a cat",
                "index": n,
                "error": None,
                "info": {"width": 8, "height": 8, "fps": 8.0, "frames": 9},
                "measured": {
                    "dynamic_degree": {"value": 1.0, "score": 1.0, "weight": 1.0, "extras": {}, "reason": None}
                },
                "generation": {"seed": n, "method": name},
            }
            for n in range(3)
        ]
        facts = {"aggregate": 1.0, "videos": 3, "status": "measured", "backbone": {"name": "raft"}, "reason": None}
        report = {
            "schema": 1,
            "name": name,
            "profile": "vbench",
            "mode": "custom_input",
            "folder": f"/x/{name}",
            "dimensions": {"dynamic_degree": facts},
            "skipped": [{"path": "z.mp4", "reason": "no"}],
            "notes": ["n"],
            "videos": videos,
        }
        (folder / f"{name}_report.json").write_text(json.dumps(report))


def _compared(folder: Path) -> None:
    reports = {name: read_report(folder / f"{name}_report.json") for name in ("a", "b")}
    compare(reports)


def _weights(folder: Path) -> None:
    tensors = {
        "unet.down.lora_A.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
        "unet.down.lora_B.weight": np.ones((4, 3), np.float16),
    }
    save_file(tensors, folder / "a.safetensors")


def _header(folder: Path) -> None:
    read_safetensors_header(folder / "a.safetensors")
    found_lora("art", str(folder / "a.safetensors"))
    assert Weights((folder / "a.safetensors",)).numel >= 0
    fingerprint(Weights((folder / "a.safetensors",)))


def _single_file(folder: Path) -> None:
    _copied((PICTURE_WEIGHTS / "weak", "config"))(folder)
    names = {
        "model.diffusion_model.input_blocks.0.0.weight": (4, 4, 3, 3),
        "model.diffusion_model.label_emb.0.0.weight": (4, 4),
        "first_stage_model.encoder.conv_in.weight": (2, 3),
        "conditioner.embedders.0.transformer.a.weight": (2, 2),
        "conditioner.embedders.1.model.a.weight": (2, 2),
    }
    unet = json.loads((folder / "config" / "unet" / "config.json").read_text())
    names["model.diffusion_model.input_blocks.0.0.weight"] = (unet["block_out_channels"][0], unet["in_channels"], 3, 3)
    save_file({name: np.zeros(shape, np.float16) for name, shape in names.items()}, folder / "a.safetensors")


def _sharded(folder: Path) -> None:
    _copied((PICTURE_WEIGHTS / "weak", "strong"), (PICTURE_WEIGHTS / "weak", "weak"))(folder)
    unet = folder / "strong" / "unet"
    (unet / "diffusion_pytorch_model.safetensors").rename(unet / "part-1.safetensors")
    index = {"metadata": {"total_size": 1}, "weight_map": {"conv_in.weight": "part-1.safetensors"}}
    (unet / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))


def _noise_map(folder: Path) -> None:
    facts = {"scale": 1.0, "reverse_scale": 1.0, "residual": 0.5, "num_pictures": 4, "num_cells": 9}
    Mapped(torch.eye(4), ratio=(1, 1), fingerprints=("a", "b"), **facts).save(folder / "map.safetensors")


def _prompt_files(folder: Path) -> None:
    (folder / "p.txt").write_text("a cat\n# no\na dog\n")
    (folder / "p.csv").write_text('prompt,seed\n"a cat, asleep",1\na dog,2\n')
    (folder / "p.json").write_text(json.dumps(["a cat", {"prompt": "a dog", "seed": 3}, {"prompt_en": "a fox"}]))
    (folder / "pairs.csv").write_text("refined,raw\na fine cat,a cat\na fine dog,a dog\n")
    (folder / "labels.json").write_text(json.dumps({"0": "tench, fish", "1": "goldfish"}))
    (folder / "vbench.json").write_text(json.dumps({"a cat-0.mp4": "a cat", "b.mp4": "a dog"}))
    for name in ("a cat-0.mp4", "b.mp4"):
        (folder / name).touch()


def _each(*readers: Callable[[Path], Any]) -> Callable[[Path], None]:
    """Calls all, each where those before it refused."""

    def read(folder: Path) -> None:
        for reader in readers:
            with contextlib.suppress(*REFUSALS):
                reader(folder)

    return read


def _swept(folder: Path) -> None:
    line = {"scorer": "oracle", "path": "w2sd/a-0.png", "mtime": 5, "size": 3, "score": 0.5}
    (folder / "scores.jsonl").write_text("".join(json.dumps({**line, "size": n}) + "\n" for n in range(2)))


def _manifest(folder: Path) -> None:
    entries = [{"prompt_en": f"a cat {n}", "dimension": ["subject_consistency", "color"]} for n in range(3)]
    (folder / "suite.json").write_text(json.dumps(entries))
    write_manifest(folder / "manifest.json", sample(read_suite(folder / "suite.json")))


def _signed(folder: Path) -> None:
    """A manifest's hash is no secret: what was edited may be signed again."""
    with contextlib.suppress(ValueError, RecursionError):
        data = json.loads((folder / "manifest.json").read_text())
        if isinstance(data, dict) and "sha256" in data:
            data["sha256"] = _digest({key: value for key, value in data.items() if key != "sha256"})
            (folder / "manifest.json").write_text(json.dumps(data))
    manifest = read_manifest(folder / "manifest.json")
    assert manifest.num_videos >= 0
    assert isinstance(manifest.ids, dict)


def _scores(folder: Path) -> None:
    line = {
        "path": "a.mp4",
        "size": 3,
        "mtime_ns": 4,
        "settings": {"dynamic_degree": "x"},
        "info": {"fps": 8.0},
        "measured": {"dynamic_degree": {"value": 1.0, "score": 1.0}},
        "error": None,
        "retry": [],
    }
    (folder / "a.jsonl").write_text("".join(json.dumps({**line, "size": n}) + "\n" for n in range(2)))


VIDEO_PAIR = _copied((WEIGHTS, "strong"), (WEIGHTS / "weak", "weak"))
SDXL = _copied((PICTURE_WEIGHTS / "weak", "strong"), (PICTURE_WEIGHTS / "weak", "weak"))
FLUX = _copied((PICTURE_WEIGHTS / "strong", "strong"), (PICTURE_WEIGHTS / "weak", "weak"))
SUBJECTS: dict[str, Subject] = {
    "run": Subject(_run, _taken_up, ("run.json", "results.jsonl"), 250),
    "results": Subject(_results, lambda folder: read_results(folder / "a_eval_results.json"), ("a_eval_*.json",), 150),
    "VBench's results": Subject(_results, read_report, ("a_eval_*.json",), 150),
    "reports": Subject(_report, _compared, ("a_report.json",), 150),
    "scores": Subject(_scores, lambda folder: list(merged(read_entries(folder), {"dynamic_degree": "x"})), ("*",), 100),
    "scores of a sweep": Subject(_swept, lambda folder: read_known(folder / "scores.jsonl"), ("*",), 100),
    "manifest": Subject(_manifest, _signed, ("manifest.json",), 100),
    "suite": Subject(_manifest, lambda folder: read_suite(folder / "suite.json").warnings(), ("suite.json",), 100),
    "folder": Subject(_run, lambda folder: read_folder(folder / "w2sd"), ("results.jsonl",), 100),
    "prompts": Subject(
        _prompt_files,
        _each(
            *(lambda folder, name=name: read_prompts(folder / name) for name in ("p.txt", "p.csv", "p.json")),
            lambda folder: read_prompt_pairs(folder / "pairs.csv"),
            lambda folder: read_labels(folder / "labels.json"),
            lambda folder: read_folder(folder, prompt_file=folder / "vbench.json"),
        ),
        ("*.txt", "*.csv", "*.json"),
        300,
    ),
    "header": Subject(_weights, _header, ("a.safetensors",), 150),
    "noise map": Subject(_noise_map, lambda folder: Mapped.load(folder / "map.safetensors"), ("*",), 100),
    "single file": Subject(
        _single_file,
        lambda folder: describe(str(folder / "a.safetensors"), "strong", config=str(folder / "config")).sizes,
        ("a.safetensors",),
        50,
    ),
    "shards": Subject(
        _sharded, lambda folder: describe(str(folder / "strong"), "strong").sizes, ("*/unet/*.index.json",), 50
    ),
    "images": Subject(SDXL, _plan(IMAGE), JSON_OF_MODELS, 125),
    "videos": Subject(VIDEO_PAIR, _plan(VIDEO, "--weak-guidance", "1", "--num-frames", "8"), JSON_OF_MODELS, 125),
    "bridge": Subject(FLUX, _plan(BRIDGE, "--noise-map", "fresh"), JSON_OF_MODELS, 125),
    "DiT-MoE": Subject(
        _copied((DIT_MOE, "net")),
        lambda folder: vae_factor(describe_checkpoint(str(folder / "net"), allow_pickle=False), None),
        ("net/*.json", "net/transformer/*.json", "net/vae/*.json"),
        100,
    ),
}


@pytest.mark.parametrize("name", SUBJECTS)
def test_damaged_files_are_refused_in_words(name: str, tmp_path: Path) -> None:
    subject = SUBJECTS[name]
    good = tmp_path / "good"
    good.mkdir()
    subject.write(good)
    subject.read(good)  # what is not damaged is read
    files = sorted({file for pattern in subject.damage for file in good.glob(pattern)})
    assert files
    kept = {name: (good / name).read_bytes() for name in ("run.json", "results.jsonl") if (good / name).is_file()}
    chance = random.Random(f"contact {name}")
    faults: dict[str, str] = {}
    for case in range(subject.cases):
        file = chance.choice(files)
        whole = file.read_bytes()
        data = damaged(whole, file.name, chance)
        file.unlink()  # a link to weights is replaced
        file.write_bytes(data)
        try:
            with bounded(SECONDS):
                subject.read(good)
        except REFUSALS as refusal:
            assert str(refusal).strip()
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            faults.setdefault(
                f"{type(error).__name__} at {place.filename}:{place.lineno}",
                f"{case}: {file.name}: {error!r:.200}: {data[:300]!r}",
            )
        file.write_bytes(whole)
        for name, content in kept.items():
            (good / name).write_bytes(content)
    assert not faults, "\n".join(f"{fault} ({example})" for fault, example in faults.items())
