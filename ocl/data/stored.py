"""Scenes, photographs or frames from disk: any store with "images" read back as the data set it was written from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from torch.utils.data import Dataset

from ocl.bfloat16 import tensor_of
from ocl.data.scenes import Item
from ocl.store import FeatureStore


class StoredItems(Dataset[Item]):
    """Records of a store as items. They are mapped, not loaded; only what is asked for is read, in one call per batch.

    Args:
        folder: of the store.
        fields: which arrays an item holds; all where None.
        verify: compare every byte with its checksum on opening.

    Raises:
        FileNotFoundError, ValueError: not a whole store, or an unknown field.
    """

    def __init__(self, folder: str | Path, fields: Sequence[str] | None = None, verify: bool = True) -> None:
        self._store = FeatureStore(folder, verify=verify)
        self._fields = sorted(self._store.fields if fields is None else fields)
        unknown = [name for name in self._fields if name not in self._store.fields]
        if unknown:
            raise ValueError(f"{folder} has no field {', '.join(unknown)}; it has {', '.join(self._store.fields)}.")
        self.provenance = self._store.provenance

    def __len__(self) -> int:
        return len(self._store)

    def __getitem__(self, index: int) -> Item:
        return self.__getitems__([index + len(self) if index < 0 else index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Item]:
        """The items at `indices`; IndexError where one is outside 0..len - 1."""
        records = self._store.read(indices, self._fields)
        columns: dict[str, Any] = {name: tensor_of(values).unbind() for name, values in records.items()}
        return [{name: column[row] for name, column in columns.items()} for row in range(len(indices))]

    def column(self, name: str) -> NDArray[Any]:
        """One field of all records, (n ...), whether items hold it or not; ValueError where there is none."""
        return self._store.read_all([name])[name]


class StoredScenes(StoredItems):
    """The items that `ocl.generate.generate` wrote, or frames that another program wrote into the same kind of store.

    Args:
        folder, fields, verify: see `StoredItems`.

    Raises:
        FileNotFoundError, ValueError: see `StoredItems`; also no "images" (3 H W) uint8 in it.
    """

    def __init__(self, folder: str | Path, fields: Sequence[str] | None = None, verify: bool = True) -> None:
        super().__init__(folder, fields, verify)
        images = self._store.fields.get("images")
        if images is None or "images" not in self._fields or images.shape[:1] != (3,) or images.dtype != "uint8":
            raise ValueError(f'{folder} must hold and give "images" (3 H W) uint8, it gives {", ".join(self._fields)}.')
        self.image_size = images.shape[1:]
        self.categories: dict[str, tuple[str, ...]] = {
            name: tuple(classes) for name, classes in self.provenance.get("categories", {}).items()
        }
