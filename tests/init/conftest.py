"""A fixture for the tests of init."""

import pytest
import torch


@pytest.fixture
def seeded() -> None:
    """Seed PyTorch's default generator, from which fills without a key draw."""
    torch.manual_seed(0)
