"""Pages from templates: everything is escaped, nothing comes from elsewhere, and all pages share `base.html`.

A package puts its templates into its folder `templates`, extends "base.html" (blocks: title, style, main, script), and
calls `render("its.html", package=__package__, ...)`. A name that is not passed is an error, not an empty text.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment

HERE = __name__.partition(".")[0]


def render(template: str, *, package: str = HERE, **values: Any) -> str:
    """Returns the page. `package` has the template; those of this package can be extended and imported from it."""
    return environment(package).get_template(template).render(**values)


@functools.cache
def environment(package: str = HERE) -> Environment:
    """The templates of a package, then those of this one; every value is escaped unless it is Markup."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    loaders = [PackageLoader(name) for name in dict.fromkeys((package, HERE))]
    made = Environment(
        loader=ChoiceLoader(loaders),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda value: visible(value) if type(value) is str else value,
    )
    made.filters["visible"] = visible
    return made


def visible(text: str) -> str:
    """The text with control characters shown as their pictures (HTML has no way to hold NUL)."""
    return "".join(chr(0x2400 + ord(c)) if ord(c) < 32 and c not in "\n\t" else c for c in text)
