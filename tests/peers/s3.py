"""A real S3 server for tests: versitygw over a folder, with versions and object lock."""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.peers import missing
from tests.peers.go import cache_folder, find_go

if TYPE_CHECKING:
    from types_boto3_s3.client import S3Client

VERSION = "v1.8.0"
MODULE = "github.com/versity/versitygw/cmd/versitygw"


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nothing listened on a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def find_versitygw() -> Path:
    """The program, from PATH, from `go env GOPATH`, from the cache, or freshly installed into it by `go install`."""
    on_path, go_on_path = shutil.which("versitygw"), shutil.which("go")
    places = [Path(on_path)] if on_path else []
    if go_on_path:
        asked = subprocess.run((go_on_path, "env", "GOPATH"), capture_output=True, text=True, check=False)
        places += [Path(gopath) / "bin" / "versitygw"] if (gopath := asked.stdout.strip()) else []
    folder = cache_folder() / "bin"
    places.append(folder / "versitygw")
    for place in places:
        if os.access(place, os.X_OK):
            return place
    folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "GOBIN": str(folder)}
    installed = subprocess.run(
        (find_go(), "install", f"{MODULE}@{VERSION}"), env=environment, capture_output=True, text=True, check=False
    )
    if installed.returncode:
        missing(f"no S3 server: go install {MODULE}@{VERSION} failed: {installed.stderr.strip()[-500:]}")
    return folder / "versitygw"


def _keeps_attributes(folder: Path) -> bool:
    try:
        os.setxattr(folder, "user.homelab", b"1")
    except OSError:
        return False
    return True


class S3Server:
    """One versitygw on 127.0.0.1 whose port, data and keys outlive `kill` and `restart`."""

    def __init__(self, program: Path, folder: Path) -> None:
        self.port = free_port()
        self.access_key, self.secret_key = f"access-{uuid.uuid4().hex[:8]}", f"secret-{uuid.uuid4().hex}"
        self.data, self._log_path = folder / "data", folder / "versitygw.log"
        self._process: subprocess.Popen[bytes] | None = None
        for each in ("data", "versions", "attributes"):
            (folder / each).mkdir(parents=True, exist_ok=True)
        sidecar = () if _keeps_attributes(self.data) else ("--sidecar", str(folder / "attributes"))
        self._command = (
            str(program),
            *("--port", f"127.0.0.1:{self.port}", "--health", "/health", "--quiet"),
            *("posix", "--versioning-dir", str(folder / "versions"), *sidecar, str(self.data)),
        )

    @property
    def endpoint(self) -> str:
        """The URL that clients use."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def start(self) -> None:
        """Start it and wait until it answers, at most ten seconds. The keys travel by environment, never by argv."""
        environment = {**os.environ, "ROOT_ACCESS_KEY": self.access_key, "ROOT_SECRET_KEY": self.secret_key}
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + 10
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"versitygw did not start: {self._log_path.read_text()[-2000:]}")
            time.sleep(0.02)

    def stop(self) -> None:
        """End it in order; kill it after five seconds."""
        if self._process:
            self._process.terminate()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self.kill()
            self._process = None

    def kill(self) -> None:
        """End it with SIGKILL, as a power cut would."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """Start it again on the same port and data."""
        self.kill()
        self.start()

    def client(self, **config: Any) -> S3Client:
        """A boto3 client with the server's own keys, to look behind the store's back."""
        import boto3.session
        from botocore.config import Config

        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(s3={"addressing_style": "path"}, **config),
        )

    def make_bucket(self, *, lock: bool = False, versions: bool = False) -> str:
        """Create a bucket of a fresh name and return the name; `lock` turns versions on too."""
        bucket = f"test-{uuid.uuid4().hex[:16]}"
        self.client().create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=lock)
        if versions:
            self.client().put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
        return bucket

    def unfinished_uploads(self, bucket: str) -> list[str]:
        """The keys of all multipart uploads that are neither completed nor aborted."""
        pages = self.client().get_paginator("list_multipart_uploads").paginate(Bucket=bucket)
        return [upload["Key"] for page in pages for upload in page.get("Uploads", [])]

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=1)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """One S3 server for the whole session. Tests that kill it must restart it."""
    server = S3Server(find_versitygw(), tmp_path_factory.mktemp("s3"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def s3_bucket(s3_server: S3Server) -> str:
    """The name of a fresh, empty bucket."""
    return s3_server.make_bucket()
