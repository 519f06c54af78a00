"""Which keys a store accepts: the rules every store shares, so that a key good for one is good for all."""

from __future__ import annotations

from homelab_pipelines.backup.errors import StoreRefused

UNFINISHED = ".unfinished-"
MARKER = ".homelab-backups"
MAX_KEY_BYTES = 1024  # S3: "Creating object key names"
MAX_PART_BYTES = 255  # NAME_MAX of Linux file systems and of SMB


def checked_key(key: str, store: str) -> str:
    """`key` itself. Raises StoreRefused when a store could not keep it, or it would leave the store's folder.

    Longest key: 1024 bytes of UTF-8; longest part between slashes: 255.
    """
    reason = _fault(key)
    if reason:
        raise StoreRefused(
            f"using the key {key!r} in {store}", reason, "use a key such as server/database/id/manifest.json"
        )
    return key


def _fault(key: str) -> str:
    try:
        encoded = key.encode()
    except UnicodeEncodeError:
        return "it is not valid Unicode"
    if len(encoded) > MAX_KEY_BYTES:
        return f"it has {len(encoded)} bytes, more than {MAX_KEY_BYTES}"
    if any(character < " " for character in key):
        return "it has a control character"
    for part in key.split("/"):
        if part in ("", ".", ".."):
            return f"the part {part!r} between slashes is not a name"
        if part == MARKER or part.startswith(UNFINISHED):
            return f"the name {part!r} is the store's own"
        if len(part.encode()) > MAX_PART_BYTES:
            return f"the part {part[:20]!r}… has {len(part.encode())} bytes, more than {MAX_PART_BYTES}"
    return ""
