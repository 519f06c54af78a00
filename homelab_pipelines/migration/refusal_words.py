"""Compose's words when it refuses a project, and ours. Kept apart from how they are used, in `refusals`.

The words are those of compose-go 2 and its schema: loader/, transform/, types/, validation/.
"""

from __future__ import annotations

# Compose's words → ours. `path` leads to the place, `key` and `name` are repeated, nothing else is.
_PATH = r"(?P<path>[\w.\[\]/${}-]+)"
REFUSALS: tuple[tuple[str, str, str], ...] = (
    (rf"error while interpolating {_PATH}: required variable (?P<name>\w+) is missing a value",
     "the variable {name} must be set, and is not", "set it in .env beside the Compose file: {name}=…"),
    (r"required variable (?P<name>\w+) is missing a value",
     "the variable {name} must be set, and is not", "set it in .env beside the Compose file: {name}=…"),
    (rf"error while interpolating {_PATH}: failed to cast to expected type: invalid boolean",
     "{key} must be true or false", "write true or false, without quotes"),
    (rf"error while interpolating {_PATH}: failed to cast to expected type",
     "{key} must be a number", "write a number; a variable in it must be set in .env"),
    (rf"invalid interpolation format for {_PATH}\.\n",
     "a variable is written wrong in {key}", "write ${{NAME}} or ${{NAME:-default}}; a $ itself is written $$"),
    (rf"'{_PATH}' invalid (?:size|suffix)", "{key} is no size", "write a number and b, k, m or g: 512m"),
    (rf"'{_PATH}' strconv", "{key} is no number", "write a number; of a size with b, k, m or g after it: 512m"),
    (rf"'{_PATH}' time: ", "{key} is no duration", "write numbers and units: 30s, 1m30s, 2h"),
    (rf"(?m)^'{_PATH}' ", "{key} has a value that Compose cannot read",
     "look up its form in the Compose file reference"),
    (rf"non-string key in {_PATH}: ", "a key must be a text", "put it into quotes"),
    (rf"{_PATH} additional properties '(?P<name>[^']+)'(?:, .*)? not allowed",
     "unknown key{named}", "mend its name, or indent it below the key that it belongs to"),
    (r"additional properties '(?P<top>[^']+)'(?:, .*)? not allowed",
     "unknown key{named} at the top of the file", "services stand below services: ; keys of your own start with x-"),
    (r"(?P<path>services) must be a mapping", "services must be a mapping",
     "write each service as name: and its keys below"),
    (rf"{_PATH} '.*' does not match pattern", "{key} has a form that Compose does not take",
     "write letters, digits, and _ . - between them; names have two characters or more"),
    (rf"service (?:volume|device|ports) {_PATH} is missing a (?:mount )?target", "this entry has no target",
     "add target: and the path or port in the container"),
    (r"(?P<path>\S+) false schema", "unknown key{named}", "mend its name, or remove it"),
    (rf"{_PATH} must be an? (?P<kind>string|boolean|integer|number|object|array|list|mapping)",
     "{key} must be {kind}", "look up its form in the Compose file reference"),
    (rf"{_PATH} value must be one of (?P<choices>.+)", "{key} must be one of {choices}", "choose one of them"),
    (rf"{_PATH}: (?:unexpected|unsupported|invalid) (?:type|value)",
     "{key} has a value of a kind that Compose does not take here", "put a number or true into quotes to make it text"),
    (rf"{_PATH}: one of (?P<choices>[\w|]+) must be set", "one of {choices} is missing in {key}", "add one of them"),
    (rf"{_PATH}: (?P<choices>[\w|]+) attributes are mutually exclusive",
     "{key} has more than one of {choices}", "keep one of them"),
    (rf"{_PATH}: conflicting parameters \"external\" and", "{key} is external and says how it is made",
     "keep external: true and name:, remove the rest"),
    (rf"{_PATH}: target .* already mounted as", "two mounts of this service have the same target",
     "give one of them another target, or remove it"),
    (rf"{_PATH}: (?:value can't be blank|invalid ip address)", "{key} is empty or no address", "write a value"),
    (r"can't set container_name and (?P<service>\S+) as", "one container_name cannot be had by several replicas",
     "remove container_name, or have one replica"),
    (r"(?P<path>services\.[^:]+): can't set distinct values on",
     "two keys of this service contradict each other",
     "keep one of them: the key of the service, or that below deploy"),
    (r"cannot override (?P<path>.+)", "{key} is of another kind in the file that is overridden",
     "write it in the same form in both files"),
    (r"cannot extend service \"(?P<service>[^\"]+)\" in .*: no services section",
     "the extended file has no services", "name a file with services:"),
    (r"cannot extend service \"(?P<service>[^\"]+)\" in .*: service \"(?P<name>[^\"]+)\" not found",
     "there is no service '{name}' to extend", "mend the name"),
    (r"Circular reference:\n\s+(?P<service>\S+) in ", "this service extends itself, over others or not",
     "remove one extends of this circle"),
    (r"dependency cycle detected: (?P<service>\S+) -> ", "services wait for each other in a circle: {cycle}",
     "remove one depends_on of this circle"),
    (r"project name must not be empty", "the project has no name that Compose can use", "add name: at the top"),
)  # fmt: skip
# The kinds of a JSON Schema, as a person calls them.
KINDS = {"string": "a text", "object": "a mapping (key: value)", "array": "a list", "boolean": "true or false"}
# Keys of a service that are often misspelt (compose-spec, 05-services.md).
SERVICE_KEYS = (
    "build", "cap_add", "cap_drop", "command", "configs", "container_name", "depends_on", "deploy", "devices", "dns",
    "entrypoint", "env_file", "environment", "expose", "extends", "extra_hosts", "group_add", "healthcheck", "hostname",
    "image", "init", "labels", "logging", "mem_limit", "network_mode", "networks", "pid", "platform", "ports",
    "privileged", "profiles", "pull_policy", "read_only", "restart", "runtime", "secrets", "security_opt", "shm_size",
    "stdin_open", "stop_grace_period", "stop_signal", "sysctls", "tmpfs", "tty", "ulimits", "user", "volumes",
    "working_dir",
)  # fmt: skip
