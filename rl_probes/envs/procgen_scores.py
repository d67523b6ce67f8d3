"""What published tables of Procgen count as 0 and 1, and what random play gets."""

from __future__ import annotations

EASY: dict[str, tuple[float, float]] = {
    "bigfish": (1, 40),
    "bossfight": (0.5, 13),
    "caveflyer": (3.5, 12),
    "chaser": (0.5, 13),
    "climber": (2, 12.6),
    "coinrun": (5, 10),
    "dodgeball": (1.5, 19),
    "fruitbot": (-1.5, 32.4),
    "heist": (3.5, 10),
    "jumper": (1, 10),
    "leaper": (1.5, 10),
    "maze": (5, 10),
    "miner": (1.5, 13),
    "ninja": (3.5, 10),
    "plunder": (4.5, 30),
    "starpilot": (2.5, 64),
}
"""Game -> the returns R_min and R_max of easy levels (Cobbe et al. 2020): a score is (R - R_min) / (R_max - R_min).

R_min is not what random play gets: see `RANDOM`.
"""

RANDOM: dict[str, float] = {
    "bigfish": 0.84,
    "bossfight": 0.04,
    "caveflyer": 2.82,
    "chaser": 0.66,
    "climber": 2.42,
    "coinrun": 2.76,
    "dodgeball": 0.58,
    "fruitbot": -2.08,
    "heist": 3.05,
    "jumper": 2.97,
    "leaper": 2.14,
    "maze": 4.24,
    "miner": 1.22,
    "ninja": 2.29,
    "plunder": 4.41,
    "starpilot": 1.59,
}
"""Game -> mean return of random actions, measured with EnvPool 1.2.5 on easy levels without limit, 384 complete
episodes per game."""
