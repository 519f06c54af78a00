"""Every mistake in the folder `invalid` gives exactly the lines of its `.expected` file, through the real Compose.

A new case is a new pair of files. HOMELAB_WRITE_EXPECTED=1 writes the expected lines, to be read before they are kept.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from homelab_pipelines.migration.reading import read_stack
from homelab_pipelines.migration.stack import StackInvalid

FOLDER = Path(__file__).parent / "invalid"
CASES = sorted(FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_read_stack_invalid_file_reports_exactly_the_expected_lines(
    case: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(FOLDER)
    with pytest.raises(StackInvalid) as raised:
        read_stack(Path(case.name))
    said = f"{raised.value}\n"
    expected = case.with_suffix(".expected")
    if os.environ.get("HOMELAB_WRITE_EXPECTED"):
        expected.write_text(said)
    assert said == expected.read_text()
    assert "hunter2" not in said, "what may be a secret is not repeated"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_read_stack_invalid_file_says_of_every_mistake_where_it_is_and_how_to_mend_it(case: Path) -> None:
    with pytest.raises(StackInvalid) as raised:
        read_stack(case)
    assert [problem for problem in raised.value.problems if not problem.hint or not problem.line] == []


def test_folder_every_expected_file_has_its_case_and_there_are_enough() -> None:
    assert {path.stem for path in FOLDER.glob("*.expected")} == {case.stem for case in CASES}
    assert len(CASES) >= 40
