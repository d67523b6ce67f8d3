"""Objects as encoded segments: masks, cut out of the image and encoded one by one."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor, nn

from ocl.describe import describe_module, describe_part
from ocl.masks.apply import MaskApplication
from ocl.masks.base import Masks, MaskSource, networks_of, required_by
from ocl.masks.image_encoders import ImageEncoder
from ocl.masks.segments import SegmentEmbedder
from ocl.representations.base import ObjectEncoder, frozen
from ocl.shapes import Batch, Slots

GEOMETRY = 5
"""Width of the features of place and size."""


class MaskedObjectEncoder(ObjectEncoder):
    """One slot per mask: the image encoder's vector of the segment. OCCAM (Rubinstein et al. 2025) as slots.

    Where a source gives more masks than `num_slots`, those with the largest scores are kept, of equals the first; the
    rest is padding. Kept masks stay in the source's order. An image without a valid mask has no valid slot; put a
    filter that falls back on the whole image around the source where every image must have one. Masks (B K H W) are
    the source's own, which may overlap.

    Args:
        source: gives the masks. What it requires of a batch beside the images, it says by its `requires`.
        application: what the image encoder is shown of each; at the encoder's size.
        image_encoder: is frozen in place.
        num_slots: K.
        geometry: append where a segment is and how large, which a crop does not tell (not part of the paper's
            representation): the mean and the deviation of its pixels' places, x then y, and its area, all relative to
            the image. D is 5 wider then.
        cache: a folder of embeddings, for images that come again; see `ocl.masks.embedding_cache`.
        chunk: about how many masks are encoded together.

    Raises:
        ValueError: no slots, or an application of another size than the encoder's.
    """

    def __init__(
        self,
        source: MaskSource | nn.Module,  # a module has no signature that a protocol could be told by
        application: MaskApplication | nn.Module,
        image_encoder: ImageEncoder,
        num_slots: int,
        geometry: bool = False,
        cache: Path | None = None,
        chunk: int = 256,
    ) -> None:
        super().__init__()
        if num_slots < 1:
            raise ValueError(f"num_slots must be at least 1, got {num_slots}.")
        self.source = source
        self.image_encoder = image_encoder
        self.num_slots = num_slots
        self.geometry = geometry
        self.dim = image_encoder.dim + GEOMETRY * geometry
        self.requires = required_by(source) | {"images"}
        # Networks anywhere in the parts move to a device with this one.
        self.networks = nn.ModuleList(map(frozen, networks_of([source, application])))
        self._embed = SegmentEmbedder(application, image_encoder, cache, chunk)

    def encode(self, batch: Batch) -> Slots:
        masks = _largest(self.source(batch), self.num_slots)
        vectors = self._embed(batch.images, masks)
        if self.geometry:
            vectors = torch.cat([vectors, place_and_size(masks)], dim=-1)
        return Slots(vectors, masks.masks.float(), masks.valid)

    def describe(self) -> str:
        parts = {
            "source": self.source,
            "application": self._embed.application,
            "image_encoder": self.image_encoder.fingerprint,
        }
        return describe_module(self) + "\n" + json.dumps(describe_part(parts))


def place_and_size(masks: Masks) -> Tensor:
    """(B K 5): mean x, mean y, deviation in x, deviation in y, area; of masks (B K H W), soft ones as weights.

    Places are those of pixel centres in [0, 1], y down; the area is the share of the image. Zero where not valid.
    """
    weights = masks.masks.float()
    mass = weights.sum((-2, -1))
    found = []
    for dim in (-2, -1):  # what is left after summing over rows is a line along x
        line = weights.sum(dim)
        line = line / line.sum(-1, keepdim=True).clamp_min(torch.finfo(line.dtype).tiny)
        count = line.shape[-1]
        places = (torch.arange(count, device=line.device) + 0.5) / count
        mean = line @ places
        found.append((mean, ((places - mean[..., None]).square() * line).sum(-1).sqrt()))
    (x, spread_x), (y, spread_y) = found
    area = mass / (weights.shape[-2] * weights.shape[-1])
    return torch.stack([x, y, spread_x, spread_y, area], dim=-1) * masks.valid[..., None]


def _largest(masks: Masks, count: int) -> Masks:
    """The `count` valid masks of each image with the largest scores, in their own order; padded to `count`."""
    batch, found, height, width = masks.masks.shape
    if found > count:
        ranked = masks.scores.masked_fill(~masks.valid, -torch.inf).sort(dim=1, descending=True, stable=True).indices
        kept = ranked[:, :count].sort(dim=1).values  # (B count)
        rows = torch.arange(batch, device=kept.device)[:, None]
        return Masks(masks.masks[rows, kept], masks.scores[rows, kept], masks.valid[rows, kept])
    if found == count:
        return masks
    missing = count - found
    return Masks(
        torch.cat([masks.masks, masks.masks.new_zeros(batch, missing, height, width)], dim=1),
        torch.cat([masks.scores, masks.scores.new_zeros(batch, missing)], dim=1),
        torch.cat([masks.valid, masks.valid.new_zeros(batch, missing)], dim=1),
    )
