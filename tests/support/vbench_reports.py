"""Reports of scored videos, made for tests of comparisons, tables and pages."""


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
    facts = {"schema": 1, "name": "r", "profile": profile, "folder": "", "dimensions": dimensions or {}}
    return {**facts, "videos": list(videos)}
