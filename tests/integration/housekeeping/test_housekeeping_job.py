"""The job `housekeeping` as it is defined, in this process: what it says, and how its checks fail."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager

from tests.integration.house import QUIET, REPOSITORY, House, checks, failures
from tests.integration.housekeeping.conftest import materialize
from tests.peers.postgres import PostgresPeer

pytestmark = pytest.mark.postgres
DRY = {"ops": {f"{name}__test": {"config": {"dry_run": True}} for name in ("run_history", "run_workers")}}


@contextmanager
def instance_of(house: House, launcher: dict[str, Any] | None) -> Iterator[dg.DagsterInstance]:
    home = house.home / "dagster"
    home.mkdir(parents=True, exist_ok=True)
    settings = yaml.safe_load((REPOSITORY / "deploy/local/dagster.yaml").read_text())
    if launcher is not None:
        settings["run_launcher"] = launcher
    (home / "dagster.yaml").write_text(yaml.safe_dump(settings))
    with dg.DagsterInstance.from_config(str(home)) as instance:
        yield instance
    shutil.rmtree(home)


@pytest.fixture
def house(tmp_path: Path, peer: PostgresPeer) -> Callable[..., House]:
    def made(**housekeeping: Any) -> House:
        return House(tmp_path / "house", peer, ["postgres"], {"housekeeping": housekeeping})

    return made


def run(house: House, instance: dg.DagsterInstance, config: dict[str, Any] | None = None) -> dg.ExecuteInProcessResult:
    job = house.definitions().resolve_job_def("housekeeping")
    return job.execute_in_process(instance=instance, run_config={**QUIET, **(config or {})}, raise_on_error=False)


def metadata(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, Any]:
    [found] = result.asset_materializations_for_node(f"{asset}__test")
    return {name: value.value for name, value in found.metadata.items()}


def test_job_deletes_old_runs_and_measures_what_is_left(house: Callable[..., House]) -> None:
    made = house(keep_runs="1s")
    with instance_of(made, None) as instance:
        old = [materialize(instance) for _ in range(2)]
        with instance.run_storage.connect() as connection:  # type: ignore[attr-defined]
            connection.exec_driver_sql("UPDATE runs SET update_timestamp = datetime('now', '-1 day')")
        preview = run(made, instance, DRY)
        assert metadata(preview, "run_history") | {"events_deleted": 0} == {
            "dry_run": True,
            "runs_deleted": 1,
            "events_deleted": 0,
            "old_runs_kept": 1,
            "deleted": f"| run |\n|---|\n| {old[0]} |",
            "kept": metadata(preview, "run_history")["kept"],
        }
        assert {run.run_id for run in instance.get_runs()} >= set(old)
        result = run(made, instance)
        assert result.success and failures(result) == {}
        assert {run.run_id for run in instance.get_runs()} & set(old) == {old[1]}
        size = metadata(result, "instance_storage")
        assert size["runs"] == 3 and 0 < size["storage_bytes"] <= size["bytes"]
        assert metadata(result, "run_workers")["nothing_to_reap"].endswith(
            "| DefaultRunLauncher: its runs are processes, of which nothing stays |"
        )
        assert all(check.passed for check in checks(result).values())


def test_storage_above_its_limit_fails_the_check_naming_the_largest_part(house: Callable[..., House]) -> None:
    made = house(storage_limit="1kB")
    with instance_of(made, None) as instance:
        materialize(instance)
        check = checks(run(made, instance))["instance_storage/test below_limit"]
    assert not check.passed
    assert "most of it history/runs" in check.description and "keep_runs" in check.description


def test_storage_without_a_limit_is_measured_and_passes(house: Callable[..., House]) -> None:
    made = house()
    made.write({})
    made.inventory.write_text(made.inventory.read_text() + "housekeeping: {storage_limit: null}\n")
    with instance_of(made, None) as instance:
        check = checks(run(made, instance))["instance_storage/test below_limit"]
    assert check.passed and set(check.metadata) == {"bytes"}


def routed(docker: dict[str, Any], kubernetes: dict[str, Any]) -> dict[str, Any]:
    launchers = {
        "here": {"module": "dagster", "class": "DefaultRunLauncher"},
        "box": {"module": "dagster_docker", "class": "DockerRunLauncher", "config": docker},
        "cluster": {"module": "dagster_k8s", "class": "K8sRunLauncher", "config": kubernetes},
    }
    config = {"launchers": launchers, "default": "here"}
    return {"module": "homelab_pipelines.launchers", "class": "RoutingRunLauncher", "config": config}


def test_launchers_of_which_nothing_may_be_removed_are_named_with_the_reason(house: Callable[..., House]) -> None:
    made = house()
    ttl = {"job_namespace": "homelab", "run_k8s_config": {"job_spec_config": {"ttl_seconds_after_finished": 600}}}
    with instance_of(made, routed({}, ttl)) as instance:
        said = metadata(run(made, instance), "run_workers")["nothing_to_reap"]
    assert "here: its runs are processes" in said
    assert "box: its containers carry no label homelab/deployment, so they may be another's" in said
    assert "cluster: Kubernetes itself removes each job 600 seconds after its end" in said


def test_logs_that_cannot_be_deleted_fail_the_check_though_their_run_is_gone(
    house: Callable[..., House], monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(LocalComputeLogManager, "delete_logs", read_only)
    made = house(keep_runs="1s")
    with instance_of(made, None) as instance:
        old, _ = (materialize(instance) for _ in range(2))
        with instance.run_storage.connect() as connection:  # type: ignore[attr-defined]
            connection.exec_driver_sql("UPDATE runs SET update_timestamp = datetime('now', '-1 day')")
        result = run(made, instance)
        assert not instance.has_run(old)
        assert metadata(result, "run_history")["runs_deleted"] == 1
        check = checks(result)["run_history/test every_log_deleted"]
    assert not check.passed
    assert (
        f"logs of run {old}: OSError: [Errno 30] Read-only file system; next: delete them by hand" in check.description
    )


@pytest.mark.parametrize(
    ("docker", "kubernetes", "why"),
    [
        ({"container_kwargs": {"labels": {"homelab/deployment": "a"}}}, {}, "listing the run containers of a: "),
        ({}, {"labels": {"homelab/deployment": "a"}}, "listing the jobs of runs in namespace homelab: "),
    ],
)
def test_backend_that_cannot_be_asked_fails_the_step(
    house: Callable[..., House],
    docker: dict[str, Any],
    kubernetes: dict[str, Any],
    why: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOMELAB_REAPER", "tcp://127.0.0.1:1")
    made = house()
    with instance_of(made, routed(docker, {"job_namespace": "homelab", **kubernetes})) as instance:
        result = run(made, instance)
    failed = failures(result)
    assert set(failed) == {"run_workers__test"} and why in failed["run_workers__test"]
    assert "next: " in failed["run_workers__test"]
    assert len(result.asset_materializations_for_node("run_history__test")) == 1, "what does not need it is done"
