"""Agreement with captum 0.9.0 in float64, on networks in several building styles."""
import pytest
import torch

pytest.importorskip("captum")
from captum.attr import (InputXGradient as CaptumInputXGradient, IntegratedGradients as CaptumIntegratedGradients, LayerGradCam,
                         LayerGradientXActivation, Saliency)

from whitebox.attribution import At, GradCAM, Gradient, InputXGradient, IntegratedGradients, SmoothGrad, SmoothGradSquared, VarGrad
from whitebox.attribution.smoothgrad import noisy
from whitebox.fill import Black, ChannelMean
from whitebox.method import draws
from whitebox.probe import Probe
from whitebox.target import aim
from whitebox.toys import zoo

GRIDS = {"conv": "g", "norm": "f", "softplus": "g", "residual": "norm"}   # a layer with a grid that runs once


pytestmark = pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients")


def images(): return torch.rand(4, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=["conv", "norm", "softplus", "functional", "residual", "tokens"])
def case(request):
    "A network's name, the network, four images and their classes."
    return request.param, zoo()[request.param].double(), images(), torch.tensor([0, 1, 2, 0])


def same(ours, theirs):
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-9, atol=1e-9 * theirs.abs().max().item())


def saliency(net, x, y): return Saliency(net).attribute(x.clone(), y, abs=False)


def test_gradient(case):
    _, net, x, y = case
    same(Gradient()(net, x, y), saliency(net, x, y))


def test_input_x_gradient(case):
    _, net, x, y = case
    same(InputXGradient()(net, x, y), CaptumInputXGradient(net).attribute(x.clone(), y))


@pytest.mark.parametrize("baseline", [Black(), ChannelMean()])
def test_integrated_gradients(case, baseline):
    _, net, x, y = case
    # captum holds places on the path in float32, which is exact for a power of two
    theirs = CaptumIntegratedGradients(net).attribute(x, baseline(x), y, n_steps=16, method="riemann_middle")
    same(IntegratedGradients(16, baseline)(net, x, y), theirs)


@pytest.mark.parametrize("name", GRIDS)
def test_layers(name):
    net, x, y = zoo()[name].double(), images(), torch.tensor([0, 1, 2, 0])
    layer = dict(net.named_modules())[GRIDS[name]]
    same(GradCAM(GRIDS[name])(net, x, y, upsample=False), LayerGradCam(net, layer).attribute(x, y).relu())
    theirs = LayerGradientXActivation(net, layer).attribute(x, y).sum(1, keepdim=True)
    same(At(InputXGradient(), GRIDS[name])(net, x, y, upsample=False), theirs)


def noisy_copies(m, net, x, y, pairs=True):
    "The copies that a method looks at, [S,N,C,H,W]."
    with Probe(net) as p:
        target = aim(y, len(x)).rows(x, slice(0, len(x))).fixed(p(x))
        return torch.cat(list(draws(p, lambda x, t, draw: noisy(m, x, draw, pairs), x, target, m.samples)))


def test_smoothgrad(case):
    _, net, x, y = case
    m = SmoothGrad(samples=6)
    maps = torch.stack([saliency(net, copy, y) for copy in noisy_copies(m, net, x, y)])
    same(m(net, x, y), maps.mean(0))
    same(SmoothGradSquared(samples=6)(net, x, y), (maps ** 2).mean(0))


def test_vargrad(case):
    _, net, x, y = case
    m = VarGrad(samples=6)
    maps = torch.stack([saliency(net, copy, y) for copy in noisy_copies(m, net, x, y, pairs=False)])
    same(m(net, x, y), maps.var(0))


def test_smoothgrad_of_integrated_gradients(case):
    _, net, x, y = case
    m, n = SmoothGrad(IntegratedGradients(3), samples=2), 6
    copies = noisy_copies(SmoothGrad(samples=n), net, x, y)
    theirs = sum(copy * saliency(net, (k // 2 + .5) / 3 * copy, y) for k, copy in enumerate(copies)) / n
    same(m(net, x, y), theirs)
