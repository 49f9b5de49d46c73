"Null studies at full size: what has no difference must show none, at the promised rate."
import math
import numpy as np
import pytest
from scipy import stats
from whitebox.errors import BadShape, BadValue
from whitebox.evaluation.statistics import Interval, bootstrap, holm, mde, paired_t, replicates_for, sign_flip, two_way_t

@pytest.mark.parametrize("n", [6, 8])
def test_n1_exact_p_is_uniform_on_its_grid(n):
    raw, _ = sign_flip(np.random.default_rng(n).normal(size=(n, 5000)))
    j = raw * 2**n / 2
    assert np.allclose(j, j.round()) and raw.min() >= 2 / 2**n
    assert stats.chisquare(np.bincount(j.round().astype(int), minlength=2**n // 2 + 1)[1:]).pvalue > .001

@pytest.mark.slow
@pytest.mark.parametrize("n", [3, 6, 10])
def test_n2_t_interval_covers_what_it_promises(n):
    d = np.random.default_rng(n).normal(size=(20_000, n))
    held = np.mean([i.low < 0 < i.high for i in map(paired_t, d)])
    assert abs(held - .95) < .005

@pytest.mark.slow
@pytest.mark.parametrize("n", [3, 5, 8])
@pytest.mark.parametrize("retraining", [0, .1, .3])
def test_n2_two_way_interval_covers_new_images(n, retraining):
    rng, held = np.random.default_rng(n), 0
    for _ in range(800):
        logit = rng.normal(1, 1.5, 500) + rng.normal(0, .5, (2, 1, 500)) + rng.normal(0, retraining, (2, n, 1))
        right = rng.random((2, n, 500)) < 1 / (1 + np.exp(-logit))
        interval = two_way_t(right[0].astype(float) - right[1])
        held += interval.low <= 0 <= interval.high
    assert .92 <= held / 800 <= .99

def test_n3_max_t_family_wise_error():
    rng = np.random.default_rng(0)
    wrong = [sign_flip(rng.normal(size=(6, 1)) + rng.normal(size=(6, 5)))[1].min() <= .05 for _ in range(600)]
    assert np.mean(wrong) <= .07

def test_max_t_power_as_measured():
    rng = np.random.default_rng(0)
    effect = np.array([3., 3, 0, 0, 0])
    found = [sign_flip(effect + .5**.5 * (rng.normal(size=(6, 1)) + rng.normal(size=(6, 5))))[1][:2] <= .05
             for _ in range(600)]
    assert .80 < np.mean(found) < .97

@pytest.mark.parametrize("n,delta,power", [(6, 2, .871), (7, 1.5, .881), (8, 1.5, .939), (10, 1, .794)])
def test_sign_flip_power_as_measured(n, delta, power):
    raw, _ = sign_flip(np.random.default_rng(n).normal(delta, 1, (n, 4000)))
    assert abs(np.mean(raw <= .05) - power) < .022

def test_n6_identical_methods():
    raw, adjusted = sign_flip(np.zeros((6, 3)))
    assert raw.tolist() == adjusted.tolist() == [1, 1, 1]
    assert paired_t(np.zeros(6)) == Interval(0, 0, 0, 6) and paired_t(np.zeros(6)).degenerate

def test_a_column_without_spread_counts_as_the_clearest():
    raw, adjusted = sign_flip(np.c_[np.full(6, .01), np.random.default_rng(0).normal(size=6)])
    assert raw[0] == adjusted[0] == 2 / 64

def test_max_t_laws():
    X = np.random.default_rng(1).normal(.5, 1, (7, 6))
    raw, adjusted = sign_flip(X)
    assert (adjusted >= raw - 1e-12).all()
    assert np.array_equal(sign_flip(X * [1, 10, 1e-3, 1, 1, -1])[1], adjusted)              # unit and sign of a column
    assert np.array_equal(sign_flip(X[:, ::-1])[1][::-1], adjusted)                         # order of columns
    assert np.array_equal(sign_flip(X[::-1])[1], adjusted)                                  # order of replicates
    order = np.argsort(raw, kind="stable")
    assert (np.diff(adjusted[order]) >= -1e-12).all()

def test_random_flips_are_repeatable_and_near_the_t_test():
    X = np.random.default_rng(2).normal(.4, 1, (25, 4))
    assert np.array_equal(sign_flip(X, draws=5000)[1], sign_flip(X, draws=5000)[1])
    assert np.allclose(sign_flip(X)[0], stats.ttest_1samp(X, 0).pvalue, atol=.01)
    assert sign_flip(np.ones(20), draws=999)[0][0] >= 1 / 1000                              # never zero

def test_holm_against_its_definition():
    for seed in range(50):
        p = np.random.default_rng(seed).random(6)
        order, running = sorted(range(6), key=p.__getitem__), 0
        for j, k in enumerate(order):
            running = max(running, min(1, (6 - j) * p[k]))
            assert math.isclose(holm(p)[k], running)

def test_mde_against_scipy_power():
    for n in (4, 6, 10):
        rng = np.random.default_rng(n)
        shown = stats.power(lambda x, axis: stats.ttest_1samp(x, 0, axis=axis), lambda size: rng.normal(mde(n, 1), 1, size),
                            n, significance=.05, n_resamples=10_000).power
        assert abs(shown - .8) < .02

@pytest.mark.parametrize("n", [3, 4, 10, 1000])
@pytest.mark.parametrize("family", [1, 40, 5000])
def test_mde_is_finite_and_linear_in_sd(n, family):
    assert 0 < mde(n, 1, family=family) < math.inf and math.isclose(mde(n, .02, family=family), .02 * mde(n, 1, family=family))

def test_replicates_for_is_the_first_that_suffices():
    for ratio in (.05, .3, 1, 3):
        n = replicates_for(ratio, 1)
        assert mde(n, 1) <= ratio and (n == 3 or mde(n - 1, 1) > ratio)
    assert replicates_for(.01, 0) == 3

@pytest.mark.parametrize("n", range(1, 10))
def test_bootstrap_is_refused_below_ten(n):
    with pytest.raises(BadValue, match=f"over {n} replicates"): bootstrap(np.arange(n))

def test_bootstrap_is_repeatable():
    d = np.random.default_rng(0).normal(size=12)
    assert bootstrap(d) == bootstrap(d) != bootstrap(d, seed=1)
    assert bootstrap(np.ones(12)).degenerate

@pytest.mark.parametrize("call, error", [
    (lambda: paired_t([]), BadShape), (lambda: paired_t(np.ones((2, 2))), BadShape), (lambda: paired_t([math.inf]), BadValue),
    (lambda: two_way_t(np.ones(3)), BadShape), (lambda: two_way_t(np.ones((3, 1))), BadShape),
    (lambda: sign_flip(3.), BadShape), (lambda: sign_flip(np.ones((2, 2, 2))), BadShape), (lambda: holm([]), BadShape),
    (lambda: holm([-.1]), BadValue), (lambda: mde(6, math.nan), BadValue), (lambda: mde(6, 1, power=.01), BadValue),
    (lambda: mde(6, 1, family=0), BadValue), (lambda: replicates_for(0, 1), BadValue)])
def test_refusals(call, error):
    with pytest.raises(error): call()
