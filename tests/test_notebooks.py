"""Every notebook runs in a real kernel on small settings, and what is stored in it is whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parent.parent / "notebooks"
SMALL = {  # what stands in the cell tagged `parameters` instead
    "01_first_questions": None,  # it has none and runs as it is
    "02_equivalence_and_segments": "epochs, samples = 4, 300",
    "03_links_and_fusion": "epochs, training, within = 4, 1, 0.5",
    "04_serving_under_an_sla": (
        "networks, promise, periods, rushes = ['digits_linear', 'digits_cnn_32'], '1 s', 2, 2"
    ),
    "05_your_own_models": "epochs = 3",
}
SLOW = ("01_first_questions",)  # over 20 s
TIMEOUT_S = 300


def test_every_notebook_has_small_settings() -> None:
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(SMALL)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in SMALL]
)
def test_a_notebook_runs_on_small_settings(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cell that fails raises CellExecutionError, with the cell and what it said."""
    monkeypatch.delenv("SOMMELIER_ZOO", raising=False)  # a user does not have it
    stored, run = read(name), read(name)
    if (small := SMALL[name]) is not None:
        (cell,) = [c for c in run.cells if "parameters" in c.metadata.get("tags", ())]
        assert assigned(small) == assigned(cell.source)
        cell.source = small
    where = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(run, timeout=TIMEOUT_S, kernel_name="python3", resources=where).execute()
    assert told(run) == told(stored), "a cell puts out another kind of thing than is stored"


@pytest.mark.parametrize("name", SMALL)
def test_stored_outputs_are_of_one_run_from_top_to_bottom(name: str) -> None:
    notebook = read(name)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert "error" not in {kind for cell in code for kind in kinds(cell)}
    assert "stderr" not in {o.get("name") for cell in code for o in cell.outputs}


@pytest.mark.parametrize("name", SMALL)
def test_links_of_a_notebook_lead_somewhere(name: str) -> None:
    text = "".join(cell.source for cell in read(name).cells if cell.cell_type == "markdown")
    for part in text.split("](")[1:]:
        assert (FOLDER / part.split(")")[0].split("#")[0]).is_file(), part


def read(name: str) -> Any:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def assigned(source: str) -> set[str]:
    """The variables that a cell of parameters sets."""
    values: dict[str, object] = {}
    exec(source, values)
    return {name for name in values if not name.startswith("__")}


def kinds(cell: Any) -> set[str]:
    """Progress, which is empty at the end, does not count."""
    shown = (o for o in cell.outputs if o.get("data", {}).get("text/plain") != "")
    return {"shown" if o.output_type == "display_data" else o.output_type for o in shown}


def told(notebook: Any) -> list[set[str]]:
    return [kinds(cell) for cell in notebook.cells if cell.cell_type == "code"]
