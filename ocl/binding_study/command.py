"""`ocl binding`: which patches of an image a model takes to be one object, layer by layer, beside every control."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
from rich.console import Console
from torch.utils.data import Dataset

from ocl.binding.pairs import sample_patches
from ocl.binding.pointwise import PointwiseClass
from ocl.binding_study.ablations import Ablation, ablate, ablation_table, can_be_ablated
from ocl.binding_study.curves import draw_curves
from ocl.binding_study.maps import draw_maps, first_batch, patch_number, similarity_maps
from ocl.binding_study.models import Studied, TimmViT
from ocl.binding_study.patch_store import objects_of
from ocl.binding_study.rows import Row
from ocl.binding_study.settings import Fitting, ProbeMaker, Sampling
from ocl.binding_study.study import Study, Subject, file_name
from ocl.binding_study.table import table
from ocl.describe import describe_dataset, describe_part
from ocl.files import write_json
from ocl.manifest import write_manifest
from ocl.shapes import IGNORE

WIDTH = 200  # characters, where the output is no terminal


def binding(
    train: Dataset,  # type: ignore[type-arg]  # jsonargparse offers no subclasses of a subscripted class
    test: Dataset,  # type: ignore[type-arg]
    folder: Path,
    models: dict[str, Studied] | None = None,
    model: str | None = None,
    weights: Path | None = None,
    image_size: tuple[int, int] = (224, 224),
    probes: dict[str, ProbeMaker] | None = None,
    reference: str = "quadratic",
    sampling: Sampling = Sampling(),  # noqa: B008  # frozen
    fitting: Fitting = Fitting(),  # noqa: B008
    others: Dataset | None = None,  # type: ignore[type-arg]
    patch: tuple[int, int] | None = None,
    pictures: int = 6,
    ablation: Ablation | None = None,
    batch_size: int = 32,
    seed: int = 0,
    device: str = "cpu",
) -> None:
    """Probe which patches a model takes to be one object, in all layers at once; run again to continue.

    Args:
        train: Images with a segmentation, to fit probes on.
        test: Other images, to measure them on.
        folder: Where tokens, fits, results.json, curves.png, maps and the manifest go.
        models: Name -> what is studied. A random-initialised twin is always beside it.
        model: A timm ViT in the place of `models`, such as vit_tiny_patch16_224.
        weights: A file of its weights; otherwise they come from the local cache or are fetched.
        image_size: What it reads, (H, W), multiples of its patch size.
        probes: Name -> class path of a probe; the usual six where None.
        reference: Which probe is also fitted on permuted tokens, drawn as maps, and whose subspace is ablated.
        sampling: Which patches are compared.
        fitting: How probes are fitted.
        others: The test images with another person's segmentations: human against human, the ceiling.
        patch: (row, column) that the maps show the similarity to; None draws one with an object in every image.
        pictures: Test images in the maps; 0 for none.
        ablation: Shuffle and replace what the reference probe reads, in ViTs; None for none.
        batch_size: Images encoded at once.
        seed: Of the drawn patches, the random twins, the split by image, the fits and the bootstrap.
        device: Of models and probes.

    Raises:
        ValueError: no model; models with other grids; settings that differ from those in the folder.
        FileNotFoundError: weights that are neither at hand nor to be had.
    """
    if model is not None:
        models = {model: TimmViT(model, image_size, weights=None if weights is None else str(weights))}
    if not models:
        raise ValueError("give `models` to study, or one `model`, the name of a timm ViT.")
    start = time.monotonic()
    study = Study(train, test, models, folder, sampling, fitting, probes, reference, others, batch_size, seed, device)
    encoders = study.encoders()
    query = None if patch is None else patch_number(patch, next(iter(encoders.values())).grid)
    if ablation is not None and not any(can_be_ablated(encoders[name]) for name in models):
        raise ValueError("only blocks of a ViT can be ablated, and no model here is one; leave out `ablation`.")
    subjects = study.subjects(encoders)
    rows = study.rows(subjects)
    write_json(folder / "results.json", rows)
    draw_curves(rows, folder / "curves.png")
    if pictures:
        for subject in subjects:
            _draw(study, subject, query, pictures)
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
    console.print(table(rows))
    if ablation is not None:
        able = [subject for subject in subjects if subject.name in models and can_be_ablated(subject.encoder)]
        changed = [row for subject in able for row in _ablated(study, subject, ablation)]
        write_json(folder / "ablation.json", changed)
        console.print(ablation_table(changed))
    config = {
        "models": {
            name: {"class": type(encoder).__name__, "fingerprint": encoder.fingerprint}
            for name, encoder in encoders.items()
        },
        "train": describe_dataset(train),
        "test": describe_dataset(test),
        "sampling": describe_part(sampling),
        "fitting": describe_part(fitting),
        "reference": reference,
    }
    write_manifest(folder, config=config, seed=seed, minutes=(time.monotonic() - start) / 60)
    console.print(f"all layers: {folder / 'results.json'}, curves: {folder / 'curves.png'}, maps: {folder / 'maps'}")


def _draw(study: Study, subject: Subject, query: int | None, pictures: int) -> None:
    batch, grid, sampling = first_batch(study.test, pictures, study.device), subject.encoder.grid, study.sampling
    labels = objects_of(batch, grid, sampling.purity, sampling.ignore, sampling.leave_out)
    queries = sample_patches(labels, 1, range(len(batch)), study.seed)[:, 0]
    if query is not None:
        queries = torch.full_like(queries, query)
    fit = subject.probes[study.reference]
    maps = similarity_maps(subject.encoder, fit.probe, batch, queries)
    known = labels.unflatten(1, grid) != IGNORE
    path = study.folder / "maps" / f"{file_name(subject.name)}.png"
    draw_maps(batch, queries, maps, known, subject.encoder.places, fit.best, path)


def _ablated(study: Study, subject: Subject, ablation: Ablation) -> list[Row]:
    objective = study.models[subject.name].objective()
    return ablate(
        subject.name,
        subject.encoder,
        None if objective is None else objective.to(study.device),
        subject.probes[study.reference],
        next((fit for fit in subject.probes.values() if isinstance(fit.probe, PointwiseClass)), None),
        first_batch(study.test, ablation.images, study.device),
        study.sampling,
        ablation,
        study.seed,
    )
