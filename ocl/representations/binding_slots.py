"""Slots from any vision transformer without training a slot model: patches grouped by whether they are one object."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ocl.binding.clusters import PatchGroups, SpectralGroups
from ocl.representations.base import ObjectEncoder, frozen, images_at
from ocl.shapes import Batch, Features, Slots


class CosineSimilarity(nn.Module):
    """The probe-free case: logit (cos(x - m, y - m) - threshold) / temperature with the image's mean token m.

    Without its mean, what all tokens of an image share, cosines of a ViT's tokens are nearly all close to 1. Nothing is
    learned, and no publication fixes the two numbers.

    Args:
        threshold: the cosine at which two patches are as likely one object as two.
        temperature: how soon beyond it the answer is sure.
    """

    def __init__(self, threshold: float = 0.3, temperature: float = 0.1) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"temperature must be above 0, got {temperature}.")
        self.threshold, self.temperature = threshold, temperature

    def forward(self, tokens: Tensor) -> Tensor:
        """(L B n D) -> (L B n n)."""
        tokens = tokens.float()
        directions = F.normalize(tokens - tokens.mean(dim=-2, keepdim=True), dim=-1)
        return (directions @ directions.mT - self.threshold) / self.temperature


class BindingSlots(ObjectEncoder):
    """Objects as groups of patches; a vector is the mean of the group's tokens.

    Masks (B K h w) are 0 or 1 on the token grid. Groups are in order of size, so the background tends to be the first;
    slots past the number of groups are not valid, with vectors of zeros.

    Args:
        encoder: images (B 3 H W) float -> `Features`, with `image_size`, `grid` and `dim`; is frozen in place.
        probe: tokens (1 B N D) -> logits (1 B N N) that two tokens are of one object: a fitted `PairProbe` of one
            layer (`ocl.binding.saved.SavedProbe` by its file), or `CosineSimilarity`; is frozen in place. None takes
            the latter.
        groups: how pairs become groups; None makes seven by spectral clustering.

    Raises:
        ValueError: a probe of several layers, or of tokens of another width.
    """

    def __init__(self, encoder: nn.Module, probe: nn.Module | None = None, groups: PatchGroups | None = None) -> None:
        super().__init__()
        probe = CosineSimilarity() if probe is None else probe
        if getattr(probe, "layers", 1) != 1:
            raise ValueError(f"BindingSlots needs a probe of one layer, got one of {probe.layers}.")
        if getattr(probe, "dim", encoder.dim) != encoder.dim:
            raise ValueError(f"the probe reads tokens of width {probe.dim}, the encoder gives {encoder.dim}.")
        self.encoder, self.probe = frozen(encoder), frozen(probe)
        self.groups: PatchGroups = SpectralGroups(7, fixed=True) if groups is None else groups
        self.image_size: tuple[int, int] = self.encoder.image_size
        self.num_slots = self.groups.num_groups
        self.dim: int = self.encoder.dim

    def encode(self, batch: Batch) -> Slots:
        features: Features = self.encoder(images_at(batch.images, self.image_size))
        same = self.probe(features.tokens.unsqueeze(0))[0].float().sigmoid()  # (B N N)
        labels = self.groups(same)
        members = (labels.unsqueeze(1) == torch.arange(self.num_slots, device=labels.device)[:, None]).to(
            features.tokens
        )  # (B K N)
        sizes = members.sum(dim=-1, keepdim=True)
        vectors = members @ features.tokens / sizes.clamp(min=1)
        return Slots(vectors, members.unflatten(-1, features.grid), sizes.squeeze(-1) > 0)
