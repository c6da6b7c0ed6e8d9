"""A small run's records, and its result files written and read back, for tests."""

import json

from vbench_eval.dimensions import Measured
from vbench_eval.results import VideoRecord, write_results

STAMP = {"profile": {"name": "vbench", "antialias": False}, "versions": {"torch": "2.13"}}
CUT = ("subject_consistency", "background_consistency", "dynamic_degree", "imaging_quality")


def measured(pairs=15, mean=0.9, moves=True, quality=64.0):
    return {
        "subject_consistency": Measured(mean, mean, pairs, {"acc_min_sim": 0.1}).as_json(),
        "background_consistency": Measured(
            mean, mean, pairs, {"video_sim": mean * pairs, "cnt_per_video": pairs}
        ).as_json(),
        "dynamic_degree": Measured(moves, float(moves), extras={"max_flow": [1.0]}).as_json(),
        "imaging_quality": Measured(quality, quality / 100).as_json(),
        "frozen_frames": Measured(0.25, 0.25).as_json(),
    }


def records():
    return [
        VideoRecord("b-0.mp4", "b", 0, {"fps": 8.0}, measured(3, 0.5, False, 40.0)),
        VideoRecord("a-0.mp4", "a", 0, {"fps": 8.0}, measured()),
    ]


def write(folder, given=None, **changes):
    arguments = {"dimensions": {key: {} for key in CUT}, "stamp": STAMP, "videos_path": "videos/w2sd", **changes}
    return write_results(folder, "run", records() if given is None else given, **arguments)


def load(path):
    def refuse(name):
        raise AssertionError(f"{name} in {path}")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
