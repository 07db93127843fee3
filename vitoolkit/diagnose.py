"""Whether q can be trusted: is the fit done, and is what it found near the posterior."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pymc.backends.base import MultiTrace
from pymc.backends.ndarray import NDArray as PyMCTrace
from pymc.variational.inference import Inference
from pymc.variational.opvi import Approximation

from vitoolkit.callback import Callback
from vitoolkit.checks import flag, seed, shown, whole_number
from vitoolkit.controls import Control
from vitoolkit.coordinates import Coordinates, Source, coordinates_of
from vitoolkit.density import MOST_CALLS, LogDensity, NormalQ, Unknown
from vitoolkit.fit import Fit
from vitoolkit.gradient_noise import GradientNoise, gradient_noise
from vitoolkit.linear_response import linear_response as respond
from vitoolkit.many import Fits
from vitoolkit.psis import good_khat, khat_of, rhat_of
from vitoolkit.run import Run
from vitoolkit.snapshots import Snapshots
from vitoolkit.steps import counter_of
from vitoolkit.table import Table
from vitoolkit.trace import Trace
from vitoolkit.trend import ERRORS, trend_of
from vitoolkit.verdict import Verdict, at_rest_since, verdict_of

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["Diagnosis", "diagnose"]

#: Draws that one importance-weighted estimate is the mean of.
WEIGHTED = 100
#: Restarts above it do not agree: means of two runs that are 0.45 sd apart.
AGREE = 1.05
#: A variable moves whose KL changes by more nats over the last half of the steps, beyond doubt ...
LEAST_RISE = 0.01
#: ... or whose q went further, in its sd, in the last tenth.
MOVED = 0.5
#: Draws that the noise of the gradient is measured on.
GRADIENTS = 200
#: Another estimator of the gradient helps that has less than this share of the noise.
HELPS = 0.8
#: Standard deviations of mean field below this share of linear response's are worth a word.
NARROW = 0.8
_NO_RECORD = "There is no record of this fit, so that whether it is done cannot be told."

Array = NDArray[np.float64]


@dataclass(frozen=True, repr=False)
class Diagnosis:
    """What :func:`diagnose` found.

    All that is said of the ELBO, of log p and of k-hat is said at β = 1 and of the full data set. A
    number that could not be computed is NaN, and :attr:`notes` say why.

    Attributes
    ----------
    verdict : str
        In plain sentences: whether the fit is done, and whether q is near the posterior.
    ok : bool
        Whether the fit is done, k-hat is below its threshold and restarts, if given, agree.
    khat : float
        Tail index of p / q; see :func:`vitoolkit.psis.khat_of`.
    threshold : float
        What k-hat should not exceed with so many draws.
    still_moving : tuple of str or None
        Variables whose q still moves at the end of the record; None where no record tells.
    table : pandas.DataFrame
        A row a coordinate, on the unconstrained scale: variable, mean and sd of q, ``lr_sd`` by
        linear response, ``ratio`` of the two, ``r_hat`` over restarts, and how far q ``moved`` in
        the last tenth of the steps, in its sd, where a panel or `Snapshots` followed it.
    covariance : pandas.DataFrame
        By linear response, of all coordinates on the unconstrained scale; empty where not solved.
    elbo, elbo_error : float
        Mean of log p - log q over the draws, and its standard error; nats.
    iw_bound, iw_error : float
        Importance-weighted bound of `iw_draws` draws and its standard error: a lower bound of log
        evidence that is at least the ELBO; nats (Burda, Grosse & Salakhutdinov 2015,
        arXiv:1509.00519, eq. 8).
    iw_draws : int
    rhat : float
        Largest R-hat of a coordinate over the restarts; NaN without.
    log_p, log_q : ndarray, shape (draws,)
        log p(z, D), with Jacobian, and log q(z) of the draws; nats.
    advice : tuple of str
        What to do.
    notes : tuple of str
        What could not be computed, and why.
    draws : arviz.InferenceData or xarray.DataTree
        The draws: ``posterior`` as ``fit.sample()`` has it, and in ``sample_stats`` their ``log_p``
        and ``log_q``. Computed when it is first asked for.

    Examples
    --------
    >>> import pymc as pm
    >>> import vitoolkit as vt
    >>> with pm.Model():
    ...     x = pm.Normal("x")
    ...     y = pm.Normal("y", x, 0.5, observed=10.0)
    ...     fit = vt.fit(4_000, random_seed=1, progressbar=False)
    >>> found = vt.diagnose(fit, draws=1_000, random_seed=1)
    >>> found.ok, found.verdict.startswith("Not finished: the ELBO still rises")
    (False, True)
    """

    verdict: str
    ok: bool
    khat: float
    threshold: float
    still_moving: tuple[str, ...] | None
    table: DataFrame
    covariance: DataFrame
    elbo: float
    elbo_error: float
    iw_bound: float
    iw_error: float
    iw_draws: int
    rhat: float
    log_p: Array
    log_q: Array
    advice: tuple[str, ...]
    notes: tuple[str, ...]
    _approx: Any = field(repr=False)
    _z: Array = field(repr=False)

    @cached_property
    def draws(self) -> Any:
        """The draws, with log p and log q in ``sample_stats``."""
        if not self._z.size:
            raise RuntimeError(f"there are no draws: {' '.join(self.notes)}")
        return _inference_data(self._approx, self._z, self.log_p, self.log_q)

    def lines(self) -> list[str]:
        """All of it in words, a line each."""
        lines = [self.verdict]
        if self.still_moving:
            lines.append(f"Still moving: {_few(self.still_moving)}.")
        if np.isfinite(self.elbo):
            bound = f"ELBO at β = 1: {self.elbo:.2f} ± {self.elbo_error:.2g} nats"
            if np.isfinite(self.iw_bound):
                bound += (
                    f"; importance-weighted over {self.iw_draws} draws: {self.iw_bound:.2f} ± "
                    f"{self.iw_error:.2g} nats"
                )
            lines.append(f"{bound}.")
        ratio = self.table["ratio"].dropna()
        if len(ratio):
            to = f" to {ratio.max():.2f}" if len(ratio) > 1 else ""
            lines.append(
                f"Standard deviations of q are {ratio.min():.2f} (of {ratio.idxmin()}){to} times "
                "those of linear response."
            )
        lines += [f"What to do: {advice}" for advice in self.advice]
        return [*lines, *(f"Not computed: {note}" for note in self.notes)]

    def to_dict(self) -> dict[str, Any]:
        """What it says, without draws and covariance, as a record keeps it: JSON-able, NaN is None.

        Returns
        -------
        dict
            ``ok``, ``lines`` as :meth:`lines`, ``khat``, ``threshold``, ``elbo``, ``iw_bound``,
            ``coordinate``, the names, and ``table`` with the columns of :attr:`table` in their
            order, but for the variable.
        """
        numbers = ("khat", "threshold", "elbo", "iw_bound")
        columns = [name for name in self.table.columns if name != "variable"]
        return {
            "ok": self.ok,
            "lines": self.lines(),
            **{name: _known(getattr(self, name)) for name in numbers},
            "coordinate": list(self.table.index),
            "table": {name: [_known(value) for value in self.table[name]] for name in columns},
        }

    def __repr__(self) -> str:
        return "\n".join([f"<Diagnosis: {'ok' if self.ok else 'not ok'}>", *self.lines()])

    def _repr_html_(self) -> str:
        said = "".join(f"<p>{html.escape(line)}</p>" for line in self.lines())
        table = self.table.dropna(axis="columns", how="all")
        shown = table.to_html(max_rows=20, float_format="{:.3g}".format, border=0)
        return f"<div><p><b>{'OK' if self.ok else 'Not OK'}</b></p>{said}{shown}</div>"


class _Given(NamedTuple):
    """What is known of a fit."""

    approx: Any
    inference: Any
    record: Table | None
    snapshots: Snapshots | None
    run: Run | None


def diagnose(
    fit: Fit | Inference | Approximation,
    *,
    draws: int = 2_000,
    restarts: Fits | Iterable[Any] | None = None,
    linear_response: bool = True,
    random_seed: Any = None,
) -> Diagnosis:
    """Tell whether a fit is done, and whether what it found can be trusted.

    Parameters
    ----------
    fit : Fit, inference or Approximation
        What was trained, by vitoolkit or by PyMC; its record is found where there is one.
    draws : int
        Draws from q: each costs a pass over the data.
    restarts : Fits, or iterable of fits
        Fits of the same model from other seeds or starts, as from :func:`vitoolkit.fit_many`, to
        compare with.
    linear_response : bool
        Whether to solve for the covariance that a mean-field q implies; see
        :func:`vitoolkit.linear_response.linear_response`. It costs thousands of gradients.
    random_seed : int, optional
        Seed of the draws.

    Returns
    -------
    Diagnosis

    Raises
    ------
    TypeError, ValueError
        When something else than a fit is given; when restarts are of another model or ended at
        another β; when `draws` is less than 100.
    RuntimeError
        While the fit runs. One that is paused can be diagnosed.
    ImportError
        Without arviz-stats or ArviZ; the message names the extra that brings them.

    Notes
    -----
    k-hat is the tail index of p / q (Yao, Vehtari, Simpson & Gelman 2018, arXiv:1802.02538): above
    its threshold the draws cannot be mended by weights, and q is far from the posterior. Up to
    it, means and standard deviations may still be off, of coordinates that are few among many.
    log p is that of all rows; where a model states it for a minibatch only, as for an encoder's
    variables, k-hat is NaN.

    Of a fit that is over, it is kept in the record, ``trace.attrs["diagnosis"]``, until the fit
    goes on; reports have it, and the panel shows it.

    Examples
    --------
    >>> import pymc as pm
    >>> import vitoolkit as vt
    >>> with pm.Model():
    ...     z = pm.Normal("z")
    ...     y = pm.Normal("y", z, observed=[0.2, 1.1])
    ...     fit = vt.fit(2_000, learning_rate=1e-2, random_seed=1, progressbar=False)
    >>> d = vt.diagnose(fit, random_seed=1)
    >>> d.khat < d.threshold, list(d.table.index), abs(float(d.table["ratio"].iloc[0]) - 1) < 0.1
    (True, ['z'], True)
    """
    draws = whole_number("draws", draws, least=WEIGHTED)
    solve = flag("linear_response", linear_response)
    rng = np.random.default_rng(seed("random_seed", random_seed))
    given = _given(fit)
    others = None if restarts is None else _restarts(given, restarts)
    notes: list[str] = []
    verdict = _verdict(given)
    z = log_p = log_q = np.empty(0)
    q = density = None
    try:
        q = NormalQ(given.approx)
        if getattr(given.inference, "total_size", None):
            names = ", ".join(given.inference.total_size)
            raise Unknown(f"q of {names} is of the rows of one minibatch")
        density = LogDensity(given.approx, q)
        z, log_p, log_q = _evaluated(q, density, draws, rng)
    except Unknown as why:
        density = None
        notes.append(f"k-hat, ELBO and linear response. {why}.")
    ratio = log_p - log_q
    khat = khat_of(ratio) if len(ratio) else np.nan
    if len(ratio) and np.isnan(khat):
        notes.append(f"k-hat. log p of {int((~(log_p < np.inf)).sum()):,} draws is no number.")
    covariance = None
    if density is not None and q is not None and solve:
        try:
            covariance = respond(q, density)
        except Unknown as why:
            notes.append(f"linear response. {why}.")
    noise = None
    noisy = verdict.kind == "noisy" and q is not None and q.mean_field
    if noisy and density is not None and density.calls == 1:  # a minibatch has noise of its own
        assert q is not None
        try:
            noise = gradient_noise(q, density, GRADIENTS, rng)
        except Unknown as why:
            notes.append(f"noise of the gradient. {why}.")
    rhat = None
    if others is not None:
        try:
            rhat = _rhat(others, draws, rng)
        except Unknown as why:
            notes.append(f"R-hat of restarts. {why}.")
    coordinates = coordinates_of(given.approx)
    notes += coordinates.notes if q is not None else ()
    table, covariance_table = _table(coordinates, q, covariance, rhat, given.snapshots)
    most = float(np.max(rhat)) if rhat is not None else np.nan
    moving = _still_moving(given, table)
    if moving is None:
        notes.append("which variables still move. The record has no KL, and no panel followed q.")
    threshold = good_khat(draws)
    op = getattr(getattr(given.inference, "objective", None), "op", None)
    estimator: str = getattr(op, "estimator", "total")
    said = [verdict.text, _of_khat(khat, threshold), _of_restarts(most, others)]
    elbo, elbo_error = _mean(ratio)
    narrow = table["ratio"].min() < NARROW
    ok = verdict.ok and khat <= threshold and (others is None or most <= AGREE)
    found = Diagnosis(
        " ".join(words for words in said if words),
        bool(ok),
        float(khat),
        threshold,
        moving,
        table,
        covariance_table,
        elbo,
        elbo_error,
        *_mean(_weighted(ratio)),
        WEIGHTED,
        most,
        log_p,
        log_q,
        tuple(_advice(verdict, khat > threshold, most > AGREE, narrow, noise, estimator)),
        tuple(notes),
        given.approx,
        z,
    )
    _keep(found, given)
    return found


def _keep(found: Diagnosis, given: _Given) -> None:
    """Put it into the record of a fit that is over, and let its panel know."""
    run = given.run
    if not isinstance(given.record, Trace) or (run is not None and run.running):
        return
    given.record.attrs["diagnosis"] = found.to_dict()
    if run is not None:
        for callback in run.own:
            if isinstance(callback, Callback):
                callback.on_diagnosis(run)


# --- what is known of a fit ---------------------------------------------------------------------


def _given(fit: Any) -> _Given:
    """Find approximation, inference, record and snapshots."""
    trace = fit.trace if isinstance(fit, Fit) else None
    if isinstance(fit, Fits):
        raise TypeError(
            "one fit is diagnosed, received several: give one of them, and all as restarts=, such "
            "as vt.diagnose(fits[1], restarts=fits)"
        )
    inference = fit.inference if isinstance(fit, Fit) else fit
    approx = inference if isinstance(fit, Approximation) else getattr(inference, "approx", None)
    if not isinstance(fit, Fit | Inference | Approximation) or approx is None:
        raise TypeError(
            f"what is diagnosed is a Fit, an inference or an Approximation, received {shown(fit)}"
        )
    counter = counter_of(approx)
    inference = counter.inference
    run = getattr(inference, "run", None) or (counter.run() if counter.run is not None else None)
    if run is not None and run.running and run.status != "paused":
        raise RuntimeError(
            f"the fit still runs (step {run.done:,} of {run.n:,}), so that its parameters change "
            "under way: call fit.wait() for the end, or fit.pause() to diagnose where it stands"
        )
    records = [] if run is None else [record for record, _ in run.records.values() if len(record)]
    if trace is None and records:
        trace = max(records, key=len)
    followed = [] if run is None else [getattr(c, "snapshots", c) for c in run.own]
    snapshots = next((one for one in followed if isinstance(one, Snapshots)), None)
    return _Given(approx, inference, trace, snapshots, run)


def _verdict(given: _Given) -> Verdict:
    """The verdict of the record; of β alone where there is none."""
    if given.record is not None:
        return verdict_of(given.record)
    weights = {control.name: control.value for control in _betas(given.inference).values()}
    said = [
        f"{name} ended at {value:.4g}, so this is not the posterior's approximation."
        for name, value in weights.items()
    ]
    return Verdict(" ".join([_NO_RECORD, *said]), "empty", False)


def _betas(inference: Any) -> dict[str, Control]:
    """The controls of β that are not 1, by variable."""
    betas = getattr(inference, "beta", {})
    return {name: control for name, control in betas.items() if control.value != 1}


def _still_moving(given: _Given, table: DataFrame) -> tuple[str, ...] | None:
    """Variables whose KL has a trend, or whose q went far; None where nothing tells."""
    moving = list(table["variable"][table["moved"] > MOVED])
    record = given.record
    known = bool(table["moved"].notna().any())
    if record is not None and record.has_terms:
        first = max(len(record) // 2, at_rest_since(record))
        for name in record.variables:
            trend = trend_of(record[first:].column(f"kl[{name}]"))
            known |= trend is not None
            if trend is not None and abs(trend.rise) > max(
                ERRORS * trend.error, trend.tolerance, LEAST_RISE
            ):
                moving.append(name)
    return tuple(dict.fromkeys(moving)) if known else None


# --- what is computed ---------------------------------------------------------------------------


def _evaluated(
    q: NormalQ, density: LogDensity, draws: int, rng: np.random.Generator
) -> tuple[Array, Array, Array]:
    """Draws, and their log p and log q."""
    if draws * density.calls > MOST_CALLS:
        raise Unknown(
            f"{draws:,} draws take {draws * density.calls:,} evaluations of a minibatch, and at "
            f"most {MOST_CALLS:,} are made: give fewer draws, or a larger batch"
        )
    z, log_q = q.draw(draws, rng)
    return z, np.array([density(each) for each in z]), log_q


def _weighted(ratio: Array) -> Array:
    """Log of the mean ratio of draws, so many at a time."""
    parts = ratio[: len(ratio) // WEIGHTED * WEIGHTED].reshape(-1, WEIGHTED)
    return np.logaddexp.reduce(parts, axis=1) - np.log(WEIGHTED)


def _mean(values: Array) -> tuple[float, float]:
    """Mean and its standard error; NaN where they are not known."""
    if not len(values) or not np.isfinite(values).all():
        return np.nan, np.nan
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return float(values.mean()), float(error)


def _restarts(given: _Given, restarts: Any) -> list[_Given]:
    """The fits to compare, the diagnosed one among them; those that failed are left out."""
    one_by_one = restarts.values() if isinstance(restarts, Mapping) else restarts
    if isinstance(restarts, Fit | Inference | Approximation) or not hasattr(one_by_one, "__iter__"):
        raise TypeError(
            f"restarts must be several fits, as from vitoolkit.fit_many, received {shown(restarts)}"
        )
    found = {id(given.approx): given}
    for one in one_by_one:
        other = _given(one)
        if other.record is None or other.record.attrs.get("status") != "failed":
            found.setdefault(id(other.approx), other)
    if len(found) < 2:
        raise ValueError("restarts must hold at least one other fit that did not fail")
    weights = [
        {name: control.value for name, control in _betas(one.inference).items()}
        for one in found.values()
    ]
    if any(one != weights[0] for one in weights):
        raise ValueError(
            "restarts must be of one objective: these ended at different β, such as "
            f"{weights[0]} and {next(one for one in weights if one != weights[0])}"
        )
    return list(found.values())


def _rhat(given: list[_Given], draws: int, rng: np.random.Generator) -> Array:
    """R-hat of each coordinate of q over fits, by as many draws from each."""
    each = [NormalQ(one.approx) for one in given]
    if any(q.where != each[0].where for q in each):
        raise ValueError("restarts must be of the same model: these have other variables or shapes")
    return rhat_of(np.stack([q.draw(draws, rng)[0] for q in each]))


def _table(
    coordinates: Coordinates,
    q: NormalQ | None,
    covariance: Array | None,
    rhat: Array | None,
    snapshots: Snapshots | None,
) -> tuple[DataFrame, DataFrame]:
    """A row a coordinate, and the covariance by linear response."""
    import pandas as pd

    free = Coordinates([Source(s.latent, s.at, False) for s in coordinates.sources], ())
    nothing = np.full(len(free), np.nan)
    mean = sd = lr_sd = r_hat = moved = nothing
    if q is not None:
        at = [q.where[s.latent.name].start + s.at for s in free.sources]
        place = np.concatenate(at) if at else np.empty(0, int)
        mean, sd = q.mean[place], q.sd[place]
        lr_sd = nothing if covariance is None else np.sqrt(np.diag(covariance))[place]
        r_hat = nothing if rhat is None else rhat[place]
    if snapshots is not None and snapshots.coordinates.names == coordinates.names:
        moved = snapshots.moved()
    columns = {
        "variable": list(free.variable),
        "mean": mean,
        "sd": sd,
        "lr_sd": lr_sd,
        "ratio": sd / lr_sd,
        "r_hat": r_hat,
        "moved": moved,
    }
    names = pd.Index(free.names, name="coordinate")
    matrix = np.empty((0, 0)) if covariance is None else covariance
    labels = names if covariance is not None else pd.Index([], name="coordinate")
    return pd.DataFrame(columns, index=names), pd.DataFrame(matrix, index=labels, columns=labels)


def _inference_data(approx: Any, z: Array, log_p: Array, log_q: Array) -> Any:
    """Draws as PyMC gives them, with a group of their densities."""
    import pymc as pm
    import xarray

    q, model = NormalQ(approx), approx.model
    values = {
        model.rvs_to_values[latent.variable].name: z[:, q.where[latent.name]].reshape(
            (-1, *latent.shape)
        )
        for latent in q.latents
    }
    points = [{name: np.asarray(value[i]) for name, value in values.items()} for i in range(len(z))]
    with model:
        trace = PyMCTrace(model=model, test_point=points[0])
        trace.setup(draws=len(z), chain=0)
        for point in points:
            trace.record(point, in_warmup=False)
        trace.close()
        data = pm.to_inference_data(MultiTrace([trace]), model=model, log_likelihood=False)
    stats = xarray.Dataset(
        {"log_p": (("chain", "draw"), log_p[None]), "log_q": (("chain", "draw"), log_q[None])},
        {"chain": [0], "draw": np.arange(len(z))},
    )
    if hasattr(data, "add_groups"):  # ArviZ 0, with PyMC 5
        data.add_groups({"sample_stats": stats})
    else:
        data["sample_stats"] = xarray.DataTree(stats)
    return data


# --- in words -----------------------------------------------------------------------------------


def _of_khat(khat: float, threshold: float) -> str:
    if np.isnan(khat):
        return "How near q is to the posterior could not be computed."
    if khat <= threshold:
        return f"k-hat is {khat:.2f}, up to {threshold:.2f} is good: q is near the posterior."
    return f"k-hat is {khat:.2f}, above {threshold:.2f}: q is not near the posterior."


def _of_restarts(rhat: float, others: list[_Given] | None) -> str:
    if others is None or np.isnan(rhat):
        return ""
    agree = "agree" if rhat <= AGREE else "do not agree"
    return f"{len(others)} runs {agree}: R-hat is {rhat:.2f} at most."


def _advice(
    verdict: Verdict,
    far: bool,
    apart: bool,
    narrow: bool,
    noise: GradientNoise | None,
    estimator: str,
) -> list[str]:
    advice = []
    if verdict.kind in ("rising", "short", "unsure"):
        more = "" if verdict.more is None else f" by about {verdict.more:,} steps"
        advice.append(f"go on{more}, as by fit.refine(n), or with a larger learning rate.")
    if verdict.kind in ("noisy", "falling"):
        advice.append("go on with a smaller learning rate.")
    if noise is not None:
        advice.append(_of_noise(noise, estimator))
    if "ended at" in verdict.text:
        advice.append("bring β back to 1 and go on, before q is taken for the posterior.")
    if far and verdict.kind in ("still", "unsure", "noisy", "empty"):
        advice.append(
            "do not report q's tails or widths: try vt.FullRankADVI, another parametrization "
            "(centered or not, other transforms), or pm.sample."
        )
    if apart:
        advice.append("look where the runs differ (d.table): several optima, or unfinished runs.")
    if narrow and not far and verdict.kind == "still":
        advice.append("take widths from d.table['lr_sd'], not from q: mean field is too narrow.")
    return advice


def _known(value: float) -> float | None:
    """A number of six digits, which JSON has; None for one that could not be computed."""
    return float(f"{value:.6g}") if np.isfinite(value) else None


def _of_noise(noise: GradientNoise, estimator: str) -> str:
    """Whether another estimator of the gradient, or more draws, would make a fit less noisy."""
    has, other = noise.total, noise.stl
    if estimator == "stl":
        has, other = other, has
    name = "total" if estimator == "stl" else "stl"
    would = f"leave {other / has:.2g} of it" if other < HELPS * has else "not help"
    return (
        f"the gradient of one draw has noise of {has:.3g} nats about a mean of {noise.mean:.2g}, "
        f"for steps in q's sd: gradient_estimator={name!r} would {would}, and n draws a step, "
        "obj_n_mc=n, 1/√n of it."
    )


def _few(names: Iterable[str], most: int = 8) -> str:
    names = list(names)
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
