"The automatic layer of every common architecture, and what can be read there. Weights are random: only the build counts."
import pytest
import torch
import torch.nn.functional as F
from torch import nn

models = pytest.importorskip("torchvision.models")

from networks import network, rows
from whitebox.attribution import AblationCAM, At, CAM, GradCAM, HiResCAM, InputXGradient
from whitebox.probe import Probe
from whitebox.toys import zoo


class Lite(nn.Module):
    "A block of EfficientNet-Lite: expand, depthwise, project; the skip is functional"
    def __init__(self, kernel, stride, expand, inside, out):
        super().__init__()
        wide = inside * expand
        if expand > 1: self._expand_conv, self._bn0 = nn.Conv2d(inside, wide, 1, bias=False), nn.BatchNorm2d(wide)
        self._depthwise_conv, self._bn1 = nn.Conv2d(wide, wide, kernel, stride, kernel // 2, groups=wide, bias=False), nn.BatchNorm2d(wide)
        self._project_conv, self._bn2 = nn.Conv2d(wide, out, 1, bias=False), nn.BatchNorm2d(out)
        self.expand, self.skip = expand > 1, stride == 1 and inside == out
    def forward(self, x):
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.expand else x
        y = self._bn2(self._project_conv(F.relu6(self._bn1(self._depthwise_conv(y)))))
        return x + y if self.skip else y

class EfficientNetLite0(nn.Module):
    "Blocks (how many, kernel, stride, expansion, channels in and out), functional ReLU6 after the last batch norm"
    stages = (1, 3, 1, 1, 32, 16), (2, 3, 2, 6, 16, 24), (2, 5, 2, 6, 24, 40), (3, 3, 2, 6, 40, 80), (3, 5, 1, 6, 80, 112), (4, 5, 2, 6, 112, 192), (1, 3, 1, 6, 192, 320)
    def __init__(self):
        super().__init__()
        self._conv_stem, self._bn0 = nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32)
        self._blocks = nn.ModuleList(Lite(k, s if i == 0 else 1, e, a if i == 0 else b, b) for n, k, s, e, a, b in self.stages for i in range(n))
        self._conv_head, self._bn1, self._fc = nn.Conv2d(320, 1280, 1, bias=False), nn.BatchNorm2d(1280), nn.Linear(1280, 1000)
    def forward(self, x):
        x = F.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks: x = block(x)
        return self._fc(F.relu6(self._bn1(self._conv_head(x))).mean((2, 3)))

# name -> size of the images, automatic layer, (order, h, w, tokens before the grid)
LAYERS = {
    "resnet18": (64, "layer4", ("NCHW", 2, 2, 0)), "resnet50": (64, "layer4", ("NCHW", 2, 2, 0)),
    "vgg11_bn": (64, "features.27", ("NCHW", 4, 4, 0)), "densenet121": (64, "features", ("NCHW", 2, 2, 0)),
    "googlenet": (64, "inception5b", ("NCHW", 2, 2, 0)), "inception_v3": (107, "Mixed_7c", ("NCHW", 2, 2, 0)),
    "mobilenet_v2": (64, "features", ("NCHW", 2, 2, 0)), "mobilenet_v3_small": (64, "features", ("NCHW", 2, 2, 0)),
    "efficientnet_b0": (64, "features", ("NCHW", 2, 2, 0)), "shufflenet_v2_x1_0": (64, "conv5", ("NCHW", 2, 2, 0)),
    "squeezenet1_1": (64, "features", ("NCHW", 3, 3, 0)), "convnext_tiny": (64, "features", ("NCHW", 2, 2, 0)),
    "regnet_y_400mf": (64, "trunk_output", ("NCHW", 2, 2, 0)),
    "vit_b_16": (64, "encoder.layers.encoder_layer_11.ln_1", ("NLC", 4, 4, 1)), "swin_t": (64, "permute", ("NCHW", 2, 2, 0)),
    "maxvit_t": (224, "blocks.3", ("NCHW", 7, 7, 0)), "squeezenet1_1 at 224": (224, "features", ("NCHW", 13, 13, 0)),
    "EfficientNetLite0": (224, "_bn1", ("NCHW", 7, 7, 0)),
    # where the last grid would be a single place, the one before; a branch of a block is not enough
    "inception_v3 at 75": (75, "Mixed_6e", ("NCHW", 3, 3, 0)), "resnet18 at 32": (32, "layer3", ("NCHW", 2, 2, 0)),
    "regnet_y_400mf at 32": (32, "trunk_output.block3", ("NCHW", 2, 2, 0))}
QUICK = {"resnet18", "squeezenet1_1", "mobilenet_v3_small", "swin_t"}      # one with channels last among them
# CAM: where a mean and one linear layer follow the last grid of all; else why not
HEADS = {"resnet18": "layer4", "resnet50": "layer4", "googlenet": "inception5b", "inception_v3": "Mixed_7c", "mobilenet_v2": "features",
         "efficientnet_b0": "features", "regnet_y_400mf": "trunk_output", "squeezenet1_1": "classifier.2", "swin_t": "permute",
         "squeezenet1_1 at 224": "classifier.2"}
PLACES = "vgg11_bn", "densenet121", "vit_b_16", "EfficientNetLite0"        # a functional ReLU or no mean at all
BENDS = "mobilenet_v3_small", "convnext_tiny", "maxvit_t"                  # two linear layers, or a norm between

def case(name, n=1):
    "The network of a row, and images of its size"
    if name != "EfficientNetLite0":
        net, x = network(name.split(" at ")[0], LAYERS[name][0])
        return net, x[:n]
    torch.manual_seed(0)
    return EfficientNetLite0().double().eval(), torch.rand(n, 3, 224, 224).double()

@pytest.mark.parametrize("name", rows(LAYERS, QUICK))
def test_the_automatic_layer(name):
    net, x = case(name)
    _, layer, grid = LAYERS[name]
    with Probe(net) as p: assert (p.last_grid(x), tuple(p.survey(x).grids[layer])) == (layer, grid)
    maps = GradCAM()(net, x, 3, upsample=False)
    assert maps.shape == (1, 1, *grid[1:3]) and maps.isfinite().all()
    assert maps.equal(GradCAM(layer)(net, x, 3, upsample=False))
    assert not any(m._forward_hooks for m in net.modules())

@pytest.mark.parametrize("name", rows(HEADS, QUICK))
def test_cam_reads_the_head(name):
    net, x = case(name)
    k, layer = 3, HEADS[name]
    a = CAM()(net, x, k, upsample=False)
    assert a.equal(CAM(layer)(net, x, k, upsample=False))
    hw = a.shape[2] * a.shape[3]
    torch.testing.assert_close(GradCAM(layer)(net, x, k, upsample=False), a.relu() / hw, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(HiResCAM(layer)(net, x, k, upsample=False), a / hw, rtol=1e-9, atol=1e-12)
    bias = [v for n, v in net.named_parameters() if n.endswith("bias")][-1][k] if "squeezenet" not in name else 0
    torch.testing.assert_close(a.mean() + bias, net(x)[0, k])

@pytest.mark.parametrize("name", rows(PLACES + BENDS, QUICK))
def test_cam_refuses_another_head(name):
    net, x = case(name)
    with pytest.raises(TypeError, match="more than a mean follows" if name in PLACES else "more than one linear layer follows"): CAM()(net, x, 3)

@pytest.mark.parametrize("name", rows(["swin_t", "vit_b_16"], QUICK))
def test_layers_of_tokens_and_channels_last(name):
    "What stands above a layer is told of it through its own grid"
    net, x = case(name, 2)
    layer = {"swin_t": "norm", "vit_b_16": LAYERS["vit_b_16"][1]}[name]
    hires = HiResCAM(layer)(net, x, 3, upsample=False)
    torch.testing.assert_close(At(InputXGradient(), layer)(net, x, 3, upsample=False), hires)
    if name == "swin_t": torch.testing.assert_close(hires, HiResCAM("permute")(net, x, 3, upsample=False))

def test_channels_are_switched_off_on_any_grid():
    torch.manual_seed(0)
    net = models.SwinTransformer([4, 4], embed_dim=16, depths=[1, 1], num_heads=[2, 4], window_size=[4, 4], num_classes=5).double().eval()
    x = torch.rand(2, 3, 32, 32).double()
    torch.testing.assert_close(AblationCAM("norm")(net, x, 3), AblationCAM("permute")(net, x, 3))

@pytest.mark.parametrize("name, layer", dict(TinyCNN="features.6", SimpleCNN="features.10", CAMNet="features.10").items())
def test_own_networks(name, layer):
    net, x = network(name)
    with Probe(net) as p: assert p.last_grid(x) == layer
    if name == "CAMNet":
        with Probe(net) as p: assert p.survey(x).end == "features.11"

@pytest.mark.parametrize("name, layer", dict(conv="g", norm="g", inplace="g", softplus="g", functional="b", reused="b", residual="stem",
                                             tokens="patch").items())
def test_toys(name, layer):
    with Probe(zoo()[name]) as p: assert p.last_grid(torch.zeros(1, 3, 16, 16)) == layer

def test_the_layer_depends_on_the_network_and_the_size_alone():
    net, calls = zoo()["conv"], []
    for x in torch.zeros(2, 3, 16, 16), torch.ones(5, 3, 16, 16) / 2:
        with Probe(net) as p: calls.append(p.survey(x))
    assert calls[0] == calls[1]

def test_a_head_of_zeros_has_a_layer():
    net = zoo()["conv"]
    net.head.weight.data.zero_()
    with Probe(net) as p: assert p.last_grid(torch.zeros(1, 3, 16, 16)) == "g"
