"""The tables of the report and the terminal, made from rows alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ocl.report import Cell, Table
from rl_probes.quickstart.stages import Row
from rl_probes.quickstart.subjects import Subject

Rows = Mapping[str, Row]
"""By name."""

PROBE = "mlp"
MEASURES = {"r2": "R²", "accuracy": "accuracy"}
ABSENT = "–"


def summary(rows: Rows, subjects: Sequence[Subject]) -> Table:
    """One column per subject: how well it segments, what can be read from it, what it is worth to others."""
    figures = {
        "FG-ARI": ("segmentation/{}/foreground_ari", "0.000"),
        "mIoU": ("segmentation/{}/mean_iou", ABSENT),
        "position R²": (f"probe/{{}}/position/{PROBE}/r2", "chance"),
        "color accuracy": (f"probe/{{}}/color/{PROBE}/accuracy", "chance"),
        "shape accuracy": (f"probe/{{}}/shape/{PROBE}/accuracy", "chance"),
        "EPIC ↓": ("reward/{}/epic", "0.707"),
        "agent, success": ("agent/{}/success", "agent/random_policy/success"),
    }
    lines: list[list[Cell]] = []
    for title, (name, chance) in figures.items():
        cells = [_cell(rows, name.format(one.name)) for one in subjects]
        if chance == "chance":
            chance = f"{rows[name.format('oracle')]['chance']:z.3f}"
        lines.append([title, *cells, _cell(rows, chance) if chance in rows else chance])
    caption = (
        "Held-out scenes and episodes; small: 95 % intervals over these, of one training run each. Position, color and "
        "shape are read by an MLP. EPIC: distance of predicted to true progress. Agents: Object Comparison."
    )
    return Table("From images to agents", ["", *(one.title for one in subjects), "chance"], lines, caption)


def segmentation(rows: Rows, subjects: Sequence[Subject]) -> Table:
    columns = {
        "FG-ARI": "foreground_ari",
        "ARI": "ari",
        "mBO": "mean_best_overlap",
        "mIoU": "mean_iou",
        "CorLoc": "corloc",
    }
    with_masks = [one for one in subjects if one.checkpoint is not None]
    lines = [
        [one.title, *(_cell(rows, f"segmentation/{one.name}/{metric}") for metric in columns.values())]
        for one in with_masks
    ]
    caption = "Decoder masks on held-out scenes, mean over scenes; small: 95 % intervals."
    return Table("Segmentation", ["encoder", *columns], lines, caption)


def properties(rows: Rows, subjects: Sequence[Subject]) -> Table:
    """Every property and measure; beneath a figure what the same probe scores on another scene's slots."""
    keys = dict.fromkeys(tuple(name.split("/")[2:]) for name in rows if name.startswith("probe/"))
    keys = {key: None for key in keys if key[2] != "balanced_accuracy"}  # of classes that are equally frequent
    lines = []
    for key in keys:
        found = [rows.get("/".join(["probe", one.name, *key])) for one in subjects]
        chance = next(one["chance"] for one in found if one is not None)
        cells = [ABSENT if one is None else (f"{one['value']:z.3f}", f"({one['shuffled']:z.3f})") for one in found]
        lines.append([f"{key[0]} {MEASURES[key[2]]}, {key[1]}", *cells, f"{chance:z.3f}"])
    caption = (
        "Linear and MLP probes on frozen slots, paired with objects by likelihood. In brackets, shuffled: the same "
        "probe on the slots of another scene. Chance: the best answer that sees no slots."
    )
    return Table("Properties read from slots", ["property", *(one.title for one in subjects), "chance"], lines, caption)


def rewards(rows: Rows, subjects: Sequence[Subject]) -> Table:
    columns = {
        "EPIC ↓": "epic",
        "steps ↓": "step_distance",
        "rank corr.": "spearman",
        "AUROC": "success_auroc",
    }
    controls = {"clock": "clock", "random": "noise", "constant": "constant"}
    names = {one.name: one.title for one in subjects} | controls
    lines = [
        [title, *(_cell(rows, f"reward/{name}/{metric}") for metric in columns.values())]
        for name, title in names.items()
        if f"reward/{name}/epic" in rows
    ]
    caption = (
        "A progress head on the slots of Object Goal against the true progress, on held-out episodes; small: 95 % "
        "intervals over episodes. EPIC (over states) and the same for single steps are 0.707 for unrelated rewards; "
        "AUROC: success by the last value. Clock, noise and constant see no slots."
    )
    return Table("Reward predictors", ["slots", *columns], lines, caption)


def agents(rows: Rows, subjects: Sequence[Subject]) -> Table:
    lines = []
    for name, title in [*((one.name, one.title) for one in subjects), ("random_policy", "random policy")]:
        cells = [_cell(rows, f"agent/{name}/success"), _cell(rows, f"agent/{name}/episode_length", ".1f")]
        cells += [_cell(rows, f"agent/{name}/{what}", ",.0f") for what in ("steps", "steps_per_second")]
        lines.append([title, *cells])
    columns = ["encoder", "success", "episode length", "training steps", "steps/s"]
    caption = (
        "PPO on frozen slots, Object Comparison, last policy with sampled actions, the same held-out episodes for all; "
        "small: 95 % intervals over episodes of one training run each."
    )
    return Table("Agents", columns, lines, caption)


def times(rows: Rows) -> Table:
    found = [row for name, row in rows.items() if name.startswith("time/")]
    lines = [[row["name"].removeprefix("time/"), f"{row['value']:,.0f}"] for row in found]
    return Table("Seconds", ["step", "seconds"], lines, "Several steps run side by side, so the whole takes less.")


def _cell(rows: Rows, name: str, form: str = "z.3f") -> Cell:
    row = rows.get(name)
    if row is None:
        return ABSENT
    value = format(row["value"], form)
    return (value, f"{row['low']:z.2f}..{row['high']:z.2f}") if "low" in row else value
