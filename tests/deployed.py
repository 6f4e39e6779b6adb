"""A database of which something can be served."""

from __future__ import annotations

from pathlib import Path

import sommelier as sm
from tests.factories import mlp_classifier


def deployed_mlp(database: Path) -> Path:
    """x[N,4] -> logits[N,3] as `vision`, its file mlp.onnx beside the database; the database."""
    mlp_classifier(database.parent / "mlp.onnx", hidden=(8,))
    with sm.connect(database) as db:
        db.import_models("folder", str(database.parent / "*.onnx"))
        db.execute("DEPLOY MODEL mlp AS vision")
    return database
