"""The errors of the backup engine: one family, each saying what failed, on what, why, and the next command."""

from __future__ import annotations

from collections.abc import Sequence

from homelab_pipelines.inventory.problems import ActionableError, Problem


class BackupError(ActionableError):
    """Anything the backup engine refuses or fails to do.

    `what` names the action and the thing it failed on, `why` the cause, `next_step` the command or change that helps.
    `retryable` is true where the same call may succeed later with nothing changed (network, a busy server).
    """

    retryable = False


class SourceUnavailable(BackupError):
    """The database server cannot be reached or went away; a later try may work."""

    retryable = True


class SourceRefused(BackupError):
    """The database server answered and refused: password, privileges, no such database."""


class ChoiceFailed(BackupError):
    """The patterns of the inventory choose no database of a server that has some, or one of them matches none.

    `problems` says so for each pattern, with its place in the file.
    """

    def __init__(self, server: str, problems: Sequence[Problem]) -> None:
        why = "; ".join(str(problem).partition("\n")[0] for problem in problems)
        hints = dict.fromkeys(problem.hint for problem in problems)
        super().__init__(f"choosing the databases of {server}", why, " ".join(hints))
        self.problems = tuple(problems)


class ProgramMissing(BackupError):
    """No installed client or server program fits."""


class CaptureFailed(BackupError):
    """The dump or its evidence could not be completed; nothing was committed."""


class StoreUnavailable(BackupError):
    """A store cannot be reached, is full, read-only or not mounted; a later try may work."""

    retryable = True


class StoreRefused(BackupError):
    """A store answered and refused: credentials, permissions, object lock."""


class ObjectLocked(StoreRefused):
    """A store keeps an object until its lock has run out, as it was told to; a later try will work."""


class ObjectMissing(BackupError):
    """A store does not hold the object asked for."""


class BackupDamaged(BackupError):
    """What is stored is not what was written: size, digest or manifest disagree."""


class KeyMissing(BackupError):
    """No age identity was given, or none of those given opens the backup."""


class VerificationImpossible(BackupError):
    """A restore could not be tried (no fitting scratch server, extension missing); says nothing of the backup."""


class RestoreFailed(BackupError):
    """A restore was tried and did not finish; the target is as it was before, but for roles that `why` names."""
