"""What all assets share: groups, kinds, pools and names."""

from __future__ import annotations

import hashlib
import re

from homelab_pipelines.backup.layout import Source

GROUP = "stage_1_foundation"


def identifier(source: Source) -> str:
    """A unique name for an op: Dagster allows letters, digits and underscores in one."""
    plain = re.sub("[^A-Za-z0-9_]", "_", source.id)
    return f"{plain}_{hashlib.sha256(source.id.encode()).hexdigest()[:6]}"


def pool(server: str) -> str:
    """The pool that keeps a server from being dumped twice at once (limit 1: deploy/local/dagster.yaml)."""
    return f"postgres_{re.sub('[^A-Za-z0-9_]', '_', server)}"


def asset_kinds(*kinds: str) -> set[str]:
    """Dagster shows at most three."""
    return set(kinds[:3])
