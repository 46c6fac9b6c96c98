"""10 million samples: Kolmogorov-Smirnov, moments, and independence of names and of neighbours."""

import numpy as np
import pytest
import torch
from filling import DTYPES, Backend, values
from reference import layer_key

stats = pytest.importorskip("scipy.stats")
special = pytest.importorskip("scipy.special")
kolmogorov, ndtr = special.kolmogorov, special.ndtr

NUM_SAMPLES = 10_000_000
NUM_PAIRS = 1_000_000
LEAST_P = 1e-4  # what PyTorch's own tests of torch.nn.init ask
MOST_SIGMAS = 5.0
DISTRIBUTIONS = {
    "uniform": (("uniform", -0.5, 1.5), stats.uniform(-0.5, 2.0)),
    "normal": (("normal", 0.25, 2.0), stats.norm(0.25, 2.0)),
    "truncated_normal": (("truncated_normal", 0.0, 1.0, -2.0, 2.0), stats.truncnorm(-2.0, 2.0)),
}


def exact_cdf(name: str, x: np.ndarray) -> np.ndarray:
    """As scipy.stats has it, without its per-element checks."""
    if name == "uniform":
        return np.clip((x + 0.5) / 2.0, 0.0, 1.0)
    if name == "normal":
        return ndtr((x - 0.25) / 2.0)
    return np.clip((ndtr(x) - ndtr(-2.0)) / (ndtr(2.0) - ndtr(-2.0)), 0.0, 1.0)


def ks_p_value(name: str, samples: np.ndarray) -> float:
    cdf = exact_cdf(name, np.sort(samples).astype(np.float64))
    rank = np.arange(len(cdf) + 1) / len(cdf)
    distance = max((rank[1:] - cdf).max(), (cdf - rank[:-1]).max())
    return float(kolmogorov(np.sqrt(len(cdf)) * distance))


def counted(samples: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The values that tensors of a small type have, in order, and how often each occurs."""
    bits, size = (torch.uint8, 2**8) if samples.itemsize == 1 else (torch.int16, 2**16)
    counts = torch.bincount(samples.view(bits).to(torch.int32) % size, minlength=size).numpy()
    value = torch.arange(size).to(bits).view(samples.dtype).double().numpy()
    order = np.argsort(value[counts > 0])
    return value[counts > 0][order], counts[counts > 0][order]


def rounded_ks_p_value(name: str, value: np.ndarray, count: np.ndarray) -> float:
    """For values rounded to few bits: both distribution functions at the ties between neighbouring values.
    Looking at fewer points than all can only raise p, so a low p is still a finding."""
    ties = (value[:-1] + value[1:]) / 2  # no representable value in between is missing where it matters
    distance = np.abs(np.cumsum(count)[:-1] / NUM_SAMPLES - exact_cdf(name, ties)).max()
    return float(kolmogorov(np.sqrt(NUM_SAMPLES) * distance))


def sigmas(estimate: float, expected: float, variance: float, num: int) -> float:
    return abs(estimate - expected) / float(np.sqrt(variance / num))


def assert_moments(samples: np.ndarray, exact, num_orders: int, count: np.ndarray | None = None) -> None:
    """The first central moments: the sample mean of (x - mean)^k has variance (mu_2k - mu_k^2) / n."""
    mean = float(exact.mean())
    moment = {k: float(exact.expect(lambda x, k=k: (x - mean) ** k)) for k in range(1, 2 * num_orders + 1)}
    centred = samples.astype(np.float64) - mean
    power = np.ones_like(centred)
    for k in range(1, num_orders + 1):
        power *= centred
        found = float(np.average(power, weights=count))
        off = sigmas(found, moment[k], moment[2 * k] - moment[k] ** 2, NUM_SAMPLES)
        assert off < MOST_SIGMAS, (k, found)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_kolmogorov_smirnov_and_moments(cpu: Backend, dtype, name):
    distribution, exact = DISTRIBUTIONS[name]
    samples = cpu.fill((NUM_SAMPLES,), distribution, dtype, layer_key(1, f"{name}.weight"))
    if dtype in ("float32", "float64"):
        assert ks_p_value(name, samples.numpy()) > LEAST_P
        assert_moments(samples.numpy(), exact, 4)
    else:  # rounding adds to the variance, not to the mean
        value, count = counted(samples)
        assert rounded_ks_p_value(name, value, count) > LEAST_P
        assert_moments(value, exact, 1, count)


def test_normal_tail_counts(cpu: Backend):
    """As many beyond 3, 4 and 5 sigma, on either side, as there should be."""
    z = values(cpu.fill((4 * NUM_SAMPLES,), ("normal", 0.0, 1.0), "float32", layer_key(2, "weight")))
    for bound in (3.0, 4.0, 5.0):
        for beyond in (z > bound, z < -bound):
            expected = len(z) * ndtr(-bound)
            assert sigmas(np.count_nonzero(beyond), expected, expected, 1) < MOST_SIGMAS


def standard(cpu: Backend, seed: int, name: str, dtype: str = "float32") -> np.ndarray:
    filled = cpu.fill((NUM_PAIRS,), ("normal", 0.0, 1.0), dtype, layer_key(seed, name))
    return values(filled).astype(np.float64)


def assert_uncorrelated(x: np.ndarray, y: np.ndarray) -> None:
    """Also the squares: the two normals of a pair share a radius, and must be independent all the same."""
    for left, right in ((x, y), (x * x - 1, y * y - 1), (x, y * y - 1)):
        scale = np.sqrt((left * left).mean() * (right * right).mean() / len(left))
        assert abs((left * right).mean()) / scale < MOST_SIGMAS


def test_names_and_seeds_are_independent(cpu: Backend):
    base = standard(cpu, 0, "layer1.0.conv1.weight")
    for name in ("layer1.0.conv2.weight", "layer1.1.conv1.weight", "layer1.0.conv1.bias"):
        assert_uncorrelated(base, standard(cpu, 0, name))
    for seed in (1, 2**32, -1):
        assert_uncorrelated(base, standard(cpu, seed, "layer1.0.conv1.weight"))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_neighbours_are_independent(cpu: Backend, dtype):
    z = standard(cpu, 0, "layer1.0.conv1.weight", dtype)
    for lag in (1, 2, 3, 4, 5, 7, 8, 16, 32, 64, 1024):
        assert_uncorrelated(z[:-lag], z[lag:])
    assert_uncorrelated(z[0::2], z[1::2])


def test_rows_of_a_weight_are_uncorrelated(cpu: Backend):
    weight = cpu.fill((256, 4096), ("normal", 0.0, 1.0), "float32", layer_key(0, "fc.weight")).double()
    correlation = torch.corrcoef(weight) - torch.eye(256, dtype=torch.float64)
    assert correlation.abs().max() < 6.5 / 4096**0.5  # of 32,640 pairs


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_bit_of_a_uniform_is_fair(cpu: Backend, dtype):
    num_bits = 24 if dtype == "float32" else 53
    u = values(cpu.fill((NUM_PAIRS,), ("uniform", 0.0, 1.0), dtype, layer_key(5, "weight")))
    mantissa = (u.astype(np.float64) * 2.0**num_bits).astype(np.int64)
    for bit in range(num_bits):
        assert sigmas(float(np.mean(mantissa >> bit & 1)), 0.5, 0.25, NUM_PAIRS) < MOST_SIGMAS
