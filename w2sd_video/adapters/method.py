"""The sampler of a hosted call and its settings."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Method:
    """The sampler and its settings: `name` is "w2sd" or "autoguided", the rest is as in `reflected`."""

    name: str = "w2sd"
    num_reflections: int | None = None
    mode: str = "paper"
    strength: float = 1.0
    first_order: bool = False

    def reflections(self, num_steps: int) -> int:
        if self.name == "autoguided":
            return 0
        return num_steps - 1 if self.num_reflections is None else self.num_reflections

    def evaluations(self, num_steps: int) -> int:
        return 2 * num_steps if self.name == "autoguided" else num_steps + 2 * self.reflections(num_steps)
