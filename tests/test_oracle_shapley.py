"LIME and Shapley values: slow references, and agreement with shap 0.51.0, captum 0.9.0, lime 0.2.0.1, scikit-learn."
import itertools

import numpy as np
import pytest
import torch
from cases import images

from whitebox.attribution import LIME, At, ExactShapley, KernelSHAP, PackageLIME, PaperLIME, ShapleySampling, SmoothGrad, check_method
from whitebox.attribution.lime import how_many, of_each, uniforms
from whitebox.attribution.shapley import by_kernel, contributions, standard_error
from whitebox.fill import Black, ChannelMean, gaussian_blur
from whitebox.ranking import Elements, Patches, Superpixels
from whitebox.toys import zoo

NINE, SIXTEEN = Patches(6), Patches(4)   # parts of 16×16 images
NETS = ["conv", "norm", "residual", "tokens"]


def network(name): return zoo()[name].double()
def flat(*rows): return torch.stack(rows).flatten(1)

def pieces(maps, region):
    "The value of each part, [N,K]: what its pixels add up to."
    units = region.units(maps).expand_as(maps).flatten(1)
    return torch.zeros(len(maps), int(units.max()) + 1, dtype=maps.dtype).scatter_add_(1, units, maps.flatten(1))

def composed(x, x0, region, kept):
    "One image with the parts of a set shown, pixel by pixel."
    y, units = x0.clone(), region.units(x)[0, 0]
    for i, j in itertools.product(range(16), range(16)):
        if int(units[i, j]) in kept: y[:, :, i, j] = x[:, :, i, j]
    return y


# ---- slow references, on the same draws

@pytest.mark.parametrize("name", NETS)
def test_sampling_is_the_loop_over_its_orders(name, agrees):
    net, x, m = network(name), images(2), ShapleySampling(samples=2, baseline=ChannelMean(), region=NINE, seed=3)
    slow = torch.zeros(2, 9, dtype=torch.float64)
    orders = uniforms(2, 9, 3).argsort(1).tolist()
    for n, order in itertools.product(range(2), [turned for order in orders for turned in (order, order[::-1])]):
        one, shown = x[n:n + 1], set()
        score = lambda: net(composed(one, ChannelMean()(one), NINE, shown))[0, 1].item()
        before = score()
        for part in order:
            shown.add(part)
            slow[n, part] += (score() - before) / 4
            before = score()
    agrees(m, pieces(m(net, x, 1), NINE), slow)

@pytest.mark.parametrize("name", NETS)
def test_kernel_shap_solves_the_problem_with_its_constraint(name, agrees):
    "By Lagrange multipliers, on the drawn coalitions composed pixel by pixel"
    net, x, m = network(name), images(1), KernelSHAP(samples=60, region=NINE, seed=5)
    z = by_kernel(uniforms(30, 10, 5))
    z = torch.cat([z, ~z]).double()
    x0 = Black()(x)
    score = lambda kept: net(composed(x, x0, NINE, kept))[0, 2].item()
    empty, whole = score(()), score(range(9))
    s = torch.tensor([score(row.nonzero().flatten().tolist()) - empty for row in z], dtype=torch.float64)
    A = torch.cat([torch.cat([2 * z.T @ z, torch.ones(9, 1)], 1), torch.tensor([[1.] * 9 + [0.]])]).double()
    slow = torch.linalg.solve(A, torch.cat([2 * z.T @ s, torch.tensor([whole - empty], dtype=torch.float64)]))[:9]
    with pytest.warns(UserWarning, match="mostly noise"): ours = m(net, x, 2)
    agrees(m, pieces(ours, NINE)[0], slow)

@pytest.mark.parametrize("method", [LIME(samples=50, seed=1), PackageLIME(samples=50, fill=Black()), PaperLIME(samples=80, ridge=.3)])
def test_lime_is_a_weighted_ridge(method, agrees):
    ridge = pytest.importorskip("sklearn.linear_model").Ridge
    net, x = network("softplus"), images(1)
    x0, z = method.fill(x), method.coalitions(16)
    s = [net(composed(x, x0, SIXTEEN, row.nonzero().flatten().tolist()))[0, 0].item() for row in z]
    d = 1 - z.double().mean(1).sqrt()
    weight = torch.exp(-d ** 2 / .25 ** 2)
    if not isinstance(method, PaperLIME): weight = weight.sqrt()
    line = ridge(alpha=method.ridge, solver="svd").fit(z.double().numpy(), s, sample_weight=weight.numpy())
    ours, = of_each(method, net, x, 0, lambda v, units: method.line(v, how_many(units)))
    agrees(method, pieces(method(net, x, 0), SIXTEEN)[0], line.coef_, "scikit-learn")
    agrees(method, ours.intercept, line.intercept_, "scikit-learn")
    agrees(method, ours.r2, line.score(z.double().numpy(), s, sample_weight=weight.numpy()), "scikit-learn")

@pytest.mark.parametrize("name", NETS)
def test_exact_values_are_the_mean_over_all_orders(name, agrees):
    m, net, x = ExactShapley(region=Patches(8)), network(name), images(1)
    def both(v, units): return flat(ExactShapley().values(v, 4), contributions(v, torch.tensor(list(itertools.permutations(range(4))))).mean(0))
    ours, slow = of_each(m, net, x, 1, both)[0]
    agrees(m, ours, slow, bound=1e-10)

@pytest.mark.parametrize("K", range(2, 11))
def test_the_regression_on_all_coalitions_is_exact(K, agrees):
    scores = torch.randn(2 ** K, dtype=torch.float64, generator=torch.Generator().manual_seed(K))
    game = lambda z: scores[z.long() @ 2 ** torch.arange(K)]
    agrees(KernelSHAP(), KernelSHAP().values(game, K), ExactShapley().values(game, K), bound=1e-8)

@pytest.mark.parametrize("region", [NINE, Superpixels(9), Patches(8)])
def test_leaving_out_what_equals_the_baseline_changes_nothing(region, agrees):
    m, net, x = ExactShapley(region=region), network("conv"), images(1)
    x[:, :, :, 6:] = 0
    x[:, :, 9, 7] = .3
    kept = ExactShapley(region=region)
    kept.__dict__["hiding"] = lambda y: (kept.parts(y), Black()(y))
    agrees(m, m(net, x, 0), kept(net, x, 0), bound=1e-10)

def test_an_image_that_equals_its_baseline_has_a_map_of_zeros():
    x = torch.cat([torch.zeros(1, 3, 16, 16), torch.rand(1, 3, 16, 16)])
    for m in ExactShapley(), ShapleySampling(samples=2), KernelSHAP(samples=200):
        maps = m(zoo()["conv"], x, 0)
        assert maps[0].eq(0).all() and maps[1].abs().max() > 0


# ---- wrappers

def test_at_a_layer_that_is_passed_by_an_image_keeps_its_own():
    "The residual adds what the layer saw, so a probe above the layer must run each image on itself"
    net, x, y = zoo()["residual"], images(3).float(), torch.tensor([0, 1, 2])
    for m in At(ExactShapley(), "deep"), At(LIME(samples=40, region=Patches(2)), "deep"), At(SmoothGrad(ExactShapley(), samples=2), "deep"):
        alone = torch.cat([m(net, x[i:i + 1], y[i:i + 1]) for i in range(3)])
        torch.testing.assert_close(m(net, x, y), alone, rtol=1e-4, atol=1e-6)
        assert not m(net, x, y).allclose(m(net, x.flip(0), y).flip(0))

def test_elements_have_maps_of_their_own_and_add_up(agrees):
    net, x = network("conv"), images(2)[:, :, :2, :2]
    m = ExactShapley(region=Elements())
    assert not m.spatial and m(net, x, 0).shape == x.shape
    agrees(m, m(net, x, 0).sum((1, 2, 3)), (net(x) - net(0 * x))[:, 0])

@pytest.mark.parametrize("method", [ShapleySampling(samples=2, region=Patches(8)), KernelSHAP(samples=12, region=Patches(8)),
                                    KernelSHAP(samples=256, baseline=ChannelMean()), LIME(samples=40, region=Patches(2))])
def test_laws_with_other_parts(method): assert not check_method(method).failed

@pytest.mark.parametrize("method", [ShapleySampling(samples=2, region=Superpixels(12)), LIME(samples=40, region=Superpixels(20))])
def test_laws_with_superpixels(method):
    "Each image has its own number of parts; there are some to be found in smooth pictures"
    x = gaussian_blur(images(3), 2.).float()
    x = (x - x.amin()) / (x.amax() - x.amin())
    assert len({int(method.parts(x[i:i + 1]).max()) for i in range(3)}) > 1
    assert not check_method(method, model=zoo()["conv"], x=x).failed

def test_cost_is_by_size():
    assert [ShapleySampling(region=Patches(8)).passes_on(s) for s in ((16, 16), (16, 32), (32, 32))] == [98, 226, 482]
    assert SmoothGrad(KernelSHAP(), samples=3).passes_on((16, 16)) == 3 * 2082
    assert LIME().passes_on((16, 16)) == 1000


# ---- peers

def games(name, region=NINE):
    "The function of part indicators that peers explain, and our exact values."
    net, x, m = network(name), images(1), ExactShapley(region=region)
    def ask(question): return of_each(m, net, x, 1, lambda v, units: question(lambda z: v(torch.as_tensor(np.asarray(z) > .5)).numpy(), v))[0]
    return ask, ExactShapley(region=region)

@pytest.mark.parametrize("name", NETS)
def test_shap(name, agrees):
    shap = pytest.importorskip("shap")
    ask, exact = games(name)
    def question(f, v):
        kernel = shap.KernelExplainer(f, np.zeros((1, 9))).shap_values(np.ones((1, 9)), nsamples=2 ** 9, l1_reg=0, silent=True)[0]
        every = shap.explainers.Exact(f, shap.maskers.Independent(np.zeros((1, 9))))(np.ones((1, 9)), silent=True).values[0]
        return exact.values(v, 9), KernelSHAP().values(v, 9), kernel, every
    ours, regression, kernel, every = ask(question)
    agrees(exact, ours, kernel, "shap", 1e-8)
    agrees(exact, ours, every, "shap", 1e-8)
    agrees(KernelSHAP(), regression, kernel, "shap", 1e-8)

@pytest.mark.parametrize("name", ["conv", "tokens"])
def test_captum(name, noted):
    "At equal passes, mean of eight runs against ours within four standard errors"
    captum = pytest.importorskip("captum.attr")
    net, x, runs = network(name), images(1), 8
    mask = SIXTEEN.units(x)
    orders = dict(peer=captum.ShapleyValueSampling, n=16, ours=ShapleySampling(samples=8 * runs, region=SIXTEEN))
    kernel = dict(peer=captum.KernelShap, n=240, ours=KernelSHAP(samples=240 * runs, region=SIXTEEN))
    for case in orders, kernel:
        torch.manual_seed(0)
        peer = case["peer"](net)   # gives every pixel the whole value of its part
        maps = [peer.attribute(x, torch.zeros_like(x), 1, feature_mask=mask, n_samples=case["n"])[:, :1] for _ in range(runs)]
        theirs = pieces(torch.cat(maps), SIXTEEN) / 16
        ours = pieces(case["ours"](net, x, 1), SIXTEEN)[0]
        own = pieces(standard_error(case["ours"], net, x, 1), SIXTEEN)[0]
        error = (theirs.var(0) / runs + own ** 2).sqrt()
        noted(case["ours"], "captum", "standard errors", ((theirs.mean(0) - ours).abs() / error).max(), 4)
        assert own.square().sum() < theirs.var(0).sum() / runs   # pairs err less

def test_lime(noted):
    explainer = pytest.importorskip("lime.lime_image")
    stats = pytest.importorskip("scipy.stats")
    net, x = network("softplus"), images(1)
    units = SIXTEEN.units(x)[0, 0].numpy()
    def classify(pictures): return net(torch.as_tensor(np.stack(pictures)).movedim(-1, 1)).detach().numpy()
    found = explainer.LimeImageExplainer(kernel_width=.25, random_state=0, verbose=False).explain_instance(
        x[0].movedim(0, -1).numpy(), classify, labels=[1], top_labels=None, hide_color=0, num_features=100_000, num_samples=5000,
        batch_size=50, segmentation_fn=lambda picture: units, random_seed=0)
    theirs = [value for _, value in sorted(found.local_exp[1])]
    for m in LIME(samples=5000, fill=Black()), PackageLIME(samples=5000, fill=Black()):
        ours = pieces(m(net, x, 1), SIXTEEN)[0]
        noted(m, "lime", "rank correlation", stats.spearmanr(ours, theirs).statistic, .95)
        noted(m, "lime", "correlation", np.corrcoef(ours, theirs)[0, 1], .99)
