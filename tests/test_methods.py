"Every method keeps the laws, every law can be broken, a model comes back as it was."
import importlib
import pkgutil
import threading
import time
import warnings
from dataclasses import dataclass, fields

import pytest
import torch

from whitebox import attribution
from whitebox.attribution import (LIME, LRP, AblationCAM, Activation, At, Blurred, EigenCAM, Epsilon, EpsilonAlpha2Beta1, EpsilonGammaBox, EpsilonPlus,
                                  ExactShapley, ExpectedGradients, GaussLegendre, GradCAM, Gradient, InputXGradient, IntegratedGradients, KernelSHAP,
                                  PackageLIME, PaperLIME, Random, Right, ScoreCAM, ShapleySampling, SmoothGrad, SmoothGradSquared, Sobel, Trapezoid,
                                  VarGrad, check_method, part1)
from whitebox.attribution.check_method import FULL, LAWS, Trial, changed, found, holding, judged
from whitebox.errors import BadValue, UnsupportedModel, WhiteBoxError
from whitebox.fill import Black, gaussian_blur
from whitebox.method import Method
from whitebox.target import Class, Contrast, LogProbability, Probability
from whitebox.toys import zoo
from whitebox.value import parse

IMAGES = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
CLASSES = torch.tensor([0, 2, 1])

def small(cls):
    "A method of the door with few samples; a wrapper that must be told what it holds holds one"
    names = {f.name: f for f in fields(cls)}
    asked = {"samples": 4} if "samples" in names else {}
    return cls(InputXGradient(), **asked) if cls is Blurred else cls(**asked)

DOOR = [cls for name in attribution._all_ if isinstance(cls := getattr(attribution, name), type) and issubclass(cls, Method)]
PART1 = [part1.Part1VBP, part1.Part1IB, part1.Part1IG, part1.Part1SG, part1.Part1SGSQ, part1.Part1SGVAR]
SINGLE = [small(cls) for cls in DOOR]
NESTED = [SmoothGrad(IntegratedGradients(steps=8), samples=4), SmoothGrad(GradCAM(), samples=4), SmoothGrad(Random(), samples=4),
          VarGrad(SmoothGrad(samples=4), samples=4), SmoothGradSquared(IntegratedGradients(steps=8), samples=4),
          At(IntegratedGradients(steps=8), layer="b"), At(SmoothGrad(InputXGradient(), samples=4), layer="b"), Activation("a"),
          LRP(Epsilon()), LRP(EpsilonPlus(), relative=True), LRP(EpsilonGammaBox(), attention="attn"), LRP(EpsilonAlpha2Beta1()),
          At(LRP(), layer="b"), SmoothGrad(LRP(EpsilonGammaBox()), samples=4),
          IntegratedGradients(steps=100, rule=Trapezoid()), IntegratedGradients(steps=100, rule=Right()), IntegratedGradients(rule=GaussLegendre()),
          IntegratedGradients(steps=8, tol=.01), At(IntegratedGradients(steps=4, tol=.05), layer="b"), Blurred(IntegratedGradients(steps=8, tol=.01)),
          SmoothGrad(IntegratedGradients(steps=8, rule=GaussLegendre()), samples=4),
          SmoothGrad(ExpectedGradients(samples=4), samples=4), *(cls(samples=4) if "samples" in cls.__dataclass_fields__ else cls() for cls in PART1),
          At(ShapleySampling(samples=2), layer="b"), SmoothGrad(ExactShapley(), samples=2),
          SmoothGrad(ScoreCAM(), samples=2), VarGrad(ScoreCAM(layer="b"), samples=2), Blurred(AblationCAM()),
          Blurred(GradCAM()), Blurred(SmoothGrad(IntegratedGradients(steps=8), samples=4), sigma=1.), Blurred(Blurred(Sobel()))]
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
    todo, seen = [Method], set()
    while todo:
        cls = todo.pop()
        todo += cls.__subclasses__()
        if cls.__module__.startswith("whitebox.attribution."): seen.add(cls)
    leaves = {cls for cls in seen if not cls.__subclasses__()}
    earlier = {cls for cls in leaves if cls.__module__ == "whitebox.attribution.part1"}   # known to parse, listed nowhere
    assert leaves - earlier <= set(DOOR) <= seen - earlier and all(parse(cls.__name__) == cls() for cls in earlier)

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

# ---- a model comes back as it was (what is refused, and accidents: test_bad_input.py)

def mixed():
    "A network in training mode with its batch norm in evaluation mode, holding a gradient"
    net = holding({"net": zoo()["norm"]})["net"].train()
    net.norm.eval()
    return net

NEEDY = {label: m for label, m in METHODS.items() if m.needs}
every_needy_method = pytest.mark.parametrize("method", NEEDY.values(), ids=NEEDY.keys())

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
