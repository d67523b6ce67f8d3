"""Sprite tasks by name: difficulties such as "object comparison N4C3S2S1", and the sets that no agent was trained on.

The sets are those of Yoon et al. (ICML 2023). "Unseen by the agent" means colours and shapes that encoders pretrained
on `SpriteScenes` know; "unseen" alone means that those do not know them either. Slot encoders that can change K take
the number of objects + 2 where that number changes.
"""

from __future__ import annotations

from itertools import combinations

from ocl.data.sprites import COLORS, SHAPES
from rl_probes.envs.mixture import Mixture
from rl_probes.envs.push import Push
from rl_probes.envs.tasks import ObjectComparison, ObjectGoal, PropertyComparison, Task

FAMILIES: dict[str, tuple[type[Task], str]] = {
    "object goal": (ObjectGoal, "N4C4S3S1"),
    "push": (Push, "N3C4S1S1"),
    "object comparison": (ObjectComparison, "N4C2S2S1"),
    "property comparison": (PropertyComparison, "N4C2S2S1"),
}
"""What tasks are called, and the difficulty that agents are trained on."""

UNSEEN_COLORS = {
    "1 color unseen": ("blue", "green", "yellow", "pink"),
    "2 colors unseen": ("blue", "green", "brown", "pink"),
    "3 colors unseen": ("blue", "cyan", "brown", "pink"),
}
"""Of the goal and push tasks, where blue has a meaning."""

UNSEEN_LOOKS = {
    "1 color unseen by the agent": (("blue", "yellow"), SHAPES[:2]),
    "2 colors unseen by the agent": (("red", "yellow"), SHAPES[:2]),
    "1 shape unseen by the agent": (COLORS[:2], ("star_4", "triangle")),
    "2 shapes unseen by the agent": (COLORS[:2], ("star_4", "circle")),
    "1 color unseen": (("blue", "pink"), SHAPES[:2]),
    "2 colors unseen": (("cyan", "pink"), SHAPES[:2]),
    "1 shape unseen": (COLORS[:2], ("star_5", "triangle")),
    "2 shapes unseen": (COLORS[:2], ("star_5", "spoke_4")),
}
"""Colours and shapes of the comparison tasks."""


def task_of(name: str) -> Task:
    """The task called `name`: a family ("object comparison"), alone in its published difficulty; followed by another
    difficulty ("object comparison N4C3S2S1"); or by a set ("object comparison, 2 colors unseen"; see
    `out_of_distribution` and, for property comparison, `held_out_pairs`).

    Raises:
        ValueError: no such family, difficulty or set.
    """
    family = next((known for known in FAMILIES if name == known or name.startswith((f"{known} ", f"{known},"))), None)
    if family is None:
        raise ValueError(f"a task's name begins with {', '.join(FAMILIES)}; got {name!r}.")
    rest = name.removeprefix(family)
    if rest.startswith(","):
        sets = out_of_distribution(family) | (held_out_pairs() if family == "property comparison" else {})
        if name not in sets:
            known = "; ".join(known.removeprefix(f"{family}, ") for known in sets)
            raise ValueError(f"{family} has the sets {known}; got {name!r}.")
        return sets[name]
    kind, published = FAMILIES[family]
    return kind.of_difficulty(rest.strip() or published)


def out_of_distribution(family: str) -> dict[str, Task]:
    """Name -> task, the published sets of one of the `FAMILIES`; for evaluation only. Numbers of objects include the
    one of training.

    Raises:
        ValueError: no such family.
    """
    if family not in FAMILIES:
        raise ValueError(f"a family of tasks is one of {', '.join(FAMILIES)}; got {family!r}.")
    kind, published = FAMILIES[family]
    counts = (1, 2, 3, 4) if kind is Push else (3, 4, 5, 6)
    sets: dict[str, Task] = {}
    for count in counts:
        sets[f"{count} object" + "s" * (count > 1)] = kind.of_difficulty(f"N{count}{published[2:]}")
    if kind is Push:
        sets |= {name: Push(colors=colors) for name, colors in UNSEEN_COLORS.items()}
    elif kind is ObjectGoal:
        sets |= {name: ObjectGoal(colors=colors) for name, colors in UNSEEN_COLORS.items()}
    else:
        comparison = ObjectComparison if kind is ObjectComparison else PropertyComparison
        sets |= {name: comparison(4, colors, shapes) for name, (colors, shapes) in UNSEEN_LOOKS.items()}
    return {f"{family}, {name}": task for name, task in sets.items()}


def held_out_pairs() -> dict[str, Task]:
    """Property comparison of four squares in two of three colours: per pair of colours the task for training, in which
    the two never meet, and the one for evaluation, in which only they do.

    The other pairs are equally likely here; in the original each colour is equally likely to be the odd one, which
    draws the pairs alike but not who of a pair stands alone.
    """
    tasks: dict[str, Task] = {}
    pairs = list(combinations(COLORS[:3], 2))
    for pair in pairs:
        others = [PropertyComparison(4, colors, SHAPES[:1]) for colors in pairs if colors != pair]
        both = " and ".join(pair)
        tasks[f"property comparison, {both} never together"] = Mixture(others)
        tasks[f"property comparison, only {both} together"] = PropertyComparison(4, pair, SHAPES[:1])
    return tasks
