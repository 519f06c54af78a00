"""`kill -9` of each part of a backup at 30 random moments: what is listed is whole, and nothing else is left."""

from __future__ import annotations

import os
import signal
import time

from tests.integration.backup.crash.house import Attempt, Ended, House, Place
from tests.integration.backup.crash.processes import children, is_alive
from tests.integration.backup.crash.trial import EARLIER, MOMENTS, Trial, chance
from tests.integration.backup.crash.worker import CLOUD, REFUSED

DUMP_PROGRAMS = ("pg_dump", "pg_dumpall")


def test_worker_killed_at_random_moments_leaves_only_whole_backups(house: House, place: Place) -> None:
    trial = Trial(house, place, chance()).begin()

    def kill(attempt: Attempt) -> str:
        os.kill(attempt.pid, signal.SIGKILL)
        return "worker"

    def judge(ended: Ended) -> bool:
        assert ended.status in (0, -signal.SIGKILL), ended
        return ended.status == -signal.SIGKILL

    trial.at_random_moments(kill, judge)
    trial.run_undisturbed()
    trial.settle()
    assert len(trial.proven) > EARLIER


def test_pg_dump_killed_at_random_moments_is_named_and_leaves_no_backup(house: House, place: Place) -> None:
    trial = Trial(house, place, chance(), what="capture").begin()
    victims: list[str] = []

    def kill(attempt: Attempt) -> str | None:
        while is_alive(attempt.pid):
            for each in children(attempt.pid):
                if each.program in DUMP_PROGRAMS and "--version" not in each.command and each.kill():
                    victims.append(each.program)
                    return each.program
            time.sleep(0.001)
        return None

    def judge(ended: Ended) -> bool:
        if ended.status == 0:
            return False
        assert ended.status == REFUSED, ended
        assert ended.outcome["retryable"], ended
        assert f"{victims[-1]}: ended by signal 9" in ended.outcome["message"], ended
        return True

    moments = trial.at_random_moments(kill, judge)
    trial.settle()
    # A kill that finds the program after its last byte is too late; all others must leave nothing listed.
    assert len(trial.proven) == EARLIER + moments.too_late


def test_postgresql_killed_at_random_moments_is_named_and_leaves_only_whole_backups(house: House, place: Place) -> None:
    trial = Trial(house, place, chance(), what="capture").begin()
    refused: list[str] = []

    def kill(attempt: Attempt) -> str:
        return house.postgres.kill(trial.chance.choice(("postmaster", "everyone", "backend")))

    def judge(ended: Ended) -> bool:
        assert ended.status in (0, REFUSED), ended
        if ended.status == REFUSED:
            message = ended.outcome["message"]
            assert ended.outcome["retryable"], ended
            assert "main/app" in message or f"main (127.0.0.1:{house.postgres.port})" in message, ended
            refused.append(message)
        return True

    trial.at_random_moments(kill, judge)
    assert len(refused) >= MOMENTS // 3, "most of a capture needs the server"
    trial.run_undisturbed()
    trial.settle()


def test_s3_server_killed_at_random_moments_is_named_and_the_other_target_is_whole(house: House, place: Place) -> None:
    trial = Trial(house, place, chance()).begin()
    named: list[str] = []
    address = f"127.0.0.1:{house.s3.port}"

    def kill(attempt: Attempt) -> str:
        house.s3.kill()
        if trial.chance.random() < 0.5:
            return "S3 server, which stays away"
        house.s3.start()
        return "S3 server, which comes back at once"

    def judge(ended: Ended) -> bool:
        assert ended.status in (0, REFUSED), ended
        said = ended.outcome["message"] if ended.status else ended.outcome["missed"].get(CLOUD)
        if said is not None:
            assert address in said, ended
            named.append(said)
        return True

    trial.at_random_moments(kill, judge)
    assert named, "at least one kill was felt"
    trial.run_undisturbed()
    trial.settle()
    assert len(trial.proven) >= MOMENTS // 2
