"""A stand-in for VBench's suite file: its layout, group sizes and traps, with prompts of our own."""

import json
from pathlib import Path

SIZES = {  # entries per group of the official file
    ("subject_consistency", "dynamic_degree", "motion_smoothness"): 72,
    ("overall_consistency", "aesthetic_quality", "imaging_quality"): 93,
    ("scene", "background_consistency"): 86,
    ("temporal_flickering",): 75,
    ("object_class",): 79,
    ("multiple_objects",): 82,
    ("human_action",): 100,
    ("color",): 85,
    ("spatial_relationship",): 84,
    ("appearance_style",): 90,
    ("temporal_style",): 100,
}
TWICE = ("a beach in the style of woodcuts", "the harbour, oil painting")  # in two groups each
CASES = ("A quiet landscape", "a quiet landscape")
CEDILLA = "façades in the rain"


def entries() -> list[dict]:
    """946 entries with 944 distinct prompts."""
    made = []
    for group, size in SIZES.items():
        for number in range(size):
            entry = {"prompt_en": f"{group[0].replace('_', ' ')} scene {number}.", "dimension": list(group)}
            if group == ("color",):
                entry["auxiliary_info"] = {"color": {"color": "red"}}
            made.append(entry)
    first = {entry["dimension"][0]: place for place, entry in reversed(list(enumerate(made)))}
    overall, style, scene = first["overall_consistency"], first["appearance_style"], first["scene"]
    for number, prompt in enumerate(TWICE):
        made[overall + number]["prompt_en"] = made[style + number]["prompt_en"] = prompt
    made[scene]["prompt_en"], made[scene + 1]["prompt_en"] = CASES
    made[scene + 2]["prompt_en"] = CEDILLA
    return made


def write(folder: Path, content: object = None, name: str = "VBench_full_info.json") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(entries() if content is None else content), encoding="utf-8")
    return path
