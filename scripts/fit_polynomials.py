"""Fits every polynomial of csrc/core/math.h and prints it as C++ with its error.

Near-minimax by Lawson's iteratively reweighted least squares (float32) or by Chebyshev interpolation in
50 digits (float64); quotients of polynomials by Remez's exchange. Needs numpy and mpmath. Run it to see where
a coefficient comes from; changing one changes the bits of every weight, which is a new version of the value
contract.
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


def solve_quotient(
    x: list[mp.mpf], y: list[mp.mpf], weights: list[mp.mpf], degrees: tuple[int, int]
) -> tuple[list[mp.mpf], list[mp.mpf]]:
    """Numerator and denominator whose weighted error is equal at all of `x`, with alternating signs."""
    over, under = degrees
    size, scale = over + under + 2, max(x)
    denominator = [mp.mpf(1)] + [mp.mpf(0)] * under
    for _ in range(6):  # the error is times the denominator of the time before
        matrix, right = mp.matrix(size, size), mp.matrix(size, 1)
        for row, (point, value, weight) in enumerate(zip(x, y, weights, strict=True)):
            powers = [(point / scale) ** power for power in range(max(degrees) + 1)]
            equal = (-1) ** row * polynomial(denominator, point) / weight
            equation = [*powers[: over + 1], *(-value * each for each in powers[1 : under + 1]), -equal]
            for column, entry in enumerate(equation):
                matrix[row, column] = entry
            right[row] = value
        solution = list(mp.lu_solve(matrix, right))
        numerator = [c / scale**power for power, c in enumerate(solution[: over + 1])]
        denominator = [mp.mpf(1), *(c / scale**k for k, c in enumerate(solution[over + 1 : -1], 1))]
    return numerator, denominator


def largest_of_each_sign(errors: list[mp.mpf]) -> list[int]:
    """Where the error is largest between two changes of its sign."""
    found: list[int] = []
    for place, error in enumerate(errors):
        if not found or (error > 0) != (errors[found[-1]] > 0):
            found.append(place)
        elif abs(error) > abs(errors[found[-1]]):
            found[-1] = place
    return found


def remez_quotient(
    function: Function, high: mp.mpf, degrees: tuple[int, int], weight: Callable[[mp.mpf, mp.mpf], mp.mpf]
) -> tuple[list[float], list[float]]:
    """Numerator and denominator on [0, high] with the smallest weighted error, by Remez's exchange of points.

    `weight` is of the argument and the function's value.
    """
    steps, size = 700, sum(degrees) + 2
    x = [high * ((1 - mp.cos(mp.pi * k / steps)) / 2) ** mp.mpf("1.7") for k in range(steps + 1)]
    y = [function(each) for each in x]
    weights = [weight(*each) for each in zip(x, y, strict=True)]
    points = [round(steps * k / (size - 1)) for k in range(size)]
    for _ in range(30):
        chosen = ([each[k] for k in points] for each in (x, y, weights))
        parts = solve_quotient(*chosen, degrees)
        values = (polynomial(parts[0], each) / polynomial(parts[1], each) for each in x)
        errors = [(value - exact) * w for value, exact, w in zip(values, y, weights, strict=True)]
        if max(map(abs, errors)) < 1.02 * min(abs(errors[k]) for k in points):
            break
        points = largest_of_each_sign(errors)
        while len(points) > size:
            points.pop(0 if abs(errors[points[0]]) < abs(errors[points[-1]]) else -1)
    return [float(c) for c in parts[0]], [float(c) for c in parts[1]]


def rounded_to(kind: str, coefficients: list[float]) -> list[float]:
    return [float(np.float32(c)) if kind == "float" else c for c in coefficients]


def polynomial(coefficients: list[float] | list[mp.mpf], x: mp.mpf) -> mp.mpf:
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


def single_weight(w: mp.mpf, ratio: mp.mpf) -> mp.mpf:
    """Of the ratio's error: 2e-6 max(1, |z|) and 1e-5 |z|, the smaller one, is what z may have."""
    if w == 0:
        return 1 / (mp.mpf("1e-5") * ratio)
    twice_from_median = mp.sqrt(-mp.expm1(-w))
    z = ratio * twice_from_median
    return twice_from_median / min(mp.mpf("2e-6") * max(1, z), mp.mpf("1e-5") * z)


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
        ("double", "8.9", (10, 9), lambda w, ratio: 1 / ratio),
    ):
        high = mp.mpf(radius) ** 2 / 2 - mp.log(4)
        parts = remez_quotient(quantile_ratio, high, degrees, weight)
        report("quantile_ratio", kind, parts, ratio_error, (mp.mpf(0), high))


if __name__ == "__main__":
    main()
