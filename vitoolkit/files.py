"""Files that are there whole, old or new, whatever happens while they are written."""

import importlib
import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["found", "replacing", "require", "target"]

DAY = 86_400.0  # seconds after which what a writer left behind is nobody's
PATIENCE = 100  # looks, 10 ms apart, at a folder that somebody else is at work in


def target(path: str | Path, suffix: str) -> Path:
    """Check the place of a file that is to be written.

    Parameters
    ----------
    path : str or Path
        Where to; ``~`` is the home folder.
    suffix : str
        What the name has to end in, in letters of either size.

    Returns
    -------
    Path
        The place.

    Raises
    ------
    ValueError
        If the name ends otherwise.
    FileNotFoundError
        If the folder does not exist.
    """
    path = Path(path).expanduser()
    if path.suffix.lower() != suffix:
        raise ValueError(f"the name of the file must end in {suffix!r}; received {str(path)!r}")
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"cannot write {path.name!r}: the folder {str(path.parent)!r} does not exist"
        )
    return path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`, and put what was written there in its place.

    The new file or folder is on the disk before it takes its name, so that a kill or a loss of
    power at any moment leaves the old one or the new one. What writers that were killed have left
    beside it goes.

    Parameters
    ----------
    path : Path
        What to replace, a file or a folder, or nothing yet. A symbolic link keeps pointing where
        it did, and a file keeps its permissions.

    Yields
    ------
    Path
        Where to write. After an exception it is removed, and `path` is as it was.
    """
    target = Path(os.path.realpath(path))
    found(target)
    for left, stale in _leftovers(target):
        if stale:
            _remove(left)
    writer = f"{_host()}-{os.getpid()}-{secrets.token_hex(4)}"
    temporary = target.with_name(f".{target.name}.{writer}.tmp")
    aside = temporary.with_suffix(".old")
    try:
        yield temporary
        _to_disk(temporary)
        if temporary.is_dir() and target.exists():  # a folder cannot be replaced in one move
            os.replace(target, aside)
            try:
                os.replace(temporary, target)
            except BaseException:
                os.replace(aside, target)
                raise
            os.replace(aside, temporary)  # from here on it is not looked for: see `found`
            _remove(temporary)
        else:
            if target.exists():
                shutil.copymode(target, temporary)
            os.replace(temporary, target)
    except BaseException:
        _remove_for_good(temporary)
        raise
    _sync(target.parent)


def found(path: Path) -> Path:
    """Put back what a replacement that was killed between its two moves has set aside.

    Parameters
    ----------
    path : Path
        What is looked for.

    Returns
    -------
    Path
        `path`; what was set aside, if the folder cannot be written to.
    """
    for look in range(PATIENCE + 1):
        asides = [left for left in _leftovers(path) if left[0].suffix == ".old"]
        if path.exists() or not asides:
            break
        aside, stale = asides[0]
        if stale or look == PATIENCE:  # moves take no second
            try:
                os.replace(aside, path)
            except PermissionError:
                return aside
            break
        time.sleep(0.01)
    return path


def require(*packages: str, extra: str = "export") -> None:
    """Tell what to install if a package is missing.

    Parameters
    ----------
    *packages : str
        What has to be importable.
    extra : str
        The extra of vitoolkit that brings them.

    Raises
    ------
    ImportError
        If one of them is not. The message names it and the extra.
    """
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ImportError(
                f"this needs {package}, which cannot be imported ({error}). "
                f'Install it with: pip install "vitoolkit[{extra}]"'
            ) from error


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9]", "_", platform.node())[:16]


def _leftovers(path: Path) -> list[tuple[Path, bool]]:
    """What writers of `path` have beside it, the latest first; whether the writer is gone."""
    named = re.compile(
        rf"\.{re.escape(path.name)}\.(?:(\w*)-(\d+)-)?[0-9a-f]{{8}}\.(?:tmp|old)", re.ASCII
    )
    found = []
    with suppress(OSError), os.scandir(path.parent) as entries:
        for entry in entries:
            if match := named.fullmatch(entry.name):
                with suppress(FileNotFoundError):
                    written = entry.stat(follow_symlinks=False).st_mtime
                    host, process = match.groups()
                    stale = time.time() - written > DAY or (
                        host == _host() and not _runs(int(process))
                    )
                    found.append((written, path.with_name(entry.name), stale))
    return [(left, stale) for _, left, stale in sorted(found, reverse=True)]


def _runs(process: int) -> bool:
    if os.name != "posix":  # elsewhere signal 0 is not a question
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _remove_for_good(path: Path) -> None:
    """Remove what could not be written whole; Zarr's other threads may be at work there yet."""
    folder, quiet = path.is_dir(), 0
    _remove(path)
    for _ in range(PATIENCE if folder else 0):
        time.sleep(0.01)
        quiet = 0 if path.exists() else quiet + 1
        if quiet == 10:
            break
        _remove(path)


def _to_disk(path: Path) -> None:
    for inside in path.rglob("*"):
        _sync(inside)
    _sync(path)


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    folder = path.is_dir()
    if folder and os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(handle)
    except OSError:
        if not folder:  # not every file system can do it for a folder
            raise
    finally:
        os.close(handle)
