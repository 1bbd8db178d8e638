"""Settings of the tests that run networks."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Several threads in several test processes would only wait for one another."""
    torch.set_num_threads(1)
