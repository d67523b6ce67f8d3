"""Images up to where prompts come in, and prompts up to masks of the images' size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ocl.masks.sam.decoder import PromptDecoder, Updates
from ocl.masks.sam.encoder import SamEncoder
from ocl.masks.sam.frame import Frame
from ocl.masks.sam.image_side import ImageSide

ON_CPU = 8
"""Prompts decoded together on a CPU, at most: what they add to the image (1.8 MB each) then stays near its caches."""


class PromptableImage:
    """An encoded image: give it prompts, get tokens with predicted IoUs, then the logits of those masks that matter.

    Args:
        model: segment-anything's `Sam`.
        frame: of the image.
        embedding: (D h w) of the image.
        at_once: prompts that fit into memory together.
    """

    def __init__(self, model: Any, frame: Frame, embedding: Tensor, at_once: int) -> None:
        self.at_once = min(at_once, ON_CPU) if model.device.type == "cpu" else at_once
        self.model, self.frame = model, frame
        prompts, decoder = model.prompt_encoder, model.mask_decoder
        embedding = embedding.to(decoder.iou_token.weight.dtype) + prompts.no_mask_embed.weight[0, :, None, None]
        self.decoder = PromptDecoder(decoder, ImageSide(decoder, embedding, prompts.get_dense_pe()[0]))

    def prompt(self, points: Tensor | None, boxes: Tensor | None = None) -> tuple[Tensor, Updates, Tensor]:
        """points (P 2) x, y inside the object, or boxes (P 4) x0, y0, x1, y1, in pixels of the image.

        Returns:
            tokens (P T D), what the prompts add to the image tokens, and the predicted IoU (P 4): of the mask for
            prompts that are not ambiguous, then of the three for those that are.
        """
        labelled = None
        if points is not None:
            places = self.frame.to_input(points)[:, None].to(self.model.device)
            labelled = places, torch.ones(len(places), 1, dtype=torch.int, device=places.device)
        if boxes is not None:
            boxes = self.frame.to_input(boxes).to(self.model.device)
        sparse, _ = self.model.prompt_encoder(points=labelled, boxes=boxes, masks=None)
        tokens, updates = self.decoder.tokens(sparse)
        return tokens, updates, self.decoder.quality(tokens)

    def logits(self, tokens: Tensor, updates: Updates, chosen: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """`chosen` (P 4) bool -> indices of prompt and mask (n) and logits (n H W), in row-major order.

        One part after the other: upscaling a prompt takes several times the memory of decoding it.
        """
        for prompts in chosen.any(dim=1).nonzero()[:, 0].split(max(1, self.at_once // 4)):
            low = self.decoder.logits(tokens[prompts], updates[prompts], chosen[prompts])
            rows, which = chosen[prompts].nonzero(as_tuple=True)
            yield prompts[rows], which, self.frame.enlarge(low)


def promptable(
    model: Any, encoder: SamEncoder, images: Sequence[NDArray[np.uint8]], at_once: int, images_at_once: int
) -> Iterator[PromptableImage]:
    """Every image (H W 3) RGB, of whatever size, encoded with `images_at_once` - 1 others when it is asked for."""
    for start in range(0, len(images), images_at_once):
        some = images[start : start + images_at_once]
        frames = [Frame(image.shape[:2], model) for image in some]
        inputs = torch.cat([frame.prepare(image) for frame, image in zip(frames, some, strict=True)])
        for frame, embedding in zip(frames, encoder(inputs), strict=True):
            yield PromptableImage(model, frame, embedding, at_once)
