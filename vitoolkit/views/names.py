"""Names as people read them: LaTeX as plain text, the same words wherever a name is shown."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Mapping

__all__ = ["plain"]

_LOW = dict(
    zip(
        "0123456789+-=()aehijklmnoprstuvxβγρφχ",
        "₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₐₑₕᵢⱼₖₗₘₙₒₚᵣₛₜᵤᵥₓᵦᵧᵨᵩᵪ",
        strict=True,
    )
)
_HIGH = dict(
    zip(
        "0123456789+-=()abcdefghijklmnoprstuvwxyzTVβγδφχ*'",
        "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ᵃᵇᶜᵈᵉᶠᵍʰⁱʲᵏˡᵐⁿᵒᵖʳˢᵗᵘᵛʷˣʸᶻᵀⱽᵝᵞᵟᵠᵡ*′",
        strict=True,
    )
)
_SIGNS = {
    "lambda": "λ", "Lambda": "Λ", "varepsilon": "ε", "vartheta": "ϑ", "varphi": "φ", "varrho": "ϱ",
    "varsigma": "ς", "phi": "φ", "infty": "∞", "cdot": "·", "times": "×", "pm": "±", "mid": "|",
    "ell": "ℓ", "prime": "′", "star": "*", "ast": "*", "to": "→", "quad": " ", "_": "_", "%": "%",
    "#": "#", "&": "&", "$": "＄", "{": "", "}": "", ",": " ", ";": " ", ":": " ", "!": "",
    " ": " ", "\\": " ", "sqrt": "√", "left": "", "right": "",
}  # fmt: skip
#: Over the letter that follows.
_ACCENTS = {"hat": "\u0302", "tilde": "\u0303", "bar": "\u0304", "dot": "\u0307", "vec": "\u20d7"}
_FONTS = "text|textrm|textit|textbf|mathrm|mathbf|mathit|mathcal|mathsf|mathbb|boldsymbol|bm|rm|bf"
_ACCENT = re.compile(rf"\\({'|'.join(_ACCENTS)})\s*(?:\{{(\\?\w+)\}}|(\\[A-Za-z]+|\w))")
_COMMAND = re.compile(r"\\([A-Za-z]+|.)")
_SCRIPT = re.compile(r"([_^])(?:\{([^{}]*)\}|(\S))")
#: Stand for scripts that Unicode lacks, until no other is left.
_KEPT = {"_": "\ue000", "^": "\ue001"}
_LAST = str.maketrans({"{": None, "}": None, "\ue000": "_", "\ue001": "^"})
#: Between dollars, in \(...\), or a name that is LaTeX from end to end.
_MATH = re.compile(r"\$([^$]+)\$|\\\((.+?)\\\)")


@functools.lru_cache(4096)
def plain(name: str) -> str:
    r"""Write a name as plain text that nothing will typeset.

    What is LaTeX in it becomes Unicode: Greek letters, accents, subscripts and superscripts as far
    as there are any. A name without LaTeX stays as it is.

    Parameters
    ----------
    name : str
        The name of a variable or a control; it remains the key for everything.

    Returns
    -------
    str

    Examples
    --------
    >>> plain(r"$\beta_{1}$"), plain(r"KL of $\sigma_{obs}^2$"), plain(r"\hat{\mu}")
    ('β₁', 'KL of σ_obs²', 'μ̂')
    >>> plain("beta_1"), plain("theta_log__")
    ('beta_1', 'theta_log__')
    """
    shown = _MATH.sub(lambda found: _text(found[1] or found[2]), name)
    if shown == name and re.search(r"\\[A-Za-z]", name):
        shown = _text(name)
    # What is left of dollars could still open a formula where MathJax reads the page.
    return shown.replace("$", "＄") or name


def _text(math: str) -> str:
    math = re.sub(rf"\\(?:{_FONTS})(?![A-Za-z])\s*", "", math)
    math = re.sub(r"\\d?frac\{([^{}]*)\}\{([^{}]*)\}", r"\1/\2", math)
    math = _ACCENT.sub(
        lambda found: _COMMAND.sub(_sign, found[2] or found[3]) + _ACCENTS[found[1]], math
    )
    math = _COMMAND.sub(_sign, math)
    while (inner_most := _SCRIPT.sub(_script, math)) != math:
        math = inner_most
    return " ".join(math.translate(_LAST).split())


def _sign(found: re.Match[str]) -> str:
    word = found[1]
    if word in _SIGNS:
        return _SIGNS[word]
    case = "CAPITAL" if word[0].isupper() else "SMALL"
    try:
        return unicodedata.lookup(f"GREEK {case} LETTER {word.upper()}")
    except KeyError:
        return word


def _script(found: re.Match[str]) -> str:
    table: Mapping[str, str] = _LOW if found[1] == "_" else _HIGH
    inner = (found[2] if found[2] is not None else found[3]).replace(" ", "")
    if all(letter in table for letter in inner):
        return "".join(map(table.__getitem__, inner))
    return f"{_KEPT[found[1]]}{inner}"
