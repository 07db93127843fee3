"""A file that was written on the kernel's machine, fetched to the browser's by a click."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anywidget
import traitlets

from vitoolkit.dashboard.protocols import Message
from vitoolkit.views.assets import CSS, page_code

__all__ = ["LARGEST", "Download"]

#: Bytes that a file may have to go through the kernel's connection.
LARGEST = 50_000_000


class Download(anywidget.AnyWidget):
    """A link to one file; none at first."""

    _esm = page_code("download")
    _css = CSS
    #: Name of the file, "" for none.
    file = traitlets.Unicode().tag(sync=True)

    def __init__(self, **kwargs: Any) -> None:
        self._path: Path | None = None
        super().__init__(**kwargs)
        self.on_msg(self._on_page)

    def offer(self, path: Path | None) -> str:
        """Link to a file, or to none; returns why there is no link to it, or ""."""
        self._path, why = None, ""
        if path is not None and not path.is_file():
            why = "a folder is not downloaded"
        elif path is not None and (size := path.stat().st_size) > LARGEST:
            why = f"{size / 1e6:,.0f} MB are too many to download here"
        else:
            self._path = path
        self.file = "" if self._path is None else self._path.name
        return why

    def _on_page(self, widget: Download, content: Message, buffers: list[bytes]) -> None:
        if content.get("kind") == "fetch" and self._path is not None:
            self.send({"kind": "file", "name": self._path.name}, [self._path.read_bytes()])
