"""Pairwise test parameters: a few points of a grid that contain every pair of values of any two axes."""

import itertools

import pytest


def pairs(point) -> set:
    return set(itertools.combinations(enumerate(point), 2))


def pairwise(**axes) -> pytest.MarkDecorator:
    """Parametrise a test with two opposite corners of the grid and enough further points to contain every pair."""
    grid = list(itertools.product(*(range(len(values)) for values in axes.values())))
    chosen = [grid[0], grid[-1]]
    missing = set().union(*map(pairs, grid)).difference(*map(pairs, chosen))
    while missing:
        chosen.append(max(grid, key=lambda point: len(pairs(point) & missing)))
        missing -= pairs(chosen[-1])
    points = [[values[i] for i, values in zip(point, axes.values(), strict=True)] for point in sorted(chosen)]
    return pytest.mark.parametrize(list(axes), points)
