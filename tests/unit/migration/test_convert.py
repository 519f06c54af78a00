"""A whole stack: the same bytes each time, rendered by Kustomize, nothing lost, no secret where it can be committed.

The expected files are written anew with HOMELAB_WRITE_GOLDEN=1; read the difference before committing it.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
import yaml

from homelab_pipelines.migration import convert as convert_module
from homelab_pipelines.migration.account import report
from homelab_pipelines.migration.complete import order
from homelab_pipelines.migration.convert import Conversion, Unaccounted, convert
from homelab_pipelines.migration.manifests import FolderTaken, files, write
from homelab_pipelines.migration.reading import read_stack
from tests.peers import missing
from tests.unit.migration.beside_kompose import lacking
from tests.unit.migration.conftest import Converted
from tests.unit.migration.kubernetes_model import faults

GOLDEN = Path(__file__).with_name("golden")
STACKS = sorted(path.name for path in GOLDEN.iterdir())


def conversion_of(name: str, tmp_path: Path) -> Conversion:
    """The golden stack, in a folder of the test's own, so that no path of this machine is in what comes out."""
    folder = tmp_path / name
    shutil.copytree(GOLDEN / name / "stack", folder)
    return convert(read_stack(folder))


@pytest.mark.parametrize("name", STACKS)
def test_conversion_is_the_expected_one(name: str, tmp_path: Path, kompose: str) -> None:
    conversion = conversion_of(name, tmp_path)
    made = {
        path: content
        for path, content in files(conversion).items()
        if not path.startswith(("kompose/", "base/secrets/"))
    }
    expected = GOLDEN / name / "expected"
    if os.environ.get("HOMELAB_WRITE_GOLDEN") == "1":
        shutil.rmtree(expected, ignore_errors=True)
        for path, content in made.items():
            (expected / path).parent.mkdir(parents=True, exist_ok=True)
            (expected / path).write_bytes(content)
    there = {path.relative_to(expected).as_posix() for path in expected.rglob("*") if path.is_file()}
    assert there == set(made)
    for path, content in made.items():
        assert (expected / path).read_text() == content.decode(), path
    assert [fault for each in conversion.objects for fault in faults(each)] == []


@pytest.mark.parametrize("name", STACKS)
def test_no_secret_stands_where_it_can_be_committed(name: str, tmp_path: Path, kompose: str) -> None:
    conversion = conversion_of(name, tmp_path)
    values = [line.partition("=")[2] for line in (GOLDEN / name / "stack/.env").read_text().splitlines()]
    assert any(
        value.encode() in content
        for value in values
        for keys in conversion.secrets.values()
        for content in keys.values()
    )
    for path, content in files(conversion).items():
        if not path.startswith(("kompose/", "base/secrets/")):
            assert [value for value in values if value.encode() in content] == [], path
    ignored = files(conversion)[".gitignore"].decode().splitlines()
    assert {"/kompose/", "/base/secrets/"} <= set(ignored)


@pytest.mark.parametrize("overlay", ["base", "overlays/dev", "overlays/prod"])
@pytest.mark.parametrize("name", STACKS)
def test_kustomize_renders_it(name: str, overlay: str, tmp_path: Path, kompose: str) -> None:
    kubectl = shutil.which("kubectl") or str(Path(kompose).with_name("kubectl"))
    if not Path(kubectl).exists():
        missing("there is no kubectl beside Kompose, nor on PATH")
    conversion = conversion_of(name, tmp_path)
    write(files(conversion), tmp_path / "out")
    words = (kubectl, "kustomize", str(tmp_path / "out" / overlay))
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rendered = list(yaml.safe_load_all(done.stdout))
    routes = sum(each["kind"] == "IngressRoute" for each in conversion.objects) if overlay == "overlays/dev" else 0
    assert len(rendered) == len(conversion.objects) + len(conversion.secrets) - routes
    namespace = f"{conversion.namespace}-dev" if overlay == "overlays/dev" else conversion.namespace
    assert {each["metadata"].get("namespace", namespace) for each in rendered} == {namespace}
    assert {each["metadata"]["name"] for each in rendered if each["kind"] == "Namespace"} == {namespace}
    balancers = [each for each in rendered if each.get("spec", {}).get("type") == "LoadBalancer"]
    assert not (overlay == "overlays/dev" and balancers), "the dev namespace takes no address from the one in use"
    secret_names = {each["metadata"]["name"] for each in rendered if each["kind"] == "Secret"}
    text = done.stdout
    assert all(text.count(each) > 1 for each in secret_names), "each Secret is referred to by its name with the digest"


@pytest.mark.parametrize("name", STACKS)
def test_nothing_is_lacking_that_is_right_in_komposes_objects(name: str, tmp_path: Path, kompose: str) -> None:
    conversion = conversion_of(name, tmp_path)
    assert lacking(conversion) == []
    for each in conversion.objects:
        if each["kind"] in ("Deployment", "StatefulSet"):
            each["spec"]["template"]["spec"]["containers"][0].pop("envFrom", None)
    assert any(": variable " in each for each in lacking(conversion)), "the comparison can fail"


def test_every_key_of_the_specification_has_a_rule(tmp_path: Path, kompose: str) -> None:
    folder = tmp_path / "every_key"
    shutil.copytree(Path(__file__).with_name("every_key"), folder)
    conversion = convert(read_stack(folder))
    assert conversion.ledger.unaccounted() == []
    assert conversion.ledger.counts()["total"] > 200
    assert [fault for each in conversion.objects for fault in faults(each)] == []


def test_dev_overlay_touches_neither_the_nodes_ports_nor_data_in_use(
    converted: Converted, kompose: str, tmp_path: Path
) -> None:
    kubectl = shutil.which("kubectl") or str(Path(kompose).with_name("kubectl"))
    if not Path(kubectl).exists():
        missing("there is no kubectl beside Kompose, nor on PATH")
    conversion = converted("""
        services: {app: {image: 'nginx:1', network_mode: host, volumes: ['nas:/data']}}
        volumes: {nas: {driver_opts: {type: nfs, o: 'addr=10.0.0.5,rw', device: ':/export/data'}}}
    """)
    write(files(conversion), tmp_path / "out")
    specs = {}
    for overlay in ("dev", "prod"):
        words = (kubectl, "kustomize", str(tmp_path / "out/overlays" / overlay))
        rendered = yaml.safe_load_all(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
        (workload,) = [each for each in rendered if each["kind"] == "Deployment"]
        specs[overlay] = workload["spec"]["template"]["spec"]
    assert (specs["prod"]["hostNetwork"], "nfs" in specs["prod"]["volumes"][0]) == (True, True)
    assert specs["dev"]["volumes"] == [{"name": "nas", "emptyDir": {}}]
    assert "hostNetwork" not in specs["dev"] and "dnsPolicy" not in specs["dev"]


def test_blocked_stack_names_file_line_and_decision(tmp_path: Path, kompose: str) -> None:
    found = report(conversion_of("media", tmp_path))
    assert found["status"] == "blocked"
    messages = {each["path"]: (each["file"], each["line"]) for each in found["blockers"]}
    lines = (GOLDEN / "media/stack/compose.yaml").read_text().splitlines()
    for path, word in (
        ("services.dashboard.build", "build: ./dashboard"),
        ("services.dashboard.volumes[0]", "docker.sock"),
    ):
        file, line = messages[path]
        assert file == "compose.yaml"
        assert word in lines[line - 1]


def test_key_without_a_rule_fails_the_conversion(converted: Converted, monkeypatch: pytest.MonkeyPatch) -> None:
    without = tuple(each for each in order.TRANSFORMS if not each.__module__.endswith("probes"))
    monkeypatch.setattr(convert_module, "TRANSFORMS", without)
    with pytest.raises(Unaccounted, match=r"1 values would be lost in silence: services\.a\.healthcheck\.interval"):
        converted("services: {a: {image: 'nginx:1', healthcheck: {interval: 5s}}}")


def test_second_conversion_writes_the_same_bytes_in_place_of_the_first(tmp_path: Path, kompose: str) -> None:
    conversion = conversion_of("paperless", tmp_path)
    write(files(conversion), tmp_path / "out")
    first = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    (tmp_path / "out/base/left-over.yaml").write_text("of another time")
    write(files(convert(read_stack(tmp_path / "paperless"))), tmp_path / "out")
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "paperless"], "nothing is left beside it"


def test_secrets_are_readable_by_their_owner_alone(tmp_path: Path, kompose: str) -> None:
    write(files(conversion_of("paperless", tmp_path)), tmp_path / "out")
    secret = [path for folder in ("base/secrets", "kompose") for path in (tmp_path / "out" / folder).rglob("*")]
    assert {stat.S_IMODE(path.stat().st_mode) & 0o077 for path in secret} == {0}


def test_folder_with_something_else_is_left_alone(tmp_path: Path, kompose: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.txt").write_text("mine")
    with pytest.raises(FolderTaken, match="next: name a new or empty folder"):
        write(files(conversion_of("paperless", tmp_path)), tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def test_failure_in_the_middle_leaves_the_former_conversion(
    tmp_path: Path, kompose: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversion = conversion_of("paperless", tmp_path)
    write(files(conversion), tmp_path / "out")
    before = json.loads((tmp_path / "out/report.json").read_text())

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("homelab_pipelines.migration.manifests.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write(files(conversion), tmp_path / "out")
    assert json.loads((tmp_path / "out/report.json").read_text()) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "paperless"]


def test_interrupt_between_the_renames_leaves_the_former_conversion(
    tmp_path: Path, kompose: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = files(conversion_of("paperless", tmp_path))
    write(made, tmp_path / "out")
    rename = Path.rename

    def interrupted(path: Path, target: Path) -> Path:
        if path.name == "new":
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write({**made, "REPORT.md": b"another"}, tmp_path / "out")
    assert (tmp_path / "out/REPORT.md").read_bytes() == made["REPORT.md"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "paperless"]
