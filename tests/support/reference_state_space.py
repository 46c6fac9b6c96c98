"""Section 9 of the value contract in plain Python, element by element, from the contract alone."""

import math

import numpy as np
from reference import layer_key, reference, round_to

H, L = float.fromhex("0x1.62e42fefa38p-1"), float.fromhex("0x1.ef35793c7673p-45")


def exp(x: float) -> float:
    k = round(x / (H + L))  # halves to even
    r = (x - k * H) - k * L
    p = 1.0
    for d in range(14, 0, -1):
        p = 1.0 + (r * p) / d
    return math.ldexp(p, k)


def log(x: float) -> float:
    m, k = math.frexp(x)
    if m < math.sqrt(0.5):
        m, k = 2 * m, k - 1
    s = (m - 1.0) / (m + 1.0)
    z, q = s * s, 0.0
    for d in range(25, 0, -2):
        q = 1.0 / d + z * q
    return k * H + ((2.0 * s) * q + k * L)


def inverse_softplus(y: float, floor: float) -> float:
    t = max(exp(y), floor)
    return t + log(1.0 - exp(-t))


def of_uniform(shape, seed, name, low, high, function, dtype: str):
    """Uniform values by a name, each through a function, rounded as the dtype has it."""
    exact = "float64" if dtype == "float64" else "float32"
    drawn = reference(shape, *layer_key(seed, name), ("uniform", low, high), exact)
    made = np.array([function(float(each)) for each in drawn.ravel()]).reshape(shape)
    return round_to(made.astype(exact), dtype)
