"""Ensembles of decision trees as flat arrays: data only, walked by one small compiled loop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trafficrefinery.jit import kernel

LEAF = -1
"""In place of a feature, where a node has no children."""


class Forest(NamedTuple):
    """The trees of a model, node by node, the root of each first.

    A row goes left where its feature is at most the threshold; NaN goes where `nan_left` says. The children of a node
    lie side by side: the right one behind the left one.

    Args:
        roots: int64, of each tree.
        feature: int32, column that a node looks at; `LEAF` for a leaf.
        threshold: float32.
        left: int32, the left child; of a leaf, its row of `values`.
        nan_left: uint8.
        values: float32 (leaves, outputs), what a leaf adds to each output.
        start: float64 (outputs), what is added to.
    """

    roots: NDArray[np.int64]
    feature: NDArray[np.int32]
    threshold: NDArray[np.float32]
    left: NDArray[np.int32]
    nan_left: NDArray[np.uint8]
    values: NDArray[np.float32]
    start: NDArray[np.float64]

    def sums(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        """Sum of what the leaves give: float64 (rows, outputs) for float32 (rows, columns), NaN where unknown."""
        out = np.tile(self.start, (len(rows), 1))
        _add_leaves(np.ascontiguousarray(rows, np.float32), self, out)
        return out

    def check(self, columns: int) -> None:
        """See that no walk leaves the arrays or goes on for ever, whatever the row.

        Raises:
            ValueError: this is no forest.
        """
        if {one.ndim for one in (self.roots, self.feature, self.threshold, self.left, self.nan_left, self.start)} != {
            1
        }:
            raise ValueError("the trees are not well-formed")
        nodes = len(self.feature)
        number = np.arange(nodes)
        inner = self.feature != LEAF
        left = self.left.astype(np.int64)
        fits = (
            all(len(one) == nodes for one in (self.threshold, self.left, self.nan_left))
            and self.values.ndim == 2
            and self.start.shape == self.values.shape[1:]
            and bool(((self.roots >= 0) & (self.roots < nodes)).all())
            and bool(((self.feature >= LEAF) & (self.feature < columns)).all())
            and bool((left[inner] > number[inner]).all())  # down only, so every walk ends
            and bool((left[inner] + 1 < nodes).all())
            and bool(((left[~inner] >= 0) & (left[~inner] < len(self.values))).all())
        )
        if not fits:
            raise ValueError("the trees are not well-formed")

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Forest:
        """From arrays by name, as `_asdict` gives them.

        Raises:
            ValueError: one is missing.
        """
        types = ("i8", "i4", "f4", "i4", "u1", "f4", "f8")
        try:
            return cls(*(
                np.ascontiguousarray(arrays[name]).astype(kind, casting="equiv")
                for name, kind in zip(cls._fields, types, strict=True)
            ))  # fmt: skip
        except (KeyError, TypeError) as error:
            raise ValueError(f"the trees are not as they should be: {error}") from error


@kernel
def _add_leaves(rows: NDArray[np.float32], forest: Forest, out: NDArray[np.float64]) -> None:
    """Tree by tree, so that each stays in the cache while all rows pass."""
    for tree in range(len(forest.roots)):
        for row in range(len(rows)):
            node = forest.roots[tree]
            while forest.feature[node] >= 0:
                x = rows[row, forest.feature[node]]
                right = 1
                if x <= forest.threshold[node] or (x != x and forest.nan_left[node] != 0):
                    right = 0
                node = np.int64(forest.left[node] + right)
            leaf = forest.left[node]
            for k in range(out.shape[1]):
                out[row, k] += forest.values[leaf, k]
