"""Run-length codes of masks: column-major runs as in COCO, many masks at a time.

A code is {"size": [H, W], "counts": runs}: the lengths of the runs of 0, 1, 0, ... down the first column, the second
and so on; the first run is of zeros and has length 0 where the mask starts with a one. `compress` turns the runs into
COCO's text. Codes equal those of pycocotools byte by byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

RLE: TypeAlias = dict[str, Any]
"""{"size": [H, W], "counts": list of runs, or COCO's text}."""

_CHUNK = 2**21  # pixels at a time: they stay in the cache of a CPU
_LONGEST = 7  # characters of five bits for a run below 2^32 and its sign


def encode(masks: Tensor) -> list[RLE]:
    """(n H W) bool -> n codes with uncompressed runs.

    Raises:
        ValueError: not (n H W), not bool, or no pixels.
    """
    runs, lengths = _runs_of(masks)
    size = list(masks.shape[1:])
    return [{"size": list(size), "counts": runs[start:stop].tolist()} for start, stop in _spans(lengths)]


def decode(codes: Sequence[RLE]) -> Tensor:
    """n codes of one size, compressed or not -> masks (n H W) bool; (0 0 0) without codes.

    Raises:
        ValueError: codes of several sizes, or runs that do not fill the size.
    """
    sizes = {tuple(code["size"]) for code in codes}
    if len(sizes) > 1:
        raise ValueError(f"Only codes of one size make one stack, got {sorted(sizes)}; decode them apart.")
    height, width = sizes.pop() if sizes else (0, 0)
    runs, lengths = _runs(codes)
    ones = _places(lengths) % 2 == 1
    columns = torch.from_numpy(np.repeat(ones, runs)).view(len(codes), width, height)
    return columns.transpose(1, 2).contiguous()


def areas(codes: Sequence[RLE]) -> Tensor:
    """(n) int64: pixels of every mask."""
    runs, lengths = _runs(codes)
    ones = runs * (_places(lengths) % 2)
    owner = np.repeat(np.arange(len(codes)), lengths)
    return torch.from_numpy(np.bincount(owner, ones, len(codes)).astype(np.int64))


def boxes(codes: Sequence[RLE]) -> Tensor:
    """(n 4) int64: x, y, width and height in pixels, as in COCO; zeros for empty masks."""
    runs, lengths = _runs(codes)
    owner = np.repeat(np.arange(len(codes)), lengths)
    height = np.array([code["size"][0] for code in codes], dtype=np.int64)
    pixels = height * np.array([code["size"][1] for code in codes], dtype=np.int64)
    ones = (_places(lengths) % 2 == 1) & (runs > 0)
    stop = (np.cumsum(runs) - np.repeat(np.cumsum(pixels) - pixels, lengths))[ones]
    owner, runs = owner[ones], runs[ones]
    tall = height[owner]
    (left, top), (right, bottom) = np.divmod(stop - runs, tall), np.divmod(stop - 1, tall)
    whole = right > left  # a run over the end of a column touches both edges
    lowest = np.full((len(codes), 2), np.iinfo(np.int64).max)
    highest = np.full((len(codes), 2), -1)
    np.minimum.at(lowest, owner, np.stack([left, np.where(whole, 0, top)], axis=1))
    np.maximum.at(highest, owner, np.stack([right, np.where(whole, tall - 1, bottom)], axis=1))
    empty = highest[:, :1] < 0
    return torch.from_numpy(np.where(empty, 0, np.concatenate([lowest, highest - lowest + 1], axis=1)))


def compress(codes: Sequence[RLE] | Tensor) -> list[RLE]:
    """Codes with COCO's text in the place of runs; text stays as it is.

    Masks (n H W) bool may be given instead of their codes, which saves a Python number for every run.

    From the fourth run on a run is written as its difference to the one two before (objects have straight edges), in
    characters of five bits, lowest first, with a sixth bit that says that more follow.

    Raises:
        ValueError: see `encode` and `decode`.
    """
    if isinstance(codes, Tensor):
        (runs, lengths), sizes = _runs_of(codes), [list(codes.shape[1:])] * len(codes)
    else:
        (runs, lengths), sizes = _runs(codes), [code["size"] for code in codes]
    rest = runs.copy()
    rest[2:] -= runs[:-2]
    starts = (np.cumsum(lengths) - lengths)[lengths > 0]
    for near in range(3):  # the first three of every mask stay as they are
        place = starts[lengths[lengths > 0] > near] + near
        rest[place] = runs[place]
    first, rest, more = _digit(rest)
    counts = 1 + more
    index = np.flatnonzero(more)  # most runs need one character, so every further one is computed where there is one
    further = []
    while len(index):
        character, rest, more = _digit(rest[more])
        further.append((index, character))
        index = index[more]
        counts[index] += 1
    ends = np.cumsum(counts)
    characters = np.repeat(first, counts)
    for number, (index, character) in enumerate(further, start=1):
        characters[ends[index] - counts[index] + number] = character
    text = characters.tobytes().decode("ascii")
    written = np.append(0, ends)[np.append(0, np.cumsum(lengths))]
    return [
        {"size": list(size), "counts": text[start:stop]}
        for size, (start, stop) in zip(sizes, _spans(np.diff(written)), strict=True)
    ]


def decompress(code: RLE) -> RLE:
    """A code with runs in the place of COCO's text; runs stay as they are.

    Raises:
        ValueError: text that is cut off or is not COCO's.
    """
    return {"size": list(code["size"]), "counts": _counts(code).tolist()}


def _runs_of(masks: Tensor) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The runs of all masks (n H W) in one row, and (n) how many each has."""
    if masks.ndim != 3 or masks.dtype != torch.bool or 0 in masks.shape[1:]:
        raise ValueError(f"masks must be (n, H, W) bool with pixels, got {tuple(masks.shape)} {masks.dtype}.")
    parts = masks.split(max(1, _CHUNK // (masks.shape[1] * masks.shape[2]))) if len(masks) else ()
    found = [_runs_on_device(part) if part.is_cuda else _runs_on_cpu(part) for part in parts]
    none = np.zeros(0, dtype=np.int64)
    return np.concatenate([none, *(runs for runs, _ in found)]), np.concatenate([none, *(count for _, count in found)])


def _digit(
    values: NDArray[np.int64],
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.bool_]]:
    """The character of the lowest five bits of every value, what is left of it, and whether that needs another."""
    bits = values & 31
    rest = values >> 5
    more = rest != -(bits >> 4)  # not just the sign, which the highest bit tells
    return (bits + 32 * more + 48).astype(np.uint8), rest, more


def _spans(lengths: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Where each of the rows of these lengths starts and stops."""
    stops = np.cumsum(lengths)
    return list(zip((stops - lengths).tolist(), stops.tolist(), strict=True))


def _runs_on_cpu(masks: Tensor) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """`_runs_of` of some masks: bit by bit down the columns, 64 pixels to a word."""
    count, height, width = masks.shape
    packed = _packed(masks)
    deep = packed.shape[1]  # bytes of a column
    wide = -(-(width + 1) // 8) * 8  # whole words, and an empty column after every mask
    bits = np.zeros((count, wide, deep), dtype=np.uint8)
    bits[:, :width] = packed.transpose(0, 2, 1)
    words: NDArray[np.uint64] = bits.reshape(-1).view(np.uint64)
    changed = words << np.uint64(1)  # from the pixel before
    changed[1:] |= words[:-1] >> np.uint64(63)
    changed ^= words
    changed.view(np.uint8).reshape(bits.shape)[:, width, 0] = 1  # the last run ends with the mask
    places = _ones(changed)
    if height % 8:
        places -= places // (8 * deep) * (8 * deep - height)
    last = np.searchsorted(places, (np.arange(count) * wide + width) * height)
    runs = np.diff(places, prepend=0)
    runs[last[:-1] + 1] -= (wide - width) * height
    return runs, np.diff(last, prepend=-1)


def _packed(masks: Tensor) -> NDArray[np.uint8]:
    """(n H W) bool -> (n, H / 8, W): eight pixels of a column to a byte, the highest in its lowest bit; the last row is
    repeated until it is full, which changes nothing."""
    height, width = masks.shape[1:]
    masks = masks.contiguous()
    if height % 8 or width % 4 or masks.storage_offset() % 4:
        masks = F.pad(torch.cat([masks, masks[:, -1:].expand(-1, -height % 8, -1)], dim=1), (0, -width % 4))
    rows = masks.view(torch.int32)  # of four pixels that do not mix
    for bits in (1, 2, 4):
        rows = torch.add(rows[:, ::2], rows[:, 1::2], alpha=2**bits)
    return rows.numpy().view(np.uint8)[:, :, :width]


def _ones(words: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Places of the bits that are set, ascending. Few are: first whole words are passed over, then bytes."""
    filled = np.flatnonzero(words != 0)
    parts = words[filled].view(np.uint8)
    inside = np.flatnonzero(parts != 0)
    first = 8 * (8 * filled[inside >> 3] + (inside & 7))  # bit of every byte
    bit = np.flatnonzero(np.unpackbits(parts[inside], bitorder="little").view(bool))
    places: NDArray[np.int64] = first[bit >> 3] + (bit & 7)
    return places


def _runs_on_device(masks: Tensor) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """`_runs_of` of some masks on a GPU: only the places of changes leave it."""
    columns = masks.transpose(1, 2).flatten(1)
    changed = columns.clone()
    changed[:, 1:] ^= columns[:, :-1]
    places, counts = changed.flatten().nonzero().squeeze(1).cpu().numpy(), changed.sum(1).cpu().numpy()
    # Every mask's last run ends with the mask; a change there is the first pixel of the next one.
    ends = np.arange(1, len(masks) + 1) * columns.shape[1]
    return np.diff(np.sort(np.concatenate([places, ends])), prepend=0), counts + 1


def _runs(codes: Sequence[RLE]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The runs of all codes in one row, and (n) how many each has."""
    parts = [_counts(code) for code in codes]
    for code, part in zip(codes, parts, strict=True):
        height, width = code["size"]
        # A sum of runs may overflow back to the right number, but no single one of them may exceed it.
        if part.min(initial=0) < 0 or part.max(initial=0) > height * width or part.sum() != height * width:
            raise ValueError(f"The runs of a mask must fill {height} x {width} pixels, they fill {part.sum()}.")
    lengths = np.array([len(part) for part in parts], dtype=np.int64)
    return np.concatenate([np.zeros(0, dtype=np.int64), *parts]), lengths


def _counts(code: RLE) -> NDArray[np.int64]:
    counts = code["counts"]
    if not isinstance(counts, str | bytes):
        return np.array(counts, dtype=np.int64)
    raw = np.frombuffer(counts.encode() if isinstance(counts, str) else counts, dtype=np.uint8).astype(np.int64) - 48
    last = (raw & 32) == 0  # of a run
    if len(raw) == 0 or raw.min() < 0 or raw.max() > 63 or not last[-1]:
        raise ValueError(f"{str(counts)[:40]!r} is not the compressed text of a mask; it is cut off or altered.")
    owner = np.cumsum(last) - last
    digit = _places(np.bincount(owner))
    if digit.max() >= _LONGEST:
        raise ValueError(f"{str(counts)[:40]!r} is not the compressed text of a mask; a run is too long.")
    values = np.zeros(owner[-1] + 1, dtype=np.int64)
    np.add.at(values, owner, (raw & 31) << (5 * digit))
    negative = (raw[last] & 16) > 0
    values[negative] -= np.int64(1) << (5 * (digit[last][negative] + 1))
    # Undo the differences: runs 1, 3, 5, ... are running sums, and so are runs 2, 4, 6, ...
    values[1::2], values[2::2] = np.cumsum(values[1::2]), np.cumsum(values[2::2])
    return values


def _places(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """0, 1, 2, ... within each of the rows of these lengths."""
    total = int(lengths.sum())
    return np.arange(total) - np.repeat(np.cumsum(lengths) - lengths, lengths)
