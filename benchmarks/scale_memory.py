"""What the indexes of a database take in a process of their own: time to build, bytes of memory.

Run as `python -m benchmarks.scale_memory DATABASE QUESTIONS.json`, once plainly for times and
resident memory, once with --trace for what Python and numpy hold, to the byte (slower). JSON:
  open_s, build_s    opening the file; the first resource question and the first about a reference
  private_mb         with --trace: what is allocated and kept by both indexes and by the answers to
                     all questions, DuckDB's own memory not counted
  anonymous_mb       growth of the process's private memory, DuckDB's buffers counted too
  mapped_mb          index files mapped into memory: any process can share them
  answers_mb         the files of answers, mapped: data that a scan may read, no index
"""

from __future__ import annotations

import argparse
import gc
import json
import re
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

from benchmarks.growing import grow, store
from sommelier.connection import connect
from sommelier.storage.sketch_files import NARROW, WIDE

_MAPPING = re.compile(r"^[0-9a-f]+-[0-9a-f]+ .{4} \S+ \S+ \d+ +(/.*)$")
MEGABYTE = 1e6


def measured(database: Path, questions: list[str], *, trace: bool) -> dict[str, float]:
    """The figures of a fresh process that asks these questions."""
    file = database.with_name("memory-questions.json")
    file.write_text(json.dumps(questions))
    command = [sys.executable, "-m", "benchmarks.scale_memory", str(database), str(file)]
    done = subprocess.run(
        [*command, *(["--trace"] if trace else [])], capture_output=True, text=True, check=True
    )
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description="memory and build time of the indexes")
    parser.add_argument("database", type=Path)
    parser.add_argument("questions", type=Path)
    parser.add_argument("--trace", action="store_true")
    options = parser.parse_args()
    asked: list[str] = json.loads(options.questions.read_text())
    _load_everything()
    begun = time.perf_counter()
    db = connect(options.database, read_only=True)
    opened = time.perf_counter()
    anonymous = _anonymous()
    if options.trace:
        tracemalloc.start()
    for question in asked:
        db.query(question).fetchall()
    built = time.perf_counter()
    gc.collect()
    figures = {
        "open_s": opened - begun,
        "build_s": built - opened,
        "anonymous_mb": (_anonymous() - anonymous) / MEGABYTE,
        **_mapped(options.database.with_name(options.database.name + ".d")),
    }
    if options.trace:
        figures["private_mb"] = tracemalloc.get_traced_memory()[0] / MEGABYTE
    db.close()
    print(json.dumps(figures))


def _load_everything() -> None:
    """Import what questions need before anything is counted: code is no index."""
    few = grow(20, 0)
    with connect(":memory:") as db:
        store(few, db)
        asked = f"SELECT MODELS name, equivalence CORR {few.name(0)} >= 1% ON memory < 100 GB"
        db.query(asked).fetchall()


def _anonymous() -> int:
    """Bytes of this process that no file backs."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * 1024
    return 0


def _mapped(folder: Path) -> dict[str, float]:
    """Megabytes of the files of answers, and of other files below `folder`, that are mapped."""
    sizes = {"answers_mb": 0.0, "mapped_mb": 0.0}
    paths = {
        Path(found.group(1))
        for line in Path("/proc/self/maps").read_text().splitlines()
        if (found := _MAPPING.match(line))
    }
    for path in paths:
        if folder in path.parents and path.suffix == ".bin":
            kind = "answers_mb" if path.name in (NARROW.name, WIDE.name) else "mapped_mb"
            sizes[kind] += path.stat().st_size / MEGABYTE
    return sizes


if __name__ == "__main__":
    main()
