"""The judge of objects that the other tests rely on can say no."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tests.unit.migration.kubernetes_model import faults

CONTAINER: dict[str, Any] = {"name": "web", "image": "nginx:1", "volumeMounts": [{"name": "data", "mountPath": "/d"}]}
SPEC: dict[str, Any] = {"containers": [CONTAINER], "volumes": [{"name": "data", "emptyDir": {}}]}
DEPLOYMENT: dict[str, Any] = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "web"},
    "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": SPEC}},
}


def test_sound_object_has_no_fault() -> None:
    assert faults(DEPLOYMENT) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"imagePulPolicy": "Always"}, "has no field imagePulPolicy"),
        ({"tty": "yes"}, "is str, not bool"),
        ({"image": ""}, "has no image"),
        ({"volumeMounts": [{"name": "other", "mountPath": "/d"}]}, "no volume of the pod"),
        ({"volumeMounts": [{"name": "data", "mountPath": "/d"}] * 2}, "mounts twice"),
        ({"resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "500m"}}}, "asks for more cpu"),
        ({"securityContext": {"privileged": True, "allowPrivilegeEscalation": False}}, "may not escalate"),
        ({"name": "Web_1"}, "container name"),
    ],
)
def test_fault_of_a_container_is_said(change: dict[str, Any], said: str) -> None:
    broken = copy.deepcopy(DEPLOYMENT)
    broken["spec"]["template"]["spec"]["containers"][0].update(change)
    assert any(said in fault for fault in faults(broken))


def test_missing_field_is_said() -> None:
    broken = copy.deepcopy(DEPLOYMENT)
    del broken["spec"]["selector"]
    assert faults(broken) != []
