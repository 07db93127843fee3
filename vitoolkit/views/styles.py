"""How a line looks: a color means a variable and nothing else, for the life of a fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

__all__ = ["INK", "PALETTE", "Style", "control_styles", "variable_styles"]

#: Okabe and Ito (2008), without yellow and black: seven colors that stay apart for color-blind
#: readers and on light and dark ground.
PALETTE = ("#E69F00", "#56B4E9", "#009E73", "#D55E00", "#CC79A7", "#0072B2", "#999999")
DASHES: tuple[tuple[int, ...], ...] = ((), (7, 3), (2, 2), (8, 3, 2, 3), (12, 3, 2, 3, 2, 3))
#: The page replaces this by the theme's color of text.
INK = "ink"


class Style(NamedTuple):
    """How a line is drawn."""

    color: str
    dash: tuple[int, ...]


def variable_styles(variables: Sequence[str]) -> dict[str, Style]:
    """Give each variable a line of its own: seven colors, then the same with dashes."""
    return {
        name: Style(PALETTE[i % len(PALETTE)], DASHES[i // len(PALETTE) % len(DASHES)])
        for i, name in enumerate(variables)
    }


def control_styles(
    controls: Sequence[str], of_variable: Mapping[str, str], variables: Mapping[str, Style]
) -> dict[str, Style]:
    """Give each control a line: its variable's, if it belongs to one, else in the color of text."""
    styles, plain = {}, 0
    for name in controls:
        variable = of_variable.get(name, "")
        if variable in variables:
            styles[name] = variables[variable]
        else:
            styles[name] = Style(INK, DASHES[plain % len(DASHES)])
            plain += 1
    return styles
