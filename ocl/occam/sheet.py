"""A contact sheet of what was selected and why: images with their segments, scores and what was made of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ocl.files import write_atomically
from ocl.masks.apply import MaskApplication
from ocl.masks.base import MaskSource
from ocl.masks.foreground import ForegroundScore
from ocl.masks.segments import SegmentClassifier
from ocl.masks.selection import Best
from ocl.occam.answers import candidates_of
from ocl.pictures import overlay
from ocl.shapes import Batch, images_as_float

TILE, GAP, LINE = 144, 8, 15  # pixels
SHOWN = 6
RIGHT, WRONG, PLAIN = "#1a7f37", "#cf222e", "#57606a"


@dataclass(frozen=True)
class Sheet:
    """Which source and score are drawn.

    source: a key of the study's sources. score: name of a foreground score. images: the first so many of the data set.

    One row per image: the image with its true class, the segments in colour, then the segments as the classifier saw
    them, best score first (at most six), each with its score and its most probable class; the selected one is framed,
    green where it is classified right and red where not.
    """

    source: str
    score: str
    images: int = 12

    def draw(
        self,
        batch: Batch,
        source: MaskSource,
        application: MaskApplication,
        classifier: SegmentClassifier,
        score: ForegroundScore,
        path: Path,
    ) -> Path:
        """Write the sheet of the first images of `batch` as PNG."""
        few = Batch(
            batch.images[: self.images],
            None if batch.segmentation is None else batch.segmentation[: self.images],
            {name: values[: self.images] for name, values in batch.objects.items()},
        )
        candidates, _ = candidates_of(few, source, classifier)
        masks, values = candidates.masks, score(candidates)
        chosen = Best()(candidates, values)
        images = images_as_float(few.images)
        seen = application(images, masks.masks)[:, :, :3]  # (B K 3 S S), without a channel of alpha
        labels = torch.where(masks.valid[..., None, None], masks.masks >= 0.5, False).float()
        owner = labels.argmax(1).where(labels.any(1), -1)
        tinted = overlay((255 * images).round().to(torch.uint8), owner, masks.masks.shape[1])
        columns = 2 + min(SHOWN, masks.masks.shape[1])
        height = TILE + 2 * LINE + GAP
        picture = Image.new("RGB", (GAP + columns * (TILE + GAP), GAP + len(few) * height), "white")
        pen = Pen(ImageDraw.Draw(picture), picture)
        truth = candidates.true_labels().tolist()
        for row in range(len(few)):
            top = GAP + row * height
            answer = int(chosen.probabilities[row].argmax())
            right = answer == truth[row]
            pen.tile(0, top, images[row], f"truth: {classifier.classes[truth[row]]}")
            pen.write(0, top, 1, f"answer: {classifier.classes[answer]}", RIGHT if right else WRONG)
            pen.tile(1, top, tinted[row].float() / 255, f"{self.source}: {int(masks.valid[row].sum())} segments")
            order = values[row].argsort(descending=True, stable=True)
            shown = [int(k) for k in order if masks.valid[row, k]][:SHOWN]
            for place, k in enumerate(shown):
                p, name = candidates.probabilities[0, row, k].max(dim=-1)
                pen.tile(2 + place, top, seen[row, k], f"{self.score} {float(values[row, k]):.3f}")
                pen.write(2 + place, top, 1, f"{classifier.classes[int(name)]} {float(p):.2f}", PLAIN)
                if chosen.index is not None and k == int(chosen.index[row]):
                    pen.frame(2 + place, top, RIGHT if right else WRONG)
        return write_atomically(path, lambda temporary: picture.save(temporary, "PNG"))


@dataclass(frozen=True)
class Pen:
    """Places tiles and two lines of text under them."""

    draw: ImageDraw.ImageDraw
    picture: Image.Image

    def tile(self, column: int, top: int, image: Tensor, caption: str) -> None:
        """image (3 H W) float in [0, 1]; resized to a square tile."""
        pixels = (255 * image.clamp(0, 1)).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
        tile = Image.fromarray(pixels).resize((TILE, TILE), Image.Resampling.NEAREST)
        self.picture.paste(tile, (self._left(column), top))
        self.write(column, top, 0, caption, "black")

    def write(self, column: int, top: int, line: int, text: str, color: str) -> None:
        font = ImageFont.load_default(11)
        while len(text) > 1 and font.getlength(text) > TILE:
            text = text.removesuffix("…")[:-1] + "…"
        self.draw.text((self._left(column), top + TILE + line * LINE), text, fill=color, font=font)

    def frame(self, column: int, top: int, color: str) -> None:
        left = self._left(column)
        self.draw.rectangle((left - 3, top - 3, left + TILE + 2, top + TILE + 2), outline=color, width=4)

    @staticmethod
    def _left(column: int) -> int:
        return GAP + column * (TILE + GAP)
