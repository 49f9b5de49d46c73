"""Agreement with captum 0.9.0 in float64, on networks in several building styles."""
import pytest
import torch
from cases import CLASSES, case, images, noisy_copies

pytest.importorskip("captum")
from captum.attr import (Deconvolution, GuidedBackprop as CaptumGuidedBackprop, GuidedGradCam, InputXGradient as CaptumInputXGradient,
                         IntegratedGradients as CaptumIntegratedGradients, LayerGradCam, LayerGradientXActivation, Saliency)

from whitebox.attribution import (At, DeconvNet, GradCAM, Gradient, GuidedBackprop, GuidedGradCAM, InputXGradient, IntegratedGradients, SmoothGrad,
                                  SmoothGradSquared, VarGrad)
from whitebox.fill import Black, ChannelMean
from whitebox.models import SimpleCNN, TinyCNN
from whitebox.toys import zoo

GRIDS = {"conv": "g", "norm": "f", "softplus": "f", "residual": "norm"}   # a layer with a grid that runs once


pytestmark = pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients")


def saliency(net, x, y): return Saliency(net).attribute(x.clone(), y, abs=False)


def test_gradient(case, agrees):
    net, x, y = case
    agrees(Gradient(), Gradient()(net, x, y), saliency(net, x, y), "captum")


def test_input_x_gradient(case, agrees):
    net, x, y = case
    agrees(InputXGradient(), InputXGradient()(net, x, y), CaptumInputXGradient(net).attribute(x.clone(), y), "captum")


@pytest.mark.parametrize("baseline", [Black(), ChannelMean()])
def test_integrated_gradients(case, agrees, baseline):
    m, (net, x, y) = IntegratedGradients(16, baseline), case
    # captum holds places on the path in float32, which is exact for a power of two
    theirs = CaptumIntegratedGradients(net).attribute(x, baseline(x), y, n_steps=16, method="riemann_middle")
    agrees(m, m(net, x, y), theirs, "captum")


@pytest.mark.parametrize("name", GRIDS)
def test_layers(name, agrees):
    net, x, y = zoo()[name].double(), images(), CLASSES
    layer = dict(net.named_modules())[GRIDS[name]]
    cam, at = GradCAM(GRIDS[name]), At(InputXGradient(), GRIDS[name])
    agrees(cam, cam(net, x, y, upsample=False), LayerGradCam(net, layer).attribute(x, y).relu(), "captum")
    theirs = LayerGradientXActivation(net, layer).attribute(x, y).sum(1, keepdim=True)
    agrees(at, at(net, x, y, upsample=False), theirs, "captum")


@pytest.mark.filterwarnings("ignore:Setting backward hooks")
@pytest.mark.parametrize("network, layer", [(TinyCNN(), "features.6"), (SimpleCNN(), "features.10")], ids=["TinyCNN", "SimpleCNN"])
def test_rules_of_the_relu(network, layer, agrees):
    "Where every ReLU is a module of its own and used once"
    torch.manual_seed(0)
    net, x, y = network.build((3, 16, 16), 3).double().eval(), images(), CLASSES
    for m, peer in (GuidedBackprop(), CaptumGuidedBackprop), (DeconvNet(), Deconvolution): agrees(m, m(net, x, y), peer(net).attribute(x, y), "captum")
    theirs = GuidedGradCam(net, net.get_submodule(layer)).attribute(x, y, interpolate_mode="bilinear")
    agrees(GuidedGradCAM(layer), GuidedGradCAM(layer)(net, x, y), theirs, "captum")


def test_smoothgrad(case, agrees):
    m, squared, (net, x, y) = SmoothGrad(samples=6), SmoothGradSquared(samples=6), case
    maps = torch.stack([saliency(net, copy, y) for copy in noisy_copies(m, net, x, y)])
    agrees(m, m(net, x, y), maps.mean(0), "captum")
    agrees(squared, squared(net, x, y), (maps ** 2).mean(0), "captum")


def test_vargrad(case, agrees):
    m, (net, x, y) = VarGrad(samples=6), case
    maps = torch.stack([saliency(net, copy, y) for copy in noisy_copies(m, net, x, y, pairs=False)])
    agrees(m, m(net, x, y), maps.var(0), "captum")


def test_smoothgrad_of_integrated_gradients(case, agrees):
    net, x, y = case
    m, n = SmoothGrad(IntegratedGradients(3), samples=2), 6
    copies = noisy_copies(SmoothGrad(samples=n), net, x, y)
    theirs = sum(copy * saliency(net, (k // 2 + .5) / 3 * copy, y) for k, copy in enumerate(copies)) / n
    agrees(m, m(net, x, y), theirs, "captum")
