"""Deployments of toy models for tests: real ONNX files, a pool, records as DEPLOY writes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sommelier.deployment_records import DeployedModel, Deployment, DeploymentOptions
from sommelier.runtime.pool import ModelPool
from sommelier.runtime.pool_entries import PoolRules
from sommelier.runtime.session_cache import ServedModel, SessionCache
from sommelier.runtime.sessions import SessionSettings
from tests.factories import loop_model, mlp_classifier

X = np.ones((1, 4), np.float32)
LADDER = (("large", 0.95, 300), ("middle", 0.93, 100), ("small", 0.9, 20))
FOREVER = {"x": X, "trips": np.array(10**9, np.int64)}  # hours, unless it is cancelled
AT_ONCE = {"x": X, "trips": np.array(1, np.int64)}


def ladder(folder: Path) -> dict[str, ServedModel]:
    """Three classifiers x[N,4] -> logits[N,3], the most accurate first."""
    return {
        name: ServedModel.of_file(
            mlp_classifier(folder / f"{name}.onnx", seed=seed, hidden=(width, width))
        )
        for seed, (name, _, width) in enumerate(LADDER)
    }


def slow(folder: Path) -> ServedModel:
    """x[1,4], trips -> y[1,4], which is x: it takes as long as trips says, and can be cancelled."""
    return ServedModel.of_file(loop_model(folder / "slow.onnx", trips=None))


def deployed(*names: str, **known: float | None) -> tuple[DeployedModel, ...]:
    """As DEPLOY writes them. known : mean_ms of models whose profile is known."""
    accuracies = {name: accuracy for name, accuracy, _ in LADDER}
    return tuple(
        DeployedModel(name, f"id of {name}", accuracies.get(name), known.get(name))
        for name in names
    )


def deployment(
    models: Iterable[DeployedModel], *, options: DeploymentOptions | None = None, **changes: Any
) -> Deployment:
    """A deployment 'vision' of kind models."""
    given = {"kind": "models", "statement": "DEPLOY", **changes}
    return Deployment(
        "vision", models=tuple(models), options=options or DeploymentOptions(), **given
    )


def pool_of(cache: SessionCache, **rules: Any) -> ModelPool:
    return ModelPool(cache, SessionSettings(batch=8), PoolRules(**{"settle_s": 0.0, **rules}))


def outputs_of(
    cache: SessionCache, models: Mapping[str, ServedModel], inputs: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """What each model answers, asked by hand."""
    found = {}
    with pool_of(cache) as pool:
        for name, model in models.items():
            pool.add(model)
            with pool.lease(name) as predictor:
                found[name] = predictor.run(predictor.check(inputs))
    return found
