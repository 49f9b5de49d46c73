"""Occlusion beside captum 0.9.0, RISE beside its formula written out; float64, to 1e-9 of the largest value."""
import pytest
import torch
from cases import CLASSES, images

from whitebox.attribution import At, Blurred, Occlusion, PublishedRISE, RISE, SmoothGrad, check_method
from whitebox.attribution.rise import masks, standard_error
from whitebox.fill import Black, Blur, ChannelMean, Constant
from whitebox.target import Probability
from whitebox.toys import zoo

NETS = "conv", "norm", "softplus", "residual", "tokens"


# ---- occlusion

def captum_occlusion(net, x, y, window, stride, fill):
    "Its map, which is rounded to float32 in the last step, its sum over windows divided by the number of them; this is not."
    theirs = pytest.importorskip("captum.attr").Occlusion(net)
    def call(): return theirs.attribute(x, (3, window, window), (3, stride, stride), fill(x), y, perturbations_per_eval=8)
    rounded = call()
    theirs.use_weights = False
    total = call()
    assert rounded.dtype == torch.float32 and total.dtype == torch.float64
    return total / (total / rounded).round()


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("window, stride", [(4, 2), (5, 3), (3, 1), (6, 5), (7, 7)])   # the last of (5, 3), (6, 5) and (7, 7) is clipped
def test_occlusion(name, window, stride, agrees):
    m, net, x = Occlusion(window, stride), zoo()[name].double(), images()
    agrees(m, m(net, x, CLASSES).expand(-1, 3, -1, -1), captum_occlusion(net, x, CLASSES, window, stride, ChannelMean()), "captum")


@pytest.mark.parametrize("fill", [Black(), Constant((.1, .5, .9)), Blur(2.)], ids=lambda fill: fill.label)
def test_occlusion_fills_and_sizes(fill, agrees):
    m, net, x = Occlusion(6, 4, fill), zoo()["norm"].double(), images(4, 13, 18)
    agrees(m, m(net, x, CLASSES).expand(-1, 3, -1, -1), captum_occlusion(net, x, CLASSES, 6, 4, fill), "captum")


def test_defaults_are_a_quarter_and_an_eighth():
    net, x = zoo()["norm"].double(), images()
    assert Occlusion()(net, x).equal(Occlusion(4, 2)(net, x)) and Occlusion().passes_on((16, 16)) == 7 * 7 + 1


def passes(method, x):
    "Rows a network was given, and the maps."
    net, rows = zoo()["norm"], []
    net.register_forward_pre_hook(lambda m, args: rows.append(len(args[0])))
    return method(net, x, 0), sum(rows)


def test_windows_that_change_nothing_need_no_pass():
    x = torch.zeros(2, 3, 16, 16)
    x[0, 1, 9, 4] = x[1, 2, 10, 5] = 1.
    maps, rows = passes(Occlusion(4, 4, Black()), x)
    assert rows == 2 * (1 + 1 + 1)                      # for the class, whole, and the one window that holds something
    assert maps[..., 8:12, 4:8].abs().min() > 0 and (maps != 0).sum() == 2 * 16
    torch.testing.assert_close(maps[:1], passes(Occlusion(4, 4, Black()), x[:1])[0])
    x[1] = x[1].roll(4, 2)                              # into another window
    maps, rows = passes(Occlusion(4, 4, Black()), x)
    assert rows == 2 * (1 + 1 + 2) and (maps != 0).sum() == 2 * 16
    blank, rows = passes(Occlusion(), torch.full((2, 3, 16, 16), .5))
    assert rows == 4 and not blank.any()


@pytest.mark.parametrize("method", [SmoothGrad(Occlusion(6, 5), samples=3), Blurred(Occlusion(9, 4)), At(Occlusion(), "b"),
                                    SmoothGrad(PublishedRISE(samples=50), samples=2), At(RISE(samples=50, keep=.6), "b"),
                                    Occlusion(5, 3, Black()), RISE(samples=50, grid=3, keep=.3, fill=ChannelMean())], ids=lambda m: m.label)
def test_laws(method): check_method(method)


@pytest.mark.slow
@pytest.mark.parametrize("method", [Occlusion(), RISE(samples=100), PublishedRISE(samples=100)], ids=lambda m: m.label)
def test_laws_in_full(method): check_method(method, level="full")


# ---- RISE

def reference(net, x, y, all_masks, keep, x0, softmax=False):
    "The two formulas of the page, for masks given one by one: (slope, published)."
    f = []
    for M in all_masks:
        out = net(x0 + M * (x - x0))
        f.append((out.softmax(1) if softmax else out).gather(1, y[:, None]).view(-1, 1, 1, 1))
    f, M = torch.stack(f), all_masks[:, None]                        # [S,N,1,1,1], [S,1,1,H,W]
    covariance = ((f - f.mean(0)) * (M - M.mean(0))).sum(0)
    return covariance / ((M - M.mean(0)) ** 2).sum(0), (f * M).mean(0) / keep


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("grid, keep, fill", [(7, .5, Black()), (4, .1, ChannelMean())])
def test_rise(name, grid, keep, fill, agrees):
    net, x, settings = zoo()[name].double(), images(), dict(samples=70, grid=grid, keep=keep, fill=fill, seed=3)
    with torch.no_grad(): both = reference(net, x, CLASSES, masks(RISE(**settings), range(70), x), keep, fill(x))
    for m, slow in zip((RISE(**settings), PublishedRISE(**settings)), both): agrees(m, m(net, x, CLASSES), slow)


def test_rise_of_the_probability(agrees):
    net, x = zoo()["norm"].double(), images(4, 13, 18)
    with torch.no_grad(): both = reference(net, x, CLASSES, masks(RISE(), range(90), x), .5, 0 * x, softmax=True)
    target = Probability().of_classes(CLASSES)
    for m, slow in zip((RISE(samples=90), PublishedRISE(samples=90)), both): agrees(m, m(net, x, target), slow)
    assert PublishedRISE(samples=90)(net, x, target).min() >= 0


def test_masks_depend_on_seed_and_draw_alone():
    x = torch.rand(2, 1, 20, 31)
    all_masks = masks(RISE(), range(50), x)
    assert masks(RISE(samples=9, fill=ChannelMean()), [41], x[1:]).equal(all_masks[41:42])
    assert not masks(RISE(seed=1), [41], x).equal(all_masks[41:42])
    assert all_masks.shape == (50, 1, 20, 31) and all_masks.min() >= 0 and all_masks.max() <= 1


def test_standard_error_is_that_of_least_squares(agrees):
    "Beside the sandwich formula of a straight line, pixel by pixel"
    net, x = zoo()["norm"].double(), images(2)
    m = RISE(samples=60)
    said, M = standard_error(m, net, x, CLASSES[:2]), masks(m, range(60), x)
    with torch.no_grad(): f = torch.stack([net(k * x) for k in M]).gather(2, CLASSES[:2].view(1, 2, 1).expand(60, -1, -1))
    for n, i, j in (0, 3, 5), (1, 0, 15), (1, 9, 9):
        X = torch.stack([torch.ones(60).double(), M[:, 0, i, j]], 1)
        bread, line = torch.linalg.inv(X.T @ X), torch.linalg.lstsq(X, f[:, n]).solution
        meat = X.T @ (X * (f[:, n] - X @ line) ** 2)
        agrees(m, said[n, 0, i, j] ** 2, (bread @ meat @ bread)[1, 1])
