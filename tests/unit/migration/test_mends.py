"""A mend is a diff that `patch` applies, and after it the mistake is gone; where it is not certain there is none."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from homelab_pipelines.migration.reading import mends, read_stack
from tests.peers import missing
from tests.unit.migration.conftest import Project

TABS = "services:\n\tweb:\n\t\timage: nginx\n\t\tcommand: |\n\t\t\techo a\n"
MENDED = {
    "port pair with a space": (
        "services:\n  a:\n    image: x\n    ports:\n      - 8080: 80   # web\n",
        "services:\n  a:\n    image: x\n    ports:\n      - \"8080:80\"   # web\n",
    ),
    "port pair of base 60": (
        "services:\n  a:\n    image: x\n    ports:\n      - 2222:22\n      - 8080:80\n",
        "services:\n  a:\n    image: x\n    ports:\n      - \"2222:22\"\n      - 8080:80\n",
    ),
    "equal key": (
        "services:\n  a:\n    image: x\n    image: x\n    restart: always\n",
        "services:\n  a:\n    image: x\n    restart: always\n",
    ),
    "byte order mark": ("\ufeffservices: {a: {image: x}}\n", "services: {a: {image: x}}\n"),
    "tabs of any width": (TABS, TABS.replace("\t", "  ")),
    "windows lines": ("services:\r\n  a:\r\n    image: x\r\n    image: x\r\n", "services:\r\n  a:\r\n    image: x\r\n"),
}  # fmt: skip


@pytest.mark.parametrize("name", MENDED)
def test_mend_applied_by_patch_leaves_a_project_that_compose_reads(name: str, project: Project) -> None:
    before, after = MENDED[name]
    folder = project("services: {}")
    (folder / "compose.yaml").write_bytes(before.encode())
    diff = mends(folder)
    if (patch := shutil.which("patch")) is None:
        missing("patch is not installed")
    done = subprocess.run((patch, "-p0", "--binary"), input=diff.encode(), capture_output=True)
    assert done.returncode == 0, done.stdout
    assert (folder / "compose.yaml").read_bytes().decode() == after
    assert read_stack(folder).warnings == ()
    assert mends(folder) == "", "nothing is left to mend"


def test_tabs_whose_width_decides_the_meaning_are_mended_by_the_width_that_leaves_no_key_empty(
    project: Project,
) -> None:
    folder = project("services: {}")
    text = "services:\n  a:\n\timage: x\n\tdeploy:\n\t  resources:\n\t\tlimits: {memory: 1g}\n"
    (folder / "compose.yaml").write_text(text)
    assert "+        limits: {memory: 1g}\n" in mends(folder)
    assert "+      resources:\n" in mends(folder)


@pytest.mark.parametrize(
    "compose",
    [
        "services:\n  a:\n    image: x\n    image: y\n",
        "services:\n  a: {image: x, image: x}\n",
        "services:\n  a:\n    image: x\n    ports:\n    - 8080: eighty\n",
        "services:\n  a:\n    image: x\n   restart: no\n",
        "services:\n  a:\n    image: x\n",
    ],
)
def test_nothing_is_proposed_where_a_person_must_choose(compose: str, project: Project) -> None:
    folder = project("services: {}")
    (folder / "compose.yaml").write_text(compose)
    assert mends(folder) == ""


def test_files_themselves_stay_as_they_are(project: Project) -> None:
    folder = project("services: {}")
    (folder / "compose.yaml").write_text(TABS)
    mends(folder)
    assert (folder / "compose.yaml").read_text() == TABS
