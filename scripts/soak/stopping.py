"""How often StopWhenConverged is wrong on traces whose end is known, and how late it is.

    python scripts/soak/stopping.py [traces a family]

Four families of fits are made without a model, with looks as the callback takes them: the ELBO of
single steps, and mean and log sd of 20 coordinates of q. In half of them the ELBO rises through all
20,000 steps, by 1 to 10 standard deviations of a single step's noise in the last half, while one to
three coordinates are on their way by 0.5 to 5 sd of q. In the others all of it comes to rest after
2,000 to 8,000 steps; the means come from 5 to 50 sd away, wander by 0.05 to 0.3 sd afterwards, and
stay correlated over 20 to 300 steps. A false stop is one while it rises; a missed end is none
within 20,000 steps of it. The delay is that of the stops after the end. "elbo, scheduled" is "elbo"
where a learning rate was on a schedule, which ends after half of the steps of a fit that rises, and
where the others come to rest.
"""

from __future__ import annotations

import sys

import numpy as np

from vitoolkit.iterates import MOST
from vitoolkit.stopping import GROWTH, LEAST, Told, elbo_still, faso, relative_elbo

FAMILIES = ("linear", "power-law", "heteroscedastic", "heavy-tailed")
METHODS = ("both", "faso", "elbo", "elbo, scheduled", "relative_elbo")
STEPS, EVERY, COORDINATES = 20_000, 50, 20


class Fit:
    """ELBO and iterates of one fit, and the step at which it came to rest; inf if it never does."""

    def __init__(self, family: str, rising: bool, rng: np.random.Generator) -> None:
        self.end = float("inf") if rising else float(rng.integers(2_000, 8_001))
        steps = STEPS if rising else 2 * STEPS
        t = np.arange(1, steps + 1)
        whole = STEPS if rising else self.end
        path = np.minimum(t / whole, 1.0)
        if family == "power-law":
            path = (1 + 20 * path) ** -0.7
            path = (path - 1) / (21**-0.7 - 1)
        gain = rng.uniform(1, 10) / (path[STEPS - 1] - path[STEPS // 2]) if rising else 100.0
        noise = _noise(family, steps, rng)
        rest = 2.0 * rng.normal() * 10 ** rng.uniform(0, 3)  # where it ends, in units of the noise
        self.elbo = rest + gain * (path - 1) + noise
        looks = steps // EVERY
        far = rng.uniform(5, 50, COORDINATES) * rng.choice([-1, 1], COORDINATES)
        if rising:  # all but a few have come to rest already
            moves = rng.permutation(COORDINATES) < rng.integers(1, 4)
            left = path[STEPS - 1] - path[STEPS // 2]
            far = np.where(moves, rng.uniform(0.5, 5, COORDINATES) / left, 0.0)
        at = path[EVERY - 1 :: EVERY][:, None]
        wander = rng.uniform(0.05, 0.3, COORDINATES)
        rho = np.exp(-EVERY / rng.uniform(20, 300))  # of looks, iterates correlated over 20 to 300
        wandering = np.empty((looks, 2, COORDINATES))
        state = rng.normal(size=(2, COORDINATES))
        for k in range(looks):
            state = rho * state + np.sqrt(1 - rho**2) * rng.normal(size=(2, COORDINATES))
            wandering[k] = state
        self.moments = wander * wandering
        self.moments[:, 0] += far * (at - 1)
        if family == "heteroscedastic":
            self.moments *= np.exp(0.5 * np.sin(np.arange(looks) / looks * 9))[:, None, None]


def _noise(family: str, steps: int, rng: np.random.Generator) -> np.ndarray:
    if family == "heavy-tailed":
        return rng.standard_t(2.2, steps)
    if family == "heteroscedastic":
        swell = np.sin(np.arange(steps) / steps * rng.uniform(2, 20))
        return rng.normal(size=steps) * np.exp(0.7 * swell)
    return rng.normal(size=steps)


def stops(fit: Fit, methods: tuple[str, ...] = METHODS) -> dict[str, float]:
    """Step at which each rule ends a fit, as StopWhenConverged asks it; inf where none does."""
    looks = len(fit.elbo) // EVERY
    means = fit.elbo.reshape(looks, EVERY).mean(axis=1)
    noises = np.abs(np.diff(fit.elbo.reshape(looks, EVERY), axis=1)).mean(axis=1) * 0.886226925
    found = dict.fromkeys(methods, float("inf"))
    each, step = EVERY, LEAST * EVERY
    while step <= len(fit.elbo) and float("inf") in found.values():
        while step // each >= MOST:
            each *= 2
        step = -(-step // each) * each
        if step > len(fit.elbo):
            break
        merged, count = each // EVERY, step // each
        objective = means[: step // EVERY].reshape(count, merged).mean(axis=1)
        noise = float(np.median(noises[: step // EVERY]))
        moments = fit.moments[: step // EVERY].reshape(count, merged, 2, -1)[:, -1]
        told: dict[str, Told] = {}
        for method in methods:
            if found[method] <= step:
                continue
            if method == "elbo, scheduled":
                ended = STEPS // 2 if fit.end == float("inf") else fit.end
                before = int(np.ceil(ended / each))
                done = step >= ended and elbo_still(objective, noise, each, settled=before).done
            elif method == "relative_elbo":
                done = relative_elbo(objective).done
            else:
                if method != "faso" and "elbo" not in told:
                    told["elbo"] = elbo_still(objective, noise, each)
                done = method == "faso" or told["elbo"].done
                if done and method != "elbo":
                    told.setdefault("faso", faso(moments))
                    done = told["faso"].done
            if done:
                found[method] = float(step)
        step += int((GROWTH - 1) * step)
    return found


def measured(
    family: str, traces: int, methods: tuple[str, ...] = METHODS
) -> dict[str, list[float]]:
    """False stops, missed ends and median delay of each rule in a family; shares and steps."""
    rng = np.random.default_rng([FAMILIES.index(family), traces])
    rising = [stops(Fit(family, True, rng), methods) for _ in range(traces)]
    fits = [Fit(family, False, rng) for _ in range(traces)]
    still = [(fit.end, stops(fit, methods)) for fit in fits]
    table = {}
    for method in methods:
        false = np.mean([np.isfinite(found[method]) for found in rising])
        early = np.mean([found[method] < end for end, found in still])
        missed = np.mean([found[method] > end + STEPS for end, found in still])
        late = [found[method] - end for end, found in still if end <= found[method] < np.inf]
        table[method] = [
            float(false),
            float(early),
            float(missed),
            float(np.median(late or [np.nan])),
        ]
    return table


def main(traces: int) -> None:
    """Print the table."""
    print("| family | rule | false stops | before the end | missed ends | median delay, steps |")
    print("|---|---|---|---|---|---|")
    for family in FAMILIES:
        for method, (false, early, missed, delay) in measured(family, traces).items():
            print(
                f"| {family} | {method} | {100 * false:.1f} % | {100 * early:.1f} % | "
                f"{100 * missed:.1f} % | {delay:,.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000)
