"""What counts allow to be said."""

from __future__ import annotations

import math

# Of the normal distribution: 95 % lie within so many standard deviations.
Z_95 = 1.959963984540054


def wilson_interval(successes: int, total: int, z: float = Z_95) -> tuple[float, float]:
    """The interval for a proportion after E. B. Wilson (1927): the shares that `successes` of `total` do not rule out.

    (0, 1) without data. Raises ValueError unless 0 <= successes <= total.
    """
    if not 0 <= successes <= total:
        raise ValueError(f"{successes} of {total} is no proportion")
    if total == 0:
        return 0.0, 1.0
    share = successes / total
    scale = 1 + z**2 / total
    centre = (share + z**2 / (2 * total)) / scale
    reach = z / scale * math.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    # The ends are exact at the edges, where rounding would leave a hair.
    return (0.0 if successes == 0 else centre - reach), (1.0 if successes == total else centre + reach)
