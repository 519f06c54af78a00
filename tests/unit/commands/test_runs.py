"""What `homelab backup` says of a run."""

from __future__ import annotations

import dagster as dg

from homelab_pipelines.commands.runs import _lines


class Broken(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Cannot be made: the run ends before any step."""

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        raise RuntimeError("the disk of the inventory is gone")


@dg.op
def back_up(broken: Broken) -> None:
    raise AssertionError("never begun")


def test_run_that_fails_outside_its_steps_says_why() -> None:
    job = dg.GraphDefinition("nightly", node_defs=[back_up]).to_job(resource_defs={"broken": Broken()})
    lines = list(_lines(job.execute_in_process(raise_on_error=False)))
    assert {"step": "back_up", "passed": False, "description": "not run: what it rests on failed"} in lines
    assert {
        "step": "the run",
        "passed": False,
        "description": "RuntimeError: the disk of the inventory is gone",
    } in lines
