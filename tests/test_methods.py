"Every method keeps the laws, every law can be broken, every refusal says what was given and how to mend it."
import copy
import importlib
import pkgutil
import re
import threading
import time
import warnings
from dataclasses import dataclass, fields

import numpy as np
import pytest
import torch

from whitebox import attribution
from whitebox.attribution import (Activation, At, Blurred, Epsilon, EpsilonAlpha2Beta1, EpsilonGammaBox, EpsilonPlus, GradCAM, Gradient,
                                  InputXGradient, IntegratedGradients, LRP, Random, SmoothGrad, SmoothGradSquared, Sobel, VarGrad, check_method)
from whitebox.attribution.check_method import FULL, LAWS, Trial, changed, found, holding, judged
from whitebox.errors import BadShape, BadValue, UnknownName, UnsupportedModel, WhiteBoxError
from whitebox.fill import Black, Constant, gaussian_blur
from whitebox.method import Method
from whitebox.target import Class, Contrast, LogProbability, Probability
from whitebox.toys import zoo
from whitebox.value import Value, parse

IMAGES = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
CLASSES = torch.tensor([0, 2, 1])

def small(cls):
    "A method of the door with few samples; a wrapper that must be told what it holds holds one"
    names = {f.name: f for f in fields(cls)}
    asked = {"samples": 4} if "samples" in names else {}
    return cls(InputXGradient(), **asked) if cls is Blurred else cls(**asked)

DOOR = [cls for name in attribution._all_ if isinstance(cls := getattr(attribution, name), type) and issubclass(cls, Method)]
SINGLE = [small(cls) for cls in DOOR]
NESTED = [SmoothGrad(IntegratedGradients(steps=8), samples=4), SmoothGrad(GradCAM(), samples=4), SmoothGrad(Random(), samples=4),
          VarGrad(SmoothGrad(samples=4), samples=4), SmoothGradSquared(IntegratedGradients(steps=8), samples=4),
          At(IntegratedGradients(steps=8), layer="b"), At(SmoothGrad(InputXGradient(), samples=4), layer="b"), Activation("a"),
          LRP(Epsilon()), LRP(EpsilonPlus(), relative=True), LRP(EpsilonGammaBox(), attention="attn"), LRP(EpsilonAlpha2Beta1()),
          At(LRP(), layer="b"), SmoothGrad(LRP(EpsilonGammaBox()), samples=4), Blurred(GradCAM()), Blurred(SmoothGrad(IntegratedGradients(steps=8), samples=4), sigma=1.), Blurred(Blurred(Sobel()))]
METHODS = {m.label: m for m in SINGLE + NESTED}
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())

def refuse(found):
    if found := list(found): pytest.fail("\n".join(found), pytrace=False)

# ---- every method keeps the laws

@every_method
def test_laws(method, record_property):
    began = time.process_time()
    report = check_method(method)
    record_property("seconds", time.process_time() - began)
    assert not report.failed and len(report.findings) == len(LAWS)
    refuse(f"{f.law}: no reason" for f in report.findings if f.value is None and not f.where)

@pytest.mark.slow
@every_method
def test_laws_in_full(method):
    assert len(check_method(method, level="full").findings) == len(LAWS) + len(FULL)

def test_every_method_stands_in_the_door():
    for module in pkgutil.walk_packages(attribution.__path__, "whitebox.attribution."): importlib.import_module(module.name)
    todo, leaves = [Method], set()
    while todo:
        cls = todo.pop()
        todo += cls.__subclasses__()
        if not cls.__subclasses__() and cls.__module__.startswith("whitebox.attribution."): leaves.add(cls)
    assert leaves == set(DOOR)

@every_method
def test_declarations(method):
    assert isinstance(method.passes, int) and isinstance(method.draws, int) and set(method.needs) <= {"gradient", "layer", "class scores"}
    for name in ("signed", "complete", "linear", "spatial", "moves"): assert isinstance(getattr(method, name), bool), name
    assert method.reduction in ("sum", "abs") and all(isinstance(getattr(method, a), str) for a in ("scope", "access", "timing", "generality"))

@every_method
@pytest.mark.parametrize("target", [Probability(), LogProbability(Class(1)), Contrast(), Probability().of_classes(CLASSES), CLASSES, 1, None],
                         ids=["Probability", "LogProbability", "Contrast", "of_classes", "labels", "int", "None"])
def test_every_target(method, target):
    maps = method(zoo()["norm"], IMAGES, target)
    assert maps.shape[0] == 3 and maps.isfinite().all()

# ---- every law can be broken

@torch.inference_mode(False)
def plain(model, x, target):
    "The gradient of the target's logit, without the library"
    z, was = x.detach().clone().requires_grad_(), [(m, m.training) for m in model.modules()]
    model.eval()
    with torch.enable_grad():
        logits = model(z.clone())
        k = logits.argmax(1) if target is None else torch.as_tensor(target).expand(len(x))
        g, = torch.autograd.grad(logits.gather(1, k[:, None]).sum(), z)
    for m, training in was: m.training = training
    return g

def spoiled(spoil, **claims):
    "The plain gradient with something done to it"
    def method(model, x, target): return spoil(plain(model, x, target), model, x, target)
    for name, value in claims.items(): setattr(method, name, value)
    return method

@dataclass(frozen=True)
class Toy(Method):
    "The gradient, to be spoiled"
    def attribute(self, p, x, target): return p.grad(x, target)

def toy(**members):
    "The gradient with other members; it stands in this module, where text is read back"
    name = "Toy" + "".join(sorted(members)).title().replace("_", "")
    cls = dataclass(frozen=True)(type(name, (Toy,), {**members, "__module__": __name__}))
    globals()[name] = cls
    return cls()

def heedless(self, model, x, target=None, *, chunk=None, upsample=True):
    try: return Method.__call__(self, model, x, target, chunk=chunk, upsample=upsample)
    except WhiteBoxError: return torch.zeros_like(x)

def lost(error):
    def method(model, x, target):
        try: return plain(model, x, target)
        except error: return torch.zeros_like(x)
    return method

def crash(model, x, target): return 1 / 0 if hasattr(model, "token") else plain(model, x, target)

def as_is(model, x, target):
    "No evaluation mode"
    z = x.detach().clone().requires_grad_()
    return torch.autograd.grad(model(z.clone()).gather(1, torch.as_tensor(target).expand(len(x))[:, None]).sum(), z)[0]

def hooked(g, model, x, target):
    next(model.children()).register_forward_hook(lambda *_: None)
    return g

def collected(model, x, target):
    plain(model, x, target)
    model(x.clone()).sum().backward()
    return plain(model, x, target)

def reached(model, x, target):
    if threading.current_thread() is not threading.main_thread(): return torch.zeros_like(x)
    return plain(model, x, target)

@dataclass(frozen=True)
class Deaf(Toy):
    "Has a seed and does not use it"
    seed: int = 0

KEPT = []
BREAKERS = {
    "runs": crash,
    "shape": spoiled(lambda g, *_: g[:, :, 1:]),
    "kind": spoiled(lambda g, *_: g.double()),
    "finite": spoiled(lambda g, *_: g / 0),
    "unsigned": toy(signed=False),
    "model_kept": spoiled(hooked),
    "images_kept": spoiled(lambda g, model, x, target: [g, x.mul_(.5)][0]),
    "world_kept": spoiled(lambda g, *_: [g, torch.rand(1)][0]),
    "again": spoiled(lambda g, *_: g + torch.rand(1)),
    "seed": Deaf(),
    "alone": spoiled(lambda g, *_: g - g.mean(0)),
    "order": spoiled(lambda g, *_: g * torch.arange(len(g)).view(-1, 1, 1, 1)),
    "chunks": toy(attribute=lambda self, p, x, target: p.grad(x, target) * p.chunk),
    "cost": toy(attribute=lambda self, p, x, target: sum(p.grad(x, target) for _ in range(8)), moves=False),
    "target": lambda model, x, target: plain(model, x, model(x.clone()).argmin(1) if target is None else target),
    "classes": lambda model, x, target: plain(model, x, None),
    "affine": spoiled(lambda g, *_: g + 1),
    "flat_images": spoiled(lambda g, model, x, target: g / x.std((1, 2, 3), keepdim=True)),
    "layouts": spoiled(lambda g, model, x, target: g * (x.view(-1).sum() > 0)),
    "no_image": toy(__call__=lambda self, model, x, target=None, **named: Method.__call__(self, model, x, target, **named) if len(x) else x[0:0, 0]),
    "training": as_is,
    "frozen": spoiled(lambda g, model, *_: g * any(p.requires_grad for p in model.parameters())),
    "forbidden": as_is,
    "half": spoiled(lambda g, *_: g.flip(3) if g.dtype == torch.bfloat16 else g),
    "error": lost(ZeroDivisionError),
    "interrupt": lost(KeyboardInterrupt),
    "value": toy(label="Gradient"),
    "refuses": toy(__call__=heedless, revision=1),
    "complete": toy(complete=True),
    "exact": toy(complete=True, baseline=Black(), attribute=lambda self, p, x, target: 1.001 * x * p.grad(x, target)),
    "saturated": toy(complete=True, baseline=Black(), attribute=lambda self, p, x, target: x * p.grad(x, target), revision=1),
    "cropped": spoiled(lambda g, *_: gaussian_blur(g, 2.)),
    "weightless": spoiled(lambda g, *_: gaussian_blur(g, 2.)),
    "mirrored": spoiled(lambda g, *_: g * torch.arange(g.shape[3])),
    "twins": spoiled(lambda g, model, *_: g * sum(isinstance(m, torch.nn.ReLU) for m in model.modules())),
    "additive": spoiled(lambda g, *_: g.abs(), linear=True),
    "model_free": spoiled(lambda g, *_: g, needs=()),
    "one_by_one": toy(attribute=lambda self, p, x, target: p.grad(x, target) * p.chunk),
    "float16": spoiled(lambda g, *_: g.flip(3) if g.dtype == torch.float16 else g),
    "threads": reached,
    "leaks": spoiled(lambda g, *_: [g, KEPT.append(g.clone())][0]),
}

def verdict(law, method):
    bound = (LAWS | FULL)[law]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return judged(law, bound, Trial(method, holding(zoo()), IMAGES.clone()))

@pytest.mark.parametrize("law", LAWS | FULL, ids=lambda law: law.__name__)
def test_no_law_that_cannot_fail(law):
    found = verdict(law, BREAKERS[law.__name__])
    assert found.failed, found

@pytest.mark.parametrize("law", LAWS | FULL, ids=lambda law: law.__name__)
def test_no_law_that_cannot_hold(law):
    "What breaks a law is what was done to the gradient, not the gradient"
    honest = {"unsigned": Sobel(), "seed": SmoothGrad(samples=4), "complete": IntegratedGradients(), "exact": IntegratedGradients(),
              "saturated": IntegratedGradients(), "model_free": Sobel()}
    assert verdict(law, honest.get(law.__name__, Gradient())).holds

@pytest.mark.parametrize("part, method", {"gradients": collected, "hooks": spoiled(hooked), "training flags": as_is}.items())
def test_what_is_touched_is_named(part, method):
    with pytest.raises(BadValue) as error: check_method(method)
    if part == "training flags": assert "buffers" in str(error.value)
    else: assert f"{part} of conv" in str(error.value)
    assert {f.law for f in error.value.report.failed} & {"model kept", "training"}

def test_what_does_not_apply_says_why():
    report = check_method(plain)
    idle = {f.law: f.where for f in report.findings if f.value is None}
    assert idle["complete"] == "not declared complete" and idle["chunks"] == "a plain callable has no chunks"
    assert len(report.findings) == len(LAWS) and all(law in str(report) for law in idle)
    assert all(f.law in repr(report) and f.law in report._repr_html_() for f in report.findings)

def test_an_exemption_is_repeated_and_no_more():
    report = check_method(toy(complete=True, exempt={name: "<b>on purpose</b>" for name in ("complete", "exact")}))
    assert "complete: does not apply, <b>on purpose</b>" in repr(report) and "<b>" not in report._repr_html_()

def test_a_method_that_explains_nothing_is_refused():
    def never(model, x, target): raise UnsupportedModel("Not this one. Take another.")
    with pytest.raises(BadValue, match="no network was explained"): check_method(never)

# ---- a model comes back as it was

class Stumble(Exception): pass

def mixed():
    "A network in training mode with its batch norm in evaluation mode, holding a gradient"
    net = holding({"net": zoo()["norm"]})["net"].train()
    net.norm.eval()
    return net

MODES = pytest.mark.parametrize("net", [lambda: holding({"net": zoo()["norm"]})["net"], mixed], ids=["eval", "mixed"])
NEEDY = {label: m for label, m in METHODS.items() if m.needs}
every_needy_method = pytest.mark.parametrize("method", NEEDY.values(), ids=NEEDY.keys())

@MODES
@every_needy_method
@pytest.mark.parametrize("kind", [Stumble, KeyboardInterrupt, RuntimeError])
def test_after_an_accident_in_the_second_pass(method, net, kind):
    net, calls = net(), []
    def stumble(*_):
        calls.append(1)
        if len(calls) == 2: raise kind("thrown by a hook")
    hook = net.b.register_forward_hook(stumble)
    before = found(net, IMAGES)
    with pytest.warns() if net.training else warnings.catch_warnings(), pytest.raises(kind, match="thrown by a hook"):
        method(net, IMAGES, CLASSES, chunk=1)
    assert changed(before, found(net, IMAGES)) == []
    hook.remove()
    assert method(copy.deepcopy(net).eval(), IMAGES, CLASSES).equal(method(zoo()["norm"], IMAGES, CLASSES))

@every_needy_method
def test_two_threads_on_one_model_get_serial_results(method):
    net, maps = mixed(), {}
    before = found(net, IMAGES)
    pictures = [IMAGES, IMAGES.flip(3), 1 - IMAGES, IMAGES / 2]
    def work(i):
        with warnings.catch_warnings(): maps[i] = method(net, pictures[i], CLASSES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        serial = [method(net, x, CLASSES) for x in pictures]
        crew = [threading.Thread(target=work, args=[i]) for i in range(4)]
        for t in crew: t.start()
        for t in crew: t.join()
    assert all(maps[i].equal(serial[i]) for i in range(4))
    assert changed(before, found(net, IMAGES)) == []

# ---- every refusal says what was given and how to mend it (rows of evaluation, table of bad input)

def returning(made):
    "A network that returns what is made of the logits; its layers keep their names"
    net = zoo()["conv"]
    net.register_forward_hook(lambda module, args, logits: made(logits))
    return net

def holed(x): x = x.clone(); x[0, 1, 5, 7] = float("nan"); x[1, 0, 0, 0] = float("inf"); return x
def blank(logits): return logits.index_fill(0, torch.tensor([1]), float("nan")) if len(logits) > 1 else logits

ROWS = {  # what -> (call of a method, error, what was given, how to mend it)
    "I01 three dimensions": (lambda m, net, x: m(net, x[0]), BadShape, r"3 dimensions \(3, 16, 16\)", r"x\[None\]"),
    "I02 numpy": (lambda m, net, x: m(net, x.numpy()), BadValue, "x is a numpy.ndarray", r"torch\.from_numpy\(x\)"),
    "I02 list": (lambda m, net, x: m(net, x.tolist()), BadValue, "x is a builtins.list", "tensor"),
    "I03 uint8": (lambda m, net, x: m(net, (x * 255).byte()), BadValue, "dtype torch.uint8", r"x\.float\(\) / 255"),
    "I04 channels last": (lambda m, net, x: m(net, x.permute(0, 2, 3, 1)), BadShape, r"\(3, 16, 16, 3\)", r"x\.permute\(0, 3, 1, 2\)"),
    "I07 length": (lambda m, net, x: m(net, x, torch.tensor([0, 1])), BadShape, "2 targets for 3 images", "one target per image"),
    "I08 float": (lambda m, net, x: m(net, x, torch.zeros(3)), BadValue, "dtype torch.float32", r"integers \[N\]"),
    "I08 one-hot": (lambda m, net, x: m(net, x, torch.eye(3)), BadValue, r"shape \(3, 3\)", r"y\.argmax\(1\)"),
    "I08 name": (lambda m, net, x: m(net, x, "cat"), BadValue, "target is 'cat'", r"Class\(k\)"),
    "I08 bool": (lambda m, net, x: m(net, x, True), BadValue, "target is True", "an int"),
    "I09 nan": (lambda m, net, x: m(net, holed(x)), BadValue, r"2 values that are not finite, first at \(0, 1, 5, 7\)", "Clean"),
    "I10 device": (lambda m, net, x: m(copy.deepcopy(net).to("meta"), x), BadValue, "x is on cpu, the model on meta", r"x\.to\('meta'\)"),
    "I20 keyword": (lambda m, net, x: type(m)(n_stepz=3), BadValue, "no field 'n_stepz'", "Known|Fields|has no"),
    "I22 double": (lambda m, net, x: m(net, x.double()), BadValue, "x is torch.float64, the model torch.float32", r"x\.to\(torch\.float32\)"),
    "model and x swapped": (lambda m, net, x: m(x, net), BadValue, "model is a Tensor", r"method\(model, x, target\)"),
    "model as a field": (lambda m, net, x: type(m)(net), BadValue, "was given a model", r"\(model, x, target\)"),
}
RUNNING = {  # the same for methods that look at the scores
    "I06 too high": (lambda m, net, x: m(net, x, 3), BadValue, r"target is 3, .*3 classes \(0\.\.2\)", "counted from 0"),
    "I06 negative": (lambda m, net, x: m(net, x, -1), BadValue, "target is -1", "counted from 0"),
    "I11 dict": (lambda m, net, x: m(returning(lambda o: {"boxes": o, "aux": o}), x), UnsupportedModel, r"keys \['boxes', 'aux'\]", "Wrap it"),
    "I11 tuple": (lambda m, net, x: m(returning(lambda o: (o, o)), x), UnsupportedModel, "a tuple", "Wrap it"),
    "I11 four dimensions": (lambda m, net, x: m(returning(lambda o: o[:, :, None, None]), x), UnsupportedModel, r"shape \(\d, 3, 1, 1\)", "Wrap it"),
    "I21 logits": (lambda m, net, x: m(returning(blank), x), BadValue, r"not finite for images \[1\]", "weights and the scale"),
}

def refused(method, row, net):
    call, kind, given, mend = row
    before = found(net, IMAGES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(kind) as error: call(method, net, IMAGES)
    text = str(error.value)
    assert isinstance(error.value, WhiteBoxError) and re.search(given, text) and re.search(mend, text), text
    assert changed(before, found(net, IMAGES)) == []

@MODES
@every_method
def test_bad_input(method, net):
    net = net()
    for row in ROWS.values(): refused(method, row, net)

SCORED = {label: m for label, m in METHODS.items() if {"gradient", "class scores"} & set(m.needs)}

@MODES
@pytest.mark.parametrize("method", SCORED.values(), ids=SCORED.keys())
def test_bad_target_or_model(method, net):
    net = net()
    for row in RUNNING.values(): refused(method, row, net)

def scripted():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(zoo()["conv"], IMAGES)

LAYERS = {
    "I13": (lambda m, net, x: m("layer5")(net, x), UnknownName, "no layer 'layer5'", "Known"),
    "I13 near": (lambda m, net, x: m("heat")(net, x), UnknownName, "no layer 'heat'", "Did you mean head"),
    "I15": (lambda m, net, x: m("f")(zoo()["reused"], x), UnsupportedModel, "Layer 'f' runs more than once", "module of its own"),
    "I17": (lambda m, net, x: m("head")(net, x), UnsupportedModel, r"'head' gives \(\d+, 3\); a grid", "The last one that fits is 'g'"),
    "I23": (lambda m, net, x: m("b")(scripted(), x), UnsupportedModel, "hides its layers", "eager model"),
    "tokens": (lambda m, net, x: m(None)(zoo()["tokens"], x), UnsupportedModel, "tokens follow", "Name a layer"),
}

@MODES
@pytest.mark.parametrize("make", [GradCAM, Activation, lambda layer: At(Gradient(), layer), lambda layer: SmoothGrad(GradCAM(layer), samples=4)],
                         ids=["GradCAM", "Activation", "At", "SmoothGrad"])
@pytest.mark.parametrize("row", LAYERS.values(), ids=LAYERS.keys())
def test_bad_layer(make, row, net): refused(make, row, net())

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

def test_bad_baseline():
    "I18"
    with pytest.raises(BadShape, match="2 values for images of 3 channels. Give one"):
        IntegratedGradients(baseline=Constant((.1, .2)))(zoo()["conv"], IMAGES)

@every_method
def test_no_image(method):
    "I05: an empty batch has empty maps"
    maps = method(zoo()["norm"], IMAGES[:0])
    assert maps.shape == (0, 1 if method.spatial else 3, 16, 16)

def test_probabilities_are_told_apart():
    "I12"
    with pytest.warns(UserWarning, match="look like probabilities.*Give a model that returns logits"):
        Gradient()(torch.nn.Sequential(zoo()["conv"], torch.nn.Softmax(1)), IMAGES)

def test_functional_and_scripted_models_have_the_gradient_of_their_twin():
    "I14 and I16: what needs no layer works"
    twin = Gradient()(zoo()["conv"], IMAGES, CLASSES)
    for net in (zoo()["functional"], scripted(), torch.nn.DataParallel(zoo()["conv"])):
        torch.testing.assert_close(Gradient()(net, IMAGES, CLASSES), twin)
