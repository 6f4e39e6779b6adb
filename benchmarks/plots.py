"""The pictures of docs/plots.md, made again from models trained on the spot.

    python -m benchmarks.plots docs/pictures

Eight small networks on scikit-learn's handwritten digits, as `sommelier demo` builds them; a minute
or two on two cores. Says the size of each file; all are to stay below 60 kB.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import sommelier as sm
from sommelier.analysis.digits_zoo import build
from sommelier.engine.plots.picture import Plot

QUESTION = "SELECT MODELS CORR digits_cnn_32 >= 90% ON flops <= 60%"
DPI = 80
LARGEST = 60_000  # bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the pictures go")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place, filled(Path(place), arguments.seed) as db:
        for name, plot in pictures(db).items():
            path = arguments.folder / f"{name}.png"
            plot.savefig(path, dpi=DPI)
            size = path.stat().st_size
            print(f"{path} {size / 1e3:.0f} kB{' TOO LARGE' if size > LARGEST else ''}")
            print(f"  {plot!r}")


def filled(place: Path, seed: int) -> sm.Connection:
    """A database with the digits networks, analysed, and a cascade of two."""
    data = build(place / "digits", seed=seed)
    db = sm.connect(place / "models.sommelier")
    db.execute(f"IMPORT MODELS FROM folder '{place}/digits/*.onnx'")
    db.register_dataset(
        "digits", data, kind="image", labels=[str(digit) for digit in range(10)], held_out=True
    )
    db.execute("ANALYZE ALL FOR RESOURCES, EQUIVALENCE, ACCURACY USING dataset = 'digits'")
    db.execute(
        "CREATE CASCADE quick FROM digits_cnn_4 TO digits_cnn_32 WITHIN 2% OF ACCURACY"
        " USING dataset = 'digits'"
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
