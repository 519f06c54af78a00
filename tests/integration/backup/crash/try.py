import time, cProfile, pstats, os
from tests.integration.backup.crash import worker


def test_try(house, place):
    for w in ("backup", "backup", "verify", "restore"):
        p = cProfile.Profile()
        t = os.times()
        task = worker.Task(w, "x", str(place.root), place.bucket, "/dev/null")
        p.enable()
        r = worker._TASKS[w](house.settings, task)
        p.disable()
        n = os.times()
        print(
            w,
            r,
            "self",
            n.user - t.user,
            n.system - t.system,
            "children",
            n.children_user - t.children_user,
            n.children_system - t.children_system,
            "real",
            n.elapsed - t.elapsed,
        )
        pstats.Stats(p).sort_stats("tottime").print_stats(12)
