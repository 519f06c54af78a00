"""Which numbers in Dagster's serialised values are ids of events, and what becomes of them."""

from __future__ import annotations

import json

import pytest
from dagster._core.definitions.run_status_sensor_definition import RunStatusSensorCursor
from dagster._core.definitions.sensor_definition import SensorType
from dagster._core.scheduler.instigation import SensorInstigatorData
from dagster._serdes import serialize_value

from homelab_pipelines.housekeeping.event_ids import EventIds, unknown_cursor

IDS = EventIds(1000)


@pytest.mark.parametrize(("events", "factor"), [(0, 10), (4, 10), (5, 100), (49, 100), (50, 1000), (4_000, 10_000)])
def test_there_is_room_on_both_sides_for_the_longest_run(events: int, factor: int) -> None:
    assert EventIds.with_room_for(events).factor == factor > 2 * events


def state(cursor: str | None, kind: SensorType) -> str:
    data = SensorInstigatorData(cursor=cursor, sensor_type=kind)
    return json.dumps({"job_specific_data": json.loads(serialize_value(data))})


def cursor_of(body: str) -> str:
    return str(json.loads(body)["job_specific_data"]["cursor"])


def test_cursor_of_a_run_status_sensor_is_moved_and_minus_one_stays_before_everything() -> None:
    for record_id, moved in ((247, 247_000), (-1, -1000)):
        body = IDS.in_text(state(RunStatusSensorCursor(record_id).to_json(), SensorType.RUN_STATUS))
        assert RunStatusSensorCursor.from_json(cursor_of(body)).record_id == moved
        assert not unknown_cursor(body)


def test_cursor_of_an_asset_sensor_is_an_event_id_and_that_of_another_sensor_its_own_matter() -> None:
    assert cursor_of(IDS.in_text(state("12", SensorType.ASSET))) == "12000"
    assert cursor_of(IDS.in_text(state("12", SensorType.STANDARD))) == "12"
    known = [state("12", SensorType.ASSET), state(None, SensorType.STANDARD)]
    unknown = [state("12", SensorType.STANDARD), state('{"a": [null, 3, {}]}', SensorType.MULTI_ASSET)]
    assert [unknown_cursor(body) for body in known + unknown] == [False, False, True, True]


def test_text_without_ids_stays_byte_for_byte() -> None:
    text = '{"__class__":  "EventLogEntry", "user_message": "storage_id 4, \\u00e4", "cursor": null}'
    assert IDS.in_text(text) is text


def test_pointer_to_no_event_stays() -> None:
    tags = {"dagster/input_event_pointer/a/b": "7", "dagster/input_event_pointer/c": "NULL", "other": "7"}
    assert json.loads(IDS.in_text(json.dumps(tags))) == {**tags, "dagster/input_event_pointer/a/b": "7000"}
