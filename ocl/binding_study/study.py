"""The study: tokens of every model, probes of every layer, controls, rows and pictures, each kept once it is done."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from ocl.binding.controls import permuted
from ocl.binding.next_attention import NextAttention
from ocl.binding.patches import Patches
from ocl.binding.probes import PairProbe
from ocl.binding_study.fits import Fitted, fitted
from ocl.binding_study.models import Studied
from ocl.binding_study.patch_encoders import LayerTokens, PatchEncoder
from ocl.binding_study.patch_store import extract_patches, labels_at, load_patches
from ocl.binding_study.rows import Row, control_rows, probe_rows
from ocl.binding_study.settings import Fitting, ProbeMaker, Sampling, usual_probes
from ocl.data.scenes import Item
from ocl.store import FeatureStore

TOKENS, FITS = "tokens", "fits"
NEXT_ATTENTION = "next attention"


@dataclass(frozen=True)
class Subject:
    """One encoder with its stores and fitted probes."""

    name: str
    encoder: PatchEncoder
    train: FeatureStore
    test: FeatureStore
    probes: dict[str, Fitted]


@dataclass(frozen=True)
class Study:
    """What is compared; see `ocl.binding_study.command.binding`. All models read the same patches on one grid."""

    train: Dataset[Item]
    test: Dataset[Item]
    models: Mapping[str, Studied]
    folder: Path
    sampling: Sampling
    fitting: Fitting
    probes: Mapping[str, ProbeMaker] | None = None
    reference: str = "quadratic"
    others: Dataset[Item] | None = None
    next_attention: bool = False
    batch_size: int = 32
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        known = usual_probes(None) if self.probes is None else self.probes
        if self.reference not in known:
            raise ValueError(f"the reference probe must be one of {', '.join(known)}, got {self.reference!r}.")
        if self.next_attention and NEXT_ATTENTION in known:
            raise ValueError(f"{NEXT_ATTENTION!r} is the name of a probe of the study; give yours another one.")

    @property
    def permuted(self) -> str:
        """The name of the reference probe on permuted tokens."""
        return f"{self.reference}, permuted"

    def encoders(self) -> dict[str, PatchEncoder]:
        """Every model, and the random twins behind them: one for all models that start alike.

        Raises:
            ValueError: models with different grids, which cannot read the same patches, or two names of one folder.
        """
        found = {name: model.trained() for name, model in self.models.items()}
        grids = {name: encoder.grid for name, encoder in found.items()}
        if len(set(grids.values())) > 1:
            raise ValueError(f"all models must have one grid to read the same patches, got {grids}; change image_size.")
        twins: dict[str, tuple[list[str], PatchEncoder]] = {}
        for name, model in self.models.items():
            twin = model.random(self.seed)
            twins.setdefault(twin.fingerprint, ([], twin))[0].append(name)
        found |= {f"random ({', '.join(names)})": twin for names, twin in twins.values()}
        if len({file_name(name) for name in found}) < len(found):
            raise ValueError(f"models need names that differ in letters and digits, got {', '.join(self.models)}.")
        return found

    def subjects(self, encoders: Mapping[str, PatchEncoder]) -> list[Subject]:
        """Encode and fit what is not there yet. Probes of trained models include the reference on permuted tokens."""
        found = []
        for name, encoder in encoders.items():
            train, test = (
                self._store(name, encoder, split, data) for split, data in (("train", self.train), ("test", self.test))
            )
            patches = self._loaded(train)
            makers = self.makers(patches)
            probes = {probe: self._fitted(name, probe, make, patches, train) for probe, make in makers.items()}
            if name in self.models:
                make, shuffled = makers[self.reference], self._permuted(patches)
                probes[self.permuted] = self._fitted(name, self.permuted, make, shuffled, train)
            if self.next_attention and (blocks := next_blocks(encoder)):
                probes[NEXT_ATTENTION] = self._next_attention(name, encoder, blocks, patches, train)
            found.append(Subject(name, encoder, train, test, probes))
        return found

    def makers(self, patches: Patches) -> Mapping[str, ProbeMaker]:
        """The probes of the study, the usual ones where none are given."""
        if self.probes is not None:
            return self.probes
        names = 0 if patches.classes is None else int(patches.classes.max()) + 1
        return usual_probes(names or None)

    def rows(self, subjects: list[Subject]) -> list[Row]:
        """Controls first, then every model, probe and place."""
        first = subjects[0]
        train, test = self._loaded(first.train, places=1), self._loaded(first.test, places=1)
        others = None
        if self.others is not None:
            drawn = torch.from_numpy(first.test.read_all(["patches"])["patches"]).long()
            others = labels_at(
                self.others,
                drawn,
                first.encoder.grid,
                purity=self.sampling.purity,
                ignore=self.sampling.ignore,
                batch_size=self.batch_size,
            ).to(self.device)
        colours = [self._colours(store) for store in (first.train, first.test)]
        rows = control_rows(train, colours[0], test, colours[1], others, self.seed)
        for subject in subjects:
            patches = self._loaded(subject.test)
            for probe, fit in subject.probes.items():
                places, read = subject.encoder.places, self._permuted(patches) if probe == self.permuted else patches
                if probe == NEXT_ATTENTION:
                    places = tuple(next_blocks(subject.encoder))
                    read = _at(patches, subject.encoder, places)
                rows += probe_rows(subject.name, probe, fit.probe, fit.best, places, read, self.seed)
        return rows

    def _store(self, name: str, encoder: PatchEncoder, split: str, data: Dataset[Item]) -> FeatureStore:
        store = extract_patches(
            encoder,
            data,
            self.folder / TOKENS / file_name(name) / split,
            **asdict(self.sampling),
            seed=self.seed,
            batch_size=self.batch_size,
            device=self.device,
        )
        assert store is not None  # only one worker
        return store

    def _fitted(self, model: str, probe: str, make: ProbeMaker, patches: Patches, store: FeatureStore) -> Fitted:
        path = self.folder / FITS / file_name(model) / f"{file_name(probe)}.safetensors"
        provenance = {**store.provenance, "permuted": probe == self.permuted}
        return fitted(make, patches, self.fitting, path, provenance, self.seed)

    def _next_attention(
        self, model: str, encoder: PatchEncoder, blocks: Mapping[str, nn.Module], patches: Patches, store: FeatureStore
    ) -> Fitted:
        """What the next block's attention would say; its LayerNorm stands in the place of `standardise`."""

        def make(dim: int, layers: int) -> PairProbe:
            return NextAttention(list(blocks.values()))

        path = self.folder / FITS / file_name(model) / f"{file_name(NEXT_ATTENTION)}.safetensors"
        fitting = replace(self.fitting, standardise=False)
        return fitted(make, _at(patches, encoder, tuple(blocks)), fitting, path, store.provenance, self.seed)

    def _permuted(self, patches: Patches) -> Patches:
        """The control: tokens of every image in another order than their labels, for fitting and for measuring."""
        tokens = permuted(patches.tokens, torch.Generator().manual_seed(self.seed))
        return Patches(tokens, patches.objects, patches.classes, patches.places)

    def _loaded(self, store: FeatureStore, places: int | None = None) -> Patches:
        """With tokens of the first so many places, all where None."""
        patches = load_patches(store, places=store.provenance["encoder"]["places"][:places])
        labels = (patches.objects, patches.classes, patches.places)
        moved = [None if values is None else values.to(self.device) for values in labels]
        return Patches(patches.tokens.to(self.device), moved[0], moved[1], moved[2])  # type: ignore[arg-type]

    def _colours(self, store: FeatureStore) -> Tensor:
        return torch.from_numpy(store.read_all(["colours"])["colours"]).float().to(self.device)


def next_blocks(encoder: PatchEncoder) -> dict[str, nn.Module]:
    """Place -> the block that reads its tokens; none for the last block and for what is no block's output."""
    if not isinstance(encoder, LayerTokens) or "block" not in encoder.layers.parts:
        return {}
    blocks = encoder.layers.vit.blocks
    return {f"block {layer}": blocks[layer + 1] for layer in encoder.layers.layers if layer + 1 < len(blocks)}


def _at(patches: Patches, encoder: PatchEncoder, places: Sequence[str]) -> Patches:
    """The tokens of some places."""
    tokens = patches.tokens[[encoder.places.index(place) for place in places]]
    return Patches(tokens, patches.objects, patches.classes, patches.places)


def file_name(name: str) -> str:
    return re.sub(r"[^\w.]+", "-", name).strip("-")
