"""SQLite's file on a network file system: refused, as its locks and shared memory do not hold across hosts.

Source: https://www.sqlite.org/wal.html: "All processes using a database must be on the same host computer; WAL does
not work over a network filesystem."
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from frugalbo.errors import StorageError

INSIST: Final = "FRUGALBO_SQLITE_ON_NETWORK"
_MOUNTS: Final = Path("/proc/mounts")
# As /proc/mounts names them; of FUSE, what comes after "fuse.". Not 9p and virtiofs: there it is mostly one machine
# and its host, and all disks of some sandboxes.
_NETWORK: Final = frozenset({
    "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "gfs2", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs",
    "nfs4", "orangefs", "panfs", "pvfs2", "smb", "smb2", "smb3", "smbfs", "wekafs",
    "blobfuse", "blobfuse2", "davfs2", "gcsfuse", "goofys", "juicefs", "mount-s3", "rclone", "s3fs", "sshfs",
})  # fmt: skip


def network_type(path: Path, mounts: str) -> str | None:
    """The type of the file system that `path` is on, if other hosts may see it; None if not.

    Args:
        path: A file, or one that is to be.
        mounts: The text of /proc/mounts.
    """
    place, found = path.resolve(), ""
    length = -1
    for line in mounts.splitlines():
        _, point, kind = line.split()[:3]
        point = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), point))
        # Of two on the same point the later one hides the other.
        if place.is_relative_to(point) and len(point.parts) >= length:
            length, found = len(point.parts), kind
    return found if found.removeprefix("fuse.") in _NETWORK else None


def refuse_network(file: Path) -> None:
    """Refuse a file on a network file system, but not who insists.

    Raises:
        StorageError: If it is on one.
    """
    try:
        mounts = _MOUNTS.read_text()
    except OSError:
        return  # not Linux, where we cannot tell
    kind = network_type(file, mounts)
    if kind and not os.environ.get(INSIST):
        raise StorageError(
            f"{file} is on a network file system ({kind}), where SQLite loses data: give --storage a file on a disk of "
            f"this machine or a postgresql:// URL, or set {INSIST}=1 if only this machine will ever open it"
        )
