"""What the inventory configures of the engine."""

from __future__ import annotations

from pathlib import Path

from homelab_pipelines.backup.configured import ConfiguredBackups
from homelab_pipelines.backup.scratch_folder import SCRATCH_PREFIX, scratch_folder

INVENTORY = """
homelab: attic
databases:
  main:
    kind: postgres
    at: {{host: 127.0.0.1}}
    verify: {{scratch: {scratch}}}
backups:
  targets:
    nas: {{directory: {nas}, keep: {{daily: 7}}}}
"""


def test_sweep_scratch_looks_into_the_folder_that_a_server_names(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    (inventory := tmp_path / "homelab.yaml").write_text(INVENTORY.format(scratch=scratch, nas=tmp_path / "nas"))
    configured = ConfiguredBackups.read(inventory, tmp_path / "home")
    with scratch_folder(scratch) as held:
        (left := scratch / f"{SCRATCH_PREFIX}left").mkdir()  # now, for making one sweeps, too
        assert str(left) in configured.sweep_scratch()
        assert held.is_dir(), "its holder lives"
    assert not left.exists()
