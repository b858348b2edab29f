"""Options of the test run, and what many test files want."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from shared import Shared
    from warm import Warm

# Torch's compiler would start workers, new interpreters that take more processor time than what tests compile.
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")

MIXIN_MARKS = (
    "accelerate_tests",
    "flash_attn_test",
    "flash_attn_3_test",
    "flash_attn_4_test",
    "generate",
    "torch_compile_test",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--write-docs``: tests that measure rewrite the document with their figures."""
    parser.addoption("--write-docs", action="store_true", help="rewrite docs/parity.md with what the tests measured")


def pytest_configure(config: pytest.Config) -> None:
    """Marks that transformers' own tests of a model carry (tests/zoo/hf/test_mixin.py)."""
    for name in MIXIN_MARKS:
        config.addinivalue_line("markers", f"{name}: of transformers' tests")


@pytest.fixture(scope="session")
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Shared:
    """What the tests of all workers only read, made by the first that asks."""
    from shared import Shared

    base = tmp_path_factory.getbasetemp()
    return Shared((base.parent if hasattr(request.config, "workerinput") else base) / "shared")


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    """Starts programs of one thread as forks of a process that has imported what they need."""
    from warm import Warm

    with Warm(tmp_path_factory.mktemp("warm"), environment={"OMP_NUM_THREADS": "1"}) as server:
        yield server


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Torch on one thread: small models are faster on it, and a busy second core does not slow them."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def toy_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled rows of both toy tasks."""
    from toys import make_data

    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def toy_folders(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model folder of each of the test module's ``TOYS``, by name."""
    from toys import make_model

    place = tmp_path_factory.mktemp("models")
    return {name: make_model(place / name.replace(" ", "-"), toy) for name, toy in request.module.TOYS.items()}
