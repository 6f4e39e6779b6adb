"""A private PostgreSQL server in a temporary folder, for the time of a command or of a test.

    python -m tests.postgres_server pytest tests/storage

runs the command with SOMMELIER_TEST_POSTGRES set to the server's URL, and stops the server. Where
PostgreSQL is not installed, it installs Debian's package, if it may. The server keeps nothing
safe: it waits for no disk.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

VARIABLE = "SOMMELIER_TEST_POSTGRES"
_SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "shared_buffers": "256MB",
    "max_wal_size": "1GB",
    "autovacuum": "off",
}


@contextlib.contextmanager
def server() -> Iterator[str]:
    """The URL of a server that lives as long as the block, with its superuser's password."""
    binaries = _binaries()
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    password, port = secrets.token_hex(8), _free_port()
    try:
        (folder / "password").write_text(password)
        if os.geteuid() == 0:  # the server refuses to run as root
            shutil.chown(folder, "postgres", "postgres")
            shutil.chown(folder / "password", "postgres")
        data = folder / "data"
        _run(
            binaries / "initdb", "-D", data, "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8",
            "-A", "scram-sha-256", "--no-sync", f"--pwfile={folder / 'password'}",
        )  # fmt: skip
        options = [f"-c {name}={value}" for name, value in _SETTINGS.items()]
        options += [f"-p {port}", "-c listen_addresses=127.0.0.1", f"-k {folder}"]
        _run(
            binaries / "pg_ctl", "-D", data, "-w", "-t", "60", "-l", folder / "log",
            "-o", " ".join(options), "start",
        )  # fmt: skip
        try:
            yield f"postgresql+psycopg://postgres:{password}@127.0.0.1:{port}/postgres"
        finally:
            _run(binaries / "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _binaries() -> Path:
    """The folder of initdb and pg_ctl, the newest there is."""
    found = _installed()
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        quiet = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
        for command in (["update", "-qq"], ["install", "-qq", "-y", "postgresql"]):
            subprocess.run(["apt-get", *command], env=quiet, check=True, stdout=subprocess.DEVNULL)
        found = _installed()
    if found is None:
        sys.exit("PostgreSQL is not installed: apt-get install postgresql, as root")
    return found


def _installed() -> Path | None:
    debian = sorted(
        Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name)
    )
    on_path = shutil.which("initdb")
    places = [*debian, *([Path(on_path).parent] if on_path else [])]
    return next((place for place in reversed(places) if (place / "pg_ctl").exists()), None)


def _run(*command: object) -> None:
    words = [str(word) for word in command]
    if os.geteuid() == 0:
        words = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", *words]
    done = subprocess.run(words, cwd="/", capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(words)}\n{done.stdout}{done.stderr}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main(command: list[str]) -> int:
    """Run a command over a server of its own; its exit code."""
    if not command:
        sys.exit(__doc__)
    started = time.monotonic()
    with server() as url:
        print(f"PostgreSQL is up after {time.monotonic() - started:.1f} s", flush=True)  # noqa: T201
        return subprocess.run(command, env={**os.environ, VARIABLE: url}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
