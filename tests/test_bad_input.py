"""Bad input, row by row: each refusal says what was given and how to mend it, and leaves the model bit for bit as it was.

The rows are numbered as in the specification. Methods come from the door, so that one added later is covered."""
import copy
import re
import warnings
from dataclasses import fields

import numpy as np
import pytest
import torch
from PIL import Image
from test_methods import CLASSES, DOOR, IMAGES, METHODS, every_method, every_needy_method, mixed, small

from whitebox.attribution import Activation, At, GradCAM, Gradient, IntegratedGradients, SmoothGrad
from whitebox.attribution.check_method import changed, found, holding
from whitebox.errors import BadShape, BadValue, UnknownName, UnsupportedModel, WhiteBoxError
from whitebox.fill import Constant, Fill
from whitebox.target import Class, Contrast, LogProbability, Probability
from whitebox.toys import zoo
from whitebox.value import default_of, parse

def in_evaluation(): return holding({"net": zoo()["norm"]})["net"]
def in_training(): return in_evaluation().train()

MODES = pytest.mark.parametrize("net", [in_evaluation, in_training, mixed], ids=["eval", "train", "mixed"])

def refused(method, row, net):
    "A call is refused with both halves, and nothing was touched"
    call, kind, given, mend = row
    before = found(net, IMAGES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(kind) as error: call(method, net, IMAGES)
    text = str(error.value)
    assert isinstance(error.value, WhiteBoxError) and re.search(given, text) and re.search(mend, text), text
    assert changed(before, found(net, IMAGES)) == []

# ---- images: whatever the method

def holed(x): x = x.clone(); x[0, 1, 5, 7] = float("nan"); x[1, 0, 0, 0] = float("inf"); return x
def photo(x): return Image.fromarray((x[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8))

ROWS = {  # what -> (call of a method, error, what was given, how to mend it)
    "I01 three dimensions": (lambda m, net, x: m(net, x[0]), BadShape, r"3 dimensions \(3, 16, 16\)", r"x\[None\]"),
    "I01 two dimensions": (lambda m, net, x: m(net, x[0, 0]), BadShape, r"2 dimensions \(16, 16\)", r"\[N,C,H,W\]"),
    "I02 numpy": (lambda m, net, x: m(net, x.numpy()), BadValue, "x is a numpy.ndarray", r"torch\.from_numpy\(x\)"),
    "I02 picture": (lambda m, net, x: m(net, photo(x)), BadValue, r"x is a PIL\.Image\.Image", "tensor"),
    "I02 list": (lambda m, net, x: m(net, x.tolist()), BadValue, "x is a builtins.list", "tensor"),
    "I02 nothing": (lambda m, net, x: m(net, None), BadValue, "x is a builtins.NoneType", "tensor"),
    "I03 uint8": (lambda m, net, x: m(net, (x * 255).byte()), BadValue, "dtype torch.uint8", r"x\.float\(\) / 255"),
    "I03 int64": (lambda m, net, x: m(net, (x * 255).long()), BadValue, "dtype torch.int64", r"x\.float\(\) / 255"),
    "I04 channels last": (lambda m, net, x: m(net, x.permute(0, 2, 3, 1)), BadShape, r"\(3, 16, 16, 3\)", r"x\.permute\(0, 3, 1, 2\)"),
    "I07 too few": (lambda m, net, x: m(net, x, torch.tensor([0, 1])), BadShape, "2 targets for 3 images", "one target per image"),
    "I07 too many": (lambda m, net, x: m(net, x, torch.arange(8)), BadShape, "8 targets for 3 images", "one target per image"),
    "I08 float": (lambda m, net, x: m(net, x, torch.zeros(3)), BadValue, "dtype torch.float32", r"integers \[N\]"),
    "I08 one-hot": (lambda m, net, x: m(net, x, torch.eye(3)), BadValue, r"shape \(3, 3\)", r"y\.argmax\(1\)"),
    "I08 name": (lambda m, net, x: m(net, x, "cat"), BadValue, "target is 'cat'", r"Class\(k\)"),
    "I08 list": (lambda m, net, x: m(net, x, [0, 1, 2]), BadValue, r"target is \[0, 1, 2\]", "LongTensor"),
    "I08 bool": (lambda m, net, x: m(net, x, True), BadValue, "target is True", "an int"),
    "I09 nan": (lambda m, net, x: m(net, holed(x)), BadValue, r"2 values that are not finite, first at \(0, 1, 5, 7\)", "Clean"),
    "I10 device": (lambda m, net, x: m(copy.deepcopy(net).to("meta"), x), BadValue, "x is on cpu, the model on meta", r"x\.to\('meta'\)"),
    "I20 keyword": (lambda m, net, x: type(m)(n_stepz=3), BadValue, "no field 'n_stepz'", "Known|Fields|takes none"),
    "I22 x in double": (lambda m, net, x: m(net, x.double()), BadValue, "x is torch.float64, the model torch.float32", r"x\.to\(torch\.float32\)"),
    "I22 model in double": (lambda m, net, x: m(copy.deepcopy(net).double(), x), BadValue, "x is torch.float32, the model torch.float64",
                            r"model\.to\(torch\.float32\)"),
    "model and x swapped": (lambda m, net, x: m(x, net), BadValue, "model is a Tensor", r"method\(model, x, target\)"),
    "a function for a model": (lambda m, net, x: m(net.forward, x), BadValue, "model is a method", r"torch\.nn\.Module"),
    "model as a field": (lambda m, net, x: type(m)(net), BadValue, "was given a model", r"\(model, x, target\)"),
}

@MODES
@every_method
def test_bad_images_and_targets(method, net):
    net = net()
    for row in ROWS.values(): refused(method, row, net)

@every_method
def test_no_image(method):
    "I05: an empty batch has empty maps"
    maps = method(zoo()["norm"], IMAGES[:0])
    assert maps.shape == (0, 1 if method.spatial else 3, 16, 16)

# ---- targets and models: for whoever looks at the scores

def returning(made):
    "A network that returns what is made of the logits; its layers keep their names"
    net = zoo()["conv"]
    net.register_forward_hook(lambda module, args, logits: made(logits))
    return net

def blank(logits): return logits.index_fill(0, torch.tensor([1]), float("nan")) if len(logits) > 1 else logits

RUNNING = {
    "I06 too high": (lambda m, net, x: m(net, x, 3), BadValue, r"target is 3, .*3 classes \(0\.\.2\)", "counted from 0"),
    "I06 negative": (lambda m, net, x: m(net, x, -1), BadValue, "target is -1", "counted from 0"),
    "I06 in a tensor": (lambda m, net, x: m(net, x, torch.tensor([0, 1, 10])), BadValue, "target is 10", r"give one in that range, or Predicted\(\)"),
    "I06 in a target": (lambda m, net, x: m(net, x, Probability(Class(3))), BadValue, "target is 3", "counted from 0"),
    "I06 in a contrast": (lambda m, net, x: m(net, x, Contrast(Class(0), Class(7))), BadValue, "target is 7", "counted from 0"),
    "I11 dict": (lambda m, net, x: m(returning(lambda o: {"boxes": o, "aux": o}), x), UnsupportedModel, r"keys \['boxes', 'aux'\]", "Wrap it"),
    "I11 tuple": (lambda m, net, x: m(returning(lambda o: (o, o)), x), UnsupportedModel, "a tuple", "Wrap it"),
    "I11 four dimensions": (lambda m, net, x: m(returning(lambda o: o[:, :, None, None]), x), UnsupportedModel, r"shape \(\d+, 3, 1, 1\)", "Wrap it"),
    "I21 logits": (lambda m, net, x: m(returning(blank), x), BadValue, r"not finite for images \[1\]", "weights and the scale"),
}
SCORED = {label: m for label, m in METHODS.items() if {"gradient", "class scores"} & set(m.needs)}

@MODES
@pytest.mark.parametrize("method", SCORED.values(), ids=SCORED.keys())
def test_bad_targets_and_models(method, net):
    net = net()
    for row in RUNNING.values(): refused(method, row, net)

@pytest.mark.parametrize("method", SCORED.values(), ids=SCORED.keys())
def test_logits_in_a_dict_are_understood(method):
    "I11, as amended"
    torch.testing.assert_close(method(returning(lambda o: {"logits": o}), IMAGES, CLASSES), method(zoo()["conv"], IMAGES, CLASSES))

def test_probabilities_are_told_apart():
    "I12"
    with pytest.warns(UserWarning, match="look like probabilities.*Give a model that returns logits"):
        Gradient()(torch.nn.Sequential(zoo()["conv"], torch.nn.Softmax(1)), IMAGES)

@every_method
def test_a_model_in_training_mode_is_warned_of_once(method):
    net = in_training()
    before = found(net, IMAGES)
    with pytest.warns(UserWarning, match="in training mode; it is explained in evaluation mode and given back as it was") as told:
        maps = method(net, IMAGES, CLASSES, chunk=1)
    assert len([w for w in told if "training mode" in str(w.message)]) == 1 and changed(before, found(net, IMAGES)) == []
    assert maps.equal(method(in_evaluation(), IMAGES, CLASSES, chunk=1))

# ---- layers, and models that hide them

def scripted():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(zoo()["conv"], IMAGES)

class Merged(torch.nn.Module):
    "Patches whose tokens are merged in pairs before they are weighted again: what follows the last grid has none"
    def __init__(self):
        super().__init__()
        self.patch, self.merged, self.head = torch.nn.Conv2d(3, 8, 4, 4), torch.nn.Linear(8, 8), torch.nn.Linear(8, 3)
    def forward(self, x):
        pairs = self.patch(x).flatten(2).transpose(1, 2).unflatten(1, (-1, 2)).mean(2)
        return self.head(self.merged(pairs).relu().mean(1))

MERGED, FLAT = Merged(), torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(768, 3))

LAYERS = {
    "I13": (lambda m, net, x: m("layer5")(net, x), UnknownName, "no layer 'layer5'", "Known"),
    "I13 near": (lambda m, net, x: m("heat")(net, x), UnknownName, "no layer 'heat'", "Did you mean head"),
    "I15": (lambda m, net, x: m("f")(zoo()["reused"], x), UnsupportedModel, "Layer 'f' runs more than once", "module of its own"),
    "I17": (lambda m, net, x: m("head")(net, x), UnsupportedModel, r"'head' gives \(\d+, 3\); a grid", "The last one that fits is 'g'"),
    "I23": (lambda m, net, x: m("b")(scripted(), x), UnsupportedModel, "hides its layers", "eager model"),
    "I23 unnamed": (lambda m, net, x: m(None)(scripted(), x), UnsupportedModel, "hides its layers", "eager model"),
    "tokens": (lambda m, net, x: m(None)(MERGED, x), UnsupportedModel, "tokens without a grid follow|CAM needs the mean of each channel",
               "Name a layer.*Grids: patch|name the layer"),
    "no grid": (lambda m, net, x: m(None)(FLAT, x), UnsupportedModel, "no last layer with a grid", "Grids: none"),
}
LAYERED = {kind.__name__: lambda layer, kind=kind: kind(layer=layer) for kind in DOOR
           if "layer" in (names := {f.name for f in fields(kind)}) and "of" not in names and "gradient" in small(kind).needs}
LAYERED |= {"Activation": Activation, "At": lambda layer: At(Gradient(), layer), "SmoothGrad": lambda layer: SmoothGrad(GradCAM(layer), samples=4)}

@MODES
@pytest.mark.parametrize("make", LAYERED.values(), ids=LAYERED.keys())
@pytest.mark.parametrize("row", LAYERS.values(), ids=LAYERS.keys())
def test_bad_layer(make, row, net): refused(make, row, net())

def test_functional_compiled_and_scripted_models_have_the_gradient_of_their_twin():
    "I14 and I16, as amended: what needs no layer works"
    twin = Gradient()(zoo()["conv"], IMAGES, CLASSES)
    compiled = torch.compile(zoo()["conv"], backend="eager")
    for net in (zoo()["functional"], compiled, scripted(), torch.nn.DataParallel(zoo()["conv"])):
        torch.testing.assert_close(Gradient()(net, IMAGES, CLASSES), twin)

# ---- settings

@pytest.mark.parametrize("code, given, mend", [
    ("IntegratedGradients(steps=0)", "steps is 0", "at least 1"), ("IntegratedGradients(steps=True)", "steps is 'True'", "must be int"),
    ("IntegratedGradients(steps=2.5)", "steps is '2.5'", "must be int"), ("IntegratedGradients(n_steps=3)", "no field 'n_steps'", "Did you mean steps"),
    ("SmoothGrad(sigma=-1)", "sigma is -1.0", "above 0"), ("SmoothGrad(samples=0)", "samples is 0", "at least 1"),
    ("VarGrad(samples=1)", "samples is 1", "at least 2"), ("SmoothGrad(3)", "of is '3'", "must be Method"),
    ("Blurred(Sobel(), sigma=0)", "sigma is 0.0", "above 0"), ("GradCMA()", "no value called 'GradCMA'", "Did you mean GradCAM"),
    ("IntegratedGradients(1, 2, 3, 4, 5, 6)", "6 values for", "Fields: steps"), ("GradCAM(layer=3)", "layer is '3'", "must be str")])
def test_bad_settings(code, given, mend):
    "I19, I20"
    with pytest.raises(WhiteBoxError) as error: parse(code)
    assert given in str(error.value) and mend in str(error.value)

def settings(*names):
    "(method's class, field) of the door's fields of these names"
    return [pytest.param(kind, f.name, id=f"{kind.__name__}.{f.name}") for kind in DOOR for f in fields(kind) if f.name in names]

def with_field(kind, name, value):
    held = {"of": Gradient()} if "of" in {f.name for f in fields(kind)} and name != "of" else {}
    return kind(**held, **{name: value})

@pytest.mark.parametrize("kind, name", settings("steps", "samples", "permutations", "masks"))
@pytest.mark.parametrize("value", [0, -3, True, 2.5, "8"])
def test_no_count_but_a_positive_one(kind, name, value):
    "I20, for every method that counts"
    with pytest.raises(BadValue, match=rf"{kind.__name__}\.{name} is '?{value}.*(at least|must be int|must be .*int)"): with_field(kind, name, value)

@pytest.mark.parametrize("kind, name", settings("sigma"))
@pytest.mark.parametrize("value", [-1., float("nan"), float("inf"), "wide"])
def test_no_width_but_a_positive_one(kind, name, value):
    "I20, for every method that blurs or adds noise"
    with pytest.raises(BadValue, match=rf"{kind.__name__}\.{name} is '?{value}"): with_field(kind, name, value)

@pytest.mark.parametrize("kind, name", settings("baseline", "fill"))
def test_bad_baseline(kind, name):
    "I18: a fill of two channels for images of three, and what is no fill"
    method, (x, y) = with_field(kind, name, Constant((.1, .2))), (IMAGES[:1], CLASSES[:1])
    with pytest.raises(BadShape, match="2 values for images of 3 channels. Give one"): method(zoo()["conv"], x, y)
    assert isinstance(default_of(next(f for f in fields(kind) if f.name == name)), Fill | None)   # None: a part's own colour
    for value in (0., torch.zeros(3, 28, 28)):
        with pytest.raises(BadValue, match=rf"{kind.__name__}\.{name} is .*must be .*Fill"): with_field(kind, name, value)

# ---- accidents

class Stumble(Exception): pass

def after(n, kind):
    "A hook that throws at its n-th call"
    calls = []
    def stumble(*_):
        calls.append(1)
        if len(calls) == n: raise kind("thrown by a hook")
    return stumble

def backwards(stumble):
    "A hook on a layer that throws when a gradient comes by its output"
    def hook(module, args, out):
        if out.requires_grad: out.register_hook(lambda g: stumble())
    return hook

def survives(method, net, layer, hook, kind):
    "The accident comes through, nothing was touched, and the next call is right"
    handle, before = getattr(net, layer).register_forward_hook(hook), found(net, IMAGES)
    with warnings.catch_warnings(), pytest.raises(kind, match="thrown by a hook"):
        warnings.simplefilter("ignore")
        method(net, IMAGES, CLASSES, chunk=1)
    assert changed(before, found(net, IMAGES)) == []
    handle.remove()
    assert method(copy.deepcopy(net).eval(), IMAGES, CLASSES).equal(method(zoo()["norm"], IMAGES, CLASSES))

@MODES
@every_needy_method
@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("kind", [Stumble, KeyboardInterrupt, RuntimeError])
def test_an_accident_half_way_through_a_forward_pass(method, net, n, kind):
    "Ctrl-C among them: a KeyboardInterrupt from a hook in the middle of the network"
    survives(method, net(), "b", after(n, kind), kind)

GRADIENTS = {label: m for label, m in METHODS.items() if "gradient" in m.needs}

@MODES
@pytest.mark.parametrize("method", GRADIENTS.values(), ids=GRADIENTS.keys())
@pytest.mark.parametrize("kind", [Stumble, KeyboardInterrupt])
def test_an_accident_on_the_way_back(method, net, kind): survives(method, net(), "head", backwards(after(2, kind)), kind)

@MODES
def test_a_model_whose_own_forward_fails(net):
    "Images the network cannot take: its own error comes through"
    net = net()
    for method in METHODS.values():
        if "gradient" not in method.needs: continue
        before = found(net, IMAGES)
        with warnings.catch_warnings(), pytest.raises(RuntimeError):
            warnings.simplefilter("ignore")
            method(net, IMAGES[:, :2], CLASSES)
        assert changed(before, found(net, IMAGES)) == []
