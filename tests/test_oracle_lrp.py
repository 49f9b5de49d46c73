"""Agreement with zennit 0.5.1 in float64, to 1e-9 of the largest value: rules with the same stabiliser, composites by their layers.

zennit lets an empty side of z⁺ or αβ lose its part (`fill_empty=False`) and counts the bias of w² (here set to zero). It merges a
batch norm but leaves the norm's own eps at work, so networks with batch norm have eps = 0. Its composites add a stabiliser at average
pooling, where here a sum splits exactly; it is made vanishing."""
import pytest
import torch
from cases import images
from torch import nn

pytest.importorskip("zennit")
import zennit.rules as theirs
from zennit.attribution import Gradient
from zennit.canonizers import SequentialMergeBatchNorm
from zennit.composites import LayerMapComposite, SpecialFirstLayerMapComposite
from zennit.torchvision import ResNetCanonizer
from zennit.types import Activation, AvgPool, Convolution, Linear

from whitebox.attribution.lrp import (AlphaBeta, Epsilon, EpsilonAlpha2Beta1, EpsilonGammaBox, EpsilonPlus, EpsilonPlusFlat, Flat, Gamma, LRP,
                                      WSquare, ZBox, ZPlus)
from whitebox.models.hub import normalised
from whitebox.toys import row, three_units

LAYERS = Convolution, Linear
RULES = [(Epsilon(), theirs.Epsilon()), (Epsilon(.5), theirs.Epsilon(.5)), (Gamma(), theirs.Gamma()), (Gamma(2., 1e-3), theirs.Gamma(2., 1e-3)),
         (ZPlus(fill_empty=False), theirs.ZPlus()), (AlphaBeta(fill_empty=False), theirs.AlphaBeta()),
         (AlphaBeta(1.5, .5, fill_empty=False, epsilon=1e-3), theirs.AlphaBeta(1.5, .5, 1e-3))]
FIRST = [(ZBox(-.5, 1.5), theirs.ZBox(-.5, 1.5)), (WSquare(), theirs.WSquare(zero_params="bias")), (Flat(), theirs.Flat()), *RULES]

def shifted(size=16): return images(3, size, size) * 2 - .5

def net(norm=False):
    "Two convolutions and two dense layers, some weights large; each activation a module of its own"
    torch.manual_seed(0)
    def bn(c): return [nn.BatchNorm2d(c, eps=0.)] if norm else []
    made = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), *bn(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 12, 3, 2, groups=2), *bn(12), nn.ReLU(),
                         nn.Flatten(), nn.Linear(108, 20), nn.ReLU(), nn.Linear(20, 3)).double()
    return settled(made)

def settled(model):
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_(0, .2); m.running_var.uniform_(.5, 1.5); m.weight.data.normal_(); m.bias.data.normal_(0, .2); m.eps = 0.
    return model.eval()

def relevance(model, composite, x, k):
    "zennit's map of the logit k"
    with Gradient(model=model, composite=composite) as attributor:
        return attributor(x.clone(), lambda out: out * torch.eye(out.shape[1], dtype=out.dtype)[k])[1]

def named(pairs): return pytest.mark.parametrize("rule, other", pairs, ids=[rule.label for rule, _ in pairs])

@pytest.mark.parametrize("norm", [False, True], ids=["plain", "norm"])
@named(RULES)
def test_rules(rule, other, norm, agrees):
    m, x, model = LRP(rule), shifted(), net(norm)
    composite = LayerMapComposite([(Activation, theirs.Pass()), (LAYERS, other)], canonizers=[SequentialMergeBatchNorm()])
    agrees(m, m(model, x, 1), relevance(model, composite, x, 1), "zennit")

@pytest.mark.parametrize("norm", [False, True], ids=["plain", "norm"])
@named(FIRST)
def test_rules_of_the_first_layer(rule, other, norm, agrees):
    m, x, model = LRP(EpsilonPlus(Epsilon(.1), ZPlus(fill_empty=False), rule)), shifted(), net(norm)
    layers = [(Activation, theirs.Pass()), (Convolution, theirs.ZPlus()), (Linear, theirs.Epsilon(.1))]
    composite = SpecialFirstLayerMapComposite(layers, [(LAYERS, other)], canonizers=[SequentialMergeBatchNorm()])
    agrees(m, m(model, x, 1), relevance(model, composite, x, 1), "zennit")

@named([(Flat(), theirs.Flat()), (WSquare(), theirs.WSquare()), *RULES])
def test_three_units(rule, other, agrees):
    "Rules in both layers; flat and w² also behind an activation"
    composite = LayerMapComposite([(Activation, theirs.Pass()), (LAYERS, other)])
    m, model, x = LRP(rule), three_units(), row(1., 2.)
    agrees(m, m(model, x, 0), relevance(model, composite, x, 0), "zennit")

def test_box_behind_a_normalisation(agrees):
    "zennit is given the normalised image and its range there"
    mean, std = torch.tensor([.5, .25, .375]).double().view(3, 1, 1), torch.tensor([.25, .5, .125]).double().view(3, 1, 1)
    m, model, x = LRP(EpsilonGammaBox()), net(), shifted().clamp(0, 1)
    layers = [(Activation, theirs.Pass()), (Convolution, theirs.Gamma()), (Linear, theirs.Epsilon())]
    box = theirs.ZBox((-mean / std).expand(x.shape), ((1 - mean) / std).expand(x.shape))
    ours = m(normalised(model, mean.flatten().tolist(), std.flatten().tolist()), x, 2)
    agrees(m, ours, relevance(model, SpecialFirstLayerMapComposite(layers, [(Convolution, box)]), (x - mean) / std, 2), "zennit")

COMPOSITES = [(EpsilonPlus(conv=ZPlus(fill_empty=False)), theirs.ZPlus(), None),
              (EpsilonPlusFlat(conv=ZPlus(fill_empty=False)), theirs.ZPlus(), theirs.Flat()),
              (EpsilonGammaBox(first=ZBox(-.5, 1.5)), theirs.Gamma(), theirs.ZBox(-.5, 1.5)),
              (EpsilonAlpha2Beta1(conv=AlphaBeta(fill_empty=False)), theirs.AlphaBeta(), None)]

@pytest.mark.parametrize("rule, conv, first", COMPOSITES, ids=[c[0].label for c in COMPOSITES])
def test_resnet(rule, conv, first, agrees):
    "Residual sums share by ε in zennit, exactly here: its stabiliser is made vanishing"
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    m, model, x = LRP(rule), settled(torchvision.models.resnet18(weights=None, num_classes=5).double()), shifted(32)
    layers = [(Activation, theirs.Pass()), (AvgPool, theirs.Norm(1e-300)), (Convolution, conv), (Linear, theirs.Epsilon())]
    from zennit.layer import Sum
    layers.insert(0, (Sum, theirs.Norm(1e-300)))
    composite = SpecialFirstLayerMapComposite(layers, [(Convolution, first)] if first else [], canonizers=[ResNetCanonizer()])
    agrees(m, m(model, x, 3), relevance(model, composite, x, 3), "zennit")
