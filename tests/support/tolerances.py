"""How far values of polynomials may lie from the reference's, in the dtypes that show it."""

import numpy as np
import pytest

REALS = {"float32": np.float32, "float64": np.float64}
# Of the standard sample: relative to max(1, |z|).
TOLERANCE = {"float32": 2e-6, "float64": 1e-13}
# Of a truncated normal's: relative to |z|, and what is always allowed. Float32's is held to both.
TRUNCATED_TOLERANCE = {"float32": (1e-5, 1e-10), "float64": (1e-9, 1e-18)}


def allowed_error(name: str, dtype: str, z: np.ndarray) -> np.ndarray:
    """How far the standard sample may lie from z."""
    size = np.abs(z)
    if name == "normal":
        return TOLERANCE[dtype] * np.maximum(1.0, size)
    relative, always = TRUNCATED_TOLERANCE[dtype]
    allowed = np.maximum(relative * size, always)
    return np.minimum(allowed, TOLERANCE[dtype] * np.maximum(1.0, size)) if dtype == "float32" else allowed


of_reals = pytest.mark.parametrize("dtype", REALS)
