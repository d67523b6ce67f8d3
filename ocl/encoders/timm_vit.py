"""A vision transformer by its timm name, or one sentence on why there is none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import constants, get_session

SECONDS_TO_REACH = 5.0


def build_vit(
    name: str,
    image_size: tuple[int, int],
    pretrained: bool,
    weights: str | None,
    arguments: dict[str, Any] | None = None,
) -> Any:
    """The timm model without classifier, its position embedding interpolated to `image_size`; see `FrozenViT`."""
    if min(image_size) < 1:
        raise ValueError(f"image_size must be positive, (H, W) in pixels, got {image_size}.")
    overlay: dict[str, Any] = {}
    if weights is not None:
        if not Path(weights).is_file():
            raise FileNotFoundError(f"{weights} does not exist; give a file with the weights of {name}.")
        # timm reads the weights of some models from files of arrays (npz) by a function of their own.
        overlay = {"file": weights, "custom_load": weights.endswith(".npz")}
    fetch = pretrained and weights is None
    random = None
    try:
        if weights is not None:
            state = torch.get_rng_state()
            random = _create(name, image_size, False, {}, arguments or {})
            torch.set_rng_state(state)
        with _offline_where_unreachable(fetch):
            vit = _create(name, image_size, fetch or weights is not None, overlay, arguments or {})
    except OSError as error:
        if weights is not None:
            raise ValueError(f"{weights} is not a file of weights ({_first(error)}); give another.") from error
        raise FileNotFoundError(
            f"The weights of {name} are not in the local cache and cannot be fetched; connect once, give a file as "
            f"weights, or take random ones with pretrained=False."
        ) from error
    except Exception as error:
        if isinstance(error, TypeError) and "'img_size'" in str(error):  # other architectures take no size
            raise ValueError(_not_a_vit(name)) from error
        source = f" from {weights}" if weights else ""
        raise ValueError(f"timm cannot build {name}{source}: {_first(error)}.") from error
    parts = ("forward_intermediates", "patch_embed", "blocks", "embed_dim", "num_prefix_tokens")
    if not all(hasattr(vit, part) for part in parts) or not _has_one_grid(vit.patch_embed):
        raise ValueError(_not_a_vit(name))
    patch = tuple(vit.patch_embed.patch_size)
    if any(side < 1 or side % cell for side, cell in zip(image_size, patch, strict=True)):
        raise ValueError(
            f"image_size must be multiples of the patch size {patch[0]} x {patch[1]} of {name}, got {image_size}."
        )
    if random is not None and (absent := _unchanged(random, vit)):
        raise ValueError(f"{weights} lacks {len(absent)} of the weights of {name}, {absent[0]} among them.")
    return vit


def _create(
    name: str, image_size: tuple[int, int], pretrained: bool, overlay: dict[str, Any], arguments: dict[str, Any]
) -> Any:
    return timm.create_model(
        name,
        pretrained=pretrained,
        pretrained_cfg_overlay=overlay or None,
        num_classes=0,
        img_size=image_size,
        **arguments,
    )


def _has_one_grid(embed: Any) -> bool:
    """Patches of one size, whose tokens are a sequence in raster order."""
    return all(isinstance(getattr(embed, size, None), tuple) for size in ("patch_size", "grid_size"))


def _not_a_vit(name: str) -> str:
    return f"{name} is not a vision transformer with patch tokens; choose a timm ViT."


def _first(error: Exception) -> str:
    """The first line of the message, without its full stop."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__).strip().rstrip(".:")


def _unchanged(random: Any, loaded: Any) -> list[str]:
    """Names of randomly drawn weights that loading has left as they were: the file does not hold them."""
    before = dict(random.named_parameters())
    return [
        name for name, now in loaded.named_parameters() if torch.equal(now, before[name]) and now.unique().numel() > 1
    ]


@contextmanager
def _offline_where_unreachable(fetch: bool) -> Iterator[None]:
    """Look for weights in the local cache only, where the hub gives no answer: its client would try for a minute."""
    known, reachable = constants.HF_HUB_OFFLINE, True
    if fetch and not known:
        try:
            get_session().head(constants.ENDPOINT, timeout=SECONDS_TO_REACH)
        except Exception:  # whatever the HTTP client of the installed version raises
            reachable = False
    constants.HF_HUB_OFFLINE = known or not reachable
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = known
