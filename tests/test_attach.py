"""A fit is seen and steered from another process, through its journal alone."""

import json
import os
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
from test_journal import _opened, a_fit, until

import vitoolkit as vt
from vitoolkit.__main__ import main
from vitoolkit.events import Event
from vitoolkit.journal_file import JournalFile
from vitoolkit.wishes import Wishes


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.db"


@pytest.fixture
def running(gaussians, path):
    """A fit that runs until it is stopped."""
    beta = vt.Beta(schedule=vt.schedules.constant(1.0))
    fit = a_fit(path, 1_000_000, beta=beta, background=True, every=10)
    until(lambda: path.exists() and len(_opened(path)))
    yield fit
    fit.stop()
    fit.wait()


def test_what_is_asked_is_done_and_acknowledged_with_the_step(running, path):
    other = vt.attach(path)
    assert other.status == "running" and list(other.controls) == ["beta", "learning_rate"]
    answer = other.set("beta", 0.25)
    (event,) = [e for e in running.trace.events if e.control == "beta"]
    assert (answer.step, event.new, event.source) == (event.step, 0.25, "attach")
    assert f"beta is 0.25 from step {event.step:,} on" == answer.words
    other.release("beta")
    assert running.controls["beta"].value == 1.0
    paused = other.pause()
    assert running.status == "paused" and other.pause().words == "nothing had to be done"
    assert paused.step == running.run.step
    other.note("here")
    other.resume()
    assert [e.text for e in running.trace.events if e.kind == "note"] == ["here"]
    other.stop()
    running.wait()
    assert other.status == "stopped" and other.trace.equals(running.trace)
    with pytest.raises(RuntimeError, match="not trained any more: stopped"):
        other.set("beta", 1.0)


@pytest.mark.parametrize(
    ("control", "value", "match"),
    [("beta", 99.0, r"beta must be in \[0, 10\]"), ("gamma", 1.0, "no control 'gamma'; it has")],
)
def test_what_cannot_be_is_refused(running, path, control, value, match):
    with pytest.raises(ValueError, match=match):
        vt.attach(path).set(control, value)
    assert running.controls["beta"].value == 1.0 and not running.trace.events


def test_from_elsewhere_it_is_bookmarked_and_goes_back(running, path):
    fit = vt.attach(path)
    kept = fit.bookmark("a")
    assert kept.step is not None and kept.words == f"bookmark at step {kept.step:,}"
    until(lambda: running.run.step > kept.step)
    answer = fit.rewind("a")
    assert (answer.step, answer.words) == (kept.step, f"back at step {kept.step:,}")
    assert fit.rewind(0).step == 0
    for to in ("b", -1):
        with pytest.raises(ValueError, match="refused it: .*(no bookmark 'b'|step)"):
            fit.rewind(to)
    kinds = [event.kind for event in running.trace.events]
    assert kinds == ["bookmark", "rewind", "rewind"] and running.status == "running"


def test_malformed_requests_leave_the_fit_untouched(running, path):
    bodies = [
        "", "{", "[]", "7", "null", '{"kind": "eval"}', '{"kind": "set", "control": "beta"}',
        '{"kind": "set", "control": "beta", "value": "1"}', '{"kind": "note"}', "[" * 5_000,
        '{"kind": "set", "control": "beta", "value": NaN}', '{"kind": "interrupt"}', "x" * 100_000,
        '{"kind": "reschedule", "control": "beta", "schedule": "__import__(\'os\').abort()"}',
        '{"kind": "set", "control": "beta", "value": 1, "in_force": true}', b"\xff\xfe", 7, None,
    ]  # fmt: skip
    with JournalFile(path, write=True) as file:
        for body in bodies * 3:
            file._sql.execute(
                "INSERT INTO request (run, asked, body) VALUES (1, 0, ?)",
                (body if body is not None else "",),
            )
    waiting = "SELECT count(*) FROM request WHERE state IN ('asked', 'taken')"
    with JournalFile(path) as file:
        until(lambda: file._sql.execute(waiting).fetchone()[0] == 0)
        answers = file._sql.execute("SELECT DISTINCT state FROM request").fetchall()
    assert answers == [("refused",)]
    assert running.status == "running" and not running.trace.events
    assert vt.attach(path).set("beta", 2.0).step is not None


def test_what_the_fitting_thread_has_in_hand_is_not_answered_before_it_is_done():
    """It is in the inbox no more, and no event yet."""
    log, answers = [], []
    inbox = SimpleNamespace(waiting=list)
    run = SimpleNamespace(running=True, log=log, step=7, inbox=inbox, ask=lambda request: None)
    bodies = [(1, '{"kind": "set", "control": "beta", "value": 0.5}'), (2, '{"kind": "pause"}')]
    file = SimpleNamespace(
        asked=lambda run_id: [bodies.pop(0) for _ in bodies[:]],
        answer=lambda *told: answers.append(told),
    )
    wishes = Wishes(run)
    wishes.look(file, 1)
    assert answers == [(1, "taken"), (2, "taken")]
    log.append(Event(7, time.perf_counter(), "set", "beta", 1.0, 0.5, "code"))
    wishes.look(file, 1)
    assert answers[2:] == [
        (1, "done", "beta is 0.5 from step 7 on", 7), (2, "done", "nothing had to be done", 7),
    ]  # fmt: skip


def test_a_fit_that_is_lost_is_said_to_be(path):
    code = (
        "import os, sys, runs, vitoolkit as vt\n"
        "stop = vt.every(100, lambda q, losses, i: os._exit(9) if i > 100 and "
        "os.path.exists(sys.argv[1]) and vt.Trace.open(sys.argv[1]) else None)\n"
        "runs.begun('full-rank', sys.argv[1], 10**6, callbacks=stop)"
    )
    here = os.path.dirname(__file__)
    subprocess.run([sys.executable, "-c", code, str(path)], cwd=here, check=False, timeout=300)
    assert vt.attach(path).status == "lost"
    with pytest.raises(RuntimeError, match="lost"):
        vt.attach(path).pause()


def told(capsys, *arguments):
    code = main([str(a) for a in arguments])
    output = capsys.readouterr()
    return code, output.out.strip(), output.err.strip()


def test_the_command_line(running, path, capsys, tmp_path):
    code, out, _ = told(capsys, "set", path, "beta", "0.5", "--json")
    answer = json.loads(out)
    assert code == 0 and answer["answer"] == f"beta is 0.5 from step {answer['step']:,} on"
    assert told(capsys, "release", path, "beta")[0] == 0
    code, out, err = told(capsys, "set", path, "beta", "-1")
    assert code == 1 and "must be in" in err and not out
    code, out, _ = told(capsys, "set", path, "beta", "-1", "--json")
    assert code == 1 and "must be in" in json.loads(out)["error"]
    until(lambda: vt.attach(path).last(1).control["beta"][-1] == 1.0)
    assert told(capsys, "bookmark", path, "kept")[0] == 0
    assert told(capsys, "rewind", path, "0")[1] == "back at step 0"
    back = json.loads(told(capsys, "rewind", path, "kept", "--json")[1])
    assert back["answer"] == f"back at step {back['step']:,}" != "back at step 0"
    assert "no bookmark 'other'" in told(capsys, "rewind", path, "other")[2]
    assert told(capsys, "pause", path)[0] == 0 and running.status == "paused"
    (run,) = json.loads(told(capsys, "list", path, "--json")[1])
    assert run["pid"] == os.getpid() and run["stop"] == 1_000_000
    seen = json.loads(told(capsys, "watch", path, "--once", "--json")[1])
    assert seen["last"]["beta"] == 1.0 and seen["id"] == 1
    assert "learning_rate" in told(capsys, "watch", path, "--once")[1]
    assert told(capsys, "note", path, "a word")[0] == 0
    assert told(capsys, "resume", path)[0] == 0 and told(capsys, "stop", path)[0] == 0
    running.wait()
    until(lambda: vt.attach(path).status == "stopped")
    assert "stopped" in told(capsys, "list", path)[1]
    assert told(capsys, "export", path, tmp_path / "run.csv")[0] == 0
    assert vt.Trace.open(tmp_path / "run.csv").equals(running.trace)
    assert told(capsys, "watch", tmp_path / "none.db")[0] == 1
    assert "no run 7" in told(capsys, "watch", path, "--run", "7")[2]


def test_a_watch_ends_with_the_fit(gaussians, path, capsys):
    go = threading.Event()
    fit = a_fit(path, 40, callbacks=lambda *told: go.wait(60), background=True)
    until(lambda: path.exists() and len(_opened(path)))
    threading.Timer(0.2, go.set).start()
    code, out, _ = told(capsys, "watch", path, "--json")
    fit.wait()
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and lines[-1]["status"] == "finished" and lines[0]["status"] == "running"
