"""`read_stack`: a Compose project read as Compose reads it, with the place of its values, or every mistake in it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path as FilePath

from homelab_pipelines.inventory.problems import Problem
from homelab_pipelines.migration.compose_program import Answer, resolve
from homelab_pipelines.migration.consistency import consistency_problems
from homelab_pipelines.migration.mends import mend
from homelab_pipelines.migration.places import find_places
from homelab_pipelines.migration.project_files import Project, compose_files, read_project
from homelab_pipelines.migration.refusals import refusal_problems, warning_problems
from homelab_pipelines.migration.silences import missing_env_files, silence_problems
from homelab_pipelines.migration.stack import Stack, StackInvalid


def read_stack(path: FilePath, name: str | None = None, environment: Mapping[str, str] | None = None) -> Stack:
    """Read the Compose project at `path`: a Compose file, or a folder with one and perhaps its override file.

    `name` is what the stack is called here; by default Compose's own name of the project. `environment` holds the
    variables that are set beside the project's `.env`, and before it. Raises StackInvalid with every mistake, and
    ProgramMissing when there is no Compose to ask.
    """
    given = environment or {}
    files = compose_files(path, given)
    project = read_project(files, given)
    if project.problems:
        raise _invalid(project, project.problems)
    folder = files[0].parent.absolute()
    resolved = [file.absolute() for file in files]
    answer = resolve(folder, resolved, given)
    if answer.status:
        unchecked = resolve(folder, resolved, given, "--no-consistency")
        found = [] if unchecked.status else consistency_problems(_stack(project, folder, name, unchecked))
        raise _invalid(project, found or refusal_problems(project, answer.messages))
    stack = _stack(project, folder, name, answer)
    if missing := list(missing_env_files(stack)):
        raise _invalid(project, missing)
    return stack


def mends(path: FilePath, environment: Mapping[str, str] | None = None) -> str:
    """The unified diff of all that is certain to mend in the files of a project; empty where there is nothing.

    Raises StackInvalid when there is no project.
    """
    given = environment or {}
    return "".join(mend(file) for file in read_project(compose_files(path, given), given).files())


def _stack(project: Project, folder: FilePath, name: str | None, answer: Answer) -> Stack:
    model = json.loads(answer.output)
    files = tuple(file.path for file in project.files())
    stack = Stack(name or model["name"], folder, files, model, find_places(project, model))
    warnings = [warning for file in project.files() for warning in file.warnings]
    warnings += [*warning_problems(project, answer.messages), *silence_problems(project, stack)]
    return Stack(stack.name, folder, files, model, stack.places, _ordered(project, warnings))


def _invalid(project: Project, problems: Iterable[Problem]) -> StackInvalid:
    return StackInvalid(_ordered(project, problems))


def _ordered(project: Project, problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """Each once, in the order of the files and of their lines."""
    order = {str(file.path): index for index, file in enumerate(project.files())}
    return tuple(
        sorted(set(problems), key=lambda each: (order.get(each.file, -1), each.line, each.column, each.message))
    )
