"""Class names of a class-conditional network: from a user's file, and from names to class ids."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from w2sd_video.errors import UserError, malformed


def read_labels(path: str | Path) -> dict[int, str]:
    """Returns {class id: names, comma between synonyms} from a file of class names.

    The file is JSON, an object by class id or a list, or text with one class per line, from class 0 on.

    Raises:
        UserError: it cannot be read, or is of another form.
    """
    if Path(path).exists() and not Path(path).is_file():  # a pipe would be waited for
        raise UserError(f"the labels file {path} is no file; give the path of an existing file")
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the labels file {path} cannot be read: {error}") from error
    if not text.lstrip().startswith(("{", "[")):
        return {i: line.strip() for i, line in enumerate(text.splitlines()) if line.strip()}
    with malformed(f"the labels file {path}", "write JSON by class id, or a name a line"):
        found = json.loads(text)
        pairs = found.items() if isinstance(found, dict) else enumerate(found)
        labels = {int(key): value for key, value in pairs}
    if not all(isinstance(value, str) for value in labels.values()):
        raise UserError(f'the labels file {path} has values that are no text; give {{"0": "name, synonym", ...}}')
    return labels


def names_of(id2label: Mapping[int, str]) -> dict[str, list[int]]:
    """Every name, in order, with the ids of the classes that have it (in ImageNet two classes are called "crane")."""
    ids: dict[str, list[int]] = {}
    for i, names in id2label.items():
        for name in dict.fromkeys(part.strip() for part in names.split(",")):
            ids.setdefault(name, []).append(int(i))
    return dict(sorted(ids.items()))


def ids_of(names: Sequence[str], id2label: Mapping[int, str]) -> list[int]:
    """Returns the class ids of `names`.

    Raises:
        UserError: a name that no class has, or more than one.
    """
    known = names_of(id2label)
    if not known:
        raise UserError(f"class {names[0]!r} is a name, and this pipeline has no labels; give ids, or id2label")
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=3)
            like = f" (like {', '.join(close)})" if close else ""
            raise UserError(f"no class is called {name!r}; give one of the labels{like}, or an id")
        if len(known[name]) > 1:
            listed = ", ".join(map(str, known[name]))
            raise UserError(f"{name!r} is the name of classes {listed}; give the id of one, or a name of its own")
    return [known[name][0] for name in names]
