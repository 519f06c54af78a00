"""Retention's promises: golden files (history in, keep and drop with reasons out) and properties over random histories.

A golden file is YAML, then `---`, then the plan. `UPDATE_GOLDEN=1 pytest tests/unit/backup/test_retention.py` rewrites
the plans; read the difference before keeping it.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from homelab_pipelines.backup.layout import new_backup_id
from homelab_pipelines.backup.manifest import BackupRecord, Evidence, Manifest, Proof, StoredObject, TableEvidence
from homelab_pipelines.backup.retention import RetentionPlan, explain, plan_retention
from homelab_pipelines.inventory.backups import Keep
from homelab_pipelines.inventory.databases import History

CASES = sorted((Path(__file__).parent / "retention").glob("*.txt"))
RULES = ("last", "daily", "weekly", "monthly", "yearly")
BERLIN = ZoneInfo("Europe/Berlin")
UNLIMITED = History(size_drop=None, rows_drop=None)


def record(
    taken_at: datetime, *, id: str | None = None, status: str = "verified", rows: int = 1000, size: int = 5_000_000
) -> BackupRecord:
    """A backup on the target nas. `status`: verified, unverified, or failed by a proof; `damage` is set apart."""
    backup = BackupRecord(
        target="nas",
        location="main/photos",
        manifest=Manifest(
            source="main/photos",
            id=id or new_backup_id(taken_at),
            kind="postgres_database",
            taken_at=taken_at,
            finished_at=taken_at + timedelta(minutes=2),
            duration=timedelta(minutes=2),
            server_version="17.6",
            server_major=17,
            programs={},
            objects=[StoredObject(name="dump", role="dump", bytes=size, sha256="0" * 64, content_bytes=size)],
            compression="zstd",
            evidence=Evidence(tables=[TableEvidence(name="public.photo", kind="table", rows=rows, bytes=size)]),
        ),
    )
    if status == "unverified":
        return backup
    return proven(backup, "equal" if status == "verified" else status, taken_at + timedelta(minutes=10))


def proven(backup: BackupRecord, result: str, checked_at: datetime) -> BackupRecord:
    differences = [] if result == "equal" else ["table public.photo differs"]
    proof = Proof.model_validate(
        {
            "source": backup.manifest.source,
            "id": backup.manifest.id,
            "target": backup.target,
            "checked_at": checked_at,
            "result": result,
            "method": "restored",
            "differences": differences,
        }
    )
    return backup.model_copy(update={"proofs": [*backup.proofs, proof]})


def apply(backups: Sequence[BackupRecord], plan: RetentionPlan) -> list[BackupRecord]:
    return [backup for backup in backups if backup.manifest.id not in plan.dropped]


def newest_verified(backups: Sequence[BackupRecord]) -> BackupRecord | None:
    return max((b for b in backups if b.status == "verified"), key=lambda b: b.taken_at, default=None)


# --- golden files ---------------------------------------------------------------------------------------------------


def read_history(case: dict[str, Any]) -> list[BackupRecord]:
    history = []
    for line in case.get("history", []):
        id_, time, status, *extra = line.split(maxsplit=3)
        fields: dict[str, Any] = {}
        damage = None
        for word in extra[0].split() if extra and not extra[0].startswith("damage=") else []:
            name, _, value = word.partition("=")
            fields[name] = int(value)
        if extra and extra[0].startswith("damage="):
            damage = extra[0].removeprefix("damage=")
        backup = record(datetime.fromisoformat(time), id=id_, status=status, **fields)
        history.append(backup.model_copy(update={"damage": damage}))
    if nights := case.get("nights"):
        for night in range(nights["count"]):
            taken_at = nights["first"] + timedelta(days=night)
            history.append(record(taken_at, id=f"{taken_at:%Y-%m-%d}", status=nights.get("status", "verified")))
    return history


def planner(case: dict[str, Any]) -> Callable[[Sequence[BackupRecord], datetime], RetentionPlan]:
    keep = None if case["keep"] is None else Keep(**case["keep"])
    limits = History(**case.get("limits", {}))
    timezone = ZoneInfo(case.get("timezone", "Europe/Berlin"))
    return lambda backups, now: plan_retention(backups, keep, limits, now, timezone)


def run_case(case: dict[str, Any]) -> tuple[list[BackupRecord], RetentionPlan]:
    """The backups before the (last) pruning, and its plan. With `prune: nightly` earlier prunings were applied."""
    history, plan_for = read_history(case), planner(case)
    if case.get("prune") == "nightly":
        present: list[BackupRecord] = []
        for backup in history[:-1]:
            present.append(backup)
            present = apply(present, plan_for(present, backup.taken_at + timedelta(hours=1)))
        history = [*present, history[-1]]
    return history, plan_for(history, case["now"])


def as_text(plan: RetentionPlan) -> str:
    lines = ["{action}  {taken_at}  {id}  {reason}".format(**row) for row in explain(plan)] or ["nothing to decide"]
    lines += [f"stopped: {plan.stopped}"] if plan.stopped else []
    return "\n".join([*lines, *(f"alert: {alert}" for alert in plan.alerts)]) + "\n"


def read_case(path: Path) -> tuple[str, dict[str, Any], str]:
    given_text, _, expected = path.read_text().partition("\n---\n")
    return given_text, yaml.safe_load(given_text), expected


def test_golden_files_are_found() -> None:
    assert len(CASES) >= 20


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_plan_for_a_history_is_the_golden_one(path: Path) -> None:
    given_text, case, expected = read_case(path)
    actual = as_text(run_case(case)[1])
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(f"{given_text}\n---\n{actual}")
        pytest.skip("golden file rewritten")
    assert actual == expected


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_plan_for_a_history_in_any_order_is_the_same_and_safe(path: Path) -> None:
    case = read_case(path)[1]
    history, plan = run_case(case)
    shuffled = random.Random(7).sample(history, len(history))
    assert planner(case)(shuffled, case["now"]) == plan
    assert_safe(history, plan)


# --- properties -----------------------------------------------------------------------------------------------------


def assert_safe(backups: Sequence[BackupRecord], plan: RetentionPlan) -> None:
    """What no plan may ever break: proof first, the newest verified stays, each is decided once, with a reason."""
    by_id = {backup.manifest.id: backup for backup in backups}
    assert sorted(decision.backup_id for decision in plan.decisions) == sorted(by_id)
    assert all(decision.reason for decision in plan.decisions)
    last = newest_verified(backups)
    for dropped in plan.dropped:
        assert last is not None
        assert by_id[dropped].taken_at < last.taken_at
    assert plan.stopped is None or (not plan.dropped and plan.alerts)


def periods(time: datetime, zone: ZoneInfo) -> dict[str, tuple[int, ...]]:
    local = time.astimezone(zone)
    year, week, _ = local.isocalendar()
    return {
        "daily": (local.year, local.month, local.day),
        "weekly": (year, week),
        "monthly": (local.year, local.month),
        "yearly": (local.year,),
    }


policies = (
    st.fixed_dictionaries({name: st.integers(0, 5) for name in RULES})
    .filter(lambda counts: any(counts.values()))
    .map(lambda counts: Keep(**counts))
)
zones = st.sampled_from([ZoneInfo(name) for name in ("UTC", "Europe/Berlin", "Pacific/Kiritimati", "America/Havana")])
times = st.datetimes(datetime(2024, 12, 20), datetime(2027, 1, 10), timezones=st.just(UTC))  # noqa: DTZ001
records = st.builds(
    record,
    st.one_of(times, st.sampled_from([datetime(2026, 3, 29, 1, tzinfo=UTC), datetime(2026, 10, 25, 1, tzinfo=UTC)])),
    status=st.sampled_from(["verified", "unverified", "failed", "different"]),
    rows=st.sampled_from([0, 900, 1000]),
)
histories = st.lists(records, max_size=40, unique_by=lambda backup: backup.manifest.id)
NOW = datetime(2027, 2, 1, tzinfo=UTC)


@given(histories, policies, zones)
@settings(deadline=None)
def test_plan_for_any_history_is_safe_and_idempotent(backups: list[BackupRecord], keep: Keep, zone: ZoneInfo) -> None:
    plan = plan_retention(backups, keep, UNLIMITED, NOW, zone)
    assert_safe(backups, plan)
    assert not plan_retention(apply(backups, plan), keep, UNLIMITED, NOW, zone).dropped


@given(histories, policies, zones)
@settings(deadline=None)
def test_plan_for_any_history_keeps_as_many_verified_as_the_policy_asks(
    backups: list[BackupRecord], keep: Keep, zone: ZoneInfo
) -> None:
    kept = apply(backups, plan_retention(backups, keep, UNLIMITED, NOW, zone))
    before = [backup for backup in backups if backup.status == "verified"]
    after = [backup for backup in kept if backup.status == "verified"]
    assert len(after) >= min(keep.last, len(before))
    for name in RULES[1:]:
        asked = sorted({periods(backup.taken_at, zone)[name] for backup in before}, reverse=True)
        for period in asked[: getattr(keep, name)]:
            newest = max(b.taken_at for b in before if periods(b.taken_at, zone)[name] == period)
            assert newest in {backup.taken_at for backup in after}


@given(histories, policies, zones)
@settings(deadline=None)
def test_plan_for_any_history_keeps_nothing_verified_beyond_the_policy(
    backups: list[BackupRecord], keep: Keep, zone: ZoneInfo
) -> None:
    kept = apply(backups, plan_retention(backups, keep, UNLIMITED, NOW, zone))
    last = newest_verified(backups)
    superseded = [b for b in kept if last is not None and b.taken_at < last.taken_at]
    assert not [backup for backup in superseded if backup.status == "failed"]
    assert len(superseded) <= 2 * sum(getattr(keep, name) for name in RULES)


@given(st.lists(st.integers(1, 90), min_size=1, max_size=120), policies, zones)
@settings(deadline=None, max_examples=30)
def test_pruning_every_night_leaves_what_pruning_once_would(gaps: list[int], keep: Keep, zone: ZoneInfo) -> None:
    taken_at, everything, nightly = datetime(2025, 1, 1, 2, tzinfo=UTC), [], []
    for gap in gaps:
        taken_at += timedelta(hours=gap)
        everything.append(record(taken_at))
        nightly.append(everything[-1])
        nightly = apply(nightly, plan_retention(nightly, keep, UNLIMITED, taken_at, zone))
    assert nightly == apply(everything, plan_retention(everything, keep, UNLIMITED, taken_at, zone))


class RetentionMachine(RuleBasedStateMachine):
    """A homelab in which everything happens in any order; the newest verified backup must outlive every pruning."""

    def __init__(self) -> None:
        super().__init__()
        self.backups: list[BackupRecord] = []
        self.now = datetime(2026, 3, 1, 2, tzinfo=UTC)
        self.keep: Keep | None = None
        self.pruned_without_touching = False

    @initialize(keep=policies)
    def choose_policy(self, keep: Keep) -> None:
        self.keep = keep

    @rule(keep=st.one_of(st.none(), policies))
    def change_policy(self, keep: Keep | None) -> None:
        self.keep = keep
        self.pruned_without_touching = False

    @rule(rows=st.sampled_from([0, 400, 950, 1000, 5000]), size=st.sampled_from([1, 4_900_000, 5_000_000, 90_000_000]))
    def take_backup(self, rows: int, size: int) -> None:
        self.backups.append(record(self.now, status="unverified", rows=rows, size=size))
        self.pruned_without_touching = False

    @rule(days=st.integers(1, 12))
    def live_through_ordinary_nights(self, days: int) -> None:
        for _ in range(days):
            self.now += timedelta(days=1)
            self.backups.append(record(self.now))
        self.pruned_without_touching = False

    @precondition(lambda self: self.backups)
    @rule(which=st.integers(0, 200), result=st.sampled_from(["equal", "equal", "different", "damaged", "failed"]))
    def verify(self, which: int, result: str) -> None:
        place = -1 - which % len(self.backups)
        self.backups[place] = proven(self.backups[place], result, self.now)
        self.pruned_without_touching = False

    @precondition(lambda self: self.backups)
    @rule(which=st.integers(0, 200))
    def damage(self, which: int) -> None:
        place = -1 - which % len(self.backups)
        self.backups[place] = self.backups[place].model_copy(update={"damage": "dump is missing"})
        self.pruned_without_touching = False

    @rule(hours=st.integers(1, 24 * 40))
    def advance_clock(self, hours: int) -> None:
        self.now += timedelta(hours=hours)
        self.pruned_without_touching = False

    @rule(hours=st.integers(1, 24 * 400))
    def clock_goes_backwards(self, hours: int) -> None:
        self.now -= timedelta(hours=hours)
        self.pruned_without_touching = False

    @rule()
    def prune(self) -> None:
        limits = History(size_drop=50, rows_drop=50, size_growth=300, rows_growth=300)
        plan = plan_retention(self.backups, self.keep, limits, self.now, BERLIN)
        assert_safe(self.backups, plan)
        if self.keep is None or any(backup.taken_at > self.now + timedelta(minutes=5) for backup in self.backups):
            assert not plan.dropped
        if self.pruned_without_touching:
            assert not plan.dropped
        last = newest_verified(self.backups)
        self.backups = apply(self.backups, plan)
        survivor = newest_verified(self.backups)
        assert (last and last.taken_at) == (survivor and survivor.taken_at)
        self.pruned_without_touching = True

    @invariant()
    def plan_is_safe_at_every_moment(self) -> None:
        assert_safe(self.backups, plan_retention(self.backups, self.keep, UNLIMITED, self.now, BERLIN))


RetentionMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestRetentionSurvivesEverySequence = RetentionMachine.TestCase


# --- what a golden file cannot say ----------------------------------------------------------------------------------


def test_plan_for_two_targets_at_once_is_refused() -> None:
    here = record(NOW)
    with pytest.raises(ValueError, match="one source on one target"):
        plan_retention([here, here.model_copy(update={"target": "offsite"})], None, UNLIMITED, NOW, BERLIN)


def test_plan_without_a_time_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        plan_retention([], None, UNLIMITED, datetime(2026, 1, 1), BERLIN)  # noqa: DTZ001


def test_dropped_lists_the_oldest_first() -> None:
    backups = [record(datetime(2026, 11, day, 2, tzinfo=UTC), id=f"{day}") for day in (3, 1, 4, 2)]
    assert plan_retention(backups, Keep(last=1), UNLIMITED, NOW, BERLIN).dropped == ["1", "2", "3"]
