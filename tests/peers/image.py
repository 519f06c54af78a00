"""The image of deploy/Dockerfile, built once a session on a base that debootstrap made."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from homelab_pipelines.docker_deployment import IMAGE as DEPLOYED
from tests.peers import image_programs
from tests.peers.docker import BASE, DockerPeer, import_base

REPOSITORY = Path(__file__).parents[2]
BUILD_SECONDS = 600


@pytest.fixture(scope="session")
def image(docker_engine: DockerPeer, tmp_path_factory: pytest.TempPathFactory) -> str:
    """deploy/Dockerfile, built on a base that debootstrap made. Downloads from Debian and PyPI, once a session."""
    import_base(docker_engine)
    context = build_context(tmp_path_factory.mktemp("context"))
    started = time.monotonic()
    # 13 is in no source that this base knows: a build without it must work, and say so.
    arguments = {"BASE": BASE, "POSTGRES_CLIENTS": "13 15", "POSTGRES_SERVERS": "", "REVISION": "a-revision"}
    built = subprocess.run(
        (
            *("docker", "--host", docker_engine.host, "build", "--network", "host", "--tag", DEPLOYED),
            *("--file", str(context / "deploy/Dockerfile")),
            *(word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")),
            str(context),
        ),
        env={**os.environ, "DOCKER_BUILDKIT": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=BUILD_SECONDS,
        check=False,
    )
    assert built.returncode == 0, built.stdout[-4000:]
    assert "no package source has postgresql-client-13" in built.stdout
    size = int(docker_engine.docker("image", "inspect", "--format", "{{.Size}}", DEPLOYED))
    print(f"\nimage: built in {time.monotonic() - started:.0f} s, {size / 1e6:.0f} MB")
    return DEPLOYED


def build_context(folder: Path) -> Path:
    """What the Dockerfile copies from a checkout, with the programs that it would compile among its tools."""
    without = shutil.ignore_patterns("__pycache__", ".env")
    for name in ("homelab_pipelines", "deploy"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=without)
    for name in ("pyproject.toml", "uv.lock", "README.md", "LICENSE", ".dockerignore"):
        shutil.copy(REPOSITORY / name, folder)
    for program in image_programs.NAMES:
        shutil.copy(image_programs.compiled() / program, folder / "deploy/image/tools")
    return folder
