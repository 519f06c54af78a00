"""A deployment whose settings are wrong. Last of its folder, because it leaves the deployment broken."""

from __future__ import annotations

import re

import pytest

from tests.integration.docker.conftest import Compose

pytestmark = pytest.mark.docker


def test_part_that_does_not_start_is_named_with_the_end_of_its_log(compose: Compose) -> None:
    settings = compose.deployment.folder / "local.dagster.yaml"
    settings.write_text(settings.read_text() + "\nno_such_setting: 1\n")
    said = compose.up("--no-run")
    print(f"\nsaid after {said.seconds:.0f} s")
    assert said.status == 1 and "Traceback" not in said.text.partition("no_such_setting")[0]
    assert re.search(r"(daemon|webserver) is \w+.*, started 2 times again; its log ends:", said.text), said.text
    assert 'unexpected config entry "no_such_setting"' in said.text
    assert "postgres is" not in said.text and "code-server is" not in said.text, "what is well is not named"
    assert "next: docker compose --project-name homelab logs" in said.text
