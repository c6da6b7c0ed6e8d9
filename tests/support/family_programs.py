"""The programs of the families, and their plans, as tests ask for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from w2sd_video.commands.app import family_named, run
from w2sd_video.commands.engine import make, plan_of
from w2sd_video.commands.plan import Cost, Plan
from w2sd_video.commands.request import Request
from w2sd_video.runs.progress import Progress
from w2sd_video.runs.runs import Summary


def image(words: Sequence[str]) -> int:
    """The exit code of `w2sd image`."""
    return run("image", words)


def video(words: Sequence[str]) -> int:
    """The exit code of `w2sd video`."""
    return run("video", words)


def image_request(**values: Any) -> Request:
    return Request("image", **values)


def video_request(**values: Any) -> Request:
    return Request("video", **values)


def planned(request: Request) -> Plan:
    """The plan of a request."""
    return plan_of(family_named(request.family), request)


def costs(plan: Plan) -> dict[str, Cost]:
    """What each method of a plan costs."""
    return dict(family_named(plan.family).cost(plan))


def generated(request: Request, *, progress: Progress | None = None, command: str = "") -> Summary:
    """What a run of a request came to."""
    return make(family_named(request.family), planned(request), progress=progress, command=command)[0]
