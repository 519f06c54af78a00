"""`homelab up --docker`: the Compose deployment with the user's homelab.yaml, and its first proven backup."""

from __future__ import annotations

import time

from homelab_pipelines.commands.output import say
from homelab_pipelines.commands.up import JOB, run_to_end
from homelab_pipelines.docker_deployment import (
    DockerDeployment,
    discover,
    ensure_image,
    prepare,
    require_docker,
    start,
    unreadable,
)
from homelab_pipelines.inventory.loader import load
from homelab_pipelines.local_deployment import DeploymentFailed, has_succeeded, reload


def bring_up_docker(deployment: DockerDeployment, run: bool) -> int:
    """Build the image, start the containers, wait until all is well, run the nightly job unless it has succeeded once.

    0 when all that was asked for was done. The containers stay. Raises DeploymentFailed, InventoryInvalid.
    """
    if not deployment.inventory.exists():
        raise DeploymentFailed(
            f"there is no {deployment.inventory}\n  next: homelab init, and fill it in; the demo runs without --docker"
        )
    homelab = load(deployment.inventory)
    started = time.monotonic()
    socket = require_docker()
    image = ensure_image(deployment)
    prepare(deployment, homelab, image, socket)
    for sentence in unreadable(deployment, homelab, image):
        say(sentence)
    say("starting Dagster's containers …")
    start(deployment)
    say(f"Dagster is up after {time.monotonic() - started:.0f} s")
    for server, names in discover(deployment).items():
        say(f"server {server}: {', '.join(names) or 'no database is chosen'}")
    reload(deployment.webserver)
    done = 0
    if run and not has_succeeded(deployment.webserver, JOB):
        done = run_to_end(deployment.webserver, lambda: None)
    say(f"\nDagster UI: {deployment.url}")
    say("the containers stay; to end them: docker compose --project-name homelab down")
    return done
