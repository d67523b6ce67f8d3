"""CRC-32C (Castagnoli), the checksum of TFRecord files, many bytes at a time."""

from __future__ import annotations

from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Words: TypeAlias = NDArray[np.uint32]

POLYNOMIAL = np.uint32(0x82F63B78)  # bit-reversed
LANE = 512
"""Bytes that one lane reads, one after the other; all lanes read theirs at the same time."""


def crc32c(data: bytes | memoryview) -> int:
    """The checksum of some bytes.

    Reading is linear over GF(2): crc(a b) = shift(crc(a), length of b) ^ crc(b), where shift reads zeros. So the bytes
    are cut into lanes that are read side by side and joined in pairs; zeros in front change nothing when the register
    starts at zero, and the usual start with ones is added at the end.
    """
    count = len(data)
    lanes = 1 << max(0, -(-count // LANE) - 1).bit_length()
    lane = -(-count // (2 * lanes)) * 2
    padded = np.zeros(lanes * lane, np.uint8)
    padded[lanes * lane - count :] = np.frombuffer(data, np.uint8)
    register = np.zeros(lanes, np.uint32)
    for column in np.ascontiguousarray(padded.view("<u2").reshape(lanes, lane // 2).T):
        register = PAIRS[(register ^ column) & 0xFFFF] ^ (register >> np.uint32(16))
    shift = _shift(lane)
    while len(register) > 1:
        register = _apply(shift, register[::2]) ^ register[1::2]
        shift = _apply(shift, shift)
    ones = np.array([0xFFFFFFFF], np.uint32)
    return int((register ^ _apply(_shift(count), ones) ^ ones)[0])


def masked(checksum: int) -> int:
    """As TFRecord files store it: turned by 15 bits, plus a constant, so that no file holds its own checksum."""
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _table(bits: int) -> Words:
    """What reading so many bits makes of a register that holds their number."""
    register = np.arange(1 << bits, dtype=np.uint32)
    for _ in range(bits):
        register = register >> np.uint32(1) ^ POLYNOMIAL * (register & np.uint32(1))
    return register


def _apply(matrix: Words, values: Words) -> Words:
    """Columns (32) of a matrix over GF(2), times values (n) of 32 bits each."""
    chosen = np.where(values[:, None] >> BITS & 1, matrix, np.uint32(0))
    product: Words = np.bitwise_xor.reduce(chosen, axis=1)
    return product


@lru_cache(64)
def _shift(count: int) -> Words:
    """The matrix of reading `count` zeros."""
    result = np.uint32(1) << BITS
    power = _table(8)[result & 0xFF] ^ (result >> np.uint32(8))
    while count:
        if count & 1:
            result = _apply(power, result)
        power = _apply(power, power)
        count >>= 1
    return result


BITS = np.arange(32, dtype=np.uint32)
PAIRS = _table(16)
