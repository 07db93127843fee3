"""Where StopWhenConverged ends the digits' VAE of the notebook, and what ELBO it has there.

    python scripts/soak/stopping_amortized.py [steps] [seed] ...

The model is that of ``notebooks/beta_vae_digits.ipynb``, trained on: once with the notebook's
learning rate, which falls to 1e-3 in 4,000 steps and stays there, once with one that falls to 1e-5
in a fifth of the steps. Every rule is asked as StopWhenConverged asks it, and none ends the fit. A
person is taken to choose the first step from which the ELBO, in means of 5,000 steps, stays within
0.5 % of the highest that the fit reaches. The ELBO of the images that the fit has not seen is
evaluated every 1,000 steps.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytensor
import pytensor.tensor as pt

import vitoolkit as vt

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "beta_vae_digits.ipynb"
METHODS = ("both", "elbo", "relative_elbo")
WINDOW, SMOOTH, CLOSE = 1_000, 5, 0.005


class Asked(vt.StopWhenConverged):
    """Says where it would have ended the fit."""

    found = float("inf")

    def _end(self, run: Any) -> None:
        self.converged, self.found = True, float(run.step)


class Unseen(vt.Callback):
    """ELBO of the images that are left out, nats an image, by the networks as they stand."""

    every = WINDOW

    def __init__(self, vae: Any, images: np.ndarray) -> None:
        self.values: list[float] = []
        x, noise, draw = pt.matrix(), pt.scalar(), pt.matrix()
        mean, rho = vae.encoder(x)
        sd = pt.softplus(rho)
        z = mean + sd * draw
        error = (x - vae.decoder(z)) ** 2
        data = -(error / noise**2 / 2 + pt.log(noise) + 0.5 * np.log(2 * np.pi)).sum(axis=1)
        kl = ((mean**2 + sd**2 - 1) / 2 - pt.log(sd)).sum(axis=1)
        self._elbo = pytensor.function([x, noise, draw], (data - kl).mean())
        draws = np.random.default_rng(0).normal(size=(20, len(images), mean.type.shape[1] or 10))
        self._images, self._draws = images, draws

    def on_block(self, run: Any, block: Any) -> None:
        """Evaluate, where it is due."""
        if run.step % self.every == 0:
            (group,) = (g for g in run.approx.groups if g.user_params is None)
            noise = float(np.exp(group.params_dict["mu"].get_value()[0]))
            self.values.append(
                float(np.mean([self._elbo(self._images, noise, draw) for draw in self._draws]))
            )


def notebook() -> dict[str, Any]:
    """What the first cells of the notebook define."""
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    names: dict[str, Any] = {}
    for cell in code[:4]:
        exec(cell.replace("%matplotlib inline", "").replace("steps_per_execution=1,", ""), names)
    return names


def measured(
    steps: int, seed: int, rate: vt.LearningRate, names: dict[str, Any]
) -> list[tuple[str, float, float]]:
    """Who stops, at which step, and how far the ELBO before it is below the best, as a share."""
    beta = vt.Beta(schedule=vt.schedules.linear(0, 1, steps=1_500))
    vae = names["VAE"](names["DenseEncoder"](seed=seed), beta, rate, seed=seed)
    asked = {method: Asked(method, restore=None) for method in METHODS}
    recorder, unseen = vt.Recorder(beta, rate), Unseen(vae, names["test_images"])
    vae.train(steps, [recorder, unseen, *asked.values()])
    elbo = recorder.trace.elbo
    sums = np.concatenate([[0.0], np.cumsum(elbo.reshape(-1, WINDOW).mean(axis=1))])
    means = (sums[SMOOTH:] - sums[:-SMOOTH]) / SMOOTH  # of the windows up to one, from the fifth on
    best = means.max()
    far = np.flatnonzero(means < best - CLOSE * abs(best))
    person = WINDOW * (SMOOTH + int(far[-1]) + 1 if len(far) else SMOOTH)
    test = WINDOW * (1 + int(np.argmax(unseen.values)))
    found = {"person": person, "best on unseen images": test}
    found.update((method, callback.found) for method, callback in asked.items())
    rows = []
    for what, step in found.items():
        at = (
            np.nan if step > steps else elbo[max(int(step) - SMOOTH * WINDOW, 0) : int(step)].mean()
        )
        rows.append((what, step, float(1 - at / best)))
    return rows


def main(steps: int = 100_000, *seeds: int) -> None:
    """Print the table."""
    matplotlib.use("Agg")
    names = notebook()
    print("| learning rate | seed | who | step | ELBO below the best |")
    print("|---|---|---|---|---|")
    rates = {
        f"1e-2 to 1e-5 in {steps // 5:,} steps": vt.schedules.cosine(1e-2, 1e-5, steps=steps // 5),
        "1e-2 to 1e-3 in 4,000 steps": vt.schedules.cosine(1e-2, 1e-3, steps=4_000),
    }
    for name, schedule in rates.items():
        for seed in seeds or (1,):
            rate = vt.LearningRate(schedule=schedule)
            for who, step, below in measured(steps, seed, rate, names):
                where = f"{step:,.0f} | {100 * below:.2f} %" if step <= steps else "none | "
                print(f"| {name} | {seed} | {who} | {where} |", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
