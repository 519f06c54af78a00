"""What tests ask of a Dagster that runs somewhere, through its webserver's GraphQL API, wherever its parts are."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from homelab_pipelines.local_deployment import Deployment, DeploymentFailed, graphql, launch, run_state

JOB = "nightly_backup"
POOL = "postgres__main"


def until(true: Callable[[], object], seconds: float, otherwise: Callable[[], str]) -> Any:
    """Wait for something, and give it; at the deadline fail with what `otherwise` says then."""
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {otherwise()}"
        time.sleep(0.5)
    return found


class Deployed:
    """A Dagster that runs. What it is made of is a subclass's."""

    @property
    def web(self) -> Deployment:
        """Where its webserver is."""
        raise NotImplementedError

    def diagnostics(self, run_id: str | None = None) -> str:
        """What a person would look at first."""
        raise NotImplementedError

    def launch(self, tags: Mapping[str, str] | None = None) -> str:
        """Put a run of the nightly job into the queue; its id."""
        return launch(self.web, JOB, tags)

    def wait(self, run_id: str, seconds: float = 240) -> str:
        """The status that a run ends with."""

        def ended() -> bool:
            try:
                return run_state(self.web, run_id).ended
            except (OSError, DeploymentFailed):  # its storage was restarted, or everything
                return False

        until(ended, seconds, lambda: self.diagnostics(run_id))
        return run_state(self.web, run_id).status

    def reasons(self, run_id: str) -> str:
        """Every message of a run's log that says what went wrong with it as a whole."""
        query = """query ($id: ID!) { logsForRun(runId: $id) { ... on EventConnection { events {
            ... on RunFailureEvent { message error { message } }
            ... on EngineEvent { message error { message } } } } } }"""
        events = graphql(self.web, query, {"id": run_id})["logsForRun"]["events"]
        said = [(event.get("message"), (event.get("error") or {}).get("message")) for event in events]
        return "\n".join(str(each) for pair in said for each in pair if each)

    def claimed(self) -> set[str]:
        """The runs that hold the source server's pool."""
        query = """query ($key: String!) { instance { concurrencyLimit(concurrencyKey: $key) {
            claimedSlots { runId } } } }"""
        limit = graphql(self.web, query, {"key": POOL})["instance"]["concurrencyLimit"]
        return {slot["runId"] for slot in limit["claimedSlots"]}

    def unfinished(self) -> list[str]:
        """The runs that wait or are under way."""
        query = """{ runsOrError(filter: {statuses: [QUEUED, NOT_STARTED, STARTING, STARTED, CANCELING]}) {
            ... on Runs { results { runId } } } }"""
        return [run["runId"] for run in graphql(self.web, query)["runsOrError"]["results"]]

    def runs_with(self, tag: str, value: str) -> list[str]:
        """The runs that have a tag, newest first."""
        query = """query ($key: String!, $value: String!) { runsOrError(filter: {tags: [{key: $key, value: $value}]}) {
            ... on Runs { results { runId } } } }"""
        found = graphql(self.web, query, {"key": tag, "value": value})["runsOrError"]["results"]
        return [run["runId"] for run in found]

    def retry_of(self, run_id: str) -> str:
        """The run that Dagster started again for one that died."""
        found = until(lambda: self.runs_with("dagster/parent_run_id", run_id), 180, lambda: self.diagnostics(run_id))
        return str(found[0])
