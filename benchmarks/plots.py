"""The pictures of docs/plots.md, made again from the real models of SOMMELIER_ZOO.

    python -m benchmarks.plots docs/pictures [--database kept.sommelier]

Eight CIFAR-10 classifiers on the first 2 000 test images; two minutes on two cores, or seconds with
a database that is there already. Says the size of each file; all are to stay below 60 kB.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import sommelier as sm
from sommelier.engine.plots.picture import Plot

QUESTION = "SELECT MODELS CORR cifar10_resnet56 >= 75% ON memory < 200%"
USING = "USING dataset = 'cifar10', samples = 2000, sampling = 'first'"
DPI = 70
LARGEST = 60_000  # bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the pictures go")
    parser.add_argument("--database", type=Path, help="made before, kept, or to be made here")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as place,
        filled(arguments.database or Path(place) / "models.sommelier") as db,
    ):
        for name, plot in pictures(db).items():
            path = arguments.folder / f"{name}.png"
            plot.savefig(path, dpi=DPI)
            size = path.stat().st_size
            print(f"{path} {size / 1e3:.0f} kB{' TOO LARGE' if size > LARGEST else ''}")
            print(f"  {plot!r}")


def filled(database: Path) -> sm.Connection:
    """The zoo's models, analysed on CIFAR-10, and a cascade of two; as it is where it is there."""
    there = database.exists()
    db = sm.connect(database)
    if there:
        return db
    zoo = Path(os.environ["SOMMELIER_ZOO"])
    db.execute(
        f"IMPORT MODELS FROM folder '{zoo}/onnx/*.onnx' USING card = 'tests/zoo_card.json',"
        " copy = false"
    )
    db.register_dataset("cifar10", zoo / "data/cifar10_test.npz", kind="image", held_out=True)
    db.execute(f"ANALYZE ALL FOR RESOURCES, EQUIVALENCE, ACCURACY {USING}")
    db.execute(
        "CREATE CASCADE quick FROM cifar10_resnet20 TO cifar10_resnet56 WITHIN 2% OF ACCURACY"
        f" {USING}"
    )
    return db


def pictures(db: sm.Connection) -> dict[str, Plot]:
    """By the names of their files."""
    return {
        "pareto": db.plot.pareto(QUESTION),
        "agreement": db.plot.agreement(cluster="family"),
        "cascade": db.plot.cascade("quick"),
    }


if __name__ == "__main__":
    main()
