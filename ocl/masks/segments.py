"""From images and masks to one vector per segment, and to class probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ocl.describe import describe_part
from ocl.masks.apply import MaskApplication
from ocl.masks.base import Masks
from ocl.masks.classifiers import Classifier
from ocl.masks.embedding_cache import EmbeddingCache, segment_keys
from ocl.masks.image_encoders import ImageEncoder
from ocl.shapes import images_as_float


class SegmentEmbedder:
    """A mask application and an image encoder: images and their masks -> one vector per mask.

    Only valid masks are encoded, `chunk` at a time whatever images they are of.

    Args:
        application: cuts the segments out, at the encoder's size.
        encoder: is shared, not copied.
        cache: a folder of embeddings (see `EmbeddingCache`); None keeps nothing.
        chunk: the most masks that are applied and encoded together; bounds the memory.

    Raises:
        ValueError: an application of another size than the encoder's, or a chunk below 1.
    """

    def __init__(
        self,
        application: MaskApplication | nn.Module,
        encoder: ImageEncoder,
        cache: str | Path | None = None,
        chunk: int = 256,
    ) -> None:
        if application.size != encoder.image_size:
            raise ValueError(
                f"{type(application).__name__} gives squares of {application.size} pixels, {type(encoder).__name__} "
                f"reads {encoder.image_size}; give the application size={encoder.image_size}."
            )
        if chunk < 1:
            raise ValueError(f"chunk must be at least 1 mask, got {chunk}.")
        self.application: Any = application
        self.encoder = encoder
        self.chunk = chunk
        self._cache: EmbeddingCache | None = None
        if cache is not None:
            parts = {"encoder": encoder.fingerprint, "application": describe_part(application)}
            self._cache = EmbeddingCache(cache, parts, encoder.dim)

    @torch.no_grad()
    def __call__(self, images: Tensor, masks: Masks) -> Tensor:
        """images (B 3 H W) uint8 or float in [0, 1] -> (B K D) float32, zeros where not valid."""
        vectors = torch.zeros(*masks.valid.shape, self.encoder.dim, device=images.device)
        if self._cache is None:
            self._encode(images, masks, masks.valid, vectors)
            return vectors
        keys = segment_keys(images, masks)
        known, stored = self._cache.get(keys)
        vectors[masks.valid] = torch.from_numpy(stored).to(images.device)
        todo = masks.valid.clone()
        todo[masks.valid] = torch.from_numpy(~known).to(images.device)
        self._encode(images, masks, todo, vectors)
        missing = [key for key, hit in zip(keys, known, strict=True) if not hit]
        self._cache.add(missing, vectors[todo].cpu().numpy())
        return vectors

    def flush(self) -> None:
        """Write what the cache holds in memory only; the end of the program does so too."""
        if self._cache is not None:
            self._cache.flush()

    def _encode(self, images: Tensor, masks: Masks, todo: Tensor, vectors: Tensor) -> None:
        """Fill `vectors` where `todo` (B K)."""
        rows = todo.any(1).nonzero()[:, 0]
        if len(rows) == 0:
            return
        counts = todo.sum(1)
        order = todo.byte().argsort(dim=1, descending=True, stable=True)  # of an image, those to do first
        for part in rows.split(max(1, self.chunk // int(counts.max()))):
            pictures = images_as_float(images[part])
            for columns in order[part, : int(counts[part].max())].split(self.chunk, dim=1):
                squares = self.application(pictures, masks.masks[part[:, None], columns])  # (b k c S S)
                chosen = todo[part[:, None], columns]
                image, column = chosen.nonzero(as_tuple=True)
                vectors[part[image], columns[image, column]] = self.encoder(squares[chosen]).float()


class SegmentClassifier(nn.Module):
    """Images and their masks -> class probabilities of every segment under E classifiers.

    Members with one encoder (other prompts, other groups of classes) share its vectors.

    Args:
        application: one for all members, which must have its size; `torch.cat` the results where sizes differ.
        classifiers: E of them, with the same classes. The first is the one that answers, all of them are the ensemble.
        cache, chunk: see `SegmentEmbedder`.

    Raises:
        ValueError: no classifier, other classes or another size.
    """

    def __init__(
        self,
        application: MaskApplication | nn.Module,
        classifiers: Sequence[Classifier],
        cache: str | Path | None = None,
        chunk: int = 256,
    ) -> None:
        super().__init__()
        if not classifiers or any(member.classes != classifiers[0].classes for member in classifiers):
            raise ValueError("an ensemble needs classifiers with the same classes in the same order, at least one.")
        self.classifiers = nn.ModuleList(classifiers)
        self.classes = classifiers[0].classes
        encoders = list(dict.fromkeys(member.encoder for member in classifiers))  # modules are equal if identical
        self._embedders = [SegmentEmbedder(application, encoder, cache, chunk) for encoder in encoders]
        self._embedder_of = [encoders.index(member.encoder) for member in classifiers]

    @torch.no_grad()
    def forward(self, images: Tensor, masks: Masks) -> Tensor:
        """images (B 3 H W) -> (E B K C) float32, softmax over C; zeros where not valid."""
        vectors = [embedder(images, masks) for embedder in self._embedders]
        members: Any = self.classifiers
        logits = torch.stack([m.logits(vectors[own]) for m, own in zip(members, self._embedder_of, strict=True)])
        return logits.float().softmax(-1) * masks.valid[..., None]
