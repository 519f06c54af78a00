"""Which backups of one source on one target may go: a pure plan with a reason for each. Deleting is done elsewhere.

Only proof makes room: nothing is dropped unless a newer backup of the same source on the same target is verified. Time
means the snapshot's time alone; an id or a name never orders anything. Periods are counted, not aged ("the last 7 days
that have a backup"), so that a clock that jumps ahead, or a homelab that was off for a month, drops nothing by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Literal
from zoneinfo import ZoneInfo

from homelab_pipelines.backup.manifest import BackupRecord
from homelab_pipelines.backup.readable import readable_bytes
from homelab_pipelines.inventory.backups import Keep
from homelab_pipelines.inventory.databases import History

CLOCK_TOLERANCE = timedelta(minutes=5)
"""How far ahead of `now` a backup may stand: the clocks of two machines are rarely further apart."""
BASELINE_MAXIMUM = 10
"""Verified backups that form the history. A lasting change is normal after six of them, the majority of ten."""
BASELINE_MINIMUM = 3
"""With fewer, one odd backup would be the median."""


@dataclass(frozen=True)
class Decision:
    """What happens to one backup, and why, as a fragment of a sentence."""

    backup_id: str
    taken_at: datetime
    action: Literal["keep", "drop"]
    reason: str


@dataclass(frozen=True)
class RetentionPlan:
    """Decisions, newest first; why pruning is stopped, or None; and what a person has to be told.

    A stopped plan drops nothing.
    """

    decisions: list[Decision]
    stopped: str | None
    alerts: list[str]

    @property
    def dropped(self) -> list[str]:
        """The ids to delete, oldest first, so that an interrupted pruning leaves the newest."""
        return [decision.backup_id for decision in reversed(self.decisions) if decision.action == "drop"]


def plan_retention(
    backups: Sequence[BackupRecord], keep: Keep | None, limits: History, now: datetime, timezone: ZoneInfo
) -> RetentionPlan:
    """Decide on every finished backup of one source on one target; `keep` None keeps all.

    Each rule of the policy is applied twice: to all undamaged backups, where a period's newest verified one stands for
    it, and to the verified ones alone, so that a run of unproven nights never uses up the places of proven ones. What
    is not verified but newer than the last verified backup always stays: it may still be proven. Raises ValueError
    when `backups` are of several sources or targets, or `now` has no time zone.
    """
    if now.tzinfo is None:
        raise ValueError("now needs a time zone")
    if len({(backup.manifest.source, backup.target) for backup in backups}) > 1:
        raise ValueError("retention is planned for one source on one target at a time")
    ordered = sorted(backups, key=_by_time, reverse=True)
    note, out_of_history = _compare_with_history(ordered, limits)
    findings = [*_ahead_of_clock(ordered, now), *out_of_history]
    decisions = _keep_everything(ordered) if keep is None else _decide(ordered, keep, timezone)
    if findings:
        decisions = [_stay(decision) for decision in decisions]
    if note and decisions:
        decisions[0] = replace(decisions[0], reason=f"{decisions[0].reason}, {note}")
    return RetentionPlan(
        decisions,
        stopped="; ".join(finding for finding, _ in findings) or None,
        alerts=[
            f"{ordered[0].manifest.source} on {ordered[0].target}: {finding}. Nothing is pruned there. Next: {step}."
            for finding, step in findings
        ],
    )


def explain(plan: RetentionPlan) -> list[dict[str, str]]:
    """The plan as rows `id`, `taken_at` (ISO 8601, UTC), `action`, `reason`, newest first, for tables and JSON."""
    return [
        {
            "id": decision.backup_id,
            "taken_at": f"{decision.taken_at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
            "action": decision.action,
            "reason": decision.reason,
        }
        for decision in plan.decisions
    ]


def _by_time(backup: BackupRecord) -> tuple[datetime, datetime, str]:
    # The id comes last: it only makes the order of exact ties the same on every run.
    return backup.taken_at, backup.manifest.finished_at, backup.manifest.id


def _keep_everything(ordered: Sequence[BackupRecord]) -> list[Decision]:
    return [_decision(backup, "keep", [*_fault(backup), "the target has no keep policy"]) for backup in ordered]


def _stay(decision: Decision) -> Decision:
    if decision.action == "keep":
        return decision
    return replace(decision, action="keep", reason=f"pruning is stopped (else dropped: {decision.reason})")


def _decision(backup: BackupRecord, action: Literal["keep", "drop"], reasons: Sequence[str]) -> Decision:
    return Decision(backup.manifest.id, backup.taken_at, action, ", ".join(reasons))


def _decide(ordered: Sequence[BackupRecord], keep: Keep, timezone: ZoneInfo) -> list[Decision]:
    last_verified = next((backup for backup in ordered if backup.status == "verified"), None)
    claims, holders = _apply_rules(ordered, keep, timezone)
    decisions = []
    for backup in ordered:
        claimed = claims.get(backup.manifest.id, [])
        if backup is last_verified:
            decision = _decision(backup, "keep", ["last verified backup", *claimed])
        elif last_verified is None or last_verified.taken_at <= backup.taken_at:
            decision = _decision(backup, "keep", [*_fault(backup), *claimed, "no newer verified backup"])
        elif claimed:
            decision = _decision(backup, "keep", claimed)
        elif backup.status == "failed":
            decision = _decision(backup, "drop", [*_fault(backup), "a newer backup is verified"])
        else:
            decision = _decision(backup, "drop", [_superseded(backup, holders, keep, timezone)])
        decisions.append(decision)
    return decisions


def _apply_rules(
    ordered: Sequence[BackupRecord], keep: Keep, timezone: ZoneInfo
) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Why each claimed backup is kept, by id; and which id stands for each kept period, by the period's name."""
    sound = [backup for backup in ordered if backup.status != "failed"]
    claims: dict[str, list[str]] = {}
    holders: dict[str, str] = {}
    for backup in sound[: keep.last]:
        claims[backup.manifest.id] = [f"among the last {keep.last}"]
    for backup in [backup for backup in sound if backup.status == "verified"][: keep.last]:
        claims.setdefault(backup.manifest.id, [f"among the last {keep.last} verified"])
    for count, name_of in _rules(keep):
        periods: dict[str, list[BackupRecord]] = {}
        for backup in sound:
            periods.setdefault(name_of(backup.taken_at.astimezone(timezone)), []).append(backup)
        proven = [name for name, members in periods.items() if any(each.status == "verified" for each in members)]
        for name in dict.fromkeys([*list(periods)[:count], *proven[:count]]):
            holder, reason = _holder(name, periods[name])
            claims.setdefault(holder.manifest.id, []).append(reason)
            holders[name] = holder.manifest.id
    return claims, holders


def _rules(keep: Keep) -> list[tuple[int, Callable[[datetime], str]]]:
    """How many periods to keep and how a local time's period is called, finest first. Weeks are those of ISO 8601."""
    return [
        (keep.daily, lambda local: f"day {local:%Y-%m-%d}"),
        (keep.weekly, lambda local: f"week {local:%G-W%V}"),
        (keep.monthly, lambda local: f"month {local:%Y-%m}"),
        (keep.yearly, lambda local: f"year {local:%Y}"),
    ]


def _holder(period: str, members: Sequence[BackupRecord]) -> tuple[BackupRecord, str]:
    """Which of a period's undamaged backups, newest first, stands for it, and the reason it is kept for."""
    newest = members[0]
    verified = next((member for member in members if member.status == "verified"), None)
    if verified is None:
        return newest, f"newest of {period}, where none is verified"
    return verified, f"newest of {period}" if verified is newest else f"newest verified of {period}"


def _superseded(backup: BackupRecord, holders: dict[str, str], keep: Keep, timezone: ZoneInfo) -> str:
    for _, name_of in _rules(keep):
        period = name_of(backup.taken_at.astimezone(timezone))
        if period in holders:
            return f"{period} is covered by {holders[period]}"
    counts = {rule: getattr(keep, rule) for rule in ("last", "daily", "weekly", "monthly", "yearly")}
    asked = ", ".join(f"{rule} {count}" for rule, count in counts.items() if count)
    return f"beyond what the policy keeps ({asked})"


def _fault(backup: BackupRecord) -> list[str]:
    """What is wrong with a backup or not known of it, as at most one reason."""
    if backup.damage:
        return [f"damaged ({backup.damage})"]
    proof = backup.latest_proof
    if proof is None:
        return ["not verified"]
    if proof.result == "equal":
        return []
    words = {"different": "restored but different", "damaged": "damaged", "failed": "could not be restored"}
    return [words[proof.result] + (f" ({proof.differences[0]})" if proof.differences else "")]


def _ahead_of_clock(ordered: Sequence[BackupRecord], now: datetime) -> list[tuple[str, str]]:
    """The finding and next step when a backup stands in the future, so that the order by time cannot be trusted."""
    ahead = [backup for backup in ordered if backup.taken_at > now + CLOCK_TOLERANCE]
    if not ahead:
        return []
    finding = (
        f"backup {ahead[0].manifest.id} was taken at {_utc(ahead[0].taken_at)}, but the clock says {_utc(now)}"
        f"{f' ({len(ahead)} backups stand in the future)' if len(ahead) > 1 else ''}"
    )
    return [(finding, "set the clock right; if it is, pruning goes on once that time has passed")]


def _utc(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _compare_with_history(ordered: Sequence[BackupRecord], limits: History) -> tuple[str | None, list[tuple[str, str]]]:
    """A note when there is no baseline; findings with their next step when the newest backup falls out of it.

    The newest counts whatever its status: its manifest says what the source held, before any proof of the copy.
    """
    if not ordered:
        return None, []
    newest = ordered[0]
    history = [backup for backup in ordered[1:] if backup.status == "verified"][:BASELINE_MAXIMUM]
    if len(history) < BASELINE_MINIMUM:
        return f"no history to judge it by yet ({len(history)} verified before it, {BASELINE_MINIMUM} needed)", []
    measures: list[tuple[str, Callable[[BackupRecord], int], Callable[[float], str]]] = [
        ("size", lambda backup: backup.manifest.bytes, readable_bytes),
        ("rows", lambda backup: backup.manifest.evidence.rows, _readable_rows),
    ]
    findings = []
    for name, measure, readable in measures:
        usual, value = median(measure(backup) for backup in history), measure(newest)
        setting = f"{name}_drop" if value < usual else f"{name}_growth"
        limit: int | None = getattr(limits, setting)
        change = abs(value - usual) * 100 / usual if usual else 0.0
        if limit is None or change < limit:
            continue
        finding = (
            f"the newest backup {newest.manifest.id} has {readable(value)}, {change:,.0f} % "
            f"{'less' if value < usual else 'more'} than the median of the {len(history)} verified ones before it, "
            f"{readable(usual)} (limit {limit} %)"
        )
        step = (
            f"look at the source; a change that is meant needs a higher {setting} (history, in homelab.yaml), or time: "
        )
        findings.append((finding, f"{step}it is the new normal after six verified backups"))
    return None, findings


def _readable_rows(count: float) -> str:
    return f"{count:,.0f} rows"
