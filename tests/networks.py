"""The networks that methods are held to: sixteen of torchvision with random weights, two with weights of ImageNet, the project's own three.

Convolutions drawn by fan-in, affine terms of norms, layer scales and what stands around a transformer's tokens at random, statistics of batch
norms from three batches. All in float64 and evaluation mode."""
import pytest
import torch
from torch import nn

torchvision = pytest.importorskip("torchvision")

from test_hub import needed
from whitebox.models import CAMNet, SimpleCNN, TinyCNN
from whitebox.models.hub import hub

SIDES = dict.fromkeys("""resnet18 resnet50 vgg11_bn densenet121 googlenet inception_v3 mobilenet_v2 mobilenet_v3_small efficientnet_b0
    shufflenet_v2_x1_0 squeezenet1_1 convnext_tiny regnet_y_400mf vit_b_16 swin_t maxvit_t""".split(), 64) | dict(inception_v3=107, maxvit_t=224)
REAL = {"SqueezeNet 1.1": ("squeezenet1_1", "weights/squeezenet1_1.npz"), "EfficientNet-Lite0": ("efficientnet_lite0", "weights/efficientnet_lite0.pth")}
OWN = {"TinyCNN": (TinyCNN(), (1, 28, 28)), "SimpleCNN": (SimpleCNN(), (3, 32, 32)), "CAMNet": (CAMNet(), (1, 28, 56))}
NETWORKS = *SIDES, *REAL, *OWN
QUICK = "resnet18", "squeezenet1_1", "mobilenet_v3_small", "shufflenet_v2_x1_0"

def rows(names, quick=QUICK):
    "Parameters of a test: real weights need data, and all but the quick ones are slow"
    return [pytest.param(n, id=n, marks=[pytest.mark.data] * (n in REAL) + [pytest.mark.slow] * (n not in quick)) for n in names]

def network(
    name,        # of NETWORKS
    side=None,   # of images of another size than usual
):
    "A classifier and two images for it, photographs for real weights"
    if name in REAL: return real(*REAL[name])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net, shape = built(name, side)
        net = awake(net, shape).double()
    return net, torch.rand(2, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

def built(name, side):
    "The architecture of a name, and the shape of its images"
    if name in OWN: return OWN[name][0].build(OWN[name][1], 10), OWN[name][1]
    side = side or SIDES[name]
    extra = dict(vit_b_16=dict(image_size=side)) | dict.fromkeys(("googlenet", "inception_v3"), dict(aux_logits=False, init_weights=False))
    return torchvision.models.get_model(name, weights=None, **extra.get(name, {})), (3, side, side)

@torch.no_grad()
def awake(net, shape):
    "Weights and statistics as training might leave them, so that no branch is silent"
    for m in net.modules():
        if isinstance(m, nn.Conv2d): nn.init.kaiming_normal_(m.weight, nonlinearity="relu")
        if isinstance(m, (nn.BatchNorm2d, nn.LayerNorm)): m.weight.uniform_(.5, 1.5), m.bias.normal_(0, .2)
    for path, p in net.named_parameters():
        if "layer_scale" in path: p.uniform_(.1, .5)
        if path == "class_token" or path.startswith("heads"): p.normal_(0, .2)
    for _ in range(3): net.train()(torch.rand(4, *shape))
    return net.eval()

def real(name, weights):
    net = hub(name, needed(weights))
    return net.double(), torch.stack([net.view(needed(f"photos/{photo}.png")) for photo in ("chelsea", "astronaut")]).double() / 255
