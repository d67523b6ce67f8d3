"""The report of a quickstart: one page with all that was measured and what it looks like."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ocl.charts import Line, line_chart
from ocl.files import read_json
from ocl.report import Report, figure, picture
from rl_probes.progress import read_progress
from rl_probes.quickstart import tables
from rl_probes.quickstart.agents import ANIMATION, RUN
from rl_probes.quickstart.perception import PICTURE
from rl_probes.quickstart.rewards import EXAMPLE
from rl_probes.quickstart.slots import training_curve
from rl_probes.quickstart.subjects import Subject


def write_page(path: Path, folder: Path, subjects: Sequence[Subject], rows: tables.Rows) -> Path:
    """`folder` holds the finished stages."""
    report = Report("From images to agents")
    report.paragraph(
        "Slots were trained on random sprite scenes without labels and frozen; everything below reads those same "
        "vectors. Beside them stand an untrained model of the same architecture and the simulator's own object list."
    )
    report.table(tables.summary(rows, subjects))
    _slots(report, folder, subjects, rows)

    report.section("Properties")
    report.paragraph("What small probes read out of stored slots, and what they read out of another scene's slots.")
    report.table(tables.properties(rows, subjects))
    _rewards(report, folder, subjects, rows)
    _agents(report, folder, subjects, rows)

    report.section("How this was made")
    report.table(tables.times(rows))
    made = read_json(folder / "slots" / "manifest.json")
    facts = made["versions"] | {"commit": made["commit"] or "unknown", "seed": made["seed"]}
    report.paragraph("; ".join(f"{name} {value}" for name, value in facts.items()) + ".")
    report.paragraph("Every figure is a row of results.json beside this page; each step's folder holds its manifest.")
    return report.save(path)


def _slots(report: Report, folder: Path, subjects: Sequence[Subject], rows: tables.Rows) -> None:
    report.section("Slots")
    report.table(tables.segmentation(rows, subjects))
    curve = training_curve(folder / "slots")
    if curve:
        line = Line("trained here", [point["seconds"] / 60 for point in curve], [p["foreground_ari"] for p in curve])
        chart = line_chart([line], "minutes of training", "FG-ARI, validation scenes", (0.0, 1.0))
        report.figures(figure(chart))
    for one in subjects:
        path = folder / "perception" / one.name / PICTURE
        if path.is_file():
            caption = (
                f"{one.title.capitalize()}: held-out scenes, reconstructions, winning slots, then every slot by itself."
            )
            report.figures(figure(picture(path.read_bytes(), caption), caption))


def _rewards(report: Report, folder: Path, subjects: Sequence[Subject], rows: tables.Rows) -> None:
    report.section("Reward predictors")
    report.table(tables.rewards(rows, subjects))
    examples = {one.title: read_json(folder / "rewards" / one.name / EXAMPLE) for one in subjects}
    lines = [Line(title, range(len(example["true"])), example["predicted"]) for title, example in examples.items()]
    truth = next(iter(examples.values()))["true"]
    lines.append(Line("true progress", range(len(truth)), truth, dashed=True))
    report.figures(
        figure(line_chart(lines, "step", "progress", (0.0, 1.0)), "The longest held-out episode of Object Goal.")
    )


def _agents(report: Report, folder: Path, subjects: Sequence[Subject], rows: tables.Rows) -> None:
    report.section("Agents")
    report.table(tables.agents(rows, subjects))
    lines = []
    for one in subjects:
        progress = read_progress(folder / "agents" / one.name / RUN / "progress.csv")
        lines.append(Line(one.title, [point["steps"] for point in progress], [point["success"] for point in progress]))
    chance = rows["agent/random_policy/success"]["value"]
    last = max(x for line in lines for x in line.x)
    lines.append(Line("random policy", [0, last], [chance, chance], dashed=True))
    caption = "Object Comparison: success of the last 100 training episodes."
    report.figures(figure(line_chart(lines, "environment steps", "success", (0.0, 1.0)), caption))
    animations = []
    for one in subjects:
        path = folder / "agents" / one.name / ANIMATION
        if path.is_file():
            caption = f"{one.title.capitalize()}: a held-out episode beside the slots that paint it."
            animations.append(figure(picture(path.read_bytes(), caption, width=320), caption))
    report.figures(*animations)
