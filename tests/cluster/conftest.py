"""What the tests on the cluster share: the image of deploy/Dockerfile on its nodes, and what Kustomize makes."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.house import REPOSITORY
from tests.peers.docker import IMAGE as POSTGRES
from tests.peers.docker import DockerPeer
from tests.peers.kubernetes.cluster import Cluster

MANIFESTS = REPOSITORY / "deploy/kubernetes"
NAMESPACE = "homelab"
"""That of the manifests."""
THERE = f"--namespace={NAMESPACE}"


@pytest.fixture(scope="session")
def imported_image(kubernetes: Cluster, docker_engine: DockerPeer, image: str, tmp_path_factory: Any) -> str:
    """The image of deploy/Dockerfile and the tests' PostgreSQL, on every node of the cluster."""
    archive = tmp_path_factory.mktemp("images") / "images.tar"
    docker_engine.docker("save", "--output", str(archive), image, POSTGRES)
    kubernetes.import_image(archive)
    return image


def kustomized(cluster: Cluster, folder: Path) -> list[dict[str, Any]]:
    """The objects that a kustomization makes."""
    done = subprocess.run(
        (str(cluster.programs / "kubectl"), "kustomize", str(folder)), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return [each for each in yaml.safe_load_all(done.stdout) if each]
