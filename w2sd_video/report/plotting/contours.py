"""Lines of equal height on a grid (marching squares)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Segments = NDArray[np.float64]
"""[N, 2, 2]: the two ends (x, y) of each piece of a line."""


def contour(x: NDArray[np.float64], y: NDArray[np.float64], z: NDArray[np.float64], height: float) -> Segments:
    """Returns the line z = height of z [Y, X], linear along the edges of each cell.

    A cell whose diagonal corners are both above (a saddle) is split as if its middle were their mean.
    """
    above = z > height
    pieces: list[list[tuple[float, float]]] = []
    corners = above[:-1, :-1].astype(int) + above[:-1, 1:] + above[1:, 1:] + above[1:, :-1]
    for row, column in np.argwhere((corners > 0) & (corners < 4)):
        places = [(row, column), (row, column + 1), (row + 1, column + 1), (row + 1, column)]
        crossings = []
        for k in range(4):
            (r0, c0), (r1, c1) = places[k], places[(k + 1) % 4]
            if above[r0, c0] != above[r1, c1]:
                part = (height - z[r0, c0]) / (z[r1, c1] - z[r0, c0])
                crossings.append((x[c0] + part * (x[c1] - x[c0]), y[r0] + part * (y[r1] - y[r0])))
        if len(crossings) == 4:
            middle = z[row : row + 2, column : column + 2].mean() > height
            if bool(above[row, column]) == bool(middle):  # the corners above are joined: cut off the two others
                pieces += [[crossings[0], crossings[1]], [crossings[2], crossings[3]]]
            else:
                pieces += [[crossings[3], crossings[0]], [crossings[1], crossings[2]]]
        else:
            pieces.append(crossings)
    return np.asarray(pieces, dtype=float).reshape(-1, 2, 2)
