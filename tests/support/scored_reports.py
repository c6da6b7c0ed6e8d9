"""Reports of scored videos, made for tests of comparisons."""

import random


def measured(value, *, score=None, weight=1.0, **extras):
    score = None if value is None else float(value) if score is None else score
    return {"value": value, "score": score, "weight": weight, "extras": extras, "reason": None}


def video(prompt, index=0, *, seed=None, path=None, **values):
    return {
        "path": path or f"{prompt}-{index}.mp4",
        "prompt": prompt,
        "index": index,
        "info": {},
        "error": None,
        "generation": {} if seed is None else {"seed": seed},
        "measured": {name: value if isinstance(value, dict) else measured(value) for name, value in values.items()},
    }


def report(videos, *, profile="vbench", dimensions=None):
    return {
        "schema": 1,
        "name": "r",
        "profile": profile,
        "folder": "",
        "dimensions": dimensions or {},
        "videos": videos,
    }


def suite(count=200, *, dynamic=0.45, consistency=0.914, spread=0.02, seed=0, **others):
    """A report of `count` prompts: exactly round(dynamic * count) dynamic videos, consistencies around a mean."""
    generator = random.Random(seed)
    videos = []
    for n in range(count):
        prompt_level = random.Random(n).gauss(
            0, spread
        )  # the same for every method: prompts differ, methods share them
        videos.append(
            video(
                f"prompt {n}",
                subject_consistency=consistency + prompt_level + generator.gauss(0, spread / 2),
                dynamic_degree=n < round(dynamic * count),
                **{name: value + generator.gauss(0, 0.01) for name, value in others.items()},
            )
        )
    return report(videos)


def kinds(comparison):
    return [one.kind for one in comparison.warnings]


def row(comparison, name):
    return next(row for row in comparison.rows if row.name == name)
