"""A model of the values over the parameters: what each parameter explains, and the way to the winner.

A Gaussian process with a Matérn 5/2 kernel and a length of its own for each parameter, fitted by maximum a
posteriori; its prior leaves a parameter without effect until the values ask for one. It knows what it does
not know, so what it says has a spread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

MAX_TRIALS = 200  # the fit takes time by their cube: a third of a second for so many of eight parameters
RESAMPLES = 500
ENOUGH = 1e-5  # the fit ends at a step that gains less, as a share: shares stay within 0.2 % of all
JITTER = 1e-4  # variance of the noise at least, in variances of the values
LEVEL = (5.0, 95.0)  # percentiles that bound an interval

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
Column = tuple[float, ...]  # one parameter's places of all trials, between 0 and 1


@dataclass(frozen=True)
class Explained:
    """What the parameters explain of the values, by their places."""

    shares: tuple[tuple[float, float, float], ...]  # of all that parameters explain: share, low, high
    all: float  # of the values' variance, as left-out trials are predicted; 0 where they are not


@dataclass(frozen=True)
class Model:
    """A fitted process over `columns`; values in units of their own standard deviation."""

    columns: Array  # parameters x trials
    categorical: tuple[bool, ...]
    values: Array
    weights: Array  # of a parameter's squared distances; 0 where it has no effect
    signal: float
    noise: float

    def covariance(self, left: Array, right: Array) -> Array:
        """Of the places `left` and `right` (parameters x places)."""
        return self.signal * _matern(_distances(left, right, self.categorical), self.weights)[0]

    @cached_property
    def _apart(self) -> Array:
        return _distances(self.columns, self.columns, self.categorical)

    def _matrix(self, without: int | None = None) -> Array:
        """Of the values themselves, with the noise; as if parameter `without` had no effect."""
        weights = self.weights.copy()
        if without is not None:
            weights[without] = 0.0
        kernel = self.signal * _matern(self._apart, weights)[0]
        return np.asarray(kernel + self.noise * np.eye(len(self.values)))

    def left_out(self, without: int | None = None) -> Array:
        """Each value less its prediction from all other trials.

        In closed form (Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, eq. 5.12).
        """
        inverse = _inverse(self._matrix(without))[0]
        return (inverse @ self.values) / np.diag(inverse)

    @cached_property
    def _factor(self) -> Any:
        from scipy.linalg import cho_factor

        return cho_factor(self._matrix(), lower=True)

    def predicted(self, places: Array) -> tuple[Array, Array]:
        """Mean and covariance of the values at `places` (parameters x places), without the noise."""
        from scipy.linalg import cho_solve

        across = self.covariance(self.columns, places)
        solved = cho_solve(self._factor, np.column_stack([self.values, across]))
        return across.T @ solved[:, 0], self.covariance(places, places) - across.T @ solved[:, 1:]


@lru_cache(maxsize=32)  # slices, contour and lines ask for the same
def explained(columns: tuple[Column, ...], categorical: tuple[bool, ...], values: Column) -> Explained:
    """How much worse left-out trials are predicted without a parameter, as shares, with 90 % intervals.

    Leave one covariate out (Lei et al., JASA 2018; Williamson et al., JASA 2023): what a parameter tells
    beyond all others. So one that a sampler moved along with one that matters is not credited with it, as it
    is where parameters are judged one by one. The interval is the bootstrap's over the trials; where it
    reaches 0 the parameter cannot be told from noise.
    """
    model = fitted(columns, categorical, values)
    whole = model.left_out() ** 2
    lost = np.array([model.left_out(parameter) ** 2 - whole for parameter in range(len(columns))])
    drawn = np.random.default_rng(0).integers(0, len(values), (RESAMPLES, len(values)))
    times = np.apply_along_axis(np.bincount, 1, drawn, minlength=len(values))  # each trial, in each resample
    losses = np.vstack([lost.mean(axis=1), times @ lost.T / len(values)]).clip(0.0)  # itself, then resamples
    total = losses.sum(axis=1, keepdims=True)
    shares = np.divide(losses, total, out=np.zeros_like(losses), where=total > 0)
    low, high = np.percentile(shares[1:], LEVEL, axis=0)
    return Explained(
        tuple(
            (float(s), float(min(s, a)), float(max(s, b)))
            for s, a, b in zip(shares[0], low, high, strict=True)
        ),
        max(0.0, 1.0 - float(whole.mean())),
    )


def fitted(columns: Sequence[Column], categorical: Sequence[bool], values: Sequence[float]) -> Model:
    """The model of `values`, one a trial; they may have any unit."""
    from scipy.optimize import minimize

    places, scaled = np.array(columns, dtype=float), np.array(values, dtype=float)
    scaled = (scaled - scaled.mean()) / (scaled.std() or 1.0)
    squared = _distances(places, places, categorical)
    many = len(columns)

    def loss(logs: Array) -> tuple[float, Array]:
        """The negative log posterior and its gradient, of the logarithms of weights, signal and noise.

        The prior on weights is exponential, on the other two log-normal and wide.
        """
        weights, signal, noise = np.exp(logs[:many]), np.exp(logs[many]), np.exp(logs[many + 1])
        kernel, slope = _matern(squared, weights)
        matrix = signal * kernel + (noise + JITTER) * np.eye(len(scaled))
        inverse, determinant = _inverse(matrix)
        solved = inverse @ scaled
        pull = 0.5 * (inverse - np.outer(solved, solved))
        wide = (logs[many:] - [0.0, -1.5]) / 1.5
        value = 0.5 * (scaled @ solved + determinant + wide @ wide) + weights.sum()
        gradient = np.empty_like(logs)
        gradient[:many] = (np.tensordot(squared, signal * pull * slope, 2) + 1.0) * weights
        gradient[many:] = [np.sum(pull * kernel) * signal, np.trace(pull) * noise] + wide / 1.5
        return float(value), gradient

    start = np.array([-0.5] * many + [0.0, -1.5])
    bounds = [(-9.0, 5.0)] * many + [(-4.0, 4.0)] * 2
    options = {"maxiter": 60, "ftol": ENOUGH}
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options).x
    weights = np.exp(found[:many])
    return Model(
        places,
        tuple(categorical),
        scaled,
        weights,
        float(np.exp(found[many])),
        float(np.exp(found[-1])) + JITTER,
    )


def _distances(left: Array, right: Array, categorical: Sequence[bool]) -> Array:
    """Squared, by parameter: parameters x left x right. Two choices are 1 apart."""
    apart = left[:, :, None] - right[:, None, :]
    kinds = np.array(categorical)[:, None, None]
    return np.asarray(np.where(kinds, apart != 0, apart**2), dtype=float)


def _inverse(matrix: Array) -> tuple[Array, float]:
    """Of a positive definite matrix, and the logarithm of its determinant; in half the time of any matrix."""
    from scipy.linalg.lapack import dpotrf, dpotri

    lower, failed = dpotrf(matrix.T, lower=True)
    if failed:
        raise np.linalg.LinAlgError("the matrix is not positive definite")
    half = np.tril(dpotri(lower, lower=True)[0])
    return half + np.tril(half, -1).T, 2 * float(np.log(np.diag(lower)).sum())


def _matern(squared: Array, weights: Array) -> tuple[Array, Array]:
    """Matérn 5/2 of the weighted sum of squared distances, and its slope in that sum."""
    root = np.sqrt(5 * np.tensordot(weights, squared, 1))
    fall = np.exp(-root)
    return (1 + root + root**2 / 3) * fall, -(5 / 6) * (1 + root) * fall
