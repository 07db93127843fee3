"""A link to a file of the kernel's machine."""

import pytest

from vitoolkit.dashboard import download as module
from vitoolkit.dashboard.download import Download


@pytest.fixture
def link(monkeypatch):
    monkeypatch.setattr(module, "LARGEST", 2_000_000)
    link = Download()
    sent = []
    monkeypatch.setattr(link, "send", lambda content, buffers: sent.append((content, buffers)))
    link.sent = sent
    yield link
    link.close()


def test_a_file_goes_to_the_page_that_asks(link, tmp_path):
    path = tmp_path / "fit.csv"
    path.write_bytes(b"1")
    assert link.offer(path) == "" and link.file == "fit.csv"
    link._on_page(link, {"kind": "other"}, [])
    assert link.sent == []
    link._on_page(link, {"kind": "fetch"}, [])
    assert link.sent == [({"kind": "file", "name": "fit.csv"}, [b"1"])]


@pytest.mark.parametrize(("size", "fits"), [(2_000_000, True), (2_000_001, False)])
def test_a_file_that_is_too_large_is_not_offered(link, size, fits, tmp_path):
    path = tmp_path / "fit.csv"
    with path.open("wb") as file:
        file.truncate(size)
    why = link.offer(path)
    assert (why == "") == fits
    assert fits or why == "2 MB are too many to download here"
    link._on_page(link, {"kind": "fetch"}, [])
    assert len(link.sent) == fits


def test_a_folder_and_nothing_are_not_offered(link, tmp_path):
    assert link.offer(tmp_path) == "a folder is not downloaded"
    assert link.offer(None) == "" and link.file == ""
