"""Agreement of the CAM family with captum 0.9.0, pytorch-grad-cam 1.5.7 and torchcam 0.5.0, in float64, on raw maps at the size of the
layer. Bounds wider than rounding come from the peers: a constant added to a denominator, or scores kept in float32."""
import pytest
import torch
from cases import CLASSES, images

from whitebox.attribution import (AblationCAM, CAM, EigenCAM, GradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM, ScoreCAM, XGradCAM)
from whitebox.toys import ChannelHead, zoo

LAYERS = {"conv": "g", "norm": "f", "softplus": "f", "residual": "stem"}     # with a grid that runs once; "residual" has values below zero
EXACT = 1e-9


def network(name, scale=1.):
    "A network in float64 whose logits are `scale` times as large"
    net = zoo()[name].double()
    for v in net.head.parameters(): v.data *= scale
    return net, dict(net.named_modules())[LAYERS[name]]


@pytest.fixture(params=LAYERS)
def case(request): return request.param, LAYERS[request.param], *network(request.param)


# ---- captum

def test_captum(case, agrees):
    captum = pytest.importorskip("captum.attr")
    _, layer, net, module = case
    cam, hires = GradCAM(layer), HiResCAM(layer)
    agrees(cam, cam(net, images(), CLASSES, upsample=False), captum.LayerGradCam(net, module).attribute(images(), CLASSES).relu(), "captum")
    theirs = captum.LayerGradientXActivation(net, module).attribute(images(), CLASSES).sum(1, keepdim=True)
    agrees(hires, hires(net, images(), CLASSES, upsample=False), theirs, "captum")


# ---- pytorch-grad-cam

def raw(kind, net, module, x, y, **settings):
    "The map of a class of pytorch-grad-cam before it is brought to [0,1], and to the size of the image, [N,1,H,W]"
    targets_of = pytest.importorskip("pytorch_grad_cam.utils.model_targets").ClassifierOutputTarget
    cam = getattr(pytest.importorskip("pytorch_grad_cam"), kind)(net, [module], **settings)
    targets = [targets_of(int(k)) for k in y]
    scores = cam.activations_and_grads(x)
    sum(t(s) for t, s in zip(targets, scores)).backward()
    A, G = (held[0].numpy() for held in (cam.activations_and_grads.activations, cam.activations_and_grads.gradients))
    return torch.as_tensor(cam.get_cam_image(x, module, targets, A, G, False))[:, None]


@pytest.mark.parametrize("method, kind, bound, scale", [(GradCAM, "GradCAM", EXACT, 1), (HiResCAM, "HiResCAM", EXACT, 1), (LayerCAM, "LayerCAM", EXACT, 1),
                                                        (XGradCAM, "XGradCAM", 1e-6, 1),                # 1e-7 is added to ΣA
                                                        (GradCAMPlusPlus, "GradCAMPlusPlus", EXACT, 1e6)])  # 1e-6 is added to 2G² + …: nothing beside large gradients
@pytest.mark.parametrize("name", ["conv", "norm", "softplus"])
def test_pytorch_grad_cam(method, kind, bound, scale, name, agrees):
    m, (net, module) = method(LAYERS[name]), network(name, scale)
    theirs = raw(kind, net, module, images(), CLASSES)
    agrees(m, m(net, images(), CLASSES, upsample=False), theirs if method is HiResCAM else theirs.relu(), "grad-cam", bound)


def test_pytorch_grad_cam_on_tokens(agrees):
    "A transformer of torchvision, whose tokens pytorch-grad-cam is told to reshape"
    pytest.importorskip("pytorch_grad_cam")
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    net = models.VisionTransformer(32, 8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=5).double().eval()
    net.heads.head.weight.data.normal_()
    x, layer = torch.rand(4, 3, 32, 32).double(), "encoder.layers.encoder_layer_1.ln_1"
    reshape = lambda t: t[:, 1:].unflatten(1, (4, 4)).permute(0, 3, 1, 2)
    for m in (GradCAM(), LayerCAM()):
        theirs = raw(type(m).__name__, net, dict(net.named_modules())[layer], x, CLASSES, reshape_transform=reshape)
        agrees(m, m(net, x, CLASSES, upsample=False), theirs.relu(), "grad-cam")


def test_pytorch_grad_cam_ablation(agrees):
    "On images whose score is positive, with the layer's least value zero; scores are float32 there"
    m, (net, module) = AblationCAM("g"), network("conv")
    net.head.bias.data += 1.
    assert (net(images()).gather(1, CLASSES[:, None]) > 0).all()
    theirs = raw("AblationCAM", net, module, images(), CLASSES)
    agrees(m, m(net, images(), CLASSES, upsample=False), theirs.relu(), "grad-cam", 1e-5)


def test_opposite_classes_have_opposite_ablation_maps(agrees):
    "pytorch-grad-cam divides by the score with its sign, so the classes of 14 and of −14 have one map"
    A = torch.tensor([[[[1., 2.], [3., 4.]], [[4., 1.], [0., 1.]]]], dtype=torch.float64)
    m, net = AblationCAM("channels"), ChannelHead()
    net.one = torch.nn.Parameter(torch.ones(1).double())      # it looks for a parameter
    net.channels.register_forward_hook(lambda module, args, out: out * net.one)
    theirs = [raw("AblationCAM", net, net.channels, A, [k]) for k in (0, 1)]
    assert torch.equal(*theirs)
    agrees(m, m(net, A, 0), theirs[0], "grad-cam", 1e-6)
    assert m(net, A, 1).equal(torch.zeros_like(A[:, :1]))


@pytest.mark.parametrize("scale", [1, 100])
def test_pytorch_grad_cam_score(scale, agrees):
    "At a layer of the size of the image nothing is enlarged; scores are float32 there"
    net, _ = network("conv", scale)
    theirs = raw("ScoreCAM", net, net.f, images(), CLASSES)
    agrees(ScoreCAM("f"), ScoreCAM("f")(net, images(), CLASSES), theirs.relu(), "grad-cam", 1e-5)


def test_pytorch_grad_cam_eigen(agrees):
    "It takes the mean from each channel first, and leaves the sign open: ours on a layer without the means agrees with it"
    net, _ = network("softplus")
    theirs = raw("EigenCAM", net, net.g, images(), CLASSES)
    net.g.register_forward_hook(lambda module, args, out: out - out.mean((2, 3), keepdim=True))
    ours = EigenCAM("g")(net, images(), upsample=False)
    agrees(EigenCAM("g"), ours.abs(), theirs.abs(), "grad-cam", 1e-6)                       # float32 there
    assert (ours * theirs).flatten(1).sum(1).abs().allclose((ours ** 2).flatten(1).sum(1))


# ---- torchcam

def extracted(kind, net, layer, x, y, *more):
    "The map of a class of torchcam, not brought to [0,1], [N,1,H,W]"
    with getattr(pytest.importorskip("torchcam.methods"), kind)(net, layer, *more) as cam:
        scores = net(x)
        return cam([int(k) for k in y], scores, normalized=False)[0][:, None]


@pytest.mark.parametrize("method, kind, bound", [(GradCAM, "GradCAM", EXACT), (LayerCAM, "LayerCAM", EXACT), (XGradCAM, "XGradCAM", 1e-6)])   # + 1e-8
def test_torchcam(method, kind, bound, case, agrees):
    name, layer, net, _ = case
    if (name, kind) == ("residual", "XGradCAM"): bound = 1e-5     # sums near zero
    m = method(layer)
    agrees(m, m(net, images(), CLASSES, upsample=False), extracted(kind, net, layer, images(), CLASSES), "torchcam", bound)


@pytest.mark.parametrize("name", ["conv", "softplus"])
def test_torchcam_cam(name, agrees):
    net, _ = network(name)
    agrees(CAM(), CAM()(net, images(), CLASSES, upsample=False), extracted("CAM", net, "g", images(), CLASSES, "head"), "torchcam")


def test_torchcam_score(agrees):
    net, _ = network("conv", 100)
    theirs = extracted("ScoreCAM", net, "f", images(), CLASSES)
    agrees(ScoreCAM("f"), ScoreCAM("f")(net, images(), CLASSES), theirs, "torchcam", 1e-6)      # 1e-8 is added to max − min


def test_torchcam_plus_plus_has_no_alpha():
    "Its weights are the sums of the cubed positive gradients"
    net, module = network("conv")
    theirs = extracted("GradCAMpp", net, "g", images(), CLASSES)
    with torch.no_grad(): A = net.g(net.b(torch.nn.functional.max_pool2d(net.f(net.a(images())), 2)))
    w = (64 * (net.head.weight[CLASSES] / 64).clamp(min=0) ** 3)[..., None, None]
    torch.testing.assert_close((w * A).sum(1, keepdim=True).relu(), theirs, rtol=0, atol=1e-6 * theirs.max().item())
