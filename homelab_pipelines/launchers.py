"""The run launcher that sends each run to one of several: a process here, a Docker container, a Kubernetes pod.

An instance of Dagster has one run launcher (dagster#11709). This one holds the others and only chooses: by the run's
tag `homelab/launcher`, else by the first rule in dagster.yaml that fits, else by default. With the run goes what its
assets ask for (run_resources). Everything else is theirs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg
import yaml
from dagster._core.errors import DagsterLaunchFailedError
from dagster._core.launcher.base import (
    CheckRunHealthResult,
    LaunchRunContext,
    ResumeRunContext,
    RunLauncher,
    WorkerStatus,
)
from dagster._core.storage.tags import KIND_PREFIX
from dagster._serdes import ConfigurableClass
from dagster._serdes.config_class import ConfigurableClassData

from homelab_pipelines.inventory.problems import did_you_mean
from homelab_pipelines.run_resources import (
    KUBERNETES_TAG,
    RESOURCES,
    Contradiction,
    Resources,
    kubernetes_config,
    largest,
)

if TYPE_CHECKING:
    from dagster._core.definitions.assets.graph.remote_asset_graph import RemoteAssetNode
    from dagster._core.workspace.context import BaseWorkspaceRequestContext

LAUNCHER_TAG = "homelab/launcher"
"""On a run, a job or a schedule: which launcher its runs go to, whatever the rules say."""
LAUNCHED_BY_TAG = "homelab/launched-by"
"""On a run that was launched: by which launcher. Who looks after the run later is asked by it, not by the rules."""
HOST_TAG = "homelab/host"
"""On a run: the machine that it is about."""
CHANGES_CLUSTER_TAG = "homelab/changes-cluster"
"""On a run that drains, upgrades or restores a cluster: its name. It must not run in a pod of that cluster."""

# dagster_k8s.launcher says the same status for a job that is gone and for an API server that does not answer.
_GONE = re.compile(r"Job \S+ could not be found")


class CannotLaunch(DagsterLaunchFailedError):
    """A run cannot be sent anywhere, or not where it was to go; the message says why and what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(message)  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class Rule:
    """Where the runs go that fit all of it: of a job, about a host, with at least one asset of a kind."""

    launcher: str
    job: str | None = None
    host: str | None = None
    asset_kind: str | None = None

    def fits(self, run: dg.DagsterRun, kinds: Callable[[], frozenset[str]]) -> bool:
        """Whether it decides about a run; `kinds` are those of the run's assets, looked up only when asked for."""
        return (
            self.job in (None, run.job_name)
            and self.host in (None, run.tags.get(HOST_TAG))
            and (self.asset_kind is None or self.asset_kind in kinds())
        )

    def __str__(self) -> str:
        named = {"job": self.job, "host": self.host, "asset_kind": self.asset_kind}
        return "rule " + ", ".join(f"{name} {value}" for name, value in named.items() if value is not None)


class RoutingRunLauncher(RunLauncher[dg.DagsterInstance], ConfigurableClass):
    """Holds launchers by name, each made at its first use, and sends each run to one of them.

    In dagster.yaml: `launchers` (by name: `module`, `class`, `config`, and `cluster`, the Kubernetes cluster that its
    workers run in, if any), `default`, and `rules` (`launcher` with `job`, `host` or `asset_kind`).
    """

    def __init__(
        self,
        launchers: Mapping[str, Mapping[str, Any]],
        default: str,
        rules: Sequence[Rule] = (),
        inst_data: ConfigurableClassData | None = None,
    ) -> None:
        self._inst_data = inst_data
        self._settings = launchers
        self._default = default
        self._rules = rules
        self._made: dict[str, RunLauncher[dg.DagsterInstance]] = {}
        for what, name in (("default", default), *((str(rule), rule.launcher) for rule in rules)):
            if name not in launchers:
                raise CannotLaunch(f"dagster.yaml: run_launcher: {self._unknown(name, what)}")
        super().__init__()  # type: ignore[no-untyped-call]

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        """What it was made of."""
        return self._inst_data

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """The form of `config` in dagster.yaml."""
        optional = dg.Field(str, is_required=False)
        launcher = {"module": str, "class": str, "config": dg.Field(dict, is_required=False), "cluster": optional}
        rule = {"launcher": str, "job": optional, "host": optional, "asset_kind": optional}
        return {
            "launchers": dg.Map(str, launcher),  # type: ignore[no-untyped-call]
            "default": str,
            "rules": dg.Field([rule], is_required=False, default_value=[]),
        }

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> RoutingRunLauncher:
        """Made by Dagster from dagster.yaml."""
        rules = [Rule(**rule) for rule in config_value["rules"]]
        return cls(config_value["launchers"], config_value["default"], rules, inst_data)

    def launch_run(self, context: LaunchRunContext) -> None:
        """Launch a run. Raises CannotLaunch, which ends it, when its launcher is not to be had."""
        run = context.dagster_run
        try:
            name, why = self._choose(run, context.workspace)
            self._refuse_in_its_own_cluster(run, name)
            asked = _asked(run, context.workspace)
            launcher = self._launcher(name)
            self._instance.add_run_tags(run.run_id, {LAUNCHED_BY_TAG: name})
            needs = f"; its assets ask for {asked}" if str(asked) else ""
            self._instance.report_engine_event(f"Sent to launcher {name} ({why}){needs}.", run, cls=type(self))
            # Not stored with the run: one that is started again asks for what the inventory says then.
            tags = {**run.tags, **_resource_tags(asked, run, self._settings[name].get("config") or {})}
            launcher.launch_run(context._replace(dagster_run=run.with_tags(tags)))
        except Exception as error:  # the run's own log otherwise says no more than that something went wrong
            self._instance.report_engine_event(f"Not launched: {error}", run, cls=type(self))
            raise

    def terminate(self, run_id: str) -> bool:
        """End a run's worker; whether there was one."""
        run = self._instance.get_run_by_id(run_id)
        return run is not None and self._of(run).terminate(run_id)

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Always: a run whose launcher cannot tell counts as running."""
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """How a run's worker is. Raises what its launcher raises, and when that gets no answer.

        Run monitoring takes every answer but RUNNING for the worker's end, and asks again after an error: a backend
        that cannot be reached for a minute must not end a run that goes on there.
        """
        launcher = self._of(run)
        if not launcher.supports_check_run_worker_health:
            return CheckRunHealthResult(WorkerStatus.RUNNING, msg=f"launcher {_name(run)} cannot tell")
        health = launcher.check_run_worker_health(run)
        if health.status is not WorkerStatus.UNKNOWN:
            return health
        if health.msg is not None and _GONE.search(health.msg):
            return health._replace(status=WorkerStatus.NOT_FOUND)
        raise ConnectionError(f"launcher {_name(run)} does not know how run {run.run_id} is: {health.msg}")

    def get_run_worker_debug_info(self, run: dg.DagsterRun, include_container_logs: bool | None = True) -> str | None:
        """What the run's launcher knows of its worker."""
        return self._of(run).get_run_worker_debug_info(run, include_container_logs)

    @property
    def supports_resume_run(self) -> bool:
        """Whether any of the launchers can; a run of another is not resumed, and says so."""
        return any(self._launcher(name).supports_resume_run for name in self._settings if self._possible(name))

    def resume_run(self, context: ResumeRunContext) -> None:
        """Start a new worker for a run, where its first one was. Raises CannotLaunch when it cannot."""
        launcher = self._of(context.dagster_run)
        if not launcher.supports_resume_run:
            raise CannotLaunch(
                f"launcher {_name(context.dagster_run)} cannot resume a run; next: start it again from the UI"
            )
        launcher.resume_run(context)

    def dispose(self) -> None:
        """Let go of every launcher that was made."""
        for launcher in self._made.values():
            launcher.dispose()

    def join(self, timeout: int = 30) -> None:
        """Wait for runs that launchers of this process have."""
        for launcher in self._made.values():
            launcher.join(timeout)

    def _choose(self, run: dg.DagsterRun, workspace: BaseWorkspaceRequestContext | None) -> tuple[str, str]:
        """The launcher's name, and why it is that one."""
        if (asked := run.tags.get(LAUNCHER_TAG)) is not None:
            if asked not in self._settings:
                raise CannotLaunch(self._unknown(asked, f"tag {LAUNCHER_TAG}"))
            return asked, f"tag {LAUNCHER_TAG}"
        for rule in self._rules:
            if rule.fits(run, lambda: _asset_kinds(run, workspace)):
                return rule.launcher, str(rule)
        return self._default, "the default"

    def _refuse_in_its_own_cluster(self, run: dg.DagsterRun, name: str) -> None:
        cluster = run.tags.get(CHANGES_CLUSTER_TAG)
        if cluster is not None and self._settings[name].get("cluster") == cluster:
            names = dict.fromkeys((self._default, *self._settings))
            outside = [other for other in names if self._settings[other].get("cluster") != cluster]
            next_step = (
                f"add the tag {LAUNCHER_TAG}: {outside[0]}"
                if outside
                else "start it from an installation on another machine: homelab up"
            )
            raise CannotLaunch(
                f"job {run.job_name} changes cluster {cluster}, and launcher {name} would run it in a pod there, which"
                f" that change may end; next: {next_step}"
            )

    def _of(self, run: dg.DagsterRun) -> RunLauncher[dg.DagsterInstance]:
        """The launcher that a run was sent to."""
        return self._launcher(_name(run) or self._default)

    def _possible(self, name: str) -> bool:
        try:
            self._launcher(name)
        except CannotLaunch:
            return False
        return True

    def _launcher(self, name: str) -> RunLauncher[dg.DagsterInstance]:
        """One of the launchers, made when first asked for: the one for Kubernetes needs a cluster even for that."""
        if name in self._made:
            return self._made[name]
        if name not in self._settings:
            raise CannotLaunch(self._unknown(name, f"tag {LAUNCHED_BY_TAG}"))
        settings = self._settings[name]
        made_of = ConfigurableClassData(
            settings["module"], settings["class"], yaml.safe_dump(settings.get("config", {}))
        )
        try:
            launcher: RunLauncher[dg.DagsterInstance] = made_of.rehydrate(as_type=RunLauncher)  # type: ignore[type-abstract]
        except Exception as error:  # whatever a foreign constructor raises: its text is what the user needs
            raise CannotLaunch(
                f"launcher {name} ({settings['module']}.{settings['class']}) cannot be set up here:"
                f" {type(error).__name__}: {error}; next: mend run_launcher.launchers.{name} in dagster.yaml, or send"
                f" the run elsewhere with the tag {LAUNCHER_TAG}"
            ) from error
        if self.has_instance:
            launcher.register_instance(self._instance)
        self._made[name] = launcher
        return launcher

    def _unknown(self, name: str, what: str) -> str:
        hint = did_you_mean(name, self._settings)
        known = ", ".join(self._settings)
        return f"{what}: there is no launcher {name!r} (there are: {known}); next: {hint or 'name one of these'}"


def _name(run: dg.DagsterRun) -> str | None:
    return run.tags.get(LAUNCHED_BY_TAG)


def _asset_kinds(run: dg.DagsterRun, workspace: BaseWorkspaceRequestContext | None) -> frozenset[str]:
    """The kinds of a run's assets."""
    tags = (tag for node in _assets(run, workspace) for tag in node.tags)
    return frozenset(tag.removeprefix(KIND_PREFIX) for tag in tags if tag.startswith(KIND_PREFIX))


def _asked(run: dg.DagsterRun, workspace: BaseWorkspaceRequestContext | None) -> Resources:
    """The resources that a run needs for its assets. Raises CannotLaunch when these contradict each other."""
    asked = {
        node.key.to_user_string(): Resources.from_json(value.data)
        for node in _assets(run, workspace)
        if isinstance(value := node.metadata.get(RESOURCES), dg.JsonMetadataValue) and isinstance(value.data, Mapping)
    }
    try:
        return largest(asked)
    except Contradiction as error:
        raise CannotLaunch(
            f"{error}; next: give both the same in homelab.yaml (node_selector), or run them one by one"
        ) from error


def _resource_tags(asked: Resources, run: dg.DagsterRun, config: Mapping[str, Any]) -> dict[str, str]:
    """What launchers are given with a run, which read what is theirs; a person's own dagster-k8s/config stays."""
    if not asked.to_json():
        return {}
    from kubernetes.utils import parse_quantity  # lazy: half a second, for runs that ask for something

    tags = {RESOURCES: json.dumps(asked.to_json())}
    if KUBERNETES_TAG not in run.tags:
        tags[KUBERNETES_TAG] = json.dumps(kubernetes_config(asked, config.get("resources") or {}, parse_quantity))
    return tags


def _assets(run: dg.DagsterRun, workspace: BaseWorkspaceRequestContext | None) -> Iterator[RemoteAssetNode]:
    """A run's assets, and those that it only checks, as the code location says; none where there is none to ask."""
    if workspace is None:
        return
    graph = workspace.asset_graph
    checked = {check.asset_key for check in run.asset_check_selection or ()}
    keys = {*(run.asset_selection or ()), *checked} or graph.get_materialization_asset_keys_for_job(run.job_name)
    yield from (graph.get(key) for key in keys if graph.has(key))
