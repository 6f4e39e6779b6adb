"""Connectors of other packages, found by their entry points."""

from __future__ import annotations

from pathlib import Path

import pytest

from sommelier.connectors.registry import connector
from sommelier.errors import MissingDependencyError


def test_a_missing_module_is_named_without_advice_to_install_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An index may have somebody else's package under the name of a module."""
    (tmp_path / "acme_models.py").write_text("import acme_module_that_is_not_there\n")
    told = tmp_path / "acme_models-1.0.dist-info"
    told.mkdir()
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-models\nVersion: 1.0\n")
    (told / "entry_points.txt").write_text("[sommelier.connectors]\nacme = acme_models:Acme\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(MissingDependencyError, match="acme_module_that_is_not_there") as caught:
        connector("acme")
    assert "acme-models" in str(caught.value.hint)
    assert "pip install" not in str(caught.value.hint)
