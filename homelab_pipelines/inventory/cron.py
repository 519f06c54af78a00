"""Cron expressions of five fields: whether one is valid, and the longest time between two of its ticks.

The grammar is what crontab(5) and Dagster's scheduler both read, without shorthand (@daily) and letters (L).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import pairwise

from homelab_pipelines.inventory.problems import invalid

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_FIELDS: tuple[tuple[str, int, int, dict[str, int]], ...] = (
    ("minute", 0, 59, {}),
    ("hour", 0, 23, {}),
    ("day of the month", 1, 31, {}),
    ("month", 1, 12, {name: number for number, name in enumerate(_MONTHS, start=1)}),
    ("day of the week", 0, 7, {name: number for number, name in enumerate(_DAYS)}),
)
_PART = re.compile(r"(\*|[0-9a-z]+)(?:-([0-9a-z]+))?(?:/([0-9]+))?")
_HINT = 'five fields: minute hour day month weekday, for example "0 2 * * *" for every night at two'
# Eight years hold every combination of leap day and weekday shift that a five-field expression can wait for.
_FIRST_DAY, _LAST_DAY = date(2024, 1, 1), date(2032, 12, 31)


@dataclass(frozen=True)
class Schedule:
    """The values each field allows; `any_day` is true where neither the day nor the weekday is restricted."""

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    day_is_star: bool
    weekday_is_star: bool

    def matches(self, day: date) -> bool:
        """Whether `day` has a tick; day and weekday, where both are restricted, are alternatives (crontab(5))."""
        if day.month not in self.months:
            return False
        in_days, in_weekdays = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        if self.day_is_star or self.weekday_is_star:
            return in_days and in_weekdays
        return in_days or in_weekdays

    def longest_gap(self) -> timedelta | None:
        """The longest time from one tick to the next by the clock on the wall; None when there is never a tick."""
        minutes = sorted(60 * hour + minute for hour in self.hours for minute in self.minutes)
        within = max((later - earlier for earlier, later in pairwise(minutes)), default=0)
        overnight = minutes[0] - minutes[-1]
        ordinals = range(_FIRST_DAY.toordinal(), _LAST_DAY.toordinal() + 1)
        every_day = self.day_is_star and self.weekday_is_star and len(self.months) == 12
        days = list(ordinals[:2]) if every_day else [day for day in ordinals if self.matches(date.fromordinal(day))]
        if not days:
            return None
        apart = max((later - earlier for earlier, later in pairwise(days)), default=len(ordinals))
        return timedelta(minutes=max(within, apart * 1440 + overnight))


def parse_cron(expression: str) -> Schedule:
    """Read five fields. Raises ValueError naming the field that is wrong."""
    texts = expression.lower().split()
    if len(texts) != len(_FIELDS):
        raise invalid(f"a schedule has five fields, here are {len(texts)}", _HINT)
    values = [_field(text, *field) for text, field in zip(texts, _FIELDS, strict=True)]
    minutes, hours, days, months, weekdays = values
    weekdays = frozenset(day % 7 for day in weekdays)
    # As in croniter, on which Dagster's scheduler stands: all days spelled out (1-31, */1) are a star where the other
    # of the two fields holds one.
    day_is_star = texts[2] == "*" or (len(days) == 31 and "*" in texts[4])
    weekday_is_star = texts[4] == "*" or (len(weekdays) == 7 and "*" in texts[2])
    schedule = Schedule(minutes, hours, days, months, weekdays, day_is_star, weekday_is_star)
    if schedule.longest_gap() is None:
        raise invalid("this schedule never comes: no month has such a day", _HINT)
    return schedule


def check_cron(expression: str) -> str:
    """`expression` with single spaces. Raises ValueError naming the field that is wrong."""
    parse_cron(expression)
    return " ".join(expression.split())


def _field(text: str, what: str, least: int, most: int, names: dict[str, int]) -> frozenset[int]:
    allowed: set[int] = set()
    for part in text.split(","):
        match = _PART.fullmatch(part)
        if match is None or (match[1] == "*" and match[2]):
            raise invalid(f"the {what} of a schedule cannot be '{part}'", _HINT)
        step = int(match[3] or 1)
        if match[1] == "*":
            first, last = least, most
        else:
            first = _number(match[1], what, least, most, names)
            # 5/15 is read as 5-59/15, as Dagster's scheduler does.
            last = _number(match[2], what, least, most, names) if match[2] else (most if match[3] else first)
        if not 1 <= step <= most:
            raise invalid(f"the {what} of a schedule cannot step by {step}", _HINT)
        if first > last:
            raise invalid(
                f"the {what} of a schedule runs backwards: '{part}'", f"write '{first}-{most},{least}-{last}'"
            )
        allowed.update(range(first, last + 1, step))
    return frozenset(allowed)


def _number(text: str, what: str, least: int, most: int, names: dict[str, int]) -> int:
    number = names.get(text, int(text) if text.isdecimal() and len(text) < 4 else -1)
    if least <= number <= most:
        return number
    raise invalid(f"the {what} of a schedule is {least} to {most}, not '{text}'", _HINT)
