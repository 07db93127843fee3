"""Warnings that name the line of the person who called."""

import warnings

import pymc as pm

import vitoolkit as vt
from vitoolkit.advise import warn_user


def test_a_warning_names_the_line_outside_of_the_packages():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_user("look", RuntimeWarning)
    assert [(w.filename, w.category, str(w.message)) for w in caught] == [
        (__file__, RuntimeWarning, "look")
    ]


def test_a_fit_that_pymc_calls_warns_where_pymc_was_called():
    with pm.Model(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        z = pm.Normal("z")
        pm.Normal("y", z, observed=[0.2, 1.1])
        method = vt.ADVI(beta=0.0, random_seed=1)
        pm.fit(5, method=method, progressbar=False, compile_kwargs={"mode": "FAST_COMPILE"})
    ended = [w for w in caught if "beta ended at 0:" in str(w.message)]
    assert [w.filename for w in ended] == [__file__]
