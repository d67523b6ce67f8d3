"""The report of a benchmark of rewards: tables, predictions along an episode, and which slots they rest on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ocl.charts import Line, line_chart
from ocl.files import read_json
from ocl.manifest import commit, versions
from ocl.report import Report, Table, as_png, figure, picture
from ocl.representations import ObjectEncoder
from ocl.shapes import Batch
from rl_probes.evaluate_rewards import FURTHER_METRICS, METRICS
from rl_probes.reward_benchmark.cell import CONTROLS, SCORES, Cell, Row, example_frames
from rl_probes.reward_benchmark.stored import StoredTask

COLUMNS = {
    "epic": "EPIC ↓",
    "step_distance": "steps ↓",
    "spearman": "Spearman ↑",
    "kendall": "Kendall ↑",
    "order_forward": "order ↑",
    "order_backward": "backwards ↓",
    "direction_accuracy": "direction ↑",
    "success_auroc": "AUROC ↑",
    "success_calibration": "ECE ↓",
    "order_leak": "order leak ↓",
}
FOR, AGAINST = (255.0, 140.0, 30.0), (60.0, 140.0, 255.0)
"""Colours of slots that raise the prediction and of those that lower it."""


def tables(rows: Sequence[Row]) -> list[Table]:
    """One per task and encoder: a line per predictor, the mean over seeds with the lowest and highest of them."""
    meaning = METRICS | FURTHER_METRICS
    caption = "; ".join(f"{COLUMNS[name]}: {what}" for name, what in meaning.items()) + (
        "; order leak: change under another order of the slots, in deviations of the prediction."
    )
    found = []
    for task, encoder in dict.fromkeys((row["task"], row["encoder"]) for row in rows):
        own = [row for row in rows if (row["task"], row["encoder"]) == (task, encoder)]
        lines = []
        for name in dict.fromkeys(row["predictor"] for row in own):
            line: list[str | tuple[str, str]] = [name]
            for measure in COLUMNS:
                values = [row["value"] for row in own if (row["predictor"], row["measure"]) == (name, measure)]
                line.append(_cell(values))
            lines.append(line)
        found.append(Table(f"{task}, {encoder} slots", ["predictor", *COLUMNS.values()], lines, caption))
    return found


def write_page(
    path: Path,
    rows: Sequence[Row],
    cells: Sequence[Cell],
    tasks: Mapping[str, StoredTask],
    encoders: Mapping[str, ObjectEncoder],
    image_size: int,
) -> Path:
    report = Report("Which reward do slots give?")
    report.paragraph(
        "Every predictor was made from training episodes and measured on all steps of other episodes, good and bad "
        "together. The constant, the random and the clock know nothing of the frames: a measure on which one of them "
        "does well rewards something else. Chance is 0.707 for distances and 0.5 for AUROC and direction."
    )
    for table in tables(rows):
        report.section(table.title)
        report.table(table)
        task, encoder = next((c.task, c.encoder) for c in cells if table.title == f"{c.task}, {c.encoder} slots")
        own = [cell for cell in cells if (cell.task, cell.encoder) == (task, encoder)]
        first = [cell for cell in own if cell.seed == own[0].seed and (cell.folder / SCORES).is_file()]
        if first:
            _episode(report, first, tasks[task].split("test"), encoders[encoder], image_size)
    report.section("How this was made")
    facts = versions() | {"commit": commit() or "unknown"}
    report.paragraph("; ".join(f"{name} {value}" for name, value in facts.items()) + ".")
    return report.save(path)


def _episode(report: Report, cells: Sequence[Cell], task: StoredTask, encoder: ObjectEncoder, image_size: int) -> None:
    """Predictions along the example episode, and under it frames with the share of every slot."""
    recording, _ = task.encode(encoder, image_size)
    frames = example_frames(recording)
    episode = np.flatnonzero(recording.episode == recording.episode[frames[0]])
    steps = recording.step[episode].tolist()
    lines = []
    strips = []
    batch = task.observe(frames, image_size)
    masks = _masks(encoder, batch)
    for cell in cells:
        found = read_json(cell.folder / SCORES)
        if cell.predictor == CONTROLS:
            lines.append(Line("truth", steps, recording.progress[episode].tolist(), dashed=True))
            continue
        states = np.asarray(found["states"][cell.predictor])
        lines.append(Line(cell.predictor, steps, _unit(states, episode).tolist()))
        if masks is not None:
            image = attribution_strip(batch.images, masks, torch.tensor(found["attribution"]))
            strips.append(figure(picture(as_png(image), f"slots of {cell.predictor}"), cell.predictor))
    caption = "The longest success among the test episodes. Predictions are scaled to the range they have on all tests."
    report.figures(figure(line_chart(lines, "step", "predicted worth", (0.0, 1.0)), caption))
    if strips:
        report.paragraph(
            f"Which slots the prediction rests on, at steps {', '.join(map(str, recording.step[frames].tolist()))}: "
            "orange ones raise it, blue ones lower it, the stronger the more, relative to the strongest of a row."
        )
        report.figures(*strips)


def attribution_strip(images: Tensor, masks: Tensor, attribution: Tensor) -> Tensor:
    """Images (F 3 H W) uint8 side by side, tinted by masks (F K h w) weighted with attribution (F K) over the largest
    of its absolute values -> (3 H F*W) uint8."""
    masks = F.interpolate(masks.float(), images.shape[-2:], mode="bilinear", align_corners=False)
    share = attribution / attribution.abs().max().clamp(min=1e-12)
    heat = (masks * share[..., None, None]).sum(1, keepdim=True).clamp(-1, 1)  # (F 1 H W)
    tint = torch.where(heat > 0, torch.tensor(FOR).view(1, 3, 1, 1), torch.tensor(AGAINST).view(1, 3, 1, 1))
    mixed = torch.lerp(images.float() * 0.6, tint, 0.85 * heat.abs())
    return mixed.round().to(torch.uint8).movedim(0, 2).flatten(2)


def _masks(encoder: ObjectEncoder, batch: Batch) -> Tensor | None:
    """(F K h w) of the slots; of listed objects their true masks; None where slots have no place."""
    slots = encoder(batch)
    if slots.masks is not None:
        masks: Tensor = slots.masks * slots.valid[..., None, None]
        return masks
    if "objects" not in encoder.requires or batch.segmentation is None:
        return None
    columns = torch.arange(1, slots.vectors.shape[1] + 1)
    return (batch.segmentation[:, None] == columns[:, None, None]).float()


def _unit(states: NDArray[np.float64], episode: NDArray[np.intp]) -> NDArray[np.float64]:
    spread = np.ptp(states)
    return np.asarray((states[episode] - states.min()) / (spread or 1.0))


def _cell(values: Sequence[float]) -> str | tuple[str, str]:
    known = [value for value in values if np.isfinite(value)]
    if not known:
        return "-"
    if len(values) == 1:
        return f"{known[0]:.3f}"
    return f"{np.mean(known):.3f}", f"{min(known):.3f}..{max(known):.3f}"
