import gc
import threading

import pymc as pm
import pytest

from vitoolkit.steps import counter_of, pymc_loop


@pytest.mark.parametrize("score", [True, False])
def test_fit_and_refine_of_pymc_count_on_without_the_doubled_step(gaussians, fast, score):
    seen, numbers = [], []

    def callback(approx, losses, i):
        numbers.append(i)
        seen.append(counter_of(approx).tick(losses, i))
        assert counter_of(approx).tick(losses, i) == seen[-1]  # asking again changes nothing

    inference = pm.ADVI(random_seed=1)
    inference.fit(4, callbacks=[callback], score=score, **fast)
    if not score:  # PyMC repeats a number and says nothing else: only a fit can be told apart
        assert seen == [0, 1, 2, 3]
        return
    inference.refine(3, progressbar=False)
    inference.refine(2, progressbar=False)
    assert numbers == [1, 2, 3, 4, 4, 5, 6, 6, 7]
    assert seen == list(range(9))


def test_the_counter_lives_as_long_as_the_approximation(gaussians):
    approx = pm.MeanField()
    counter = counter_of(approx)
    assert counter_of(approx) is counter
    assert counter_of(pm.MeanField()) is not counter
    del approx
    gc.collect()


def test_pymc_loop_finds_the_running_fit_and_how_many_steps_it_takes(gaussians, fast):
    me = threading.get_ident()
    found = []
    pm.ADVI().fit(3, callbacks=[lambda *_: found.append(pymc_loop(me).f_locals["n"])], **fast)
    assert found == [3, 3, 3]
    assert pymc_loop(me) is None
