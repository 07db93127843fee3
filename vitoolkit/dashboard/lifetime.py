"""How long widgets live: no longer than the panel they are of, and they keep nothing else alive.

ipywidgets holds every widget of a kernel until it is closed, and a widget holds its callbacks. A
callback that held its panel would keep the fit, the trace and the model for the life of the kernel.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import ipywidgets

__all__ = ["captured", "close_widgets", "weakly", "when_gone"]


def weakly(method: Callable[..., Any]) -> Callable[..., Any]:
    """Make a callback of a bound method that does not keep the method's object alive.

    Parameters
    ----------
    method : bound method
        Called with whatever the callback gets, as long as its object lives.

    Returns
    -------
    callable
        Returns None when the object is gone.

    Examples
    --------
    >>> class Owner:
    ...     def double(self, x):
    ...         return 2 * x
    >>> owner = Owner()
    >>> callback = weakly(owner.double)
    >>> callback(3)
    6
    >>> del owner
    >>> callback(3) is None
    True
    """
    held = weakref.WeakMethod(method)

    def call(*args: Any) -> Any:
        found = held()
        return None if found is None else found(*args)

    return call


def close_widgets(widgets: Iterable[ipywidgets.Widget]) -> None:
    """Close widgets with all that belongs to them: children, layout and style, each with a comm."""
    for widget in _family(widgets, set()):
        widget.close()


def captured() -> bool:
    """Tell whether what is displayed now goes to an Output widget, which takes no later word."""
    instances = ipywidgets.widgets.widget._instances.values()
    return any(isinstance(widget, ipywidgets.Output) and widget.msg_id for widget in instances)


def when_gone(owner: object, act: Callable[..., None], *args: Any) -> None:
    """Call `act` with `args`, none of which may hold `owner`, once nobody holds that any more."""
    # Not at the end of the process: there is no page to tell by then.
    weakref.finalize(owner, act, *args).atexit = False


def _family(widgets: Iterable[ipywidgets.Widget], seen: set[int]) -> Iterator[ipywidgets.Widget]:
    for widget in widgets:
        if id(widget) in seen:
            continue
        seen.add(id(widget))
        yield from _family(getattr(widget, "children", ()), seen)
        yield from _family(
            (own for own in (getattr(widget, name, None) for name in ("layout", "style")) if own),
            seen,
        )
        yield widget
