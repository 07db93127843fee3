import json

import pytest

from vitoolkit import schedules
from vitoolkit.requests import KINDS, Change, Inbox, Request


@pytest.mark.parametrize(
    "request_",
    [
        Request("set", "beta", 0.0, "user"),
        Request("release", "beta"),
        Request("reschedule", "beta", end=0.0, steps=9),
        Request("reschedule", "beta", schedule=schedules.linear(0.0, 1.0, steps=5)),
        Request("undo"),
        Request("note", text="why"),
        *(Request(kind) for kind in KINDS[4:]),
    ],
    ids=lambda request: request.kind,
)
def test_json_holds_every_kind_of_request(request_):
    assert Request.from_json(json.loads(json.dumps(request_.to_json()))) == request_


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ([], TypeError, "a request is a mapping"),
        ({}, ValueError, "a request is one of set, release"),
        ({"kind": "eval"}, ValueError, "received 'eval'"),
        ({"kind": "set", "value": "1"}, TypeError, "'value' of a request cannot be '1'"),
        ({"kind": "set", "value": True}, TypeError, "cannot be True"),
        ({"kind": "set", "who": "me"}, ValueError, "a request has no 'who'; it has kind, control"),
        ({"kind": "reschedule", "schedule": "__import__('os')"}, ValueError, "not the text of a"),
        ({"kind": "reschedule", "schedule": "linear(0.0, x, steps=3)"}, ValueError, "neither a"),
    ],
)
def test_what_is_no_request_is_refused_and_nothing_is_evaluated(fields, error, message):
    with pytest.raises(error, match=message):
        Request.from_json(fields)


def test_requests_keep_their_order_over_all_controls():
    inbox = Inbox()
    asked = [
        Request("set", "a", 1.0),
        Request("set", "b", 2.0),
        Request("pause"),
        Request("undo"),
        Request("set", "a", 3.0),
    ]
    for request in asked:
        inbox.ask(request)
    assert inbox.waiting("a") == [asked[0], asked[4]]
    assert inbox.take() == asked and inbox.take() == []


def test_of_values_that_follow_each_other_the_last_is_taken():
    inbox = Inbox()
    for request in (
        Request("set", "a", 1.0),
        Request("set", "b", 5.0),
        Request("set", "a", 2.0),
        Request("release", "a"),
        Request("reschedule", "a", end=1.0, steps=4),
        Request("set", "a", 4.0),
    ):
        inbox.ask(request)
    taken = [(r.kind, r.control, r.value) for r in inbox.take()]
    assert taken == [
        ("set", "b", 5.0), ("release", "a", None), ("reschedule", "a", None), ("set", "a", 4.0)
    ]  # fmt: skip


def test_what_can_be_undone_counts_what_waits():
    inbox = Inbox()
    assert not inbox.can_undo()
    inbox.ask(Request("set", "a", 1.0))
    assert inbox.can_undo() and inbox.can_undo("a") and not inbox.can_undo("b")
    inbox.ask(Request("undo"))
    assert not inbox.can_undo()
    inbox.take()
    inbox.remember(Change("a", "set", "code", 0.0, "first"))
    inbox.remember(Change("b", "set", "code", 0.1, "second"))
    inbox.ask(Request("undo", "a"))
    assert inbox.can_undo("b") and not inbox.can_undo("a")
    assert inbox.forget("a").state == "first"
    assert inbox.forget().state == "second" and inbox.forget() is None


@pytest.mark.parametrize(("source", "seconds", "changes"), [("user", 1.4, 1), ("user", 1.6, 2),
                                                            ("code", 0.0, 2)])  # fmt: skip
def test_the_moves_of_a_hand_within_a_moment_are_one_change(source, seconds, changes):
    inbox = Inbox()
    inbox.remember(Change("a", "set", source, 10.0, "before"))
    inbox.remember(Change("a", "set", source, 10.0 + seconds, "between"))
    found = [inbox.forget().state for _ in range(changes)]
    assert found[-1] == "before" and not inbox.can_undo()
