"""The first promise: `make up`, and the UI shows a nightly backup that has just run and been proven.

The tests of this file are one story, told in order: first start, a look around, Ctrl-C, second start, kill -9.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from homelab_pipelines.demo.server import PORT_FILE, remove_demo
from homelab_pipelines.local_deployment import Deployment, graphql, launch, run_state
from tests.e2e.conftest import START_SECONDS, Started, Stranger, Watcher, listens
from tests.integration.house import REPOSITORY
from tests.peers import missing

pytestmark = [pytest.mark.postgres]
ARTEFACTS = REPOSITORY / "artefacts"


@dataclass
class FirstDay:
    """`make up` that has shown its table."""

    started: Started
    run_id: str
    seen: set[bytes]


@pytest.fixture(scope="module")
def first_day(stranger: Stranger) -> Iterator[FirstDay]:
    if shutil.which("make") is None:
        missing("make is not installed")
    with Watcher() as watcher:
        started = stranger.make_up("first.log")
        started.wait_for("Dagster UI: http://")
    run = started.wait_for(r"/runs/([0-9a-f-]{36})")
    yield FirstDay(started, run[1], watcher.seen)
    if started.process.poll() is None:
        started.interrupt()


def backups(stranger: Stranger) -> list[dict[str, Any]]:
    done = subprocess.run(
        (str(stranger.folder / ".venv/bin/homelab"), "--home", str(stranger.home), "backups", "--json"),
        cwd=stranger.folder,
        env=stranger.environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_make_up_shows_each_database_restored_and_equal(first_day: FirstDay, stranger: Stranger) -> None:
    said = first_day.started.said
    for source in ("main/immich", "main/nextcloud", "main/@globals"):
        line = next(line for line in said.splitlines() if source in line)
        assert re.search(r"[kM]?B|bytes", line) and " nas " in line and "restored and equal" in line, line
    assert f"Dagster UI: http://127.0.0.1:{stranger.port}" in said
    assert "filled the demo's databases: immich, nextcloud" in said
    assert {each["status"] for each in backups(stranger)} == {"verified"}


def test_ui_serves_the_run_the_checks_and_the_schedule(first_day: FirstDay, stranger: Stranger) -> None:
    deployment = Deployment(stranger.folder / "homelab.yaml", stranger.home, stranger.port)
    found = graphql(
        deployment,
        """query ($id: ID!) { runOrError(runId: $id) { ... on Run { status } }
        repositoriesOrError { ... on RepositoryConnection { nodes {
            schedules { name scheduleState { status } } sensors { name sensorState { status } } } } } }""",
        {"id": first_day.run_id},
    )
    assert found["runOrError"]["status"] == "SUCCESS"
    (repository,) = found["repositoriesOrError"]["nodes"]
    assert {s["name"]: s["scheduleState"]["status"] for s in repository["schedules"]} == {
        "nightly_backup_schedule": "RUNNING",
        "housekeeping_schedule": "RUNNING",
    }
    assert {sensor["sensorState"]["status"] for sensor in repository["sensors"]} == {"RUNNING"}


@pytest.mark.browser
def test_ui_in_a_browser_shows_lineage_run_and_checks(first_day: FirstDay, stranger: Stranger) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        missing("no Chromium is installed: apt install chromium")
    from playwright.sync_api import expect, sync_playwright

    ARTEFACTS.mkdir(exist_ok=True)
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        page = browser.new_page(viewport={"width": 1600, "height": 1000}, base_url=f"http://127.0.0.1:{stranger.port}")
        page.set_default_timeout(60_000)
        expect.set_options(timeout=60_000)

        page.goto("/asset-groups")
        links = page.locator("a[href*='/assets/']")
        expect(links.first).to_be_attached()
        expect(page.get_by_text("3 / 3 Passed")).to_have_count(2)
        expect(page.get_by_text("4 / 4 Passed")).to_have_count(1)
        for name, count in (("immich", 2), ("nextcloud", 2), ("main", 1), ("nas", 1)):
            assert page.get_by_text(name, exact=True).count() >= count, name
        expect(page.get_by_text("Join the Dagster community")).to_have_count(0)
        page.screenshot(path=ARTEFACTS / "lineage.png")

        page.goto(f"/runs/{first_day.run_id}")
        expect(page.get_by_text("Success", exact=True).first).to_be_visible()
        expect(page.get_by_text("Succeeded (9)")).to_be_visible()
        page.wait_for_timeout(2000)  # the chart of the steps is drawn from events that come one by one
        page.screenshot(path=ARTEFACTS / "run.png")

        page.goto("/assets/database_backup/immich?view=checks&checkDetail=restorable")
        expect(page.get_by_text("restored and equal").first).to_be_visible()
        expect(page.get_by_text("Succeeded").first).to_be_visible()
        page.screenshot(path=ARTEFACTS / "checks.png")

        page.goto("/assets/database_backup/immich")
        expect(page.get_by_text("throughput_bytes_per_second")).to_be_visible()
        expect(page.get_by_text("Fails if more than 26 hours since last materialization")).to_be_visible()
        page.screenshot(path=ARTEFACTS / "asset.png")
        browser.close()


def test_no_secret_stands_outside_its_own_file(first_day: FirstDay, stranger: Stranger) -> None:
    for secret in (stranger.password, stranger.identity):
        assert len(secret) > 20
        assert [line for line in first_day.seen if secret.encode() in line] == [], "in a command line"
        assert secret not in first_day.started.said
        holders = {path for path in files_below(stranger.home) if secret.encode() in path.read_bytes()}
        assert {path.parent for path in holders} == {stranger.home / "demo/secrets"}
    read = {path.suffix for path in files_below(stranger.home)}
    assert {".db", ".log", ".out", ".err"} <= read, "event log, run storage and logs were looked at"
    assert any(b"pg_dump" in line for line in first_day.seen), "the dump's command line was seen"


def files_below(folder: Path) -> list[Path]:
    """All files but those of the database cluster, which holds only a verifier of the password."""
    return [path for path in folder.rglob("*") if path.is_file() and "demo/postgres/" not in str(path)]


def test_second_up_with_the_same_folder_says_so_and_leaves_the_first_alone(
    first_day: FirstDay, stranger: Stranger
) -> None:
    second = stranger.start(
        "make", "-o", ".venv/.synced", "up", "PORT=1", f"HOMELAB_HOME={stranger.home}", log="second.log"
    )
    assert second.process.wait(60) != 0
    assert f"another `homelab up` runs with {stranger.home}" in second.said
    assert f"http://127.0.0.1:{stranger.port}" in second.said and "Traceback" not in second.said
    assert first_day.started.process.poll() is None and listens(stranger.port)


def test_up_on_a_taken_port_says_so_before_it_starts_anything(first_day: FirstDay, stranger: Stranger) -> None:
    other = stranger.start(
        *("make", "-o", ".venv/.synced", "up"),
        *(f"PORT={stranger.port}", f"HOMELAB_HOME={stranger.folder / 'other'}"),
        log="other.log",
    )
    assert other.process.wait(60) != 0
    assert f"port {stranger.port} on 127.0.0.1 is taken" in other.said
    assert f"make up PORT={stranger.port + 1}" in other.said and "Traceback" not in other.said
    assert sorted(path.name for path in (stranger.folder / "other").iterdir()) == ["up.lock"]


def test_ctrl_c_ends_everything_within_20_seconds(first_day: FirstDay, stranger: Stranger) -> None:
    assert len(stranger.processes()) > 5 and len(stranger.taken_ports()) == 3
    first_day.started.interrupt()
    first_day.started.process.wait(25)
    stranger.wait_until_gone(20)
    assert stranger.taken_ports() == []
    assert "everything that was started here has ended" in first_day.started.said
    assert "Traceback" not in first_day.started.said


def test_make_up_again_is_quick_and_finds_everything_as_it_was(first_day: FirstDay, stranger: Stranger) -> None:
    before = backups(stranger)
    started = time.monotonic()
    again = stranger.make_up("again.log")
    again.wait_for("Dagster UI: http://")
    seconds = time.monotonic() - started
    print(f"make up again took {seconds:.1f} s, load {os.getloadavg()[0]:.1f}")
    assert "running nightly_backup" not in again.said, "what is proven and fresh is not backed up again"
    assert "writing the demo homelab's" not in again.said and "filled" not in again.said
    assert again.said.count("restored and equal") == 3
    assert backups(stranger) == before
    assert seconds < 25 * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def test_kill_9_of_everything_in_a_run_is_mended_at_the_next_start(first_day: FirstDay, stranger: Stranger) -> None:
    deployment = Deployment(stranger.folder / "homelab.yaml", stranger.home, stranger.port)
    before = backups(stranger)
    cut = launch(deployment, "nightly_backup")
    until(lambda: "database_backup__immich" in run_state(deployment, cut).steps, 120, "the run does not come that far")
    # Not the database server, which ends by itself with the command that started it: killed, it would stay a zombie
    # where process 1 takes no care of orphans, and PostgreSQL does not start beside the number of one.
    for pid, line in stranger.processes().items():
        if "postgres" not in line.split()[0]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    stranger.wait_until_gone(30)
    kept = {each["id"] for each in backups(stranger)}
    assert kept >= {each["id"] for each in before}, "what was proven is still there"

    again = stranger.make_up("mended.log")
    again.wait_for("Dagster UI: http://")
    assert f"run {cut} was left behind by a process that is gone: marked as failed" in again.said
    assert run_state(deployment, cut).status == "FAILURE"

    def started_again_and_succeeded() -> bool:
        query = "{ runsOrError { ... on Runs { results { parentRunId status } } } }"
        runs = graphql(deployment, query)["runsOrError"]["results"]
        return {"parentRunId": cut, "status": "SUCCESS"} in runs

    until(started_again_and_succeeded, 120, "the run that was cut is not started again, or does not succeed")
    assert {each["status"] for each in backups(stranger)} == {"verified"}


def test_kill_9_of_homelab_up_ends_its_children(first_day: FirstDay, stranger: Stranger) -> None:
    up = next(pid for pid, line in stranger.processes().items() if re.search(r"python\S* \S*/homelab up", line))
    os.kill(up, signal.SIGKILL)
    stranger.wait_until_gone(30)
    assert stranger.taken_ports() == []


def once(stranger: Stranger, home: Path, log: str, *arguments: str) -> Started:
    """`homelab up` with another folder of state, that ends by itself."""
    command = (str(stranger.folder / ".venv/bin/homelab"), *arguments, "--home", str(home), "up", "--no-stay")
    started = stranger.start(*command, log=log)
    started.process.wait(START_SECONDS)
    return started


def test_up_with_another_home_starts_the_demos_server_where_its_inventory_says(
    first_day: FirstDay, stranger: Stranger
) -> None:
    before = backups(stranger)
    other = stranger.folder / "elsewhere"
    up = once(stranger, other, "elsewhere.log")
    assert up.process.returncode == 0, up.said
    assert f"homelab.yaml is the demo's of {stranger.home}" in up.said and "filled" not in up.said
    assert "refused" not in up.said and "made again" not in up.said
    assert [path.name for path in other.iterdir() if path.name == "demo"] == []
    assert backups(stranger) == before


def test_up_after_the_state_was_removed_makes_the_demo_again(first_day: FirstDay, stranger: Stranger) -> None:
    inventory = stranger.folder / "homelab.yaml"
    before, port = inventory.read_text(), (stranger.home / PORT_FILE).read_text()
    remove_demo(stranger.home)
    shutil.rmtree(stranger.home)
    up = once(stranger, stranger.home, "again-from-nothing.log")
    assert up.process.returncode == 0, up.said
    assert "made again what was gone of the demo: the superuser's password; the age identity" in up.said
    assert up.said.count("restored and equal") == 3
    after = inventory.read_text()
    changed = [new for old, new in zip(before.splitlines(), after.splitlines(), strict=True) if old != new]
    assert len(changed) == 1 and changed[0].startswith("  encrypt_to: [age1")
    assert (stranger.home / PORT_FILE).read_text() == port


def test_up_with_a_server_that_does_not_answer_ends_with_1_though_its_backups_are_fresh(
    first_day: FirstDay, stranger: Stranger
) -> None:
    silent = stranger.folder / "silent.yaml"
    text = (stranger.folder / "homelab.yaml").read_text()
    # Not the demo any more: another address, and the password in another file.
    secret = stranger.folder / "silent-password"
    secret.write_text("unused\n")
    secret.chmod(0o600)
    text = re.sub(r"port: \d+", "port: 1", text)
    silent.write_text(re.sub(r"password: \{file: [^}]*\}", "password: {file: silent-password}", text))
    up = once(stranger, stranger.home, "silent.log", "--inventory", str(silent))
    assert up.process.returncode == 1, up.said
    assert "Connection refused" in up.said and "NOT ALL IS WELL: no answer from server main" in up.said
    assert "Traceback" not in up.said


def test_homelab_up_as_an_ordinary_user(stranger: Stranger) -> None:
    """The other tests of this file run as whoever runs the tests; where that is root, this one runs as nobody."""
    setpriv = shutil.which("setpriv")
    if os.geteuid() != 0:
        pytest.skip("the tests are run by an ordinary user already")
    if setpriv is None:
        missing("setpriv is not installed: apt install util-linux")
    nobody = (setpriv, "--reuid=65534", "--regid=65534", "--clear-groups")
    python = open_environment(stranger.folder / "open-venv")
    # Through a shell: setpriv itself may still look into folders that are closed to the user.
    looked = subprocess.run((*nobody, "sh", "-c", f"{python} -c 'import dagster'"), cwd="/", capture_output=True)
    if looked.returncode:
        missing(f"an ordinary user can run neither {sys.executable} nor another Python of its version")
    folder = stranger.folder / "nobody"
    folder.mkdir()
    os.chown(folder, 65534, 65534)
    user = Stranger(folder, folder / ".homelab")
    started = user.start(
        *(*nobody, str(python), "-m", "homelab_pipelines.cli", "up", "--no-stay", "--port", str(user.port)),
        log="../nobody.log",
        environment={"HOME": str(folder), "PYTHONPATH": str(stranger.folder), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    try:
        assert started.process.wait(START_SECONDS) == 0, started.said
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(started.process.pid, signal.SIGKILL)
    assert started.said.count("restored and equal") == 3
    assert {path.stat().st_uid for path in folder.rglob("*")} == {65534}
    user.wait_until_gone(20)


def open_environment(folder: Path) -> Path:
    """The tests' environment for a Python that every user can run: the system's, where ours stands in root's home."""
    site = sysconfig.get_paths()["purelib"]
    python = shutil.which("python3", path="/usr/local/bin:/usr/bin:/bin") or sys.executable
    subprocess.run((python, "-m", "venv", "--without-pip", str(folder)), check=True)
    made = folder / "bin/python"
    (own,) = (folder / "lib").glob("python*/site-packages")
    (own / "tests.pth").write_text(f"{site}\n")
    for program in ("dagster", "dagster-daemon", "dagster-webserver"):
        lines = (Path(sys.executable).parent / program).read_text().splitlines(keepends=True)
        (made.parent / program).write_text("".join([f"#!{made}\n", *lines[1:]]))
        (made.parent / program).chmod(0o755)
    return made


def until(true: Callable[[], object], seconds: float, otherwise: str) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"{otherwise} within {seconds:.0f} s"
        time.sleep(0.2)
