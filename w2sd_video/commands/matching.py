"""Settings with which W2SD costs as much as plain sampling (section 5 of the paper; imports no torch)."""

from __future__ import annotations

from dataclasses import dataclass

from w2sd_video.errors import UserError

LEAST = 4  # below, not even one step would be reflected


@dataclass(frozen=True)
class Matched:
    """`steps` (T) and `reflections` (lambda) that cost about as much as `plain_steps` (N) steps of plain sampling."""

    plain_steps: int
    steps: int
    reflections: int

    @property
    def evaluations(self) -> int:
        """T + 2 lambda: N, or one or two fewer, as both halvings round down."""
        return self.steps + 2 * self.reflections

    def sentence(self) -> str:
        """What a program says of its choice."""
        return (
            f"matched to {self.plain_steps} evaluations: T {self.steps} and lambda {self.reflections}, "
            f"{self.evaluations} evaluations; without reflections {self.plain_steps} steps"
        )


def match_evaluations(count: int) -> Matched:
    """Returns T = floor(N / 2) and lambda = floor(T / 2) for N = `count` evaluations of plain sampling.

    The paper's own example for N = 50 has T = 24 and lambda = 12 (48 evaluations); its formula gives T = 25 (49).

    Raises:
        UserError: fewer than 4, or no whole number.
    """
    if isinstance(count, bool) or not isinstance(count, int) or count < LEAST:
        raise UserError(
            f"match evaluations is {count!r}; give the steps of plain sampling to match, a whole number from {LEAST} on"
        )
    steps = count // 2
    return Matched(count, steps, steps // 2)


def matched(count: int | None, *, steps: int | None, reflections: int | None) -> Matched | None:
    """Returns the settings for `count`, None for None.

    Raises:
        UserError: steps or reflections are given too: they are what matching chooses.
    """
    if count is None:
        return None
    for flag, given in (("--steps", steps), ("--reflections", reflections)):
        if given is not None:
            raise UserError(f"--match-evaluations chooses {flag} itself, and {flag} {given} is given; leave one out")
    return match_evaluations(count)
