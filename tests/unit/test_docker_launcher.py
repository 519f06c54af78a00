"""The words for a container's end, by states as the Docker Engine writes them."""

from __future__ import annotations

from typing import Any

import pytest

from homelab_pipelines.docker_launcher import how_it_ended


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (
            {"ExitCode": 137, "OOMKilled": True},
            "needed more memory than its limit of 2.1 GB; next: raise memory in resources",
        ),
        ({"ExitCode": 137, "OOMKilled": False}, "was killed (SIGKILL): by hand, by Docker when it stopped, or"),
        ({"ExitCode": 143}, "was told to end (SIGTERM): by hand, or because Docker or the machine was stopped"),
        ({"ExitCode": 1}, "ended with status 1 before the run did"),
        (
            {"ExitCode": 127, "Error": "exec: no such file"},
            "ended with status 127 before the run did (exec: no such file)",
        ),
    ],
)
def test_end_of_a_container_is_said_in_words(state: dict[str, Any], said: str) -> None:
    assert said in how_it_ended(state, 2 * 1024**3)


def test_without_a_limit_the_machine_had_no_memory_left() -> None:
    assert "more memory than the machine has" in how_it_ended({"ExitCode": 137, "OOMKilled": True}, 0)
