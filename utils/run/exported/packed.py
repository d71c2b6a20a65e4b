"""A quantized weight as k-bit codes into a small table of float32 levels, whatever the quantizer.

W_hat has few distinct values per weight tensor (dorefa, BWN) or per output channel (BWN-F). `pack` counts them, and takes the one
of these two tables that makes the weight smaller.

Codes stand in C order over the weight's shape, whatever its order in memory. Code i takes the bits i k to i k + k - 1 of the
bytes; the first bit of a byte is its least significant one, and so is the first bit of a code. Zeros fill the last byte.
Levels are float32 and have one axis more than the weight's view, to which they broadcast: (1, ..., 1, L) for a table of the whole
tensor, (C_out, 1, ..., 1, L) for one per output channel. A code is the index along the last axis. The view is the weight's shape,
but (groups, C_in / groups, C_out / groups, ...) for a transposed convolution of several groups, so that channels have an axis.
"""

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import numpy as np

from utils.layout import Filters

MOST_BITS = 8  # of a code
CHUNK = 1 << 16  # codes that are unpacked at a time; a multiple of 8, so that each chunk begins with a byte


class View(NamedTuple):
    """The shape in which a weight's output channels have axes of their own, and these axes."""

    shape: tuple[int, ...]
    channels: tuple[int, ...]

    @classmethod
    def of(cls, shape: Sequence[int], filters: Filters | None) -> "View":
        """Of a weight; filters: of its layer, None for a linear map (C_out, C_in)."""
        if not (filters and filters.transposed):
            return cls(tuple(shape), (0,))
        inputs, *rest = shape
        if filters.groups == 1:
            return cls(tuple(shape), (1,))
        return cls((filters.groups, inputs // filters.groups, *rest), (0, 2))

    def rows(self, W: np.ndarray) -> np.ndarray:
        """A weight as a row for each output channel."""
        count = prod(self.shape[axis] for axis in self.channels)
        return np.moveaxis(W.reshape(self.shape), self.channels, range(len(self.channels))).reshape(count, -1)

    def from_rows(self, rows: np.ndarray) -> np.ndarray:
        """The weight of these rows, in the view's shape."""
        first = [self.shape[axis] for axis in self.channels]
        rest = [size for axis, size in enumerate(self.shape) if axis not in self.channels]
        return np.moveaxis(rows.reshape(*first, *rest), range(len(first)), self.channels)

    @property
    def one_table(self) -> tuple[int, ...]:
        """The levels' axes but the last, where one table is for the whole tensor."""
        return (1,) * len(self.shape)

    @property
    def table_per_channel(self) -> tuple[int, ...]:
        """The levels' axes but the last, where each output channel has a table."""
        return tuple(size if axis in self.channels else 1 for axis, size in enumerate(self.shape))


class Packed(NamedTuple):
    """A packed weight of n numbers. codes: uint8 (ceil(n bits / 8),); levels: float32; view: see above."""

    shape: tuple[int, ...]
    view: tuple[int, ...]
    bits: int
    codes: np.ndarray
    levels: np.ndarray

    @property
    def count(self) -> int:
        """n."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of codes and levels."""
        return self.codes.nbytes + self.levels.nbytes

    @property
    def scales(self) -> np.ndarray:
        """The largest |level| of each table, (tables,)."""
        return np.abs(self.levels).max(axis=-1).ravel()


def code_bytes(count: int, bits: int) -> int:
    """The bytes that so many codes take."""
    return -(-count * bits // 8)


def pack(W_hat: np.ndarray, filters: Filters | None) -> Packed:
    """Packs a quantized weight, float32 of any shape and strides and finite. filters: of its layer, None for a linear map.

    Every number is kept bit for bit; only a negative zero becomes zero, where the codes would take another bit because of it.
    Raises ValueError where an output channel has more than 256 distinct values.
    """
    view = View.of(W_hat.shape, filters)
    whole, channels = W_hat.reshape(1, -1), view.rows(W_hat)
    candidates = [(_table(whole), whole, view.one_table), (_table(channels), channels, view.table_per_channel)]
    found = [(table, rows, axes) for table, rows, axes in candidates if _bits_for(table) <= MOST_BITS]
    if not found:
        raise ValueError(f"it has more than {2**MOST_BITS} distinct values per output channel")
    table, rows, axes = min(found, key=lambda one: code_bytes(W_hat.size, _bits_for(one[0])) + one[0].nbytes)
    indices = [np.searchsorted(levels, row) for levels, row in zip(table, _keys(rows), strict=True)]
    codes = np.stack(indices).astype(np.uint8)
    codes = codes.ravel() if rows is whole else view.from_rows(codes).ravel()
    bits = _bits_for(table)
    stream = np.unpackbits(codes[:, None], axis=1, count=bits, bitorder="little")
    levels = _keys(table).view(np.float32).reshape(*axes, -1)
    return Packed(W_hat.shape, view.shape, bits, np.packbits(stream, bitorder="little"), levels)


def unpack(packed: Packed, out: np.ndarray) -> None:
    """Writes W_hat, bit for bit, into a float32 array of the weight's shape and any strides.

    Raises ValueError for a code beyond its table.
    """
    table = packed.levels.reshape(-1, packed.levels.shape[-1])
    table_of = np.broadcast_to(np.arange(len(table)).reshape(packed.levels.shape[:-1]), packed.view).flat
    for start in range(0, out.size, CHUNK):
        stop = min(start + CHUNK, out.size)
        piece = packed.codes[start * packed.bits // 8 : code_bytes(stop, packed.bits)]
        stream = np.unpackbits(piece, count=(stop - start) * packed.bits, bitorder="little").reshape(-1, packed.bits)
        codes = np.packbits(stream, axis=1, bitorder="little")[:, 0]
        if codes.max() >= table.shape[1]:
            raise ValueError(f"code {codes.max()} is beyond its {table.shape[1]} levels")
        out.flat[start:stop] = table[table_of[start:stop], codes]


def _bits_for(table: np.ndarray) -> int:
    return max(1, (table.shape[1] - 1).bit_length())


def _keys(values: np.ndarray) -> np.ndarray:
    """float32 as int32 in the same order, and back: each bit pattern is another key, -0 comes just before 0."""
    bits = values.view(np.int32)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def _table(rows: np.ndarray) -> np.ndarray:
    """The keys of each row's distinct values (rows, L), ascending; the last one fills up where a row has fewer."""
    exact, merged = (_unique(_keys(values)) for values in (rows, rows + np.float32(0)))  # -0 + 0 is 0
    return merged if _bits_for(merged) < _bits_for(exact) else exact


def _unique(keys: np.ndarray) -> np.ndarray:
    found = [np.unique(row) for row in keys]
    most = max(map(len, found))
    return np.stack([np.pad(values, (0, most - len(values)), mode="edge") for values in found])
