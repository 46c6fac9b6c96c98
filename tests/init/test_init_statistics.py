"""What init draws is distributed as it should be, by Kolmogorov and Smirnov, as PyTorch tests its own."""

import pytest
import torch

from convinit_ext import init

stats = pytest.importorskip("scipy.stats")
pytestmark = pytest.mark.usefixtures("seeded")

# Warnings: category, words, and the line of the caller


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("bounds", [(3.0, 4.0), (-9.0, -2.5)])
def test_truncation_far_from_the_mean_is_warned_of_but_right(bounds, dtype):
    weight = torch.empty(1000, dtype=dtype)
    words = "mean is more than 2 std from \\[a, b\\] in nn.init.trunc_normal_."
    with pytest.warns(UserWarning, match=words) as caught:
        init.trunc_normal_(weight, 0.0, 1.0, *bounds)
    assert caught[0].filename == __file__
    assert "incorrect" not in str(caught[0].message)
    assert bounds[0] <= weight.min() <= weight.max() <= bounds[1]
    assert stats.kstest(weight.double().numpy(), "truncnorm", args=bounds).pvalue > 1e-4


# Distributions (Kolmogorov-Smirnov, as PyTorch tests its own)


def is_distributed(weight, name, parameters):
    # not kstest's own names with args: scipy 1.18's "norm" takes none
    cdf = getattr(stats, name)(*parameters).cdf
    return stats.kstest(weight.double().flatten().numpy(), cdf).pvalue > 1e-4


@pytest.mark.parametrize("shape", [(50,), (33, 47), (5, 6, 7, 8)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_basic_distributions(shape, dtype):
    weight = torch.empty(shape, dtype=dtype)
    assert is_distributed(init.uniform_(weight, -2.5, 1.0), "uniform", (-2.5, 3.5))
    assert is_distributed(init.normal_(weight, -2.0, 3.0), "norm", (-2.0, 3.0))
    mean, std, a, b = 0.7, 0.37, 0.123456789, 1.3
    init.trunc_normal_(weight, mean, std, a, b)
    low, high = torch.tensor([a, b], dtype=dtype)  # which are rounded
    assert low <= weight.min() and weight.max() <= high
    assert is_distributed(weight, "truncnorm", ((a - mean) / std, (b - mean) / std, mean, std))


# Truncated normals in every dtype: within bounds, not piled up at them, and fine-grained


@pytest.mark.parametrize(
    ("dtype", "num_distinct"),
    [(torch.float32, 5000), (torch.float64, 5000), (torch.float16, 3000), (torch.bfloat16, 1000)],
)
def test_truncated_normals_are_fine_grained(dtype, num_distinct):
    weight = init.trunc_normal_(torch.empty(10_000, dtype=dtype))
    assert weight.isfinite().all()
    assert weight.min() >= -2
    assert weight.max() <= 2
    assert weight.unique().numel() > num_distinct
    assert is_distributed(weight, "truncnorm", (-2, 2))
