"""Which file systems a journal may be on."""

from __future__ import annotations

from pathlib import Path

__all__ = ["network_kind"]

#: Kinds of file systems that several machines share: there WAL loses what it promises.
NETWORK = (
    "nfs",
    "cifs",
    "smb",
    "afs",
    "9p",
    "ceph",
    "lustre",
    "gluster",
    "beegfs",
    "gpfs",
    "sshfs",
)


def network_kind(path: str | Path, mounts: str | None = None) -> str | None:
    r"""The kind of a network file system that a path is on, None on one of this machine.

    Parameters
    ----------
    path : str or Path
        A file that need not be there.
    mounts : str, optional
        What is mounted where, as ``/proc/mounts`` tells it, which is the default; where there is no
        such file nothing is known.

    Examples
    --------
    >>> mounts = "/dev/sda1 / ext4 rw 0 0\nhost:/home /home nfs4 rw 0 0"
    >>> network_kind("/home/me/run.db", mounts), network_kind("/tmp/run.db", mounts)
    ('nfs4', None)
    """
    if mounts is None:
        try:
            mounts = Path("/proc/mounts").read_text("utf-8", errors="replace")
        except OSError:
            return None
    place = Path(path).expanduser().absolute()
    if mounts is not None and place.parent.exists():
        place = place.resolve()
    best, found = -1, ""
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        where = Path(fields[1].replace("\\040", " "))
        if (place == where or where in place.parents) and len(where.parts) >= best:
            best, found = len(where.parts), fields[2]
    kind = found.removeprefix("fuse.")
    return found if kind.startswith(NETWORK) else None
