"""A service over toy models, one of which stands still until it is told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sommelier.runtime.pool import ModelPool
from sommelier.runtime.server.served import single_model
from sommelier.runtime.server.service import ModelService
from sommelier.runtime.session_cache import ServedModel, SessionCache
from tests import factories
from tests.runtime.server.asking import ready, rest_server


@pytest.fixture(scope="package")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelPool]:
    with ModelPool(SessionCache(tmp_path_factory.mktemp("sessions"))) as pool:
        yield pool


@pytest.fixture(scope="package")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """`mlp` (x: FP32 [-1, 4]), `texts` (BYTES), `detector` (several outputs), `slow` (seconds)."""
    folder: Path = tmp_path_factory.mktemp("models")
    return {
        "mlp": factories.mlp_classifier(folder / "mlp.onnx"),
        "texts": factories.string_model(folder / "texts.onnx"),
        "detector": factories.detection_model(folder / "detector.onnx"),
        "slow": factories.loop_model(folder / "slow.onnx", trips=None),
    }


@pytest.fixture(scope="package")
def service(pool: ModelPool, files: dict[str, Path]) -> Iterator[ModelService]:
    """Of those models."""
    with served(pool, files) as service:
        yield service


@pytest.fixture(scope="module")
def apart(pool: ModelPool, files: dict[str, Path]) -> Iterator[ModelService]:
    """The same for one module, whose runs tell others nothing of how slow the models are."""
    with served(pool, files) as service:
        yield service


@contextmanager
def served(pool: ModelPool, files: dict[str, Path]) -> Iterator[ModelService]:
    running = [single_model(ServedModel.of_file(file, name), pool) for name, file in files.items()]
    yield ready(ModelService(pool, running))
    for deployment in running:
        deployment.close()


@pytest.fixture
def port(service: ModelService) -> Iterator[int]:
    with rest_server(service) as port:
        yield port
