"Path methods against captum 0.9.0 in float64; wrappers over every method; images named by a value, also in a worker."
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
import torch
from cases import case, images, noisy_copies

from whitebox import attribution
from whitebox.attribution import (ExpectedGradients, FromImages, GaussLegendre, Gradient, InputXGradient, IntegratedGradients, Midpoint,
                                  PublishedExpectedGradients, Right, SmoothGrad, SmoothGradSquared, Trapezoid, VarGrad, gap)
from whitebox.attribution.layers import At
from whitebox.attribution.part1 import Part1IB, Part1IG, Part1SG, Part1SGSQ, Part1SGVAR, Part1VBP, shaken
from whitebox.data.images import from_tensors
from whitebox.errors import BadShape, BadValue, MissingData, UnsupportedModel
from whitebox.fill import Black, ChannelMean
from whitebox.method import Method, draws
from whitebox.probe import Probe
from whitebox.target import Probability, aim
from whitebox.toys import linear, product, row, saturation, three_units, zoo
from whitebox.value import parse, reseed

pytestmark = pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients")


@pytest.fixture
def captum(monkeypatch):
    "captum's methods, kept from rounding places and weights to single precision"
    attr = pytest.importorskip("captum.attr")
    assert pytest.importorskip("captum").__version__ == "0.9.0"
    monkeypatch.setattr(torch.Tensor, "float", lambda t: t.double())
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield attr
    torch.set_default_dtype(before)


# ---- rules

RULES = [(Midpoint(), "riemann_middle", 1.), (Right(), "riemann_right", 1.), (GaussLegendre(), "gausslegendre", 1.),
         (Trapezoid(), "riemann_trapezoid", 13 / 12)]   # captum's trapezoid weighs (m − 1)/m in all

@pytest.mark.parametrize("rule, name, factor", RULES, ids=[name for _, name, _ in RULES])
@pytest.mark.parametrize("baseline", [Black(), ChannelMean()], ids=str)
def test_rules_equal_captum(case, captum, agrees, rule, name, factor, baseline):
    m, (net, x, y) = IntegratedGradients(13, baseline, rule), case
    theirs = captum.IntegratedGradients(net).attribute(x, baseline(x).contiguous(), y, n_steps=13, method=name)
    agrees(m, m(net, x, y), factor * theirs, "captum")


def test_captum_trapezoid_lacks_a_part(captum, agrees):
    "On a linear model a complete map is w·x; theirs is (m − 1)/m of it"
    m, f, x = IntegratedGradients(10, rule=Trapezoid()), linear((2., -3., .5)), row(1., 2., -4.)
    theirs = captum.IntegratedGradients(f).attribute(x, 0 * x, 0, n_steps=10, method="riemann_trapezoid")
    agrees(m, .9 * m(f, x), theirs, "captum")


@pytest.mark.parametrize("rule", [Midpoint(), Right(), Trapezoid(), GaussLegendre()], ids=lambda r: r.label)
@pytest.mark.parametrize("n", [2, 3, 8, 50, 513])
def test_rules_are_quadratures(rule, n):
    "Places in order inside [0,1]; weights of mean one; a straight line is integrated, by Right up to 1/2n"
    u, weight = map(np.array, rule.points(n))
    assert len(u) == len(weight) == n and (np.diff(u) > 0).all() and 0 <= u[0] and u[-1] <= 1 and (weight > 0).all()
    np.testing.assert_allclose(weight.mean(), 1, rtol=1e-12)
    np.testing.assert_allclose((weight * u).mean(), .5 + (rule == Right()) / (2 * n), rtol=1e-12)


@pytest.mark.parametrize("rule", [Midpoint(), Right(), Trapezoid(), GaussLegendre()], ids=lambda r: r.label)
def test_joint_draws_go_by_the_rule(case, agrees, rule):
    "SmoothGrad of a path: each look its own noise, each pair one place of the rule; chunks change nothing"
    net, x, y = case
    m = SmoothGrad(IntegratedGradients(3, rule=rule), samples=4)
    u, weight = rule.points(6)
    copies = noisy_copies(SmoothGrad(samples=12), net, x, y)
    by_hand = sum(weight[k // 2] * c * Gradient()(net, u[k // 2] * c, y) for k, c in enumerate(copies)) / 12
    agrees(m, m(net, x, y), by_hand)
    agrees(m, m(net, x, y, chunk=5), by_hand)


# ---- the same noise

@pytest.mark.parametrize("method, kind", [(SmoothGrad(samples=6), "smoothgrad"), (SmoothGradSquared(samples=6), "smoothgrad_sq"),
                                          (VarGrad(samples=6), "vargrad")], ids=["smoothgrad", "squared", "vargrad"])
def test_noise_tunnel_fed_the_same_noise(case, captum, agrees, monkeypatch, method, kind):
    net, x, y = case
    copies = noisy_copies(method, net, x, y, pairs=kind != "vargrad")
    noise = (copies - x).transpose(0, 1).flatten(0, 1)   # captum holds the copies of an image together
    monkeypatch.setattr(torch, "normal", lambda mean, std: noise)
    theirs = captum.NoiseTunnel(captum.Saliency(net)).attribute(x, nt_type=kind, nt_samples=6, stdevs=1., target=y, abs=False)
    factor = 6 / 5 if kind == "vargrad" else 1.          # captum divides by n
    agrees(method, method(net, x, y), factor * theirs, "captum", 1e-7 if kind == "vargrad" else 1e-9)


# ---- expected gradients

def data():
    "Forty small colour images of two classes, one three times as frequent"
    x = torch.rand(40, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    return from_tensors(x, torch.arange(40) % 4 // 3, names=("many", "few"), name="forty images")


def test_gradient_shap_fed_the_same_draws(case, captum, agrees, monkeypatch):
    net, x, y = case
    held = data()
    m, n = PublishedExpectedGradients(FromImages.of(held), samples=5), len(x)
    places, starts = [], []
    with Probe(net) as p:
        target = aim(y, n).rows(x, slice(0, n)).fixed(p(x))
        def note(copies, t, draw):
            starts.append(m.baseline.drawn(copies, draw.keys(m.seed)).unflatten(0, (len(draw.ks), n)))
            places.append(draw.uniform(copies[:, :1, :1, :1], m.seed).unflatten(0, (len(draw.ks), n)))
            return copies
        list(draws(p, note, x, target, m.samples))
    u, x0 = torch.cat(places).transpose(0, 1).flatten().numpy(), torch.cat(starts).transpose(0, 1).flatten(0, 1)
    monkeypatch.setattr(np.random, "uniform", lambda low, high, size: u)
    monkeypatch.setattr(np.random, "choice", lambda n, size: np.arange(size))
    theirs = captum.GradientShap(net).attribute(x, x0, n_samples=5, stdevs=0., target=y)
    agrees(m, m(net, x, y), theirs, "captum")


def test_gradient_shap_in_its_limit(captum, noted):
    "Within 2 %, the tolerance of 20,000 of its draws"
    two = torch.rand(40, 1, 1, 2, generator=torch.Generator().manual_seed(1))
    held = from_tensors(two, torch.arange(40) % 2, name="forty pairs")
    net, x, pool = three_units(), row(1., 2.), held.train.float().double()
    before = np.random.get_state()
    np.random.seed(0)
    parts = [captum.GradientShap(net).attribute(x, pool, n_samples=1000, stdevs=0., target=0) for _ in range(20)]
    np.random.set_state(before)
    theirs = sum(parts) / 20
    for m in ExpectedGradients(FromImages.of(held), samples=20 * len(pool)), PublishedExpectedGradients(FromImages.of(held), samples=20_000):
        noted(m, "captum", "relative distance", (m(net, x, 0) - theirs).norm() / theirs.norm(), .02)


def test_one_baseline_is_integrated_gradients(case):
    net, x, y = case
    assert ExpectedGradients(ChannelMean(), samples=12)(net, x, y).equal(IntegratedGradients(12, ChannelMean())(net, x, y))
    exact = IntegratedGradients(300, ChannelMean())(net, x, y)
    published = PublishedExpectedGradients(ChannelMean(), samples=4000)(net, x, y)
    assert (published - exact).norm() / exact.norm() < .1


def test_classes_come_in_proportion():
    held = data()
    from whitebox.attribution.path_variants import in_turn
    _, order = in_turn(FromImages.of(held))
    few = held.train.y[order].double().cumsum(0)
    share = held.train.y.double().mean()
    assert order.sort().values.equal(torch.arange(len(order)))
    assert (few - share * torch.arange(1, len(order) + 1)).abs().max() <= 1


# ---- images that a value names

def test_images_that_are_not_there_are_refused():
    fill = parse("FromImages(name='forty images', digest='0123456789abcdef')")
    with pytest.raises(MissingData, match="not in use in this process, and no source.*keep them in a variable"): fill(images())
    for name in ("Gradient()", "__import__('os')", ""):
        with pytest.raises(MissingData, match="no source of that name"): parse(f"FromImages(name={name!r}, digest='0123456789abcdef')")(images())
    with pytest.raises(MissingData, match="now has other images"): parse("FromImages(name='Digits(size=10)', digest='0123456789abcdef')")(images())
    with pytest.raises(BadShape, match="Draw from images of the shape of x"): FromImages.of(held := data())(images()[:, :1])
    assert held.name == "forty images"


def test_a_source_is_loaded_again():
    from whitebox.data.images import LOADED
    from whitebox.data.sources import Digits
    text = repr(FromImages.of(Digits(size=9).load()))
    assert not [i for i in LOADED if i.name == "Digits(size=9)"]
    assert parse(text)(torch.zeros(2, 1, 9, 9)).shape == (2, 1, 9, 9)


def test_a_worker_draws_from_the_images_of_its_study(tmp_path):
    "In another process, without the data set being loaded there by name"
    from whitebox.data.sources import Digits
    from whitebox.models.simple_cnn import TinyCNN
    from whitebox.models.training import Recipe
    from whitebox.store import Store
    from whitebox.study import Clean, Fit, Maps, Place, attempt, keep, result
    held = Digits().load()
    mine = from_tensors(held.train.x[:60], held.train.y[:60], test=(held.test.x[:20], held.test.y[:20]), names=held.names, name="mine")
    method = ExpectedGradients(FromImages.of(mine), samples=10)
    place = Place(keep(Store(tmp_path / "a"), mine), TinyCNN(), Recipe(epochs=1))
    here = result(Store(tmp_path / "a"), Maps(Fit(place, Clean(), "base"), method))
    store, cell = Store(tmp_path / "b"), Maps(Fit(place, Clean(), "base"), method)
    keep(store, mine)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        key, status, why = pool.submit(attempt, store, cell, cell.key).result()
    assert (status, why) == ("done", "")
    assert all(np.array_equal(here[name], store.get(key)[name]) for name in ("train", "test"))


# ---- a tolerance

@pytest.mark.parametrize("name", zoo())
def test_a_tolerance_is_kept_image_by_image(name):
    net, x = zoo()[name].double(), images()
    m = IntegratedGradients(4, tol=.003)
    maps = m(net, x)
    assert gap(m, net, x).share.max() <= .003
    by_steps = [IntegratedGradients(steps)(net, x) for steps in (8, 16, 32, 64, 128, 256, 512)]
    for i in range(len(x)):
        k = min(range(7), key=lambda k: (by_steps[k][i] - maps[i]).abs().max())
        torch.testing.assert_close(maps[i], by_steps[k][i], rtol=1e-9, atol=1e-12)
        before = by_steps[k - 1][i] if k else IntegratedGradients(4)(net, x)[i]
        assert (maps[i] - before).abs().sum() < .05 * maps[i].abs().sum()
        assert torch.allclose(m(net, x[i:i + 1])[0], maps[i], rtol=1e-9)


def test_a_tolerance_at_a_layer_that_is_passed_by():
    "The images that are still open keep their own images below the layer"
    net, x = zoo()["residual"].double(), images()
    m = At(IntegratedGradients(2, tol=.01), "deep")
    together, alone = m(net, x), torch.cat([m(net, x[i:i + 1]) for i in range(len(x))])
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-12)


def test_a_tolerance_out_of_reach():
    with pytest.raises(BadValue, match=r"ends at 512 steps with gaps up to .*Raise tol"):
        IntegratedGradients(1, tol=1e-9)(saturation(), row(3.))   # a bend at a third of the path
    with pytest.raises(BadValue, match="Leave tol out"): SmoothGrad(IntegratedGradients(tol=.01))
    assert IntegratedGradients(5, tol=.01)(saturation(), row(2.)).shape == (1, 1, 1, 1)


# ---- wrappers over every method of the door

DOOR = [cls for name in attribution._all_ if isinstance(cls := getattr(attribution, name), type) and issubclass(cls, Method)]

@pytest.mark.parametrize("wrapper", [SmoothGrad, SmoothGradSquared, VarGrad])
@pytest.mark.parametrize("cls", DOOR, ids=lambda cls: cls.__name__)
def test_every_method_can_be_held(wrapper, cls):
    of = cls(InputXGradient()) if cls.__name__ == "Blurred" else cls()
    m, x = wrapper(of, samples=2), images()[:1].float()
    assert m.spatial == of.spatial and m.passes == 2 * of.passes
    try: maps = m(zoo()["conv"], x)
    except UnsupportedModel as why: pytest.skip(str(why))
    assert maps.isfinite().all() and maps.shape == of(zoo()["conv"], x).shape
    if wrapper is not SmoothGrad: assert (maps >= 0).all()


# ---- the earlier system, written as loops

def squeezed(a): return (a - a.amin((1, 2, 3), keepdim=True)) / (a.amax((1, 2, 3), keepdim=True) - a.amin((1, 2, 3), keepdim=True))


def slope(net, z, y):
    "The gradient of the probability of the label"
    z = z.clone().requires_grad_()
    return torch.autograd.grad((net(z.clone()).softmax(1) * torch.nn.functional.one_hot(y, 3)).sum(), z)[0]


def vbp(net, z, y): return squeezed(slope(net, z, y))


def test_part1_is_what_it_was(case, agrees):
    net, x, y = case
    z, target = (x - .4) / .25, Probability().of_classes(y)   # normalised, as its images were
    m = Part1SG(samples=5)
    looks = [vbp(net, c, y) for c in noisy_copies(m, net, z, y, shaken)]
    other = [vbp(net, c, y) for c in noisy_copies(Part1SG(samples=5, seed=1), net, z, y, shaken)]
    squares = sum(a ** 2 for a in looks) / 5
    then = {Part1VBP(): vbp(net, z, y), Part1IB(): squeezed(vbp(net, z, y) * squeezed(z)),
            Part1IG(): squeezed(sum(slope(net, k / 10 * z, y) for k in range(11)) / 10), m: squeezed(sum(looks) / 5),
            Part1SGSQ(samples=5): squeezed(squares), Part1SGVAR(samples=5): squeezed(squares - squeezed(sum(other) / 5) ** 2)}
    for now, maps in then.items(): agrees(now, now(net, z, target), maps)


def test_part1_is_found_by_name_and_listed_nowhere():
    assert parse("Part1SGVAR(Part1IG(steps=5))") == Part1SGVAR(Part1IG(steps=5))
    assert not [name for name in attribution.__all__ if name.startswith("Part1")]
    assert reseed(Part1SG(), 1).seed != 0 and product()(row(3., 2.)).item() == 6
