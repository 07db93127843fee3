"""The record of a fit: its rows in words, in views and in files."""

import html
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vitoolkit import export, means
from vitoolkit.decimation import View
from vitoolkit.events import Event
from vitoolkit.journal_file import JournalFile, empty_fields, is_journal
from vitoolkit.means import ACTIVE, TAIL
from vitoolkit.parts import Part
from vitoolkit.script import script_of
from vitoolkit.table import GROUPS, RESERVED, Branch, Columns, Table  # noqa: F401  # of before

if TYPE_CHECKING:
    import pandas
    import xarray

__all__ = ["Branch", "Columns", "Part", "Trace"]

NAMED = 10  # variables that a summary names


class Trace(Table):
    """Columnar record of a fit, one row a recorded step.

    One thread writes; any number of threads may read meanwhile, and each read sees whole rows
    only. Columns are read-only; those of a small trace are views of its own memory.

    Parameters
    ----------
    variables : sequence of str, optional
        Names of the variables whose KL contribution is recorded. Fixed for life. Without any,
        the trace has no terms: its data term and its ELBO are NaN.
    controls : sequence of str, optional
        Names of the controls whose value is recorded. Fixed for life. A control may have the
        name of a variable.
    attrs : mapping, optional
        Attributes of the run, JSON-able. They are added to the ones that every trace has,
        ``created`` (UTC, ISO 8601) and ``versions``, and replace those of the same name.
    parts : sequence of Part, optional
        The KL contributions that are recorded in parts as well, by coordinate or by a dim. Fixed
        for life. Each coordinate is one more number a row.
    measures : sequence of str, optional
        Names of what else is measured in every step, such as ``gradient_norm``. Fixed for life.

    Attributes
    ----------
    variables, controls, measures : tuple of str
        The names.
    attrs : dict
        Attributes of the run. Add to it freely; keep to strings as keys and JSON-able values.
    branches : tuple of Branch
        Rows that the run has left behind, see `cut`.

    Raises
    ------
    TypeError
        If a name is not a string, or a part not a `Part`.
    ValueError
        If a name is empty, given twice, or would share a column's name with another one:
        a control cannot be called ``step``, ``time``, ``loss``, ``data``, ``elbo``, or
        ``kl[z]`` where ``z`` is a variable. If a part is of a variable that is not recorded, or
        two are of the same one.

    Notes
    -----
    ``elbo`` is computed when asked for, from the data term and the KL contributions, whatever
    β was in force. In a long trace read a slice, ``trace[-100:].elbo``, which costs the rows of
    the slice only: a column of all rows is put together from the chunks that they are kept in. A
    slice shares the memory of its trace.

    Examples
    --------
    >>> from vitoolkit.trace import Trace
    >>> trace = Trace(variables=("z", "w"), controls=("beta",))
    >>> for step in range(3):
    ...     trace.append(step, 0.1 * step, 9.0 - step, -6.0, [1.0, 2.0 - step], [0.5])
    >>> trace
    Trace(3 rows, steps 0..2, variables=('z', 'w'), controls=('beta',), ELBO -8 nats)
    >>> trace.elbo.tolist()
    [-9.0, -8.0, -7.0]
    >>> trace.kl["w"].tolist()
    [2.0, 1.0, 0.0]
    >>> trace[-2:].control["beta"].tolist()
    [0.5, 0.5]
    """

    # --- the end in numbers ------------------------------------------------------------

    def final(self, name: str) -> float:
        """Take the mean of a column over the last 100 rows.

        It is the one mean that summaries, tables and pictures of a fit show.

        Parameters
        ----------
        name : str
            One of `columns`, such as ``loss``, ``elbo``, ``kl[z]`` or ``kl[z, latent=3]``.

        Returns
        -------
        float
            Mean of the finite ones of the last ``TAIL`` = 100 rows, or of all rows if there are
            fewer; where none of them is finite, the last finite one; NaN without any.

        Raises
        ------
        KeyError
            If there is no such column. The message lists those that there are.

        Examples
        --------
        >>> trace = Trace(variables=("z",))
        >>> for step in range(150):
        ...     trace.append(step, 0.1 * step, 9.0, -6.0, [1000.0 if step < 50 else 2.0])
        >>> trace.final("kl[z]"), trace.final("elbo")
        (2.0, -8.0)
        """
        return means.final(self, name)

    def active_units(
        self, threshold: float = ACTIVE, *, rows: int = TAIL, per: float = 1.0
    ) -> dict[str, int]:
        r"""Count the coordinates of each part that pay for being used.

        A coordinate k is active if

        .. math:: \frac{1}{\text{per}\,|R|} \sum_{t \in R} KL_{t,k} > \text{threshold}

        where R are those of the last `rows` recorded rows in which its KL is finite. One without
        any is not active.

        Parameters
        ----------
        threshold : float, default 0.01
            Nats.
        rows : int, default 100
            How many rows at the end of the trace to take the mean over; fewer if it has fewer.
        per : float, default 1.0
            Divisor of the contributions, which are in nats of the full data set: with the number
            of its rows, the threshold is one for a row's mean KL, as is usual for a local latent.

        Returns
        -------
        dict of str to int
            By the name of the variable, for each that is recorded in parts.

        Raises
        ------
        TypeError
            If `rows` is not an integer.
        ValueError
            If `threshold` is not finite, `rows` is less than 1, or `per` is not a positive number.

        Notes
        -----
        A coordinate whose posterior is the prior has a KL of 0. Burda et al. (2016) count units by
        another quantity with the same threshold, the variance over the data set of the mean of
        q(z\|x), which the trace does not hold; the two agree on units that have collapsed. Lucas
        et al. (2019) define collapse by the KL, as here, but of each row of the data.

        References
        ----------
        Burda, Grosse and Salakhutdinov (2016), "Importance Weighted Autoencoders", ICLR.
        Lucas, Tucker, Grosse and Norouzi (2019), "Don't Blame the ELBO! A Linear VAE Perspective
        on Posterior Collapse", NeurIPS.

        Examples
        --------
        >>> trace = Trace(variables=("z",), parts=[Part("z", ("latent",), (3,))])
        >>> trace.append(0, 0.5, 9.0, -6.0, [4.0], parts=[3.0, 0.99, 0.01])
        >>> trace.active_units()
        {'z': 2}
        >>> trace.active_units(per=100)
        {'z': 1}
        """
        return means.active_units(self, threshold, rows=rows, per=per)

    def view(self, points: int = 500, *, parts: bool = False) -> "View":
        """Make a decimated view for a live plot.

        Parameters
        ----------
        points : int, default 500
            Upper bound of the points a column.
        parts : bool, default False
            Whether to look at the parts of the KL contributions as well. There may be thousands.

        Returns
        -------
        View
            Of the rows so far; its ``update()`` takes in those that came since. A trace can
            have any number of views.
        """
        return View(self, points=points, parts=parts)

    def same_layout(self, other: "Trace") -> bool:
        """Tell whether another trace records the same variables, controls, parts and measures.

        Parameters
        ----------
        other : Trace
            The trace to compare with.

        Returns
        -------
        bool
            True if a row of one is a row of the other.
        """
        return self._layout.same(other._layout)

    def equals(self, other: "Trace") -> bool:
        """Tell whether another trace is the same in every number, name, attribute and event.

        Parameters
        ----------
        other : Trace
            The trace to compare with.

        Returns
        -------
        bool
            True if all is equal bit for bit. NaN equals NaN; 0.0 does not equal -0.0.

        Examples
        --------
        >>> trace = Trace(controls=("beta",))
        >>> trace.append(0, 0.1, 7.0, float("nan"), (), [1.0])
        >>> trace.equals(trace[:])
        True
        >>> trace.equals(trace[:0])
        False
        """
        if not isinstance(other, Trace):
            raise TypeError(f"a Trace is accepted; received {type(other).__name__}")
        mine, others = self[:], other[:]
        if len(mine) != len(others) or export.describe(mine) != export.describe(others):
            return False
        pairs = zip(mine.blocks(export.BLOCK), others.blocks(export.BLOCK), strict=True)
        return all(_same_rows(*pair) for pair in pairs)

    # --- showing -----------------------------------------------------------------------

    def summary(self) -> dict[str, str]:
        """Say in words what the trace holds.

        Returns
        -------
        dict of str to str
            A label and a text for each line of a table: the verdict of a fit that ended, rows,
            steps, duration, how many rows have a loss that is not finite (if any has), last loss,
            ELBO, largest KL contributions and largest coordinates of their parts (see `final`),
            last control values, events, and branches if there are any.

        Examples
        --------
        >>> trace = Trace(variables=("z",), controls=("beta",))
        >>> trace.append(0, 0.5, 9.0, -6.0, [1.25], [0.5])
        >>> for label, text in trace.summary().items():
        ...     print(f"{label}: {text}")
        rows: 1
        steps: 0 to 0
        duration: 0.5 s
        loss, last: 9
        ELBO and KL: means of all rows
        ELBO: -7.25 nats
        KL of z: 1.25 nats
        beta, last: 0.5
        events: 0
        """
        return _summary(self[:])

    def __repr__(self) -> str:
        trace = self[:]
        parts = [f"{len(trace):,} row{'' if len(trace) == 1 else 's'}"]
        if len(trace):
            parts.append(f"steps {trace[:1].step[0]}..{trace[-1:].step[0]}")
        parts.append(f"variables={trace.variables}")
        parts.append(f"controls={trace.controls}")
        if trace.parts:
            parts.append(f"parts={ {name: part.shape for name, part in trace.parts.items()} }")
        if len(trace) and trace.has_terms:
            parts.append(f"ELBO {trace.final('elbo'):.6g} nats")
        return f"Trace({', '.join(parts)})"

    def _repr_html_(self) -> str:
        left = "style='text-align:left'"
        rows = "".join(
            f"<tr><th {left}>{html.escape(label)}</th><td {left}>{html.escape(text)}</td></tr>"
            for label, text in self.summary().items()
        )
        return f"<table><caption>Trace of a fit</caption><tbody>{rows}</tbody></table>"

    def to_script(self) -> str:
        """Write the run as a Python script.

        Returns
        -------
        str
            The controls with their schedules and rules, the changes that were made at their steps,
            what the numbers depend on, and the call of ``vitoolkit.fit`` that repeats it all
            without a person; the same numbers come out. The model is not in it: put it before, as
            ``model``.

        Raises
        ------
        ValueError
            If the trace is not of a fit of vitoolkit's own.

        Examples
        --------
        >>> import pymc as pm
        >>> import vitoolkit as vt
        >>> with pm.Model() as model:
        ...     z = pm.Normal("z")
        ...     y = pm.Normal("y", z, observed=[0.2, 1.1])
        >>> once = vt.fit(50, model=model, beta=0.5, progressbar=False)
        >>> script = once.trace.to_script()
        >>> names = {"model": model}
        >>> exec(script.replace("replay=", "progressbar=False, replay="), names)
        >>> bool((names["fit"].trace.loss == once.trace.loss).all())
        True
        """
        return script_of(self[:])

    # --- files -------------------------------------------------------------------------

    def to_xarray(self) -> "xarray.Dataset":
        """Copy the trace to an xarray data set.

        Returns
        -------
        xarray.Dataset
            ``loss``, ``data`` and ``elbo`` have the dimension ``step``, ``kl`` has ``step`` and
            ``variable``, ``controls`` has ``step`` and ``control``; ``time`` is a coordinate
            along ``step``. Units are in the ``units`` attribute of each variable. The attribute
            ``vitoolkit_trace`` holds all attributes and events as JSON.

            The parts of the KL contribution of ``z`` are ``kl_by_z``, with the dimension ``step``
            and those of the model with their coordinates. A dim whose name the data set has for
            something else (``step``, ``time``, ``variable``, ``loss``, a dim of another length or
            other labels) is prefixed with the variable, ``z_step``. Characters other than letters,
            digits, ``-`` and ``_`` become ``_``, so that every file system takes the name; the
            attribute ``variable`` has the variable's own.

            Of a fit under a Dashboard there are also ``q`` and ``prior``, with the dimensions
            ``coordinate`` and ``end`` (low end, median and high end of the middle 68 %), and
            ``moved``, with ``coordinate``: how far q moved in the last tenth of the steps, in its
            sd.

        Examples
        --------
        >>> trace = Trace(variables=("z",), controls=("beta",))
        >>> trace.append(0, 0.5, 9.0, -6.0, [1.25], [0.5])
        >>> dataset = trace.to_xarray()
        >>> float(dataset.kl.sel(variable="z", step=0)), dataset.kl.attrs["units"]
        (1.25, 'nats')
        """
        return export.to_xarray(self)

    def to_dataframe(self) -> "pandas.DataFrame":
        """Copy the trace to a pandas data frame.

        Returns
        -------
        pandas.DataFrame
            Index ``step``; columns ``time``, ``loss``, ``data``, ``elbo``, ``kl[variable]`` for
            each variable, ``kl[variable, dim=label]`` for each coordinate of the parts, and each
            control by its name. Its ``attrs`` are those of the trace,
            with ``units`` (column to unit) and ``events`` (a list of dicts) added.

        Examples
        --------
        >>> trace = Trace(variables=("z",), controls=("beta",))
        >>> trace.append(0, 0.5, 9.0, -6.0, [1.25], [0.5])
        >>> frame = trace.to_dataframe()
        >>> list(frame.columns)
        ['time', 'loss', 'data', 'elbo', 'kl[z]', 'beta']
        >>> frame.attrs["units"]["time"], frame.attrs["units"]["kl[z]"]
        ('s', 'nats')
        """
        return export.to_dataframe(self)

    def save(self, path: str | Path) -> Path:
        """Write a file, or a folder for Zarr.

        Parameters
        ----------
        path : str or Path
            Its end tells the format: ``.csv``, ``.parquet``, ``.nc``, ``.zarr``, ``.json``, and
            ``.html`` for a report that people read. What is there is replaced once the new one is
            complete and on the disk.

        Returns
        -------
        Path
            Where it was written.

        Raises
        ------
        ValueError
            If the name ends otherwise.
        FileNotFoundError
            If the folder does not exist.
        ImportError
            If the format needs a package that is not installed.
        FileExistsError
            If it is a Zarr store, and there is a file, or a folder that holds something else.
        TypeError
            If an attribute has a value that JSON cannot hold.

        Examples
        --------
        >>> import tempfile
        >>> trace = Trace(variables=("z",))
        >>> trace.append(0, 0.5, 9.0, -6.0, [1.25])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = trace.save(f"{folder}/fit.csv")
        ...     Trace.open(path).equals(trace)
        True
        """
        return export.save(self, path)

    def to_csv(self, path: str | Path) -> Path:
        """Write a CSV file: `save` under a name that ends in ``.csv``.

        The first line names the columns, which are ``step`` and those of `to_dataframe`: plain
        ``pandas.read_csv(path)`` and ``polars.read_csv(path)`` give the table, and every number
        reads back exactly. The last column, ``vitoolkit_trace``, is empty but for the first row,
        or the first few: it holds the attributes and events as JSON. (Without a row, the name of
        that column does.) A name that a spreadsheet would run is written after an apostrophe.
        """
        return export.save(self, path, ".csv")

    def to_parquet(self, path: str | Path) -> Path:
        """Write a Parquet file: `save` under a name that ends in ``.parquet``. Needs pyarrow.

        Its columns are ``step`` and those of `to_dataframe`.
        """
        return export.save(self, path, ".parquet")

    def to_netcdf(self, path: str | Path) -> Path:
        """Write the data set of `to_xarray`: `save` under a name that ends in ``.nc``.

        Needs h5netcdf and h5py. The file is made in memory, where it needs as much as the trace.
        """
        return export.save(self, path, ".nc")

    def to_zarr(self, path: str | Path) -> Path:
        """Write the data set of `to_xarray` to a Zarr store, a folder. Needs zarr.

        It is `save` under a name that ends in ``.zarr``.
        """
        return export.save(self, path, ".zarr")

    def to_json(self, path: str | Path) -> Path:
        """Write a JSON file: `save` under a name that ends in ``.json``.

        Its columns are arrays of numbers, in which the strings ``"NaN"``, ``"Infinity"`` and
        ``"-Infinity"`` stand for what JSON has no number for.
        """
        return export.save(self, path, ".json")

    def to_html(self, path: str | Path, *, title: str = "Variational fit") -> Path:
        """Write a report to read in a browser, with no network needed.

        It is `save` under a name that ends in ``.html``: the charts of the panel, and tables.
        Long traces are decimated, so that the file stays small; it cannot be opened as a trace
        again.

        Parameters
        ----------
        path : str or Path
            As for `save`.
        title : str, optional
            Heading of the report.

        Returns
        -------
        Path
            Where it was written.
        """
        return export.save(self, path, ".html", title=title)

    @classmethod
    def open(cls, path: str | Path, *, run: int | None = None) -> "Trace":
        """Read a trace back, equal to the one that was written.

        Parameters
        ----------
        path : str or Path
            A file, or a Zarr store. Its name tells the format: ``.csv``, ``.parquet``, ``.nc``,
            ``.zarr``, ``.json``. A data set of draws that ``Fit.sample`` returned and that was
            written to NetCDF or Zarr gives the trace of its group ``variational_trace``. A journal
            (``record="run.db"``), under any name, gives what is in it at this moment, while the fit
            runs or after its process has died.
        run : int, optional
            Which run of a journal; the last by default.

        Returns
        -------
        Trace
            With every number, name, attribute, event and branch of the one that was written.

        Raises
        ------
        ValueError
            If the name ends otherwise, or what is there is not a trace, was cut short, or is
            damaged: the checksum of what was written is in every file. The message names the file.
        FileNotFoundError
            If nothing is there.
        KeyError
            If the journal has no such run.
        ImportError
            If the format needs a package that is not installed.
        """

        def build(fields: export.Fields) -> "Trace":
            description = fields.description
            trace = cls(
                description["variables"],
                description["controls"],
                description["attrs"],
                [Part(**part) for part in description.get("parts", ())],
                description.get("measures", ()),
            )
            trace.extend(*fields[1:])
            trace.attrs = description["attrs"]
            for event in description["events"]:
                trace.add_event(Event(**event))
            trace.put_branches(export.branches_of(fields, trace))
            return trace

        if is_journal(path):
            return _of_journal(cls, path, run)
        if run is not None:
            raise ValueError(f"run={run!r} is for a journal, which {str(path)!r} is not")
        return export.read(path, build)


def _of_journal(cls: type[Trace], path: str | Path, run: int | None) -> Trace:
    try:
        with JournalFile(path) as file, file.transaction("DEFERRED"):
            number = file.run(run).id
            return file.fill(cls(*empty_fields(file.description(number))), number)  # type: ignore
    except sqlite3.Error as error:
        raise ValueError(f"{path} cannot be read as a journal: {error}") from error


def _same_rows(mine: Trace, others: Trace) -> bool:
    return np.array_equal(mine.kept().view(np.int64), others.kept().view(np.int64))


def _summary(trace: Trace) -> dict[str, str]:
    said = trace.attrs.get("verdict")
    lines = {} if said is None else {"verdict": said}
    lines["rows"] = f"{len(trace):,}"
    if len(trace):
        last = trace[-1:]
        lines["steps"] = f"{trace[:1].step[0]:,} to {last.step[0]:,}"
        lines["duration"] = f"{last.time[0]:,.4g} s"
        if odd := trace.not_finite()[0]:
            lines["not finite"] = f"the loss of {odd:,} of {len(trace):,} rows"
        lines["loss, last"] = f"{last.loss[0]:,.6g}"
        tail = trace[-TAIL:]
        if trace.has_terms:
            lines["ELBO and KL"] = _meant(tail, len(trace) > TAIL)
            lines["ELBO"] = f"{trace.final('elbo'):,.6g} nats"
        kl = {name: tail.final(f"kl[{name}]") for name in trace.variables}
        largest = sorted(kl, key=lambda name: -np.nan_to_num(abs(kl[name])))[:NAMED]
        for name in largest:
            lines[f"KL of {name}"] = f"{kl.pop(name):,.4g} nats"
        if kl:
            lines[f"KL of {len(kl)} more"] = f"{sum(kl.values()):,.4g} nats"
        for name, mean in list(means.part_means(tail).items())[:NAMED]:
            lines[f"KL of {name} in parts"] = _largest(trace.parts[name], mean)
        for name in trace.controls:
            lines[f"{name}, last"] = f"{last.control[name][0]:.6g}"
    lines["events"] = f"{len(trace.events):,}"
    if trace.branches:
        rows = sum(len(branch.rows) for branch in trace.branches)
        lines["branches"] = f"{len(trace.branches):,}, with {rows:,} rows that were left behind"
    return lines


def _meant(tail: Trace, more: bool) -> str:
    """Tell which rows the means are of: the last ones, or all."""
    rows = f"the last {TAIL} rows" if more else "all rows"
    terms = np.column_stack([tail.elbo, tail.kl.array.T])
    return f"means of {'' if np.isfinite(terms).all() else 'the finite ones of '}{rows}"


def _largest(part: Part, mean: NDArray[np.float64]) -> str:
    means = mean.ravel()
    if not np.isfinite(means).any():
        return f"{part.size:,} coordinates"
    largest = int(np.nanargmax(means))
    where, nats = part.labels[largest], means[largest]
    return f"{part.size:,} coordinates, {where} the largest: {nats:,.4g} nats"
