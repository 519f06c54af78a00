"""Writes what is in the image: sbom.json (CycloneDX 1.6) and postgresql.json. Runs once, while the image is built."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
import subprocess
import sys
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from homelab_pipelines.backup.programs import installations

PACKAGE = "homelab-pipelines"
PROGRAMS = Path("/opt/homelab/bin")
SAYS_VERSION = {"kubectl": ("version", "--client"), "kompose": ("version",)}


def python_components() -> list[dict[str, Any]]:
    """Every distribution of the environment, by its normalised name (PEP 503)."""
    found = {}
    for distribution in importlib.metadata.distributions():
        name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower()
        purl = f"pkg:pypi/{name}@{quote(distribution.version)}"
        licence = distribution.metadata.get("License-Expression")
        licences = [{"expression": licence}] if licence else []
        found[name] = component("library", name, distribution.version, purl, licences)
    return [found[name] for name in sorted(found)]


def system_components() -> list[dict[str, Any]]:
    """Every package that dpkg knows as installed; none where there is no dpkg."""
    form = "${db:Status-Abbrev}\t${Package}\t${Version}\t${Architecture}\n"
    try:
        listed = subprocess.run(("dpkg-query", "-W", f"-f={form}"), capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        return []
    rows = sorted(line.split("\t") for line in listed.splitlines() if line.startswith("ii"))
    return [
        component("library", name, version, f"pkg:deb/debian/{quote(name)}@{quote(version)}?arch={architecture}", [])
        for _, name, version, architecture in rows
    ]


def program_components(folder: Path) -> list[dict[str, Any]]:
    """Every program in a folder, with the version that it says itself, where it does, and its SHA-256."""
    components = []
    for path in sorted(folder.iterdir()):
        said = subprocess.run((str(path), *SAYS_VERSION.get(path.name, ("--version",))), capture_output=True, text=True)
        found = re.search(r"\d+(\.\d+)+", said.stdout)
        if path.name in SAYS_VERSION and found is None:
            raise SystemExit(f"{path} does not run: {(said.stderr or said.stdout).strip()}")
        version = found[0] if found else "unknown"
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        made = component("application", path.name, version, f"pkg:generic/{quote(path.name)}@{quote(version)}", [])
        components.append({**made, "hashes": [{"alg": "SHA-256", "content": digest}]})
    return components


def component(kind: str, name: str, version: str, purl: str, licences: list[dict[str, str]]) -> dict[str, Any]:
    """One part, as CycloneDX writes it (https://cyclonedx.org/docs/1.6/json/#components)."""
    made: dict[str, Any] = {"type": kind, "bom-ref": purl, "name": name, "version": version, "purl": purl}
    return {**made, "licenses": licences} if licences else made


def bill_of_materials() -> dict[str, Any]:
    """The whole document."""
    ours, *_ = [each for each in python_components() if each["name"] == PACKAGE]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid4()}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
            "component": {**ours, "type": "application"},
        },
        "components": [
            *(each for each in python_components() if each["name"] != PACKAGE),
            *system_components(),
            *program_components(PROGRAMS),
        ],
    }


def postgresql() -> list[dict[str, Any]]:
    """The PostgreSQL programs that were seen to run, oldest first."""
    return [
        {
            "major": found.major,
            "version": found.version,
            "client": found.has_client,
            "server": found.has_server,
            "folder": str(found.bin),
        }
        for found in sorted(installations(), key=lambda each: each.major)
    ]


def main(folder: Path) -> None:
    """Write both files and print the second."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sbom.json").write_text(json.dumps(bill_of_materials(), indent=1) + "\n")
    found = postgresql()
    (folder / "postgresql.json").write_text(json.dumps(found, indent=1) + "\n")
    for each in found:
        parts = " and ".join(part for part in ("client", "server") if each[part])
        print(f"PostgreSQL {each['version']}: {parts} programs in {each['folder']}")  # noqa: T201 (the build's output)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
