"""Which pictures a command works on, and the recipe for them."""

from __future__ import annotations

from pathlib import Path

from experiments.dataset_gap.pictures import Split, load_digits
from experiments.dataset_gap.recipe import CIFAR, DIGITS, Recipe


def load_source(cifar: Path | None) -> tuple[Recipe, Split]:
    """The digits, or a folder of CIFAR-10's Python batches.

    Raises:
        UserError: as of `load_digits` or `load_cifar`.
    """
    if cifar is None:
        return DIGITS, load_digits(DIGITS.majority, DIGITS.minority)
    from experiments.dataset_gap.cifar import load_cifar

    return CIFAR, load_cifar(cifar, CIFAR.majority, CIFAR.minority)
