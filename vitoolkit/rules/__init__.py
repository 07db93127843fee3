"""Rules: feedback laws, which read what was recorded and give a control its next value.

A rule is asked at its due steps, the multiples of its ``every``, so that the same seed gives the
same run on any machine. Between two of them its control holds its value. Every move is an event of
the trace, with the reason in words.

==============================================  ====================================================
what you want                                   which one
==============================================  ====================================================
a smaller learning rate when nothing rises      `reduce_on_plateau`
... when the steps only turn about a point      `pflug`, `dlrd`
one variable's KL held at a number of nats      `kl_target`
... kept from falling below a number            `soft_free_bits`
the data term held at a number of nats          `geco`
β that starts again when a variable collapses   `cyclic_restart_on_collapse`
KLs of several variables of like size           `balance`
a law of your own                               a subclass of `Rule`
==============================================  ====================================================
"""

from vitoolkit.rules.balance import balance
from vitoolkit.rules.collapse import cyclic_restart_on_collapse
from vitoolkit.rules.dlrd import dlrd
from vitoolkit.rules.free_bits import soft_free_bits
from vitoolkit.rules.geco import geco
from vitoolkit.rules.kl_target import kl_target
from vitoolkit.rules.pflug import pflug
from vitoolkit.rules.plateau import reduce_on_plateau
from vitoolkit.rules.rule import Rule

__all__ = [
    "Rule",
    "balance",
    "cyclic_restart_on_collapse",
    "dlrd",
    "geco",
    "kl_target",
    "pflug",
    "reduce_on_plateau",
    "soft_free_bits",
]
