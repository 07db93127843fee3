"""Whether q can be trusted for a model at all: fits to data that the model itself has drawn."""

from __future__ import annotations

import html
import inspect
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pymc as pm
from numpy.typing import NDArray

from vitoolkit.checks import seed, shown, unknown_option, whole_number
from vitoolkit.coordinates import Coordinates, Source, coordinates_of
from vitoolkit.density import NormalQ, Unknown
from vitoolkit.fit import fit
from vitoolkit.options import FIT_OPTIONS, step_count

if TYPE_CHECKING:
    from bokeh.layouts import GridPlot
    from pandas import DataFrame

__all__ = ["Calibration", "vsbc"]

#: Options of a fit that are one replication's own.
_OWN = ("model", "random_seed", "progressbar", "background", "dashboard", "record", "n")
#: Histograms that are drawn at most.
MOST_PLOTS = 12

Array = NDArray[np.float64]


@dataclass(frozen=True, repr=False)
class Calibration:
    """Where truths lie in the q that were fitted to their data.

    Parameters
    ----------
    names : sequence of str
        Of the coordinates, on the unconstrained scale.
    p : ndarray, shape (replications, coordinates)
        Probability under q of less than the truth. Of an exact q they are uniform; of one that is
        too narrow they pile up at both ends, too wide in the middle, biased at one end.

    Examples
    --------
    >>> import numpy as np
    >>> p = np.random.default_rng(1).uniform(size=(500, 1))
    >>> Calibration(["mu"], p).biased, Calibration(["mu"], p**2).biased
    ((), ('mu',))
    """

    names: Sequence[str]
    p: Array

    @property
    def table(self) -> DataFrame:
        """A row a coordinate: ``mean`` of p, ``ks`` of p against 1 - p, and p-values.

        ``symmetric`` is the p-value of no bias, see :func:`symmetry`; ``uniform`` that of
        calibration altogether, by the Kolmogorov-Smirnov test.
        """
        import pandas as pd
        from scipy.stats import kstest

        rows = [
            (float(p.mean()), *symmetry(p), float(kstest(p, "uniform").pvalue)) for p in self.p.T
        ]
        columns = ["mean", "ks", "symmetric", "uniform"]
        return pd.DataFrame(rows, pd.Index(self.names, name="coordinate"), columns)

    @property
    def biased(self) -> tuple[str, ...]:
        """Coordinates whose p is not symmetric: 1 % for all of them together (Bonferroni)."""
        return self._below("symmetric")

    @property
    def uncalibrated(self) -> tuple[str, ...]:
        """Coordinates whose p is not uniform: 1 % for all of them together (Bonferroni)."""
        return self._below("uniform")

    def _below(self, column: str) -> tuple[str, ...]:
        table = self.table
        return tuple(table.index[table[column] < 0.01 / max(len(table), 1)])

    def plot(self) -> GridPlot:
        """Draw a histogram of p for each coordinate, the first dozen, with the uniform's band.

        Returns
        -------
        bokeh.layouts.GridPlot
        """
        from bokeh.layouts import gridplot
        from bokeh.models.annotations import BoxAnnotation
        from bokeh.models.ranges import Range1d
        from bokeh.plotting import figure
        from scipy.stats import binom

        count, bins = len(self.p), int(np.clip(len(self.p) // 10, 4, 20))
        low, high = binom.ppf([0.005, 0.995], count, 1 / bins)
        edges = np.linspace(0, 1, bins + 1)
        charts: list[Any] = []
        for name, p in list(zip(self.names, self.p.T, strict=True))[:MOST_PLOTS]:
            chart = figure(
                width=260, height=180, title=name, toolbar_location=None,
                x_range=Range1d(start=0, end=1),
            )  # fmt: skip
            chart.add_layout(BoxAnnotation(bottom=low, top=high, fill_color="gray", fill_alpha=0.2))
            chart.quad(
                left=edges[:-1], right=edges[1:], top=np.histogram(p, edges)[0], bottom=0,
                fill_color="#0072B2", line_color="white",
            )  # fmt: skip
            chart.xaxis.axis_label = "probability under q of less than the truth"
            charts.append(chart)
        return gridplot(charts, ncols=3, toolbar_location=None)

    def lines(self) -> list[str]:
        """What was found, in words."""
        count, table = len(self.p), self.table
        lines = []
        for name in self.biased:
            mean = table["mean"][name]
            side = "high" if mean < 0.5 else "low"
            above = (self.p[:, list(self.names).index(name)] > 0.5).mean()
            lines.append(f"{name}: q is too {side}; the truth is above its median in {above:.0%}.")
        for name in self.uncalibrated:
            if name not in self.biased:
                p = self.p[:, list(self.names).index(name)]
                shape = "narrow" if ((p < 0.1) | (p > 0.9)).mean() > 0.2 else "wide"
                inside = ((p > 0.05) & (p < 0.95)).mean()
                lines.append(f"{name}: q is too {shape}; its 90 % hold the truth in {inside:.0%}.")
        if not lines:
            lines.append(f"No miscalibration is seen in {count:,} replications.")
        return lines

    def __repr__(self) -> str:
        count, size = self.p.shape
        return "\n".join(
            [f"<Calibration: {count:,} replications, {size:,} coordinates>", *self.lines()]
        )

    def _repr_html_(self) -> str:
        from bokeh.embed import file_html
        from bokeh.resources import INLINE

        rows = -(-min(len(self.names), MOST_PLOTS) // 3)
        page = html.escape(file_html(self.plot(), INLINE, "calibration"))
        said = "".join(f"<p>{html.escape(line)}</p>" for line in self.lines())
        return (
            f'{said}<iframe srcdoc="{page}" width="820" height="{190 * rows + 20}" '
            'style="border:0" title="histograms of the truth in q"></iframe>'
        )


def vsbc(
    build: Callable[..., pm.Model],
    n: int = 10_000,
    *,
    replications: int = 100,
    random_seed: Any = None,
    **options: Any,
) -> Calibration:
    """Calibrate q for a model: fit it again and again to data that it has drawn itself.

    Parameters
    ----------
    build : callable
        Makes the model. Its parameters are named after the observed variables, each to be given as
        ``observed=``; called without arguments it makes the model that data are drawn from, in
        which they may be None: then their ``shape`` or ``dims`` have to be stated.
    n : int
        Steps of each fit.
    replications : int
        Fits, each to other data. A hundred show a bias of a third of an sd.
    random_seed : int, optional
        Seed of data and fits.
    **options
        Options of :func:`vitoolkit.fit` for each fit: ``method``, ``learning_rate`` ...

    Returns
    -------
    Calibration

    Raises
    ------
    TypeError, ValueError
        When `build` makes no model, or has no parameter or one that is no variable of it; for an
        option that belongs to one fit; when q has no normal marginals.

    Notes
    -----
    Draw θ* from the prior and y from p(y | θ*), fit q to y, and note Pr_q(θ < θ*) of each
    coordinate (Yao, Vehtari, Simpson & Gelman 2018, arXiv:1802.02538, algorithm 2). It tells of q's
    median and width on average over data that the prior holds likely, not of the data at hand. The
    step is compiled once where data are arrays, of whole numbers those of more than 32; a single
    number is compiled into the step, again and again.

    Examples
    --------
    >>> import pymc as pm
    >>> import vitoolkit as vt
    >>> def build(y=None):
    ...     with pm.Model() as model:
    ...         x = pm.Normal("x")
    ...         pm.Normal("y", x, 0.5, shape=3, observed=y)
    ...     return model
    >>> c = vt.vsbc(build, 300, replications=5, learning_rate=0.05, random_seed=1)
    >>> c.names, c.p.shape
    (('x',), (5, 1))
    """
    n, replications = step_count(n), whole_number("replications", replications, least=2)
    parameters = [name for name in inspect.signature(fit).parameters if name != "kwargs"]
    accepted = [*parameters, *FIT_OPTIONS, "backend", "include_transformed"]
    for name in options:
        if name in _OWN:
            raise TypeError(f"{name} is each replication's own: vsbc takes no {name}=")
        if name not in accepted:
            raise unknown_option("vitoolkit.vsbc", name, accepted)
    generator = np.random.default_rng(seed("random_seed", random_seed))
    model, observed = _generative(build)
    free = [v for v in model.free_RVs if v.name not in observed]
    truth_of = [_unconstrained(model, variable) for variable in free]
    drawn = pm.draw(
        [*truth_of, *(model[name] for name in observed)],
        draws=replications,
        random_seed=np.random.default_rng(generator.integers(2**32)),
    )
    truths = {v.name: values for v, values in zip(free, drawn[: len(free)], strict=True)}
    data = dict(zip(observed, drawn[len(free) :], strict=True))
    rows: list[Array] = []
    names: tuple[str, ...] = ()
    for i, one in enumerate(generator.integers(2**32, size=replications)):
        with _silence():
            fitted = fit(
                n,
                model=build(**{name: values[i] for name, values in data.items()}),
                random_seed=int(one),
                progressbar=False,
                **options,
            )
        try:
            q = NormalQ(fitted.approx)
        except Unknown as why:
            raise ValueError(f"q must have normal marginals: {why}") from None
        truth = np.concatenate([truths[latent.name][i].ravel() for latent in q.latents])
        rows.append(probabilities(q.mean, q.sd, truth))
        names = names or _names(fitted.approx, len(q.mean))
    return Calibration(names, np.array(rows))


@contextmanager
def _silence() -> Iterator[None]:
    """Log nothing of the single fits but what goes wrong."""
    logger = logging.getLogger("pymc.variational.inference")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def probabilities(mean: Array, sd: Array, truth: Array) -> Array:
    """Probability under normal marginals of less than the truth.

    Parameters
    ----------
    mean, sd, truth : ndarray, shape (coordinates,)

    Returns
    -------
    ndarray, shape (coordinates,)

    Examples
    --------
    >>> import numpy as np
    >>> probabilities(np.zeros(2), np.ones(2), np.array([0.0, 1.6448536])).round(4)
    array([0.5 , 0.95])
    """
    from scipy.special import ndtr

    return ndtr((truth - mean) / sd)


def symmetry(p: Array) -> tuple[float, float]:
    """Test whether p and 1 - p have one distribution: q's median is not biased.

    Parameters
    ----------
    p : ndarray, shape (replications,)

    Returns
    -------
    statistic : float
        Kolmogorov-Smirnov's, of p against 1 - p.
    p_value : float
        Exact. The two samples are one, mirrored, so that the two-sample test's would be too small:
        the statistic is the furthest that a walk goes, whose steps are the signs of p - 1/2 from
        the outermost p inward (Butler 1969, Annals of Mathematical Statistics 40(6)).

    Examples
    --------
    >>> import numpy as np
    >>> symmetry(np.array([0.1, 0.2, 0.7]))  # three signs: -, -, +
    (0.6666666666666666, 0.5)
    """
    order = np.argsort(-np.abs(p - 0.5), kind="stable")
    walk = np.cumsum(np.sign(p[order] - 0.5))
    furthest = int(np.abs(walk).max())
    # Walks that have stayed nearer than that, by where they are.
    inside = np.zeros(2 * furthest + 1)
    inside[furthest] = 1.0
    for _ in p:
        inside[[0, -1]] = 0.0
        inside = 0.5 * (np.r_[inside[1:], 0.0] + np.r_[0.0, inside[:-1]])
    inside[[0, -1]] = 0.0
    return furthest / len(p), float(1 - inside.sum())


def _generative(build: Any) -> tuple[pm.Model, list[str]]:
    """The model that data are drawn from, and the names of its data."""
    if not callable(build):
        raise TypeError(
            f"build must be a function that makes a pymc.Model, received {shown(build)}"
        )
    observed = list(inspect.signature(build).parameters)
    model = build()
    if not isinstance(model, pm.Model):
        raise TypeError(f"build must return a pymc.Model, received {shown(model)}")
    names = {variable.name for variable in (*model.free_RVs, *model.observed_RVs)}
    for name in observed:
        if name not in names:
            raise ValueError(
                f"each parameter of build must be named after a variable to observe, received "
                f"{name!r}; the variables are {', '.join(sorted(names))}"
            )
    left = [v.name for v in model.observed_RVs if v.name not in observed]
    if left or not observed:
        raise ValueError(
            "build must have a parameter for each observed variable, such as build(y=None) for "
            f"{(left or ['y'])[0]!r}"
        )
    if model.potentials:
        raise ValueError("a model with a Potential cannot be drawn from: vsbc needs one without")
    return model, observed


def _unconstrained(model: pm.Model, variable: Any) -> Any:
    """A free variable on the scale of q."""
    transform = model.rvs_to_transforms[variable]
    if transform is None:
        return variable
    return transform.forward(variable, *variable.owner.inputs)


def _names(approx: Any, size: int) -> tuple[str, ...]:
    sources = coordinates_of(approx, most=size).sources
    return Coordinates([Source(s.latent, s.at, False) for s in sources], ()).names
