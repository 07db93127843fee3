"""Wall time of a fit with every instrument on, as a ratio to plain ``pm.fit`` in the same run.

    python -m benchmarks.bench_fit [--models NAME ...] [--rounds 7] [--cold] [--peers [NAME ...]]

Instrumented: one β a variable, one of them and the learning rate on schedules, a Recorder of every
step. Plain: PyMC's own ``KLqp`` with the same approximation and optimizer and
``progressbar=False``. They take turns of about a second, so that a machine whose speed drifts slows
all; a ratio is the median over the rounds of the ratio within a round, with the least and the most.
Processor time, that of all threads, is given beside wall time: it is the steadier of the two where
other programs run, and shows who uses more than one core. On such a machine NumPy's matrix products
of bnn took ten times the time with more than one BLAS thread (seen once): set
``OPENBLAS_NUM_THREADS=1``.
Compile times are those of fresh models by turns with whatever the compile caches on disk hold;
``--cold`` measures them in new processes with empty ones.

``--peers`` puts other libraries into the turns, on the same models and data: float64, on the CPU,
Adam at the same rate, one draw a step, and a batch drawn every step where the model has
minibatches. JAX uses all cores. None of them gives a KL of each variable, β or a schedule that can
be moved under way, a record of every step or callbacks; what else they leave out:

- numpyro: ``SVI.update`` in one compiled loop, as ``SVI.run`` does, with the faster of two ways to
  draw a batch. Losses are summed up, not stored; no progress bar.
- blackjax: steps of ``meanfield_vi`` and ``fullrank_vi`` in one compiled loop. Losses are summed
  up, not stored; the gradient leaves out the score term (sticking the landing). It draws no
  batches, which the benchmark does for it, and has no amortized approximation, so no VAE.
- pymc_jax: ``pm.fit`` with ``backend="jax"`` (PyMC 6), a call a step, losses stored by PyMC.
- pymc_extras: the compiled step of its ADVI, a call a step in a bare Python loop on PyTensor's
  default backend. Losses are not stored; the gradient leaves out the score term, not on the VAE.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings

import pymc as pm
import pytensor
from pymc.variational.inference import KLqp as PlainKLqp

import vitoolkit as vt
from benchmarks import peers
from benchmarks.models import MODELS

SECONDS_A_ROUND = 1.0


def clear_cache() -> None:
    """Let go of compiled steps that vitoolkit keeps in this process, where it keeps any."""
    if hasattr(vt, "clear_cache"):
        vt.clear_cache()


def plain(build):
    case = build()
    with case.model:
        inference = PlainKLqp(case.approx)
        optimizer = pm.adam(learning_rate=1e-3)
        clock = time.perf_counter()
        inference.fit(1, obj_optimizer=optimizer, more_obj_params=case.weights, progressbar=False)
    return inference, time.perf_counter() - clock


def instrumented(build):
    clear_cache()
    case = build()
    with case.model:
        first, *others = [variable.name for variable in case.model.free_RVs]
        endless = 1_000_000_000
        beta = {name: vt.Beta(1.0, name=f"beta[{name}]") for name in others}
        ramp = vt.schedules.linear(0.5, 1.0, steps=endless)
        beta[first] = vt.Beta(schedule=ramp, name=f"beta[{first}]")
        rate = vt.LearningRate(schedule=vt.schedules.cosine(1e-3, 9e-4, steps=endless))
        inference = vt.KLqp(case.approx, beta=beta)
        optimizer = pm.adam(learning_rate=rate.shared)
        inference.fit(
            1,
            obj_optimizer=optimizer,
            more_obj_params=case.weights,
            callbacks=[vt.Recorder(rate)],
            progressbar=False,
        )
    return inference, inference.run.compile_seconds


KINDS = {"plain": plain, "instrumented": instrumented}


def steps_a_second(inference, steps: int) -> float:
    clock = time.perf_counter()
    inference.refine(steps, progressbar=False)
    return steps / (time.perf_counter() - clock)


def cold_compile(model: str, kind: str) -> float:
    code = (
        f"from benchmarks.bench_fit import KINDS, MODELS, quiet; quiet(); "
        f"print(KINDS[{kind!r}](MODELS[{model!r}])[1])"
    )
    with tempfile.TemporaryDirectory() as cache:
        flags = f"{os.environ.get('PYTENSOR_FLAGS', '')},base_compiledir={cache}".strip(",")
        env = {**os.environ, "PYTENSOR_FLAGS": flags, "NUMBA_CACHE_DIR": cache}
        command = [sys.executable, "-W", "ignore", "-c", code]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    return float(done.stdout.strip().splitlines()[-1])


def quiet() -> None:
    warnings.simplefilter("ignore")
    logging.getLogger("pymc").setLevel(logging.WARNING)


def steps_in(seconds: float, run) -> int:
    """How many steps take so long; the first call may compile."""
    run(1)
    steps, rate = 1, run(1)
    while steps < rate * seconds / 4:
        steps = min(10 * steps, 1 + int(rate * seconds / 4))
        rate = run(steps)
    return max(1, int(rate * seconds))


def peer_runs(model: str, names) -> dict:
    """Function ``steps -> steps a second`` of each peer that is installed and has the model."""
    runs = {}
    for name in names:
        if peers.missing(name):
            continue
        try:
            runs[name] = peers.steps_a_second(name, model)
        except NotImplementedError as reason:
            print(f"       {name} left out: {reason}")
    return runs


def ratio(times, reference) -> str:
    """Median of the ratio within a round, with the least and the most."""
    ratios = [a / b for a, b in zip(times, reference, strict=True)]
    return f"{statistics.median(ratios):6.3f} ({min(ratios):.3f} to {max(ratios):.3f})"


def measure(model: str, rounds: int, cold: bool, names) -> None:
    build = MODELS[model]
    compiled: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(2):
        inference = {}
        for kind, make in KINDS.items():
            inference[kind], seconds = make(build)
            compiled[kind].append(seconds)
    print(f"{model}: {rounds} rounds of {SECONDS_A_ROUND:g} s each")
    runs = {kind: lambda steps, i=i: steps_a_second(i, steps) for kind, i in inference.items()}
    runs.update(peer_runs(model, names))
    steps = {kind: steps_in(SECONDS_A_ROUND, run) for kind, run in runs.items()}
    seconds: dict[str, list[tuple[float, float]]] = {kind: [] for kind in runs}
    for _ in range(rounds):
        for kind, run in runs.items():
            work = time.process_time()
            rate = run(steps[kind])
            seconds[kind].append((1 / rate, (time.process_time() - work) / steps[kind]))
    for kind in runs:
        for i, name in enumerate(("wall", "processor")):
            took, plain_took, own = (
                [times[i] for times in seconds[k]] for k in (kind, "plain", "instrumented")
            )
            line = f"       {kind if i == 0 else '':13}{name:9} "
            line += f"{1e6 * statistics.median(took):10.1f} us a step"
            line += f", ratio to plain {ratio(took, plain_took)}"
            if kind not in KINDS:
                line += f", instrumented to it {ratio(own, took)}"
            print(line, flush=True)
    step = inference["instrumented"].step_function
    print(f"       instrumented runs {step!r}")
    for cache, compile_times in (
        ("warm", {kind: compiled[kind][-1] for kind in KINDS}),
        ("empty", {kind: cold_compile(model, kind) for kind in KINDS} if cold else None),
    ):
        if compile_times is not None:
            plain_time, own_time = compile_times["plain"], compile_times["instrumented"]
            print(
                f"       compile, {cache} cache: plain {plain_time:.2f} s, "
                f"instrumented {own_time:.2f} s (ratio {own_time / plain_time:.2f})"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cold", action="store_true", help="compile in an empty cache as well")
    parser.add_argument(
        "--peers", nargs="*", choices=peers.PEERS, help="all, unless some are named"
    )
    arguments = parser.parse_args()
    quiet()
    print(
        f"PyMC {pm.__version__}, PyTensor {pytensor.__version__}, "
        f"Python {sys.version.split()[0]}, {os.cpu_count()} cores"
    )
    names = list(peers.PEERS) if arguments.peers == [] else arguments.peers or []
    for name in names:
        for package in peers.missing(name):
            print(f"{name} left out: pip install {package}")
    for model in arguments.models:
        measure(model, arguments.rounds, arguments.cold, names)


if __name__ == "__main__":
    main()
