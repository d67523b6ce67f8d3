"""`ocl fit | validate | test | generate | extract | probe | discover | masks | benchmark | occam | binding`, and
`ocl prepare`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from torch.utils.data import DataLoader, Dataset

from ocl import benchmark as benchmarking
from ocl import commands, features
from ocl import discover as discovery
from ocl import generate as generation
from ocl.binding_study.command import binding
from ocl.checkpoints import load, load_encoder
from ocl.data.collate import collate
from ocl.describe import describe_dataset, describe_part
from ocl.files import write_json
from ocl.fit import run as run_lightning
from ocl.manifest import write_manifest
from ocl.masks.base import MaskSource
from ocl.masks_command import masks
from ocl.occam.command import occam
from ocl.prepare import prepare
from ocl.probes import collect, probe_properties
from ocl.representations import FrozenSlotModel, ObjectEncoder

LIGHTNING = ("fit", "validate", "test")


def generate(
    dataset: Dataset,  # type: ignore[type-arg]  # jsonargparse offers no subclasses of a subscripted class
    folder: Path,
    shard_size: int = 1024,
    num_workers: int = 0,
    worker: int = 0,
    workers: int = 1,
) -> None:
    """Write a data set once, to be read back by `ocl.data.stored.StoredScenes`; run again to continue.

    Args:
        dataset: What to write.
        folder: Where to.
        shard_size: Items per file.
        num_workers: Processes that draw or read items.
        worker: Which of `workers` processes this is, each started by hand or by a job array.
        workers: How many such processes there are.
    """
    generation.generate(dataset, folder, shard_size=shard_size, num_workers=num_workers, worker=worker, workers=workers)


def extract(
    encoder: ObjectEncoder | Path,
    dataset: Dataset,  # type: ignore[type-arg]
    folder: Path,
    labels: list[str] | None = None,
    masks: bool = False,
    dtype: str = "float16",
    shard_size: int = 10_000,
    batch_size: int = 64,
    num_workers: int = 0,
    worker: int = 0,
    workers: int = 1,
    device: str = "cpu",
) -> None:
    """Encode a data set once into a feature store; run again to continue.

    Args:
        encoder: The folder of a checkpoint, or the class path of an encoder.
        dataset: What to encode.
        folder: Where to write.
        labels: Attributes to store; segmentation stores the true masks. All attributes where not given.
        masks: Store the encoder's masks too.
        dtype: bfloat16, float16 or float32.
        shard_size: Records per file.
        batch_size: Images encoded at once.
        num_workers: Processes that read the data set.
        worker: Which of `workers` processes this is, each started by hand or by a job array.
        workers: How many such processes there are.
        device: Of the encoder.
    """
    features.extract(
        _encoder(encoder),
        dataset,
        folder,
        labels=labels,
        masks=masks,
        dtype=dtype,
        shard_size=shard_size,
        batch_size=batch_size,
        num_workers=num_workers,
        worker=worker,
        workers=workers,
        device=device,
    )


def probe(
    encoder: ObjectEncoder | Path,
    train: Dataset,  # type: ignore[type-arg]
    test: Dataset,  # type: ignore[type-arg]
    folder: Path,
    batch_size: int = 64,
    by_masks: bool = False,
    seed: int = 0,
) -> None:
    """Predict objects' properties from frozen slots, with linear and MLP probes; print and save the report.

    Args:
        encoder: The folder of a checkpoint, or the class path of an encoder.
        train: Images to fit the probes on.
        test: Other images to measure them on.
        folder: Where report.json and the manifest go.
        batch_size: Images encoded at once.
        by_masks: Pair slots with objects by their masks instead of by the probe's own likelihood.
        seed: Of the probes.
    """
    encoder = _encoder(encoder)
    slots = [collect(encoder, DataLoader(part, batch_size, collate_fn=collate), by_masks) for part in (train, test)]
    report = probe_properties(slots[0], slots[1], seed=seed)
    report.save(folder / "report.json")
    write_manifest(folder, config={"encoder": encoder.describe()}, seed=seed, fingerprint=encoder.fingerprint)
    Console().print(report.table())


def discover(
    dataset: Dataset,  # type: ignore[type-arg]
    folder: Path,
    encoder: ObjectEncoder | Path | None = None,
    sources: dict[str, MaskSource] = {},  # noqa: B006 (read only; an Optional would bury what is wrong with a source)
    recorded: dict[str, Dataset] = {},  # type: ignore[type-arg]  # noqa: B006
    batch_size: int = 32,
    background: bool = False,
    seed: int = 0,
) -> None:
    """Compare masks with true segmentations, beside grids and the whole image; print and save the table.

    Args:
        dataset: Images with a segmentation.
        folder: Where results.json and the manifest go.
        encoder: The folder of a checkpoint (decoder masks are used), or the class path of an encoder with masks.
        sources: Mask sources by name: superpixels, grids, a segmentation model.
        recorded: By name, data sets of the same images whose segmentations are measured: other people's, or of files.
        batch_size: Images at once.
        background: Count the true background as a segment in the overlap measures.
        seed: Of the bootstrap intervals.
    """
    if not (encoder or sources or recorded):
        raise ValueError("discover compares masks; give an encoder, mask sources or recorded segmentations.")
    encoders: dict[str, ObjectEncoder | MaskSource] = {**sources}
    if encoder is not None:
        model = encoder if isinstance(encoder, ObjectEncoder) else FrozenSlotModel(load(encoder), decoder_masks=True)  # type: ignore[arg-type]
        encoders = {"slots": model, **encoders}
    batches, *others = (DataLoader(part, batch_size, collate_fn=collate) for part in (dataset, *recorded.values()))
    rows = discovery.discover(
        encoders,
        track(batches, "segmenting"),
        recorded=dict(zip(recorded, others, strict=True)),
        background=background,
        seed=seed,
    )
    config = {"encoders": describe_part(encoders), "dataset": describe_dataset(dataset)}
    config["recorded"] = {name: describe_dataset(part) for name, part in recorded.items()}
    write_json(folder / "results.json", rows)
    write_manifest(folder, config=config, seed=seed)
    Console().print(discovery.table(rows))


def benchmark(
    arms: list[benchmarking.Arm],
    seeds: list[int],
    folder: Path,
    thresholds: dict[str, float],
    protocol: str = "classic",
    arguments: tuple[str, ...] = (),
    images: int = 320,
    measures: tuple[str, ...] = ("foreground_ari", "ari", "mean_iou", "mean_best_overlap"),
    processes: int = 1,
    ray: bool = False,
) -> None:
    """Train methods on scene sets over seeds and compare them in one table with failure rates; run again to continue.

    Args:
        arms: What is compared: name and set (the two names in the table), config (a file for `ocl fit`) and arguments.
        seeds: Each arm is trained once with each. Arms with one seed read the same items in the same order.
        folder: Where runs, results.json, the contact sheet of failures and the manifest go.
        thresholds: Measure -> least value; a seed below any of them counts as failed.
        protocol: How masks are measured: classic, dinosaur, ft_dinosaur or genera1z (`ocl.metrics.protocols`).
        arguments: For every run, as on the command line of `ocl fit`, such as "--trainer.max_steps 200".
        images: The first so many of the test set (of the validation set where a config has no test set).
        measures: Columns of the table; results.json holds all.
        processes: Runs at a time on this machine, one thread each.
        ray: Run over the Ray cluster of this machine instead.
    """
    benchmarking.benchmark(
        arms,
        seeds,
        folder,
        thresholds,
        protocol=protocol,
        arguments=arguments,
        images=images,
        measures=measures,
        processes=processes,
        ray=ray,
    )


def _encoder(encoder: ObjectEncoder | Path) -> ObjectEncoder:
    return encoder if isinstance(encoder, ObjectEncoder) else load_encoder(encoder)


COMMANDS: dict[str, commands.Command | commands.Group] = {
    "generate": generate,
    "extract": extract,
    "probe": probe,
    "discover": discover,
    "masks": masks,
    "benchmark": benchmark,
    "occam": occam,
    "binding": binding,
    "prepare": prepare,
}


def main(arguments: Sequence[str] | None = None) -> Any:
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments and arguments[0] in LIGHTNING:
        return run_lightning(arguments)
    if arguments[:1] == ["prepare"] and arguments[1:] and not arguments[1].startswith("-"):
        arguments.insert(1, "--name")  # `ocl prepare coco`
    description = f"{__doc__}\n\n{', '.join(LIGHTNING)} train and evaluate; see `ocl fit --help`."
    return commands.run("ocl", description, COMMANDS, arguments)


def script() -> None:
    commands.exit_with_sentence(main)


if __name__ == "__main__":
    script()
