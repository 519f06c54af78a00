"""What breaks while a run is under way: it ends with a reason that a person understands, or goes on; its pool is free
again, nothing is left running, and the next run succeeds."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable

import pytest

from homelab_pipelines.local_deployment import DeploymentFailed, is_loaded
from tests.deployed import POOL, until
from tests.integration.docker.conftest import SOURCE, Compose, remove_runs, run_in_the_middle

pytestmark = pytest.mark.docker


def pid_of(compose: Compose, container: str, command: str) -> int:
    """The process of a container whose command line holds `command`, as this machine counts it."""
    listed = compose.engine.docker("top", container, "-eo", "pid,args").splitlines()[1:]
    # The first process of a container is docker-init, which has the whole command line as well.
    [pid] = [line.split()[0] for line in listed if command in line and "docker-init" not in line.split()[1]]
    return int(pid)


def kill_container(compose: Compose, container: str) -> None:
    compose.engine.docker("kill", container)


def kill_worker(compose: Compose, container: str) -> None:
    os.kill(pid_of(compose, container, "execute_run"), signal.SIGKILL)


def remove(compose: Compose, container: str) -> None:
    compose.engine.docker("rm", "--force", container)


def take_its_memory(compose: Compose, container: str) -> None:
    """Leave the run less memory than it has, so that the kernel ends its largest process: the worker."""
    used = int(compose.exec(container, "cat", "/sys/fs/cgroup/memory/memory.usage_in_bytes").stdout)
    limit = str(used + 2_000_000)
    compose.engine.docker("update", "--memory", limit, "--memory-swap", limit, container)
    hog = "import mmap; pages = mmap.mmap(-1, 1 << 24); pages.write(b'x' * (1 << 24))"
    compose.exec(container, "python", "-c", hog)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (kill_container, r"the run's container \w+ was killed \(SIGKILL\)"),
        (kill_worker, r"the run's container \w+ was killed \(SIGKILL\)"),
        (
            take_its_memory,
            r"was killed by the kernel: it needed more memory than its limit of [\d.]+ \wB; next: raise mem",
        ),
        (remove, r"the run's container \w+ is gone: it was removed while the run was under way"),
    ],
    ids=["container killed", "worker killed", "out of memory", "removed by hand"],
)
def test_lost_worker_fails_the_run_with_its_reason_and_the_run_is_started_again(
    compose: Compose, fault: Callable[[Compose, str], None], reason: str
) -> None:
    with run_in_the_middle(compose) as run_id:
        fault(compose, compose.run_container(run_id))
        assert compose.wait(run_id, 60) == "FAILURE"
        until(lambda: run_id not in compose.claimed(), 60, lambda: f"{POOL} is not given back")
    said = compose.reasons(run_id)
    assert re.search(reason, said), said
    again = compose.retry_of(run_id)
    assert compose.wait(again) == "SUCCESS", compose.diagnostics(again)
    alert = compose.alert(run_id)
    assert "database_backup__photos: " in alert and re.search(reason, alert), alert
    nothing_runs(compose)


def test_missing_image_fails_the_run_saying_so_and_the_next_run_succeeds(compose: Compose) -> None:
    image = compose.environment["HOMELAB_IMAGE"]
    compose.engine.docker("tag", image, "homelab-test/aside:1")
    compose.engine.docker("rmi", image)
    try:
        run_id = compose.launch()
        assert compose.wait(run_id, 60) == "FAILURE"
    finally:
        compose.engine.docker("tag", "homelab-test/aside:1", image)
        compose.engine.docker("rmi", "homelab-test/aside:1")
    said = compose.reasons(run_id)
    assert f"this deployment pulls no image, and the engine does not have {image}" in said, said
    assert "next: homelab up --docker builds it" in said
    assert f"does not have {image}" in compose.alert(run_id)
    next_run = compose.launch()
    assert compose.wait(next_run) == "SUCCESS", compose.diagnostics(next_run)
    nothing_runs(compose)


def test_storage_restarted_the_run_goes_on(compose: Compose) -> None:
    with run_in_the_middle(compose) as run_id:
        compose.engine.docker("restart", "--time", "5", compose.container("postgres"))
    assert compose.wait(run_id) == "SUCCESS", compose.diagnostics(run_id)
    nothing_runs(compose)


def test_daemon_killed_runs_go_on_and_what_was_queued_is_launched_when_it_is_back(compose: Compose) -> None:
    with run_in_the_middle(compose) as run_id:
        daemon = compose.container("daemon")
        os.kill(pid_of(compose, daemon, "serve_daemon"), signal.SIGKILL)
        queued = compose.launch()
    assert compose.wait(run_id) == "SUCCESS", compose.diagnostics(run_id)
    assert compose.wait(queued) == "SUCCESS", compose.diagnostics(queued)
    assert compose.engine.docker("inspect", "--format", "{{.RestartCount}}", daemon) == "1"
    nothing_runs(compose)


def test_second_daemon_waits_and_takes_over_when_the_first_ends(compose: Compose) -> None:
    first = compose.container("daemon")
    compose.compose("up", "--detach", "--no-recreate", "--scale", "daemon=2", "daemon")
    try:
        [second] = [each for each in compose.container("daemon").split() if each != first]
        waits = "another daemon works on this storage: homelab daemon"
        until(lambda: waits in compose.engine.logs(second), 60, lambda: compose.engine.logs(second))
        assert "this one waits until it has ended" in compose.engine.logs(second)
        run_id = compose.launch()
        assert compose.wait(run_id) == "SUCCESS", compose.diagnostics(run_id)
        label = f"label=dagster/run_id={run_id}"
        assert len(compose.engine.docker("ps", "--all", "--quiet", "--filter", label).split()) == 1, "launched once"
        assert "Launched" not in compose.engine.logs(second)
        compose.engine.docker("stop", first)
        run_id = compose.launch()
        assert compose.wait(run_id) == "SUCCESS", compose.diagnostics(run_id)
        assert run_id in compose.engine.logs(second), "the second one launched it"
    finally:
        compose.engine.docker("start", first)
        compose.compose("up", "--detach", "--no-recreate", "--scale", "daemon=1", "daemon")
    nothing_runs(compose)


def test_engine_restarted_with_live_restore_the_run_goes_on(compose: Compose) -> None:
    compose.engine.live_restore(True)
    try:
        with run_in_the_middle(compose) as run_id:
            restart(compose)
        assert compose.wait(run_id) == "SUCCESS", compose.diagnostics(run_id)
    finally:
        compose.engine.live_restore(False)
    nothing_runs(compose)


def test_engine_restarted_everything_comes_back_and_the_run_is_started_again(compose: Compose) -> None:
    with run_in_the_middle(compose) as run_id:
        restart(compose)
    assert compose.wait(run_id) == "FAILURE"
    until(lambda: run_id not in compose.claimed(), 60, lambda: f"{POOL} is not given back")
    # Where the storage still took it, a step says itself that it was interrupted; then nothing is started again.
    reason = r"was (killed|told to end) \(SIG(KILL|TERM)\): by hand, |interrupted"
    said = compose.reasons(run_id)
    assert re.search(reason, said), said
    again = compose.launch() if "interrupted" in said else compose.retry_of(run_id)
    assert compose.wait(again) == "SUCCESS", compose.diagnostics(again)
    assert re.search(reason, compose.alert(run_id))
    nothing_runs(compose)


def restart(compose: Compose) -> None:
    """Restart the engine and wait until the deployment answers again. The source has no restart policy: by hand."""
    compose.engine.stop()
    compose.engine.start()
    compose.engine.docker("start", SOURCE)

    check = ("python", "-m", "homelab_pipelines.container_health", "socket-proxy")

    def answers() -> bool:
        try:
            return is_loaded(compose.web) and not compose.exec(compose.container("socket-proxy"), *check).returncode
        except DeploymentFailed:  # the code server is not back yet
            return False

    until(answers, 120, compose.diagnostics)


def nothing_runs(compose: Compose) -> None:
    """No container of a run is left running; those that ended are removed, for the next test to see its own alone."""
    running = ("ps", "--quiet", "--filter", "label=dagster/run_id")
    until(lambda: not compose.engine.docker(*running), 60, compose.diagnostics)
    remove_runs(compose.engine)
