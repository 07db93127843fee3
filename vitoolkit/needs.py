"""What a run needs of the inference that it trains, and of the callbacks that it calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from vitoolkit.block import Block
from vitoolkit.controls import Control
from vitoolkit.parts import Part

if TYPE_CHECKING:
    from vitoolkit.run import Run

__all__ = ["Hooks", "Trained"]


class Trained(Protocol):
    """What a run trains: an inference, as far as a run needs to know it."""

    approx: Any

    @property
    def variables(self) -> tuple[str, ...]:
        """Names of the KL contributions."""

    @property
    def parts(self) -> tuple[Part, ...]:
        """The KL contributions that are recorded in parts."""

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of what else is measured in every step."""

    @property
    def beta(self) -> Mapping[str, Control]:
        """The β of each variable that has one."""

    @property
    def local_rows(self) -> dict[str, int]:
        """Rows of the data set of each local latent."""

    def described(self) -> dict[str, Any]:
        """What a record says of it."""

    def fingerprint(self) -> dict[str, Any]:
        """What the numbers of the coming steps depend on."""


class Hooks(Protocol):
    """What a run calls; see :class:`vitoolkit.callback.Callback`."""

    shows_progress: bool
    controls: tuple[Control, ...]

    @property
    def due(self) -> int | None:
        """It is due at the steps that are a multiple of it."""

    def on_fit_start(self, run: Run) -> None:
        """Before anything is compiled."""

    def on_compiled(self, run: Run) -> None:
        """Before the first step."""

    def on_block(self, run: Run, block: Block) -> None:
        """After some steps."""

    def on_idle(self, run: Run) -> None:
        """While the fit is paused."""

    def on_rewind(self, run: Run) -> None:
        """When the fit has gone back."""

    def standing(self) -> dict[str, Any]:
        """What its coming decisions depend on."""

    def stand(self, run: Run, found: dict[str, Any]) -> None:
        """Be there again."""

    def on_fit_end(self, run: Run) -> None:
        """At the end."""
