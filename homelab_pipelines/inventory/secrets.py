"""References to secrets, `{env: NAME}` or `{file: path}`: a secret itself stands in no inventory and no message."""

from __future__ import annotations

import os
import re
import stat
import warnings
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from homelab_pipelines.inventory.base import Section, path_from
from homelab_pipelines.inventory.problems import did_you_mean, invalid

LITERAL = "a secret is never written here, only a reference to it"
_HOW = "write {env: NAME} or {file: path}"


class SecretError(Exception):
    """A secret that is referred to cannot be had. The message names the reference, never a value."""

    def why_and_next(self, otherwise: str = "") -> tuple[str, str]:
        """The message without its next step, and that step, or `otherwise` where it has none."""
        why, _, next_step = str(self).partition("\n  next: ")
        return why, next_step or otherwise


class SecretUnset(SecretError):
    """The environment variable is not set, or is empty."""


class SecretFileMissing(SecretError):
    """There is no such file."""


class SecretUnreadable(SecretError):
    """The file is there but gives no secret: a folder, no permission, not UTF-8, empty."""


class SecretExposed(UserWarning):
    """The file of a secret can be read by every user of this machine."""


def _variable(value: str) -> str:
    if re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", value):
        return value
    raise invalid("not the name of an environment variable", "write the name alone, without $: {env: NAME}")


def _file(value: str) -> str:
    looks_literal = value.startswith(("AGE-SECRET-KEY-", "-----BEGIN")) or "\n" in value or "\0" in value
    if value.strip() and not looks_literal:
        return value
    raise invalid("not the path of a file", "put the secret into a file and write its path: {file: secrets/name}")


class SecretReference(Section):
    """Where a secret is found: exactly one of an environment variable or a file."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["env"]}, {"required": ["file"]}]})

    env: Annotated[str, AfterValidator(_variable)] | None = Field(
        default=None, description="name of the environment variable that holds the secret"
    )
    file: Annotated[str, AfterValidator(_file)] | None = Field(
        default=None, description="file that holds the secret, relative to the folder of homelab.yaml; ~ is your home"
    )

    @model_validator(mode="before")
    @classmethod
    def _is_reference(cls, value: Any) -> Any:
        if isinstance(value, SecretReference):
            return value
        if not isinstance(value, dict):
            raise invalid(LITERAL, _HOW)
        # An unknown key is not named: in {hunter2} the secret itself is the key.
        if unknown := [key for key in value if key not in cls.model_fields]:
            raise invalid(LITERAL, did_you_mean(unknown[0], cls.model_fields) or _HOW)
        if [value.get(key) is None for key in ("env", "file")].count(False) != 1:
            raise invalid("a secret has exactly one of env and file", _HOW)
        return value

    def __str__(self) -> str:
        return f"{{env: {self.env}}}" if self.env else f"{{file: {self.file}}}"

    def path(self, base_dir: Path) -> Path | None:
        """The file, where it is one; `base_dir` is the folder of homelab.yaml."""
        return path_from(base_dir, self.file) if self.file else None

    def read(self, base_dir: Path) -> str:
        """The secret, without one trailing line break; `base_dir` is the folder of homelab.yaml.

        Raises SecretUnset, SecretFileMissing or SecretUnreadable. Warns with SecretExposed when every user of this
        machine can read the file.
        """
        path = self.path(base_dir)
        if path is not None:
            return _read_file(path)
        value = os.environ.get(self.env or "")
        if not value:
            state = "is not set" if value is None else "is empty"
            raise SecretUnset(f"secret {self}: the environment variable {state}\n  next: export {self.env}=…")
        return value


def _read_file(path: Path) -> str:
    try:
        mode = path.stat().st_mode
        text = path.read_bytes().decode()
    except FileNotFoundError:
        raise SecretFileMissing(
            f"secret file {path}: there is no such file\n  next: write the secret into it, then chmod 600 {path}"
        ) from None
    except UnicodeDecodeError:
        # The error holds the bytes that were read: it must not travel along as a cause.
        raise SecretUnreadable(f"secret file {path}: it is not UTF-8 text") from None
    except OSError as error:
        raise SecretUnreadable(f"secret file {path}: {error.strerror}") from None
    if mode & stat.S_IROTH:
        warnings.warn(
            f"secret file {path} can be read by every user of this machine; chmod 600 {path}",
            SecretExposed,
            stacklevel=3,
        )
    secret = text.removesuffix("\n").removesuffix("\r")
    if not secret:
        raise SecretUnreadable(f"secret file {path}: it is empty\n  next: write the secret into it")
    return secret
