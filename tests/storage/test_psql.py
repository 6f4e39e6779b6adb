"""A tool that knows nothing of us reads a catalog on a server: PostgreSQL's own psql."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from sommelier.storage.catalog import Catalog
from sommelier.storage.views import VIEWS


@pytest.mark.skipif(shutil.which("psql") is None, reason="psql is not installed")
def test_psql_lists_and_reads_every_view(url: str) -> None:
    with Catalog.open(url):
        pass
    asked = ["SET search_path = main", "\\dv", *(f'TABLE "{view}" LIMIT 0' for view in VIEWS)]
    command = ["psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"]
    command += [url.replace("+psycopg", "")]
    for statement in asked:
        command += ["-c", statement]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    listed = {line.split("|")[1] for line in done.stdout.splitlines() if line.startswith("main|")}
    assert listed == set(VIEWS)
