"""Every mistake in the folder `invalid` gives exactly the lines of its `.expected` file.

A new case is a new pair of files. HOMELAB_WRITE_EXPECTED=1 writes the expected lines, to be read before they are kept.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from homelab_pipelines.inventory.loader import InventoryInvalid, check, load

FOLDER = Path(__file__).parent / "invalid"
CASES = sorted(FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_check_invalid_file_reports_exactly_the_expected_lines(case: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FOLDER)
    said = "".join(f"{problem}\n" for problem in check(case.name))
    expected = case.with_suffix(".expected")
    if os.environ.get("HOMELAB_WRITE_EXPECTED"):
        expected.write_text(said)
    assert said == expected.read_text()
    assert said
    assert "hunter2" not in said.lower()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_check_invalid_file_says_of_every_mistake_how_to_mend_it(case: Path) -> None:
    assert [problem for problem in check(case) if not problem.hint] == []


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_load_invalid_file_raises_all_problems_of_check(case: Path) -> None:
    with pytest.raises(InventoryInvalid) as raised:
        load(case)
    assert list(raised.value.problems) == check(case)
    assert str(raised.value) == "\n".join(map(str, check(case)))


def test_folder_every_expected_file_has_its_case_and_there_are_enough() -> None:
    assert {path.stem for path in FOLDER.glob("*.expected")} == {case.stem for case in CASES}
    assert len(CASES) >= 25
