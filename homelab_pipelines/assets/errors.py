"""How an engine's error becomes a Dagster failure: a message to act on, retried only where that can help."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg
from dagster._utils.interrupts import _received_interrupt

from homelab_pipelines.backup.errors import BackupError
from homelab_pipelines.inventory.problems import ActionableError, InventoryInvalid
from homelab_pipelines.migration.stack import StackInvalid

NETWORK_RETRIES = dg.RetryPolicy(max_retries=2, delay=10, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS)


@contextmanager
def failing_clearly() -> Iterator[None]:
    """Turn engine errors into `dagster.Failure`, without a traceback into the engine.

    A run that is told to end (SIGTERM: from the UI, with its container or pod, by a machine that stops) ends. Dagster
    takes that for a failure of the step under way, puts it up for a retry, and goes on with the run until somebody
    kills it. So the run is told once more, and ends before its next step.
    """
    try:
        yield
    except dg.DagsterExecutionInterruptedError:
        _received_interrupt["received"] = True
        raise
    except BackupError as error:
        raise dg.Failure(
            description=str(error),
            metadata={"what": error.what, "why": error.why, "next": error.next_step or "-"},
            allow_retries=error.retryable,
        ) from None
    except ActionableError as error:
        raise dg.Failure(description=str(error)) from None
    except (InventoryInvalid, StackInvalid) as error:
        raise dg.Failure(description=str(error), allow_retries=False) from None
