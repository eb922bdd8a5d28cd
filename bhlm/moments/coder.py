"""Group labels that arrive batch by batch -> codes in the order of their first row."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bhlm.design.kernels import kernel

Array = np.ndarray
# Integers per group or row up to which a window over all of them is held, 4 bytes each.
SPARSE = 8
START = 1 << 10  # groups that there is room for at first
GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio (Knuth, vol. 3, section 6.4)


def _no_codes() -> Array:
    return np.empty(0, dtype=np.int32)


@dataclass(slots=True)
class Coder:
    """Group labels -> codes in the order of their first row, grown batch by batch."""

    labels: Array  # (capacity,) int64 labels by code, where they are integers
    window: Array = field(default_factory=_no_codes)  # code of each integer from `low` on, or -1
    slots: Array = field(default_factory=_no_codes)  # hash table: code of what hashes here, or -1
    texts: dict[str, int] = field(default_factory=dict)
    low: int = 0
    size: int = 0
    is_dense: bool = True  # whether the window serves, which costs a third of the hash table

    def encode(self, labels: Any) -> Array:
        """Return the codes (n,) of a pyarrow array of labels, integers or text, none missing."""
        if is_text(labels.type):
            encoded = labels.combine_chunks().dictionary_encode()
            known = [
                self.texts.setdefault(text, len(self.texts))
                for text in encoded.dictionary.to_pylist()
            ]
            self.size = len(self.texts)
            return np.array(known, dtype=np.int64)[encoded.indices.to_numpy()]
        # Unsigned labels beyond 2^63 are other integers of the same 64 bits, until `list_labels`.
        return self.encode_numbers(labels.to_numpy().astype(np.int64, copy=False))

    def encode_numbers(self, numbers: Array) -> Array:
        """Return the codes (n,) of integer labels (n,), int64."""
        codes = np.empty(len(numbers), dtype=np.int64)
        if len(numbers) == 0:
            return codes
        self.labels = grow(self.labels, self.size + len(numbers))
        if self.is_dense and self._widen(int(numbers.min()), int(numbers.max()), len(numbers)):
            self.size = code_dense(numbers, codes, self.labels, self.window, self.low, self.size)
            return codes
        if len(self.slots) < 2 * len(self.labels):
            width = 1 << int(2 * len(self.labels) - 1).bit_length()
            self.slots = np.full(width, -1, dtype=np.int32)
            enter_labels(self.labels, self.slots, self.size)
        self.size = code_sparse(numbers, codes, self.labels, self.slots, self.size)
        return codes

    def _widen(self, low: int, high: int, n: int) -> bool:
        """Have the window hold labels from low to high; return False if they lie too far apart.

        From then on labels are hashed.
        """
        if len(self.window):
            low, high = min(low, self.low), max(high, self.low + len(self.window) - 1)
        if high - low >= SPARSE * max(n, self.size):
            self.is_dense, self.window = False, self.window[:0]
            return False
        if high - low >= len(self.window):
            wider = np.full(high - low + 1, -1, dtype=np.int32)
            start = self.low - low if len(self.window) else 0
            wider[start : start + len(self.window)] = self.window
            self.low, self.window = low, wider
        return True

    def sort(self, dtype: Any) -> tuple[Array, Array]:
        """Return the labels (J,), which are of a pyarrow type, sorted, and their codes (J,)."""
        labels = self.list_labels(dtype)
        order = np.argsort(labels, kind="stable")
        return labels[order], order

    def list_labels(self, dtype: Any) -> Array:
        """Return the labels (J,), which are of a pyarrow type, in the order of their codes."""
        if is_text(dtype):
            return np.array(list(self.texts), dtype=object)
        return self.labels[: self.size].astype(dtype.to_pandas_dtype())


def is_text(dtype: Any) -> bool:
    """Return whether a pyarrow type is one of text."""
    from pyarrow import types

    return bool(types.is_string(dtype) or types.is_large_string(dtype))


def grow(array: Array, size: int) -> Array:
    """Return the array with at least so many rows, new ones zero, twice as many if it must grow."""
    if size <= len(array):
        return array
    more = np.zeros((max(size, 2 * len(array)), *array.shape[1:]), dtype=array.dtype)
    more[: len(array)] = array
    return more


@kernel
def find_slot(label: int, labels: Array, slots: Array) -> np.int64:
    """Return the slot that holds the code of a label, or the free one where it would go."""
    shift = np.uint64(64)
    width = len(slots)
    while width > 1:
        shift -= np.uint64(1)
        width >>= 1
    slot = np.int64((np.uint64(label) * GOLDEN) >> shift)
    while slots[slot] >= 0 and labels[slots[slot]] != label:
        slot = (slot + 1) & (len(slots) - 1)
    return slot


@kernel
def enter_labels(labels: Array, slots: Array, size: int) -> None:
    """Enter the first `size` labels into empty slots."""
    for code in range(size):
        slots[find_slot(labels[code], labels, slots)] = code


@kernel
def code_dense(
    numbers: Array, codes: Array, labels: Array, window: Array, low: int, size: int
) -> int:
    """Write the codes (n,) of labels (n,) in a window; return how many labels are known."""
    for i in range(len(numbers)):
        code = window[numbers[i] - low]
        if code < 0:
            code = size
            window[numbers[i] - low] = code
            labels[size] = numbers[i]
            size += 1
        codes[i] = code
    return size


@kernel
def code_sparse(numbers: Array, codes: Array, labels: Array, slots: Array, size: int) -> int:
    """Write the codes (n,) of labels (n,) by hashing; return how many labels are known."""
    for i in range(len(numbers)):
        if i > 0 and numbers[i] == numbers[i - 1]:
            codes[i] = codes[i - 1]
            continue
        slot = find_slot(numbers[i], labels, slots)
        if slots[slot] < 0:
            labels[size] = numbers[i]
            slots[slot] = size
            size += 1
        codes[i] = slots[slot]
    return size
