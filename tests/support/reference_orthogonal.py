"""Section 8 of the value contract in plain numpy: a matrix of normal values to an orthogonal one.

Written from the contract alone: every chain is a loop over its terms, and only what is independent of each
other is done at once. fma is emulated, since numpy has none.
"""

import numpy as np
from reference import rounded_to_odd, two_sum

STRIP = 24


def two_product(x, y):
    """x y exactly, where nothing underflows: the rounded product, and what was rounded off (Dekker)."""
    product = x * y
    (x_high, x_low), (y_high, y_low) = halves(x), halves(y)
    return product, ((x_high * y_high - product) + x_high * y_low + x_low * y_high) + x_low * y_low


def halves(x):
    """x as the sum of two numbers of 26 bits (Veltkamp)."""
    scaled = x * (2.0**27 + 1)
    high = scaled - (scaled - x)
    return high, x - high


def fma(x, y, z):
    """x y + z, rounded once (Boldo & Melquiond 2008, "Emulation of a FMA")."""
    x, y, z = (np.asarray(each, dtype=np.float64) for each in (x, y, z))
    high, low = two_product(x, y)
    middle, lowest = two_sum(z, low)
    first, second = two_sum(high, middle)
    return first + rounded_to_odd(np.asarray(lowest), np.asarray(second))


def chain(start, terms):
    """c = fma(x, y, c) for each pair of terms in turn."""
    for x, y in terms:
        start = fma(x, y, start)
    return start


def reflections(strip):
    """U and d of a strip, whose columns become V in place."""
    length, width = strip.shape
    u, d = np.zeros((width, width)), np.ones(width)
    for p in range(width):
        s = chain(np.zeros(width), ((strip[i, p], strip[i]) for i in range(p + 1, length)))
        alpha, beta, h, tau = strip[p, p], strip[p, p], 0.0, 0.0
        if s[p] != 0:
            norm = np.sqrt(fma(alpha, alpha, s[p]))
            beta = norm if alpha < 0 else -norm
            h, tau = 1 / (alpha - beta), (beta - alpha) / beta
        g = fma(s, h, strip[p])
        strip[p + 1 :, p] *= h
        strip[p + 1 :, p + 1 :] = fma(strip[p + 1 :, p : p + 1], -(tau * g[p + 1 :]), strip[p + 1 :, p + 1 :])
        strip[p, p], strip[p, p + 1 :] = 1, 0
        u[p, :p] = -(tau * chain(np.zeros(p), ((g[k], u[k, :p]) for k in range(p))))
        u[p, p] = -tau
        d[p] = -1 if beta < 0 else 1
    return u, d


def reflect(v, u, columns):
    """The reflections of a strip on later columns, or with the transpose of u those that make Q; in place."""
    width = len(u)
    y = chain(np.zeros((width, columns.shape[1])), ((v[i][:, None], columns[i]) for i in range(len(v))))
    z = chain(np.zeros_like(y), ((u[:, k : k + 1], y[k]) for k in range(width)))
    columns[:] = chain(columns, ((v[:, q : q + 1], z[q]) for q in range(width)))


def orthogonal(matrix, gain=1.0, blocks=1):
    """The values of a matrix of normal ones, in float64."""
    if blocks > 1:
        return np.concatenate([orthogonal(each, gain) for each in np.split(np.asarray(matrix), blocks)])
    a = np.array(matrix, dtype=np.float64)
    if a.shape[0] < a.shape[1]:
        return orthogonal(a.T, gain).T
    rows, columns = a.shape
    d, made = np.ones(columns), []
    for first in range(0, columns, STRIP):
        end = min(first + STRIP, columns)
        u, d[first:end] = reflections(a[first:, first:end])
        reflect(a[first:, first:end], u, a[first:, end:])
        made.append((first, end, u))
    q = np.eye(rows, columns)
    for first, end, u in reversed(made):
        reflect(a[first:, first:end], u.T, q[first:, first:])
    return q * (d * gain)
