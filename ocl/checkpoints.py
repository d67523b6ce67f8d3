"""A model on disk: `model.safetensors` and the `config.yaml` that rebuilds it. Loading runs no code from the files.

folder/config.yaml         format, the SHA-256 of the weights, and the model as a tree of class paths
folder/model.safetensors   its parameters and buffers
folder/manifest.json       seed, versions, commit and command of the run that wrote it
folder/README.md           the model's card, where one was given
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as serialize
from torch import Tensor, nn

from ocl.files import write_atomically, write_text
from ocl.instantiate import instantiate
from ocl.manifest import write_manifest
from ocl.model import ObjectCentricModel
from ocl.representations import FrozenSlotModel, ObjectEncoder
from ocl.shards import sha256_of

FORMAT = "ocl-checkpoint-1"
CONFIG, WEIGHTS, CARD = "config.yaml", "model.safetensors", "README.md"
LARGEST_CONFIG, DEEPEST_CONFIG = 2**20, 100  # bytes, levels


def save(
    config: Mapping[str, Any],
    model: nn.Module,
    folder: str | Path,
    *,
    seed: int | None = None,
    card: str | None = None,
    **facts: Any,
) -> Path:
    """Write the model and the class-path tree that rebuilds it (see `ocl.instantiate`); overwrites a checkpoint there.

    facts: further entries of `manifest.json`. The weights are written before the config that holds their checksum, so
    a save interrupted between the two is noticed when loading.

    Raises:
        ValueError: `config` does not rebuild `model` with the same names, shapes and types of weights.
    """
    folder = Path(folder)
    try:
        tree = json.loads(json.dumps(config, allow_nan=False))  # a deep copy in plain types, so no YAML anchors
    except TypeError as error:
        raise ValueError(f"A model's config must consist of plain values and class paths: {error}.") from error
    weights = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    with torch.random.fork_rng(devices=[]):
        rebuilt = instantiate(tree, trust=True)
    if type(rebuilt) is not type(model):
        raise ValueError(f"The config builds a {type(rebuilt).__name__}, the model is a {type(model).__name__}.")
    _check_weights(rebuilt, weights, "The model")
    content = serialize(weights)  # save_file would leave temporary files of its own when killed
    write_atomically(folder / WEIGHTS, lambda temporary: temporary.write_bytes(content))
    entries = {"format": FORMAT, "weights_sha256": sha256_of(folder / WEIGHTS), "model": tree}
    write_text(folder / CONFIG, yaml.safe_dump(entries, sort_keys=False))
    write_manifest(folder, config=tree, seed=seed, **facts)
    if card is not None:
        write_text(folder / CARD, card)
    return folder


def load(folder: str | Path, *, trust: bool = False) -> nn.Module:
    """Rebuild the model on the CPU, in eval mode, leaving the global random state alone.

    trust: accept classes outside `ocl.instantiate.ALLOWED`; importing them runs their code.
    Nothing is downloaded: a backbone's `pretrained` and `weights` arguments are ignored, its weights are in the file.

    Raises:
        FileNotFoundError: no checkpoint there.
        ValueError: truncated, altered, pickled, of another format, with weights that do not fit, or naming a class
            that may not be loaded.
    """
    folder = Path(folder)
    content = read_config(folder)
    path = folder / WEIGHTS
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; copy the whole checkpoint folder.")
    if sha256_of(path) != content["weights_sha256"]:
        raise ValueError(f"{path} is not the file that {CONFIG} was written for (truncated or altered); copy it again.")
    try:
        weights = load_file(path)
    except (SafetensorError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is not a safetensors file; other formats are not read.") from error
    with torch.random.fork_rng(devices=[]):
        model = instantiate(content["model"], trust=trust)
    _check_weights(model, weights, str(path))
    model.load_state_dict(weights)
    return model.eval()


def load_encoder(
    folder: str | Path, *, trust: bool = False, decoder_masks: bool = False, num_slots: int | None = None
) -> ObjectEncoder:
    """The frozen encoder in a checkpoint: itself, or the slot model in it with its starts drawn from seed 0.

    decoder_masks: of a slot model, see `FrozenSlotModel`; an encoder that was saved as such keeps its own setting.
    num_slots: K of a slot model; None takes the model's own.

    Raises:
        ValueError: nothing that makes slots, learned starts and another K than theirs, or a K for an encoder that was
            saved as such.
    """
    model = load(folder, trust=trust)
    if isinstance(model, ObjectEncoder):
        if num_slots not in (None, model.num_slots):
            raise ValueError(f"{folder} holds an encoder of {model.num_slots} slots, which cannot give {num_slots}.")
        return model
    if isinstance(model, ObjectCentricModel):
        return FrozenSlotModel(model, num_slots=num_slots, decoder_masks=decoder_masks)
    raise ValueError(f"{folder} holds a {type(model).__name__}, which makes no slots; use ocl.checkpoints.load.")


def read_config(folder: str | Path) -> dict[str, Any]:
    """The checked content of `config.yaml`: "format", "weights_sha256", "model" (the class-path tree)."""
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; a checkpoint is a folder with {CONFIG} and {WEIGHTS}.")
    if path.stat().st_size > LARGEST_CONFIG:
        raise ValueError(f"{path} is larger than any model's config; restore it from a copy.")
    try:
        content = _parse(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:
        reason = str(error).split("\n")[0]
        raise ValueError(f"{path} is not readable YAML ({reason}); restore it from a copy.") from error
    if not isinstance(content, dict) or set(content) != {"format", "weights_sha256", "model"}:
        raise ValueError(f"{path} must hold format, weights_sha256 and model and nothing else; restore it from a copy.")
    if content["format"] != FORMAT:
        raise ValueError(f"{path} has the format {str(content['format'])[:40]!r}, this version reads {FORMAT}.")
    return content


def _parse(text: str) -> Any:
    """YAML without aliases and deep nesting, either of which makes a small text cost hours to read."""
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST_CONFIG or isinstance(event, yaml.AliasEvent):
            raise ValueError("aliases and deep nesting are not read")
    return yaml.safe_load(text)


def _check_weights(model: nn.Module, weights: Mapping[str, Tensor], owner: str) -> None:
    expected = model.state_dict()
    missing, surplus = sorted(set(expected) - set(weights)), sorted(set(weights) - set(expected))
    if missing or surplus:
        raise ValueError(f"{owner} does not fit its config: missing {_some(missing)}; unexpected {_some(surplus)}.")
    for name, tensor in expected.items():
        found = weights[name]
        if found.shape != tensor.shape or found.dtype != tensor.dtype:
            raise ValueError(
                f"{owner} has {name} as {found.dtype} {tuple(found.shape)}, its config builds {tensor.dtype} "
                f"{tuple(tensor.shape)}."
            )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") or "none"
