"""Each rule against its law: closed forms of a conjugate model and of noisy quadratics."""

import math

import numpy as np
import pymc as pm
import pytest

import vitoolkit as vt
from vitoolkit.block import Block

# Prior N(0, 1), datum Y, noise variance S2: q*_β = N(Y / (1 + β S2), 1 / (1 + 1 / (β S2))).
Y, S2 = 2.0, 0.5


def optimum(beta):
    return Y / (1 + beta * S2), 1 / np.sqrt(1 + 1 / (beta * S2))


def kl(beta):
    m, s = optimum(beta)
    return 0.5 * (s * s + m * m - 1) - np.log(s)


def distortion(beta):
    m, s = optimum(beta)
    return 0.5 * np.log(2 * np.pi * S2) + ((Y - m) ** 2 + s * s) / (2 * S2)


def beta_of(function, value):
    low, high = 1e-6, 1e3
    for _ in range(200):
        middle = math.sqrt(low * high)
        low, high = (
            (middle, high)
            if (function(middle) - value) * (function(high) - function(low)) < 0
            else (low, middle)
        )
    return middle


def block(first, *, data=(0.0,), kls=None, control=1.0, measures=None):
    kls, measures = kls or {"z": np.zeros(len(data))}, measures or {}
    columns = [np.asarray(data, float), *map(np.asarray, kls.values())]
    columns += map(np.asarray, measures.values())
    n = len(columns[0])
    used = np.broadcast_to(np.reshape(control, (-1, 1)), (n, 1)).astype(float)
    return Block(
        first, np.zeros(n), np.column_stack(columns), used, np.zeros(n),
        tuple(kls), tuple(measures),
    )  # fmt: skip


def steer(rule, beta, respond, steps, bounds=(0.0, 60.0)):
    """β and what `respond(beta, step)` gave as data term and KL, one row a due step."""
    rule.bounds = bounds
    rule.begin(beta)
    rows = []
    for first in range(0, steps, rule.every):
        data, value = respond(beta, first)
        n = rule.every
        rule.observe(block(first, data=np.full(n, data), kls={"z": np.full(n, value)}))
        beta = rule.value(first + n)
        rows.append((beta, data, value))
    return np.array(rows)


def lagging(stuck=0, rate=0.02, every=1):
    """The conjugate model's KL, which follows its optimum slowly and not at all at first."""
    state = {"kl": 0.0}

    def respond(beta, step):
        if step >= stuck:
            share = 1 - (1 - rate) ** every
            state["kl"] += share * (kl(max(beta, 1e-3)) - state["kl"])
        return 0.0, state["kl"]

    return respond


def test_along_the_optima_distortion_falls_by_beta_for_each_nat_of_rate(fast):
    """dD/dR = -β of Alemi et al. (2018), arXiv:1711.00464, on what fits at nearby β end at."""
    with pm.Model() as model:
        z = pm.Normal("z")
        pm.Normal("y", z, np.sqrt(S2), observed=Y)

    def ends(beta):
        """KL and distortion of the q that a fit at β ends at: with "stl" it ends without noise."""
        rate = vt.schedules.exponential(0.1, 1e-4, steps=800)
        fit = vt.fit(
            800, model=model, beta=beta, learning_rate=rate, gradient_estimator="stl",
            random_seed=1, **fast,
        )  # fmt: skip
        (m,), (s,) = fit.approx.mean.eval(), fit.approx.std.eval()
        assert [m, s] == pytest.approx(optimum(beta), abs=1e-4)
        d = 0.5 * np.log(2 * np.pi * S2) + ((Y - m) ** 2 + s * s) / (2 * S2)
        return np.array([0.5 * (s * s + m * m - 1) - np.log(s), d])

    for beta in (0.3, 1.0, 4.0):
        rate, distortion = ends(1.05 * beta) - ends(beta / 1.05)
        assert distortion / rate == pytest.approx(-beta, rel=0.01)


def test_kl_target_reaches_the_beta_whose_optimum_has_the_target():
    rule = vt.rules.kl_target("z", 0.6, proportional=0.01, integral=0.01, every=1)
    rows = steer(rule, 0.0, lagging(stuck=1_500), 6_000)
    assert rows[-1, 0] == pytest.approx(beta_of(kl, 0.6), abs=5e-4)
    assert rows[-1, 0] == pytest.approx(1.9891, abs=5e-4)
    assert rows[-1, 2] == pytest.approx(0.6, abs=1e-4)


def test_kl_target_does_not_wind_up_while_the_kl_cannot_rise():
    rule = vt.rules.kl_target("z", 0.6, proportional=0.01, integral=0.01, every=1)
    rows = steer(rule, 0.0, lagging(stuck=1_500), 6_000)
    assert rows[:, 2].max() < 2.0  # the published code's dead test: 5.26


@pytest.mark.parametrize("every", [1, 10, 50, 100])
def test_kl_target_with_its_defaults_whatever_its_cadence(every):
    rule = vt.rules.kl_target("z", 0.6, every=every)
    rows = steer(rule, 1.0, lagging(every=every), 20_000)
    assert rows[-1, 2] == pytest.approx(0.6, rel=1e-3)


def test_kl_target_starts_without_a_jump_and_stays_in_its_bounds():
    rule = vt.rules.kl_target("z", 20.0)
    rows = steer(rule, 3.0, lambda beta, step: (0.0, 20.0), 200)
    np.testing.assert_allclose(rows[:, 0], 3.0, rtol=1e-12)
    rows = steer(rule, 3.0, lambda beta, step: (0.0, 1e9), 5_000, bounds=(0.5, 4.0))
    assert rows[-1, 0] == 4.0 and rows[:, 0].max() == 4.0
    rows = steer(rule, 3.0, lambda beta, step: (0.0, 0.0), 5_000, bounds=(0.5, 4.0))
    assert rows[-1, 0] == pytest.approx(0.5, abs=0.011) and rows[:, 0].min() >= 0.5
    # and it turns round at once: nothing was wound up
    rule.observe(block(0, data=np.zeros(50), kls={"z": np.full(50, 40.0)}))
    assert rule.value(5_050) > rows[-1, 0]


def test_kl_target_holds_where_nothing_was_evaluated():
    rule = vt.rules.kl_target("z", 20.0)
    rule.bounds = (0.0, 10.0)
    rule.begin(2.0)
    rule.observe(block(0, data=np.zeros(50), kls={"z": np.full(50, np.nan)}))
    assert rule.value(50) == 2.0 and "held" in rule.why


def test_geco_ends_where_the_distortion_is_the_target():
    target = distortion(0.37)
    rule = vt.rules.geco(target, rate=0.05, scale=1.0, memory=0.0, every=1)
    rows = steer(rule, 1.0, lambda beta, step: (-distortion(beta), 0.0), 4_000)
    assert rows[-1, 0] == pytest.approx(0.37, abs=1e-6)
    rule = vt.rules.geco(target)
    rows = steer(rule, 0.0, lambda beta, step: (-distortion(max(beta, 1e-6)), 0.0), 60_000)
    assert rows[-1, 0] == pytest.approx(0.37, rel=1e-3)


def test_soft_free_bits_keeps_the_kl_within_its_band():
    least = 0.7
    rule = vt.rules.soft_free_bits("z", least, factor=1.02)
    rows = steer(rule, 5.0, lambda beta, step: (0.0, kl(beta)), 20_000)
    late = rows[len(rows) // 2 :]
    assert (late[:, 2] >= least / 1.03).all() and (late[:, 2] <= 1.05 * least * 1.03).all()
    ratios = rows[1:, 0] / rows[:-1, 0]
    assert all(min(abs(r - f) for f in (1, 1.02, 1 / 1.02)) < 1e-12 for r in ratios)


def test_a_target_out_of_reach_leaves_beta_at_its_bound_and_it_turns_round_at_once():
    """Of distortion 0 and of infinity, of a KL of 0 and of infinity: the limits of both laws."""
    bounds = (0.01, 8.0)
    for wanted, end in ((1e-9, 0.01), (1e9, 8.0)):
        rule = vt.rules.geco(wanted, rate=0.05, scale=1.0, memory=0.0, every=1)
        rows = steer(rule, 1.0, lambda beta, step: (-distortion(beta), 0.0), 4_000, bounds)
        assert rows[-1, 0] == pytest.approx(end, rel=1e-12)
        data = -1e9 if end == 8.0 else -1e-12
        for first in range(200):
            rule.observe(block(first, data=[2 * data if end == 8.0 else data]))
            value = rule.value(first + 1)
        assert (value < end) if end == 8.0 else (value > end)
    for value, end in ((0.0, 0.01), (1e9, 8.0)):
        rule = vt.rules.soft_free_bits("z", 0.7, factor=1.1)
        rows = steer(rule, 1.0, lambda beta, step, kl=value: (0.0, kl), 20_000, bounds)
        assert rows[-1, 0] == pytest.approx(end, rel=1e-12)


def test_a_collapse_restarts_the_annealing_and_only_a_collapse():
    rule = vt.rules.cyclic_restart_on_collapse("z", below=0.1, steps=400, every=50, times=2)
    rows = steer(rule, 2.0, lambda beta, step: (0.0, 0.0), 4_000)[:, 0]
    due = np.arange(50, 4_001, 50)
    restarts = due[rows == 0.0]
    assert len(restarts) == 2 == rule.restarts
    for restart in restarts:
        at = (due >= restart) & (due <= restart + 400)
        np.testing.assert_allclose(rows[at], 2.0 * (due[at] - restart) / 400)
    assert restarts[1] - restarts[0] == 800  # annealed, then as long for the KL to show
    rows = steer(rule, 2.0, lambda beta, step: (0.0, 0.2), 4_000)[:, 0]
    assert (rows == 2.0).all()


def test_balance_goes_to_the_share_of_the_kl():
    kls = {"z": 30.0, "w": 10.0, "v": 20.0}
    for name, expected in {"z": 1.5, "w": 0.5, "v": 1.0}.items():
        rule = vt.rules.balance(name, among=list(kls))
        rule.bounds = (0.0, 10.0)
        rule.begin(0.8)
        values = []
        n = rule.every
        for first in range(0, 20_000, n):
            rule.observe(
                block(first, data=np.zeros(n), kls={k: np.full(n, v) for k, v in kls.items()})
            )
            values.append(rule.value(first + n))
        assert abs(values[0] - 0.8) < 0.25 * abs(expected - 0.8)  # no jump
        assert values[-1] == pytest.approx(expected, rel=1e-6)


def noisy_quadratic(rate, steps, *, a=1.3, v=2.0, seed=0, x=0.0):
    """Products of successive gradients and iterates of SGD on a x² / 2 with gradient noise v."""
    rng = np.random.default_rng(seed)
    products, iterates, last = [], [], 0.0
    for noise in rng.normal(size=steps) * np.sqrt(v):
        gradient = a * x + noise
        products.append(gradient * last)
        last, x = gradient, x - rate * gradient
        iterates.append(x)
    return np.array(products), np.array(iterates)


def test_pflug_drops_around_the_optimum_and_not_on_the_way():
    a, v, rate = 1.3, 2.0, 0.1
    products, _ = noisy_quadratic(rate, 400_000)
    assert products[1_000:].mean() == pytest.approx(-a * rate * v / (2 - rate * a), rel=0.1)
    rule = vt.rules.pflug(0.5, burn_in=500)

    def run(products):
        rule.bounds = (0.0, 1.0)
        rule.begin(rate)
        for first in range(0, len(products), 100):
            part = products[first : first + 100]
            rule.observe(block(first, data=np.zeros(100), measures={"gradient_dot": part}))
            yield rule.value(first + 100)

    values = np.array(list(run(products[:30_000])))
    assert values[4] == rate and values[-1] < rate / 4
    assert set(np.round(np.log2(rate / values), 9) % 1) == {0.0}
    far, _ = noisy_quadratic(1e-4, 3_000, x=200.0)
    assert set(run(far)) == {rate}


def test_dlrd_finds_the_ratio_of_slope_and_noise_and_drops_below_it():
    rng = np.random.default_rng(3)
    n, slope, noise = 200, 0.02, 1.0
    rule = vt.rules.dlrd(every=1)
    rule.bounds = (1e-6, 1.0)
    rule.begin(0.1)
    iterates = slope * np.arange(n)[:, None] + noise * rng.normal(size=(n, 4_000)) + 1e3
    for row in iterates:
        rule.look([row[:1_000], row[1_000:].reshape(2, -1)])
    assert rule.ratio() == pytest.approx(slope**2 * (n * n - 1) / (12 * noise**2), rel=0.05)
    assert rule.value(n) == 0.1 and rule.why is None  # 1.33: it still advances
    rule.begin(0.1)
    for k, row in enumerate(rng.normal(size=(12, 4_000))):
        rule.look([row])
        value = rule.value(k)
        if value != 0.1:
            break
    assert value == pytest.approx(0.01) and k == 9 and "oscillate" in rule.why


def test_dlrd_at_its_limits_a_straight_line_and_no_move_at_all():
    for slope in (0.5, 0.0):
        rule = vt.rules.dlrd(every=1)
        rule.bounds = (1e-6, 1.0)
        rule.begin(0.1)
        for step in range(50):
            rule.look([np.full(3, 2.0 + slope * step)])
        assert rule.ratio() > 1e12  # no noise: infinite but for rounding
        assert rule.value(50) == 0.1


def elbo_trace(slope_errors, *, patience, every, seed, noise=3.0):
    """White noise about a slope of so many standard errors of a regression over `patience`."""
    rng = np.random.default_rng(seed)
    points = patience // every
    at = np.arange(points) * every
    error = noise / np.sqrt(every) / np.sqrt(((at - at.mean()) ** 2).sum())
    steps = np.arange(60 * patience)
    return slope_errors * error * steps + noise * rng.normal(size=len(steps))


def drops(rule, elbo, control=None):
    rule.bounds = (1e-9, 1.0)
    rule.begin(1.0)
    value, found = 1.0, []
    for first in range(0, len(elbo), rule.every):
        part = elbo[first : first + rule.every]
        used = value if control is None else control[first : first + rule.every]
        rule.observe(block(first, data=part, kls={"z": np.zeros(len(part))}, control=used))
        wanted = rule.value(first + rule.every)
        if wanted != value:
            found.append(first + rule.every)
            value = wanted
    return found


def test_plateau_drops_at_once_where_nothing_rises_and_never_on_a_clear_slope():
    rule = vt.rules.reduce_on_plateau(0.5, patience=1_000)
    flat = [drops(rule, elbo_trace(0.0, patience=1_000, every=50, seed=s))[0] for s in range(50)]
    assert np.median(flat) == 1_000 and np.max(flat) <= 1_500
    for seed in range(10):
        assert drops(rule, elbo_trace(8.0, patience=1_000, every=50, seed=seed)) == []
    assert rule.why is None or "±" in rule.why


def test_plateau_waits_while_another_control_moves():
    rule = vt.rules.reduce_on_plateau(0.5, patience=1_000)
    flat = elbo_trace(0.0, patience=1_000, every=50, seed=1)[:6_000]
    moving = np.minimum(np.arange(6_000) / 3_000, 1.0)
    assert drops(rule, flat, control=moving)[0] >= 4_000


@pytest.mark.parametrize("sizes", [[1], [7, 93], [400, 100], [333, 667, 1_000]])
def test_plateau_decides_the_same_wherever_the_calls_ended(sizes):
    elbo = elbo_trace(1.0, patience=1_000, every=50, seed=3)[:12_000]
    elbo[::97] = np.nan
    moving = np.minimum(np.arange(12_000) // 3, 1_111.0)

    def slopes(sizes):
        rule, first, found = vt.rules.reduce_on_plateau(), 0, []
        rule.bounds = (1e-9, 1.0)
        rule.begin(1.0)
        for size in sizes * (12_000 // sum(sizes)):
            part = slice(first, first + size)
            kls = {"z": np.zeros(size)}
            rule.observe(block(first, data=elbo[part], kls=kls, control=moving[part]))
            first += size
            if first % 2_000 == 0:
                found.append((first, rule.value(first), rule.why))
        return found

    assert slopes(sizes) == slopes([50])
    assert len({value for _, value, _ in slopes(sizes)}) > 1


def test_plateau_and_the_gradients_rules_go_no_lower_than_asked():
    rule = vt.rules.reduce_on_plateau(0.5, patience=400, least=0.2)
    drops(rule, elbo_trace(0.0, patience=400, every=50, seed=1))
    assert rule._rate == 0.2


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda r: r.kl_target("z", 0.0), ValueError, "target must be a number above 0"),
        (lambda r: r.kl_target("z", "20"), TypeError, "target must be a real number"),
        (lambda r: r.geco(0.0), ValueError, "give scale="),
        (lambda r: r.geco(1.0, memory=1.0), ValueError, "from 0 to below 1"),
        (lambda r: r.soft_free_bits("z", 1.0, factor=1.0), ValueError, "above 1"),
        (lambda r: r.pflug(1.5), ValueError, "above 0 and below 1"),
        (lambda r: r.reduce_on_plateau(patience=100), ValueError, "patience must be"),
        (lambda r: r.balance("z", among=["w", "v"]), ValueError, "at least two variables"),
        (lambda r: r.cyclic_restart_on_collapse("z", below=0), ValueError, "below must be"),
    ],
)
def test_bad_arguments_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make(vt.rules)


@pytest.mark.parametrize(
    ("control", "message"),
    [
        (lambda: vt.Beta(rule=vt.rules.kl_target("x", 3.0)), r"reads kl\[x\], and this fit"),
        (lambda: vt.Beta(rule=vt.rules.pflug()), "gradient=True"),
    ],
)
def test_a_rule_that_reads_what_is_not_there_is_refused_before_anything_compiles(
    gaussians, fast, control, message
):
    inference = vt.ADVI(beta=control())
    with pytest.raises(ValueError, match=message):
        inference.fit(10, **fast)
    assert inference.step_function is None


def test_the_rules_state_is_kept_with_the_trace(gaussians, fast):
    recorder = vt.Recorder()
    beta = vt.Beta(1.0, rule=vt.rules.kl_target("z", 0.5, every=10))
    vt.ADVI(beta=beta, random_seed=1).fit(100, callbacks=[recorder], **fast)
    kept = recorder.trace.attrs["rules"]["beta"]
    assert kept["rule"] == "kl_target('z', 0.5)" and kept["target"] == 0.5
    assert isinstance(kept["_sum"], float)


def test_kl_target_holds_a_fit_and_says_why(gaussians):
    target = 0.8
    beta = vt.Beta(1.0, rule=vt.rules.kl_target("z", target))
    recorder = vt.Recorder()
    vt.ADVI(beta={"z": beta}, random_seed=1, closed_form=["z"]).fit(
        12_000, obj_optimizer=pm.adam(learning_rate=0.01), callbacks=[recorder], progressbar=False
    )
    late = recorder.trace[-2_400:].kl["z"]
    assert abs(late.mean() - target) < 0.05 * target
    assert "the target 0.8" in recorder.trace.events[-1].text
