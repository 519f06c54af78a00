"""New ids for the events of a moved history, and in all that refers to them.

With SQLite Dagster has one database for each run, whose event ids are its own, and an index of those events that others
refer to, with ids that leave no gap. PostgreSQL has all events in one table, in which ids give the order. So the ids of
the index are multiplied: the order stays, there is room for the events between, and a cursor stays where it was.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

POINTER = "dagster/input_event_pointer/"
"""dagster._core.definitions.data_version: tags that say which event of an upstream asset was used."""
CONSUMER_CURSOR = "EVENT_LOG_CONSUMER_CURSOR-"
"""dagster._daemon.auto_run_reexecution: keys of kvs with the id of the last event that it looked at, to retry runs."""
# Serialised objects of Dagster and the field that is an event id.
_FIELDS = {
    "AssetCheckEvaluationTargetMaterializationData": "storage_id",
    "EventLogRecord": "storage_id",
    "RunStatusSensorCursor": "record_id",
}
_MARKS = (*(f'"{name}"' for name in _FIELDS), POINTER, '"cursor"')
_SENSOR_STATES = ("SensorInstigatorData", "SensorJobData")


@dataclass(frozen=True)
class EventIds:
    """Old ids to new ones: `factor` times as large."""

    factor: int

    @classmethod
    def with_room_for(cls, events: int) -> EventIds:
        """With room for `events` events (those of the longest run) on each side of every event of the index."""
        return cls(10 ** len(str(2 * events)))

    def new(self, old: int) -> int:
        """The new id of an event of the index, and of a cursor; what is below 1 stands for no event."""
        return old * self.factor

    def of_pointer(self, key: str, value: str) -> str:
        """The value of a tag of an asset's event."""
        return str(self.new(int(value))) if key.startswith(POINTER) and value.isdecimal() else value

    def in_text(self, text: str) -> str:
        """A value that Dagster serialised, with the new ids; the very same text where it has none."""
        if not any(mark in text for mark in _MARKS):
            return text
        value = json.loads(text)
        replaced = self._replaced(value)
        return text if replaced == value else json.dumps(replaced)

    def _replaced(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._replaced(each) for each in value]
        if not isinstance(value, dict):
            return value
        field = _FIELDS.get(value.get("__class__", ""))
        result: dict[str, Any] = {}
        for key, each in value.items():
            if key == field and isinstance(each, int):
                result[key] = self.new(each)
            elif key == "cursor" and isinstance(each, str):
                result[key] = self._of_cursor(each, value)
            elif isinstance(each, str):
                result[key] = self.of_pointer(key, each)
            else:
                result[key] = self._replaced(each)
        return result

    def _of_cursor(self, cursor: str, state: Mapping[str, Any]) -> str:
        if "RunStatusSensorCursor" in cursor:
            return self.in_text(cursor)
        return str(self.new(int(cursor))) if cursor.isdecimal() and _type(state) == "ASSET" else cursor


def unknown_cursor(instigator_body: str) -> bool:
    """Whether a sensor's state has a cursor that may hold event ids which cannot be told from other numbers."""
    state = json.loads(instigator_body).get("job_specific_data") or {}
    cursor: str = state.get("cursor") or ""
    return cursor != "" and "RunStatusSensorCursor" not in cursor and _type(state) != "ASSET"


def _type(state: Mapping[str, Any]) -> str:
    """RUN_STATUS, ASSET, STANDARD …; of a sensor's state."""
    if state.get("__class__") not in _SENSOR_STATES:
        return ""
    return str((state.get("sensor_type") or {}).get("__enum__", "")).rpartition(".")[2]
