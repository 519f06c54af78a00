"""Each leaf ends in one class, blocked wins, and what nothing accounts for is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from homelab_pipelines.migration.ledger import Ledger, dotted
from homelab_pipelines.migration.stack import Place, Stack

MODEL = {"services": {"web": {"image": "nginx", "ports": [{"target": 80, "published": "8080"}], "tty": True}}}
WEB = ("services", "web")


@pytest.fixture
def ledger() -> Ledger:
    places = {(*WEB, "ports", 0): Place("compose.yaml", 7, 5)}
    return Ledger(Stack("web", Path(), (Path("compose.yaml"),), MODEL, places))


def test_leaf_without_a_fate_is_unaccounted(ledger: Ledger) -> None:
    ledger.carried((*WEB, "image"), "Deployment/web")
    assert [dotted(each.path) for each in ledger.unaccounted()] == [
        "services.web.ports[0].target",
        "services.web.ports[0].published",
        "services.web.tty",
    ]
    assert ledger.counts() == {"total": 4, "carried": 1, "replaced": 0, "dropped": 0, "blocked": 0, "unaccounted": 3}


def test_path_stands_for_all_below_and_the_longest_counts(ledger: Ledger) -> None:
    ledger.replaced(WEB, "all of it")
    ledger.dropped((*WEB, "ports", 0, "published"), "for the host alone")
    fates = {dotted(each.path): each.entry.fate for each in ledger.accounts() if each.entry}
    assert fates == {
        "services.web.image": "replaced",
        "services.web.ports[0].target": "replaced",
        "services.web.ports[0].published": "dropped",
        "services.web.tty": "replaced",
    }


def test_blocked_wins_over_what_was_said_before_after_and_below(ledger: Ledger) -> None:
    ledger.carried((*WEB, "ports"), "Service/web")
    ledger.blocked((*WEB, "ports"), "choose")
    ledger.carried((*WEB, "ports"), "Service/web")
    ledger.carried((*WEB, "ports", 0, "target"), "Service/web")
    assert ledger.fate((*WEB, "ports", 0, "target")) == ledger.fate((*WEB, "ports"))
    assert [(str(place), decision) for _, place, decision in ledger.blockers()] == [("compose.yaml:1:1", "choose")]


def test_two_decisions_for_one_path_are_both_kept(ledger: Ledger) -> None:
    ledger.blocked((*WEB, "ports", 0), "choose a port")
    ledger.blocked((*WEB, "ports", 0), "choose a host")
    ((_, place, decision),) = ledger.blockers()
    assert (place.line, decision) == (7, "choose a port; choose a host")


def test_two_fates_for_one_path_are_a_fault(ledger: Ledger) -> None:
    ledger.carried((*WEB, "tty"), "tty")
    ledger.carried((*WEB, "tty"), "tty")
    with pytest.raises(ValueError, match=r"services\.web\.tty is already carried, and was to be dropped"):
        ledger.dropped((*WEB, "tty"), "nobody looks")
