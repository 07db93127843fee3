import os
import shutil
import sys
import threading
import time

import pytest

from vitoolkit import files
from vitoolkit.files import found, replacing, require, target

forking = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a process to end at a place")


def write(path, text, folder):
    with replacing(path) as temporary:
        if folder:
            temporary.mkdir()
            (temporary / "a").write_text(text)
            (temporary / "deep").mkdir()
            (temporary / "deep" / "b").write_text(text)
        else:
            temporary.write_text(text)


def content(path):
    if path.is_dir():
        a, b = (path / "a").read_text(), (path / "deep" / "b").read_text()
        assert a == b
        return a
    return path.read_text()


def killed(call, kill_at):
    """Run it in a process of its own that ends at the given call of the system's; did it end?"""
    child = os.fork()
    if child == 0:
        calls = 0
        for module, name in ((os, "replace"), (os, "fsync"), (os, "unlink"), (os, "rmdir")):

            def counting(*args, real=getattr(module, name), **kwargs):
                nonlocal calls
                calls += 1
                if calls == kill_at:
                    os._exit(9)
                return real(*args, **kwargs)

            setattr(module, name, counting)
        try:
            call()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == 9


@forking
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of forking beside threads
@pytest.mark.parametrize("folder", [False, True], ids=["file", "folder"])
@pytest.mark.parametrize("there", [False, True], ids=["nothing there", "one there"])
def test_a_kill_at_any_moment_leaves_the_old_or_the_new(folder, there, tmp_path):
    seen = set()
    for kill_at in range(1, 100):
        path = tmp_path / f"{kill_at}" / "fit.x"
        path.parent.mkdir()
        if there:
            write(path, "old", folder)
        more = killed(lambda path=path: write(path, "new", folder), kill_at)
        assert found(path) == path
        if path.exists():
            seen.add(content(path))
        else:
            assert not there
            seen.add(None)
        write(path, "next", folder)
        assert os.listdir(path.parent) == ["fit.x"] and content(path) == "next"
        if not more:
            break
    assert 3 < kill_at < 50
    assert seen == {"old" if there else None, "new"}


@forking
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_was_set_aside_is_opened_where_nothing_can_be_moved(tmp_path, monkeypatch):
    path = tmp_path / "fit.x"
    write(path, "old", True)
    replaces = 5  # fsync of two files and two folders, then the first move
    assert killed(lambda: write(path, "new", True), replaces + 1)
    (aside,) = tmp_path.glob(".fit.x.*.old")
    assert not path.exists()

    def refuse(*args):
        raise PermissionError("read-only")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse)
        assert found(path) == aside and content(aside) == "old"
    assert found(path) == path and content(path) == "old"


def leave(path, process, *, age=0.0, kind="tmp", host=None):
    """Leave something behind as a writer of the given process would have."""
    host = files._host() if host is None else host
    left = path.with_name(f".{path.name}.{host}-{process}-0123abcd.{kind}")
    left.write_text("half")
    os.utime(left, (time.time() - age, time.time() - age))
    return left


def dead_process():
    """Number of a process that is no more."""
    process = 2**22 - 7  # larger than what systems give
    return process


def test_only_what_nobody_writes_any_more_goes(tmp_path):
    path = tmp_path / "fit.x"
    stays = [
        leave(path, os.getpid()),
        leave(path, os.getppid()),
        leave(path, dead_process(), host="elsewhere"),
        leave(tmp_path / "other.x", dead_process()),
        leave(tmp_path / "fitax", dead_process()),
    ]
    (tmp_path / ".fit.x.89abcdef.tmp").write_text("of the first versions, just now")
    goes = [
        leave(path, dead_process()),
        leave(path, 2**80),
        leave(path, 7, age=2 * files.DAY, host="elsewhere"),
        tmp_path / ".fit.x.01234567.tmp",
    ]
    goes[-1].write_text("of the first versions")
    os.utime(goes[-1], (1e9, 1e9))
    write(path, "new", False)
    there = {left.name for left in tmp_path.iterdir()}
    assert there == {"fit.x", ".fit.x.89abcdef.tmp", *(left.name for left in stays)}
    assert not any(left.exists() for left in goes)


def test_a_writer_that_is_just_moving_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "PATIENCE", 6_000)  # on a loaded machine the thread comes late
    path, new = tmp_path / "fit.x", tmp_path / "new"
    aside = leave(path, os.getpid(), kind="old")
    new.write_text("new")

    def finish():
        time.sleep(0.05)
        os.replace(new, path)  # in one move, as a writer does
        aside.unlink()

    thread = threading.Thread(target=finish)
    thread.start()
    assert found(path).read_text() == "new"
    thread.join()


def test_a_move_that_takes_for_ever_is_none(tmp_path, monkeypatch):
    """As the first versions left it, whose files do not say whose they are."""
    monkeypatch.setattr(files, "PATIENCE", 2)
    (tmp_path / ".fit.x.01234567.old").write_text("old")
    assert found(tmp_path / "fit.x").read_text() == "old"


@pytest.mark.parametrize("folder", [False, True])
def test_all_of_it_is_on_the_disk_before_it_takes_the_name(folder, tmp_path, monkeypatch):
    done = []
    fsync, replace = os.fsync, os.replace
    path = tmp_path / "fit.x"

    def synced(handle):
        done.append(os.fstat(handle).st_ino)
        fsync(handle)

    def moved(source, target):
        inside = [source, *source.rglob("*")]
        assert {each.stat().st_ino for each in inside} <= set(done)
        done.append("moved")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", moved)
    write(path, "new", folder)
    assert done.count("moved") == 1 and done[-1] == tmp_path.stat().st_ino


def test_nothing_there_is_nothing_found(tmp_path):
    assert found(tmp_path / "absent" / "fit.x") == tmp_path / "absent" / "fit.x"
    assert found(tmp_path / "fit.x") == tmp_path / "fit.x"


def test_a_replaced_folder_that_cannot_be_removed_is_no_error(tmp_path, monkeypatch):
    path = tmp_path / "fit.x"
    write(path, "old", True)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *args, **kwargs: None)
        write(path, "new", True)
    assert content(path) == "new" and not list(tmp_path.glob("*.old"))


def test_target_and_require(tmp_path, monkeypatch):
    assert target(str(tmp_path / "A.X"), ".x") == tmp_path / "A.X"
    with pytest.raises(ValueError, match=r"must end in '\.x'; received '.*a.y'"):
        target(tmp_path / "a.y", ".x")
    with pytest.raises(FileNotFoundError, match="absent.*does not exist"):
        target(tmp_path / "absent" / "a.x", ".x")
    require("json", "os")
    monkeypatch.setitem(sys.modules, "json", None)
    with pytest.raises(ImportError, match=r'needs json.*pip install "vitoolkit\[lab\]"'):
        require("os", "json", extra="lab")
