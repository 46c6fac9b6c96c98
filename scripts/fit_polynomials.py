"""Fits every polynomial of csrc/core/math.h and prints it as C++ with its error.

Near-minimax by Lawson's iteratively reweighted least squares (float32) or by Chebyshev interpolation in
50 digits (float64). Needs numpy and mpmath. Run it to see where a coefficient comes from; changing one
changes the bits of every weight, which is a new version of the value contract.
"""

from __future__ import annotations

from collections.abc import Callable

import mpmath as mp
import numpy as np

mp.mp.dps = 50
Function = Callable[[mp.mpf], mp.mpf]


def neg2log_over_f(f: mp.mpf) -> mp.mpf:
    """-2 ln(1 + f) / f, continuous at 0."""
    return mp.mpf(-2) if abs(f) < mp.mpf("1e-40") else -2 * mp.log1p(f) / f


def sin_over_x(x2: mp.mpf) -> mp.mpf:
    """sin(pi/2 x) / x as a function of x squared."""
    x = mp.sqrt(x2)
    return mp.pi / 2 if x < mp.mpf("1e-20") else mp.sin(mp.pi / 2 * x) / x


def cos_of_x(x2: mp.mpf) -> mp.mpf:
    """cos(pi/2 x) as a function of x squared."""
    return mp.cos(mp.pi / 2 * mp.sqrt(x2))


MEDIAN_RADIUS = mp.sqrt(2 * mp.log(2))  # sqrt(-2 ln p) at p = 1/2, where the quantile is 0


def tail_probability(z: mp.mpf) -> mp.mpf:
    return mp.erfc(z / mp.sqrt(2)) / 2


def quantile_over_t(s: mp.mpf) -> mp.mpf:
    """z / (s - MEDIAN_RADIUS) with s = sqrt(-2 ln p) and p the upper tail probability of z."""
    t = s - MEDIAN_RADIUS
    if abs(t) < mp.mpf("1e-20"):  # derivative of z in s at the median: s p / pdf(0)
        return MEDIAN_RADIUS * mp.mpf("0.5") * mp.sqrt(2 * mp.pi)
    p = mp.exp(-(s**2) / 2)
    z = max(mp.mpf(0), s - 1)
    for _ in range(60):  # Newton on ln(tail)
        tail = tail_probability(z)
        step = mp.log(tail / p) * tail * mp.sqrt(2 * mp.pi) * mp.exp(z * z / 2)
        z += step
        if abs(step) < mp.mpf("1e-45"):
            break
    return z / t


def chebyshev_nodes(low: mp.mpf, high: mp.mpf, count: int) -> list[mp.mpf]:
    mid, half = (low + high) / 2, (high - low) / 2
    return [mid + half * mp.cos(mp.pi * (2 * k + 1) / (2 * count)) for k in range(count)]


def interpolate(function: Function, low: mp.mpf, high: mp.mpf, degree: int) -> list[float]:
    """Power-basis coefficients, lowest first, through Chebyshev nodes."""
    nodes = chebyshev_nodes(low, high, degree + 1)
    matrix = mp.matrix(degree + 1, degree + 1)
    for row, x in enumerate(nodes):
        for column in range(degree + 1):
            matrix[row, column] = x**column
    return [float(c) for c in mp.lu_solve(matrix, mp.matrix([function(x) for x in nodes]))]


def lawson(
    function: Function, low: mp.mpf, high: mp.mpf, degree: int, weight: Callable[[float], float]
) -> list[float]:
    """Coefficients, lowest first, that nearly minimise the largest weighted error."""
    nodes = chebyshev_nodes(low, high, 1500)
    x = np.array([float(n) for n in nodes])
    y = np.array([float(function(n)) for n in nodes])
    weights = np.array([weight(value) for value in x])
    mid, half = float(low + high) / 2, float(high - low) / 2
    vander = np.polynomial.chebyshev.chebvander((x - mid) / half, degree)
    lawson_weights = np.full(len(x), 1 / len(x))
    best, best_error = np.zeros(degree + 1), np.inf
    for _ in range(80):
        scale = np.sqrt(lawson_weights) * weights
        solution = np.linalg.lstsq(vander * scale[:, None], y * scale, rcond=None)[0]
        error = np.abs((vander @ solution - y) * weights)
        if error.max() < best_error:
            best, best_error = solution, error.max()
        lawson_weights = lawson_weights * error + 1e-300
        lawson_weights /= lawson_weights.sum()
    series = np.polynomial.Chebyshev(best, domain=[float(low), float(high)])
    return [float(c) for c in series.convert(kind=np.polynomial.Polynomial).coef]


def report(
    name: str, coefficients: list[float], function: Function, low: mp.mpf, high: mp.mpf, kind: str
) -> None:
    rounded = [float(np.float32(c)) if kind == "float" else c for c in coefficients]
    worst = mp.mpf(0)
    for x in chebyshev_nodes(low, high, 401):
        value = mp.mpf(0)
        for c in reversed(rounded):
            value = value * x + mp.mpf(c)
        worst = max(worst, abs(value / function(x) - 1))
    print(f"// {name}: {kind}, relative error {float(worst):.1e}, lowest power first")
    suffix = "f" if kind == "float" else ""
    digits = 9 if kind == "float" else 17
    print("{" + ", ".join(f"{c:.{digits}g}{suffix}" for c in rounded) + "}")


def main() -> None:
    log_range = (mp.sqrt(0.5) - 1, mp.sqrt(2) - 1)
    angle_range = (mp.mpf(0), mp.mpf("0.25"))

    # c = (s - 4) * 0.375 and (s - 5) * 0.25 keep the powers small; both ends of s are rounded outwards
    def float_quantile(c: mp.mpf) -> mp.mpf:
        return quantile_over_t(4 + c / mp.mpf("0.375"))

    def double_quantile(c: mp.mpf) -> mp.mpf:
        return quantile_over_t(5 + c / mp.mpf("0.25"))

    float_tail = ((MEDIAN_RADIUS - 4) * mp.mpf("0.375"), (mp.mpf("7.0") - 4) * mp.mpf("0.375"))
    double_tail = ((MEDIAN_RADIUS - 5) * mp.mpf("0.25"), (mp.mpf("8.9") - 5) * mp.mpf("0.25"))

    def relative(function: Function) -> Callable[[float], float]:
        return lambda x: 1 / abs(float(function(mp.mpf(x))))

    def quantile_weight(c: float) -> float:
        t = 4 + c / 0.375 - float(MEDIAN_RADIUS)
        return t / max(1.0, t * float(float_quantile(mp.mpf(c))))

    for name, function, bounds, degree, weight in (
        ("neg2log", neg2log_over_f, log_range, 6, relative(neg2log_over_f)),
        ("sin", sin_over_x, angle_range, 3, relative(sin_over_x)),
        ("cos", cos_of_x, angle_range, 3, relative(cos_of_x)),
        ("quantile", float_quantile, float_tail, 12, quantile_weight),
    ):
        report(name, lawson(function, *bounds, degree, weight), function, *bounds, "float")
    for name, function, bounds, degree in (
        ("neg2log", neg2log_over_f, log_range, 18),
        ("sin", sin_over_x, angle_range, 6),
        ("cos", cos_of_x, angle_range, 7),
        ("quantile", double_quantile, double_tail, 26),
    ):
        report(name, interpolate(function, *bounds, degree), function, *bounds, "double")


if __name__ == "__main__":
    main()
