"""The real Kompose: what it is given, and what of it is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from homelab_pipelines.migration.errors import ProgramMissing
from homelab_pipelines.migration.kompose import (
    PROGRAM_VARIABLE,
    VERSION,
    KomposeOutput,
    find_kompose,
    in_order,
    presentable,
    run_kompose,
)
from homelab_pipelines.migration.reading import read_stack
from tests.unit.migration.conftest import Project


def test_output_version_and_messages_are_kept(project: Project, kompose: str) -> None:
    stack = read_stack(project("services: {web: {image: 'nginx:1', ports: ['8080:80']}, quiet: {image: 'nginx:1'}}"))
    output = run_kompose(stack)
    assert output.version == VERSION
    assert set(output.files) == {"web-deployment.yaml", "web-service.yaml", "quiet-deployment.yaml"}
    assert any("quiet" in line for line in output.warnings), "it says that a service without ports has no Service"
    assert output.withheld == ()
    assert output == run_kompose(stack)


@pytest.mark.parametrize(
    ("service", "key"),
    [
        ("{image: 'nginx:1', healthcheck: {interval: 5s}}", "services.web.healthcheck"),
        ("{image: 'nginx:1', restart: 'on-failure:3'}", "services.web.restart"),
        ("{image: 'nginx:1', group_add: [docker]}", "services.web.group_add"),
        ("{image: 'nginx:1', env_file: [{path: no.env, required: false}]}", "services.web.env_file[0]"),
        ("{image: 'nginx:1', volumes: ['/:/host:ro']}", "services.web.volumes[0]"),
        ("{image: 'nginx:1', volumes: ['/etc/passwd:/p:ro']}", "services.web.volumes[0]"),
    ],
)
def test_what_ends_it_is_withheld_and_named(project: Project, kompose: str, service: str, key: str) -> None:
    output = run_kompose(read_stack(project(f"services: {{web: {service}}}")))
    assert [line.partition(": ")[0] for line in output.withheld] == [key]
    assert "web-deployment.yaml" in output.files
    assert not any(b"root:" in content for content in output.files.values())


def test_service_that_ends_it_does_not_take_the_others_along(
    project: Project, kompose: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = read_stack(project("services: {bad: {image: 'a:1', group_add: [docker]}, good: {image: 'b:1'}}"))
    monkeypatch.setattr("homelab_pipelines.migration.kompose._fatal", lambda service: [])
    output = run_kompose(stack)
    assert set(output.files) == {"good-deployment.yaml"}
    assert [line.partition(": ")[0] for line in output.withheld] == ["services.bad"]
    assert any("FATA" in line for line in output.warnings)


def test_services_of_profiles_are_presented(project: Project) -> None:
    model, _ = presentable(read_stack(project("services: {web: {image: 'nginx:1', profiles: [extra]}}")))
    assert "profiles" not in model["services"]["web"]


def test_program_that_is_missing_is_said_with_the_next_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(PROGRAM_VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ProgramMissing, match="no Kompose on this machine\n  next: install Kompose"):
        find_kompose()


def test_program_that_is_no_kompose_is_refused(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.write_text("#!/bin/sh\nexit 1\n")
    other.chmod(0o755)
    monkeypatch.setenv(PROGRAM_VARIABLE, str(other))
    with pytest.raises(ProgramMissing, match="does not run as Kompose"):
        run_kompose(read_stack(project("services: {web: {image: 'nginx:1'}}")))


def test_containers_of_one_pod_are_in_the_same_order_each_time(project: Project, kompose: str) -> None:
    joined = "".join(f", s{index}: {{image: 'b:{index}', network_mode: 'service:a'}}" for index in range(6))
    stack = read_stack(project(f"services: {{a: {{image: 'a:1', ports: ['80:80']}}{joined}}}"))
    assert len({run_kompose(stack).files["a-deployment.yaml"] for _ in range(5)}) == 1


def test_terms_of_an_affinity_are_in_the_same_order_each_time(project: Project, kompose: str) -> None:
    constraints = ", ".join(f"'node.labels.l{index} == v'" for index in range(6))
    text = f"services: {{a: {{image: 'a:1', deploy: {{placement: {{constraints: [{constraints}]}}}}}}}}"
    stack = read_stack(project(text))
    assert len({run_kompose(stack).files["a-deployment.yaml"] for _ in range(5)}) == 1


def test_putting_in_order_changes_nothing_else() -> None:
    text = "spec:\n  containers:\n    - name: b\n      args:\n        - x\n    - name: a\n  restartPolicy: Always\n"
    sorted_text = (
        "spec:\n  containers:\n    - name: a\n    - name: b\n      args:\n        - x\n  restartPolicy: Always\n"
    )
    assert in_order(text) == sorted_text
    assert in_order(sorted_text) == sorted_text


def test_file_without_objects_is_named() -> None:
    """Kompose cuts what it writes at a line that ends in `status:`, wherever that stands (its utils.go, Print)."""
    files = {
        "cut.yaml": b'apiVersion: v1\nkind: ConfigMap\ndata:\n  a: "half a',
        "empty.yaml": b"",
        "no-object.yaml": b"- web\n",
        "sound.yaml": b"apiVersion: v1\nkind: Service\nmetadata: {name: web}\n",
    }
    output = KomposeOutput("1.38.0", files)
    assert output.unreadable() == ["cut.yaml", "empty.yaml", "no-object.yaml"]
    assert [each["metadata"]["name"] for each in output.objects()] == ["web"]
