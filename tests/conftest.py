"""One thread a process, pictures without a screen; slow proofs, real data and browsers only where they are asked for or present."""
import atexit, os, re, shutil, sys, tempfile
from importlib.metadata import version
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "agg")
if "MPLCONFIGDIR" not in os.environ:      # made once, by the process that starts the workers
    os.environ["MPLCONFIGDIR"] = tempfile.mkdtemp(prefix="whitebox-mpl-")
    atexit.register(shutil.rmtree, os.environ["MPLCONFIGDIR"], ignore_errors=True)

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT/"tools"))
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])

try:
    from hypothesis import settings
    settings.register_profile("whitebox", deadline=None, derandomize=True, max_examples=50)
    settings.load_profile("whitebox")
except ImportError: pass

@pytest.fixture
def noted(record_property):
    "Hold a figure of `method` beside `peer` to its bound, and record it for benchmarks/oracle.py"
    def noted(method, peer, measure, figure, bound):
        figure, made = float(figure), "" if peer == "own reference" else version(peer)
        record_property("oracle", [type(method).__name__, peer, made, measure, figure, bound])
        assert figure >= bound if "correlation" in measure else figure <= bound, f"{measure} {figure:.3g} beside {peer}, bound {bound:g}"
    return noted

@pytest.fixture
def agrees(noted):
    "Hold the largest difference of `ours` from `theirs`, over the largest value of theirs, to a bound"
    import torch
    def agrees(method, ours, theirs, peer="own reference", bound=1e-9):
        theirs = torch.as_tensor(theirs, dtype=ours.dtype).detach()
        assert ours.shape == theirs.shape and ours.dtype == torch.float64 and theirs.any()
        noted(method, peer, "relative difference", (ours - theirs).abs().max() / theirs.abs().max(), bound)
    return agrees

def reason_to_skip(item, asked):
    "Why `item` does not run here, or None"
    names = {mark.name for mark in item.iter_markers()}
    if "slow" in names and not re.search(r"\bslow\b", asked): return "slow: make test-slow"
    if "data" in names and not Path(os.environ.get("WHITEBOX_DATA") or os.devnull).is_dir():
        return "needs real images: load them once, MNIST().load(root, download=True), and name the folder root in $WHITEBOX_DATA"
    if "browser" in names and not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))): return "needs Chromium"

def pytest_collection_modifyitems(config, items):
    asked = config.getoption("-m") or ""
    for item in items:
        if reason := reason_to_skip(item, asked): item.add_marker(pytest.mark.skip(reason=reason))
    items.sort(key=lambda item: item.get_closest_marker("notebook") is None)     # the long ones first

def pytest_terminal_summary(terminalreporter):
    "Dials that laws report without refusing"
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, value in getattr(report, "user_properties", []):
                if name == "dial" and report.when == "call": terminalreporter.write_line(value)
