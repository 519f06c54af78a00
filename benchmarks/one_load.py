"""Loads the code location once, in a process of its own, as a code server does: JSON in, JSON out.

`python -m benchmarks.one_load` reads {"inventory", "home"} and prints seconds by part, and the memory at the end. They
are seconds of the processor: it is one thread, so these pass on a machine that does nothing else.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from benchmarks.measure import peak_bytes
from homelab_pipelines.backup.configured import HOME_VARIABLE, INVENTORY_VARIABLE


def load(task: dict[str, Any]) -> dict[str, Any]:
    """Import, make the definitions, and describe them as webserver and daemon are told of them."""
    os.environ |= {INVENTORY_VARIABLE: task["inventory"], HOME_VARIABLE: task["home"], "DAGSTER_HOME": task["home"]}
    started = time.process_time()
    from dagster._core.definitions.reconstruct import repository_def_from_target_def
    from dagster._core.remote_representation.external_data import RepositorySnap
    from dagster._serdes import serialize_value

    from homelab_pipelines import definitions

    imported = time.process_time()
    repository = repository_def_from_target_def(definitions.defs)
    if repository is None:
        raise SystemExit("homelab_pipelines.definitions holds no definitions")
    repository.load_all_definitions()  # the jobs, too: then a code server says that it serves
    made = time.process_time()
    snapshot = serialize_value(RepositorySnap.from_def(repository, defer_snapshots=True))
    described = time.process_time()
    return {
        "import_seconds": imported - started,
        "definitions_seconds": made - imported,
        "snapshot_seconds": described - made,
        "snapshot_bytes": len(snapshot),
        "peak_bytes": peak_bytes(),
    }


if __name__ == "__main__":
    json.dump(load(json.load(sys.stdin)), sys.stdout)
