"""Fixtures for the tests of the engine: GPUs that are not there."""

from __future__ import annotations

import ctypes

import pytest
from fake_gpu import Gpus, loaded_library


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return loaded_library(tmp_path_factory.mktemp("fake_gpu"))


@pytest.fixture
def gpus(library: ctypes.CDLL) -> Gpus:
    return Gpus(library)
