"""Fits every polynomial of csrc/core/math.h and prints it as C++ with its error.

Near-minimax by Lawson's iteratively reweighted least squares (float32, and quotients of polynomials) or by
Chebyshev interpolation in 50 digits (float64). Needs numpy and mpmath. Run it to see where a coefficient
comes from; changing one changes the bits of every weight, which is a new version of the value contract.
"""

from __future__ import annotations

from collections.abc import Callable

import mpmath as mp
import numpy as np

mp.mp.dps = 50
Function = Callable[[mp.mpf], mp.mpf]
Parts = tuple[list[float], ...]  # a polynomial, or numerator and denominator


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


# neglog4 has 1 + f in [3/4, 3/2]: a chord through the ends, where it is exact, and a polynomial times what is
# zero there.
LOG_ENDS = mp.mpf("-0.25"), mp.mpf("0.5")
CHORD = [mp.log(0.75) + mp.log(2) / 3, mp.log(2) / 0.75]


def off_chord(f: mp.mpf) -> mp.mpf:
    return (mp.log1p(f) - CHORD[0] - CHORD[1] * f) / ((f - LOG_ENDS[0]) * (f - LOG_ENDS[1]))


def neglog4_of(off: list[float]) -> list[float]:
    """-ln(4 (1 + f)) without the power of two, in powers of f."""
    product = np.polymul(off[::-1], [1.0, -0.25, -0.125])[::-1]
    product[:2] += [float(c) for c in CHORD]
    return [-float(product[0] + 2 * mp.log(2)), *(-product[1:]).tolist()]


def quantile_ratio(w: mp.mpf) -> mp.mpf:
    """z / (2 P - 1) where w = -ln(4 P (1 - P)) and P = Phi(z)."""
    if w < mp.mpf("1e-30"):
        return mp.sqrt(mp.pi / 2)
    twice_from_median = mp.sqrt(-mp.expm1(-w))
    return mp.sqrt(2) * mp.erfinv(twice_from_median) / twice_from_median


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


def lawson_quotient(
    function: Function, high: mp.mpf, degrees: tuple[int, int], weight: Callable[[float, float], float]
) -> tuple[list[float], list[float]]:
    """Numerator and denominator on [0, high], by Sanathanan and Koerner's iteration: linear least squares
    with the last denominator among the weights, and Lawson's besides. `weight` is of argument and value.
    """
    steps = np.linspace(0.0, np.pi, 600)
    x = np.maximum(float(high) * ((1 - np.cos(steps)) / 2) ** 1.5, 1e-12)
    y = np.array([float(function(mp.mpf(value))) for value in x])
    weights = np.array([weight(*each) for each in zip(x, y, strict=True)])
    over, under = (np.polynomial.chebyshev.chebvander(2 * x / float(high) - 1, degree) for degree in degrees)
    lawson_weights, denominator = np.ones(len(x)), np.ones(len(x))
    best, best_error = np.zeros(0), np.inf
    for turn in range(200):
        scale = np.sqrt(lawson_weights) * weights / denominator
        matrix = np.hstack([over, -y[:, None] * under[:, 1:]]) * scale[:, None]
        solution = np.linalg.lstsq(matrix, y * scale, rcond=1e-17)[0]
        denominator = 1 + under[:, 1:] @ solution[degrees[0] + 1 :]
        error = np.abs(over @ solution[: degrees[0] + 1] / denominator - y) * weights
        if error.max() < best_error and denominator.min() > 0:
            best, best_error = solution, error.max()
        if turn > 8:
            lawson_weights = lawson_weights * (error / error.max() + 1e-3)
            lawson_weights /= lawson_weights.mean()
    series = best[: degrees[0] + 1], np.r_[1.0, best[degrees[0] + 1 :]]
    powers = [
        np.polynomial.Chebyshev(each, domain=[0.0, float(high)]).convert(kind=np.polynomial.Polynomial).coef
        for each in series
    ]
    return (powers[0] / powers[1][0]).tolist(), (powers[1] / powers[1][0]).tolist()


def rounded_to(kind: str, coefficients: list[float]) -> list[float]:
    return [float(np.float32(c)) if kind == "float" else c for c in coefficients]


def polynomial(coefficients: list[float], x: mp.mpf) -> mp.mpf:
    return mp.polyval([mp.mpf(c) for c in reversed(coefficients)], x)


def report(
    name: str,
    kind: str,
    parts: Parts,
    error_at: Callable[[mp.mpf, Parts], mp.mpf],
    bounds: tuple[mp.mpf, mp.mpf],
) -> None:
    """Prints the polynomials, rounded, and the largest error that they then have."""
    rounded = tuple(rounded_to(kind, part) for part in parts)
    worst = max(abs(error_at(x, rounded)) for x in chebyshev_nodes(*bounds, 401))
    print(f"// {name}: {kind}, error {float(worst):.1e}, lowest power first")
    suffix, digits = ("f", 9) if kind == "float" else ("", 17)
    for part in rounded:
        print("{" + ", ".join(f"{c:.{digits}g}{suffix}" for c in part) + "}")


def relative_to(function: Function) -> Callable[[mp.mpf, Parts], mp.mpf]:
    return lambda x, parts: polynomial(parts[0], x) / function(x) - 1


def neglog4_error(f: mp.mpf, parts: Parts) -> mp.mpf:
    return polynomial(parts[0], f) + mp.log(4 * (1 + f))


def ratio_error(w: mp.mpf, parts: Parts) -> mp.mpf:
    return polynomial(parts[0], w) / polynomial(parts[1], w) / quantile_ratio(w) - 1


def single_weight(w: float, ratio: float) -> float:
    """Of the ratio's error: 2e-6 max(1, |z|) and 1e-5 |z|, the smaller one, is what z may have."""
    twice_from_median = float(np.sqrt(-np.expm1(-w)))
    z = ratio * twice_from_median
    return twice_from_median / min(2e-6 * max(1.0, z), 1e-5 * z)


def main() -> None:
    log_range = (mp.sqrt(0.5) - 1, mp.sqrt(2) - 1)
    angle_range = (mp.mpf(0), mp.mpf("0.25"))

    def relative(function: Function) -> Callable[[float], float]:
        return lambda x: 1 / abs(float(function(mp.mpf(x))))

    for name, function, bounds, degree in (
        ("neg2log", neg2log_over_f, log_range, 6),
        ("sin", sin_over_x, angle_range, 3),
        ("cos", cos_of_x, angle_range, 3),
    ):
        fitted = lawson(function, *bounds, degree, relative(function))
        report(name, "float", (fitted,), relative_to(function), bounds)
    for name, function, bounds, degree in (
        ("neg2log", neg2log_over_f, log_range, 18),
        ("sin", sin_over_x, angle_range, 6),
        ("cos", cos_of_x, angle_range, 7),
    ):
        report(name, "double", (interpolate(function, *bounds, degree),), relative_to(function), bounds)

    def to_ends(f: float) -> float:
        return abs((f + 0.25) * (f - 0.5))

    off = lawson(off_chord, *LOG_ENDS, 4, to_ends), interpolate(off_chord, *LOG_ENDS, 11)
    for kind, coefficients in zip(("float", "double"), off, strict=True):
        report("neglog4", kind, (neglog4_of(coefficients),), neglog4_error, LOG_ENDS)
    # Up to the radii sqrt(-2 ln p) at which far_quantile takes over.
    for kind, radius, degrees, weight in (
        ("float", "7.0", (5, 5), single_weight),
        ("double", "8.9", (9, 8), lambda w, ratio: 1 / ratio),
    ):
        high = mp.mpf(radius) ** 2 / 2 - mp.log(4)
        parts = lawson_quotient(quantile_ratio, high, degrees, weight)
        report("quantile_ratio", kind, parts, ratio_error, (mp.mpf(0), high))


if __name__ == "__main__":
    main()
