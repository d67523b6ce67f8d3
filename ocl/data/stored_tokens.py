"""Tokens of a frozen encoder from disk, in the place of the images that they were made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.data import Dataset

from ocl.data.scenes import Item
from ocl.data.stored import StoredItems
from ocl.encoders.cached import CachedEncoder, identity

TOKENS = "vectors"


class StoredTokens(StoredItems):
    """What `ocl extract` wrote with an encoder of tokens, such as `ocl.representations.ViTPatches`.

    An item's "images" are its tokens (1 N D), with a channel's axis of one, in the type that they are stored in; a
    model whose encoder is an `ocl.encoders.cached.CachedEncoder` takes them for images. The labels that were stored
    come with them: "segmentation", as far as it is wanted for validation, and attributes.

    Args:
        folder: of the store.
        labels: which of the stored labels an item holds; all where None.
        verify: compare every byte with its checksum on opening.

    Raises:
        FileNotFoundError, ValueError: not a whole store, an unknown label, or no tokens in it.
    """

    def __init__(self, folder: str | Path, labels: Sequence[str] | None = None, verify: bool = True) -> None:
        super().__init__(folder, None, verify)
        self.folder = str(folder)
        self.encoder: dict[str, Any] | None = self.provenance.get("encoder", {}).get("tokens")
        if self.encoder is None:
            raise ValueError(
                f"{folder} holds no tokens of an image encoder; extract them with ViTPatches, for example."
            )
        known = [name for name in self._fields if name not in (TOKENS, "valid", "masks")]
        unknown = sorted(set(labels or ()) - set(known))
        if unknown:
            raise ValueError(
                f"{folder} has no label {', '.join(unknown)}; it has {', '.join(known) or 'none'}, and extract stores "
                "those that its labels name."
            )
        self._fields = [TOKENS, *(known if labels is None else labels)]

    def __getitems__(self, indices: Sequence[int]) -> list[Item]:
        """The items at `indices`; IndexError where one is outside 0..len - 1."""
        items = super().__getitems__(indices)
        for item in items:
            item["images"] = item.pop(TOKENS).unsqueeze(0)
        return items

    def check(self, encoder: nn.Module | None) -> None:
        """Raises ValueError where a model's encoder does not take these tokens, or would give others."""
        if not isinstance(encoder, CachedEncoder):
            raise ValueError(
                f"{self.folder} holds tokens, which only an ocl.encoders.cached.CachedEncoder reads; put it around the "
                f"model's encoder{'' if encoder is None else ', the ' + type(encoder).__name__}."
            )
        own, stored = identity(encoder.encoder), self.encoder or {}
        differ = [name for name in sorted({*own, *stored}) if own.get(name) != stored.get(name)]
        settings = [name for name in differ if name != "fingerprint"]
        if differ:
            found = ", ".join(f"{name} {stored.get(name)}" for name in settings) or "other weights"
            wanted = f" instead of {', '.join(str(own.get(name)) for name in settings)}" if settings else ""
            raise ValueError(f"{self.folder} holds tokens of {found}{wanted}, as the model has it; extract its own.")


def token_sets(dataset: Dataset[Any] | None) -> Iterator[StoredTokens]:
    """The stored tokens that a data set reads: itself, or those inside it."""
    if isinstance(dataset, StoredTokens):
        yield dataset
    for value in vars(dataset).values() if isinstance(dataset, Dataset) else ():
        if isinstance(value, Dataset):
            yield from token_sets(value)
