"""Masks of what is pointed at or boxed in."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ocl.masks.base import Masks
from ocl.masks.sam.embedding import PromptableImage, promptable
from ocl.masks.sam.encoder import SamEncoder
from ocl.masks.sam.load import segment_anything
from ocl.masks.sam.pixels import images_of
from ocl.shapes import Batch


class SamPrompts:
    """A `MaskSource`: one mask for every known point or box of a batch (`Batch.hints`), in the same column.

    A point is ambiguous, so SAM gives three masks and that with the highest predicted IoU is taken; a box is not, and
    gives one. Scores are predicted IoUs. A column without a hint, or with an empty mask, is not valid.

    Args:
        model: segment-anything's `Sam` (see `load_sam`); used in place.
        prompts_per_batch: prompts decoded together; fewer take less memory, and give the same masks.
        images_per_batch: images encoded together; pays on a GPU.
        bfloat16: run the image encoder under bfloat16 autocast.
        compiled: run the image encoder through torch.compile.

    Raises:
        ImportError: segment-anything is not installed.
        ValueError: fewer than one prompt or image at once.
    """

    def __init__(
        self,
        model: nn.Module,
        prompts_per_batch: int = 64,
        images_per_batch: int = 1,
        bfloat16: bool = False,
        compiled: bool = False,
    ) -> None:
        segment_anything()
        if min(prompts_per_batch, images_per_batch) < 1:
            raise ValueError(
                "prompts_per_batch and images_per_batch must be at least 1, "
                f"got {prompts_per_batch}, {images_per_batch}."
            )
        self.model: Any = model
        self.prompts_per_batch, self.images_per_batch = prompts_per_batch, images_per_batch
        self.encoder = SamEncoder(self.model.image_encoder, bfloat16, compiled)

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Masks:
        """images (B 3 H W) and points (B M 2) or boxes (B M 4) -> masks (B M H W).

        Raises:
            ValueError: a batch without hints, hints that are not finite, or images that are not.
        """
        hints = batch.hints
        if hints is None:
            raise ValueError(
                'SAM is asked for points or boxes: give the batch "points" or "boxes" (see `Batch.hints`).'
            )
        places, known = hints.places.cpu().double(), hints.known.cpu()
        if not bool(places[known].isfinite().all()):
            raise ValueError(
                f"known {'boxes' if places.shape[-1] == 4 else 'points'} must be finite numbers in [0, 1]."
            )
        height, width = batch.images.shape[-2:]
        places = places * places.new_tensor([width, height]).repeat(places.shape[-1] // 2)
        masks = torch.zeros(*known.shape, height, width, dtype=torch.bool, device=self.model.device)
        scores = torch.zeros(known.shape, device=self.model.device)
        images = images_of(batch)
        asked = known.any(dim=1).nonzero()[:, 0].tolist()
        encoded = promptable(
            self.model, self.encoder, [images[i] for i in asked], self.prompts_per_batch, self.images_per_batch
        )
        for index, prompted in zip(asked, encoded, strict=True):
            columns = known[index].nonzero()[:, 0]
            for some in columns.split(prompted.at_once):
                masks[index, some], scores[index, some] = self._segment(prompted, places[index, some])
        return Masks.of(masks, scores)

    def _segment(self, image: PromptableImage, places: Tensor) -> tuple[Tensor, Tensor]:
        """Points (P 2) or boxes (P 4) in pixels -> masks (P H W) and predicted IoUs (P)."""
        is_box = places.shape[-1] == 4
        tokens, updates, quality = image.prompt(None, places) if is_box else image.prompt(places)
        best = torch.zeros_like(quality[:, 0], dtype=torch.long) if is_box else 1 + quality[:, 1:].argmax(dim=1)
        chosen = torch.zeros_like(quality, dtype=torch.bool).scatter_(1, best[:, None], True)
        logits = [part for *_, part in image.logits(tokens, updates, chosen)]
        masks = torch.cat(logits) > self.model.mask_threshold
        return masks, quality.gather(1, best[:, None])[:, 0].float()
