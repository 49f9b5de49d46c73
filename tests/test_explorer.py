"The explorer: its pace, random use, and a live JupyterLab in a browser: keyboard, requests, the width of a phone."
import contextlib, importlib.util, json, random, statistics, os, shutil, socket, subprocess, sys, time, urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]
CODE = """from whitebox.explorer import explore
from whitebox.models.hub import tiny_digits
from whitebox.data.sources import Digits
explore(tiny_digits(), Digits(size=28).load(), method="Gradient", image=11, share=.05)"""


def in_browser(test):
    "Mark a test that needs Chromium and JupyterLab."
    lab = importlib.util.find_spec("jupyterlab") is not None
    for found, name in (CHROMIUM, "chromium"), (lab, "jupyterlab"):
        test = pytest.mark.skipif(not found, reason=f"needs {name}")(test)
    return pytest.mark.browser(test)


@pytest.fixture(scope="module")
def explorer():
    from whitebox.data.sources import Digits
    from whitebox.explorer import explore
    from whitebox.models.hub import tiny_digits
    explorer = explore(tiny_digits(), Digits(size=28).load(), method="Gradient", image=11, share=.05)
    explorer.widget()
    return explorer


def test_slider_step_is_quick(explorer):
    "10 ms of this process, with threefold slack."
    def step(i):
        start = time.process_time()
        explorer.pickers["share"].value = i / 100
        return time.process_time() - start
    assert statistics.median(map(step, range(10, 40))) < .03


def test_random_use_raises_nothing(explorer):
    "Whatever the pickers allow is shown; equal states give equal views."
    draw = random.Random(0)
    for _ in range(40):
        name = draw.choice(list(explorer.pickers))
        picker = explorer.pickers[name]
        options = getattr(picker, "options", None)
        if options is None: value = draw.randrange(picker.min, 30) if name == "image" else draw.randrange(0, 21) / 20
        else: value = draw.choice([o[1] if isinstance(o, tuple) else o for o in options])
        picker.value = value
        assert explorer.error is None and explorer.state[name] == value
    again = type(explorer).from_state(explorer.state, explorer.model, explorer.images)
    assert again.view() == explorer.view()


def notebook(*sources):
    cell = lambda i, s: dict(cell_type="code", id=f"cell{i}", metadata={}, source=s, outputs=[], execution_count=None)
    kernel = dict(kernelspec=dict(name="python3", display_name="python3", language="python"))
    cells = [cell(i, s) for i, s in enumerate(sources)]
    return json.dumps(dict(cells=cells, metadata=kernel, nbformat=4, nbformat_minor=5))


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    "A JupyterLab on this machine alone, with settings of its own."
    tmp = tmp_path_factory.mktemp("lab")
    for folder in ("root", "config/labconfig", "data/lab/settings"): (tmp / folder).mkdir(parents=True)
    quiet = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}
    (tmp / "config/labconfig/page_config.json").write_text(json.dumps(quiet))
    news = {"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False}}
    (tmp / "data/lab/settings/overrides.json").write_text(json.dumps(news))
    (tmp / "root/live.ipynb").write_text(notebook(CODE))
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    places = dict(JUPYTER_CONFIG_DIR="config", JUPYTER_DATA_DIR="data", JUPYTER_RUNTIME_DIR="run", 
                  JUPYTERLAB_SETTINGS_DIR="settings", JUPYTERLAB_WORKSPACES_DIR="spaces", IPYTHONDIR="ipython")
    env = {k: v for k, v in os.environ.items() if k != "WHITEBOX_STATIC"} | {k: str(tmp / v) for k, v in places.items()}
    env |= dict(PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]), OMP_NUM_THREADS="1")
    log = open(tmp / "lab.log", "w")
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}",
         "--ServerApp.port_retries=0", "--IdentityProvider.token=", "--ServerApp.password=",
         f"--ServerApp.root_dir={tmp / 'root'}", "--ServerApp.disable_check_xsrf=True"],
        stdout=log, stderr=subprocess.STDOUT, env=env)
    try:
        for _ in range(300):
            if server.poll() is not None: raise RuntimeError((tmp / "lab.log").read_text()[-2000:])
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api", timeout=2)
                break
            time.sleep(.2)
        else: raise TimeoutError("jupyter lab did not start")
        yield f"http://127.0.0.1:{port}", tmp
    finally:
        server.terminate()
        try: server.wait(15)
        except subprocess.TimeoutExpired: server.kill()
        log.close()


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with playwright.sync_playwright() as pw:
        b = pw.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        yield b
        b.close()


def opened(browser, url):
    "A page on a notebook, and what it asked for in vain or elsewhere."
    page, wrong = browser.new_page(viewport=dict(width=1300, height=900)), []
    page.set_default_timeout(60_000)
    page.on("requestfailed", lambda r: wrong.append(("failed", r.url)))
    own = url, url.replace("http", "ws"), "data:", "blob:"
    page.on("request", lambda r: r.url.startswith(own) or wrong.append(("outside", r.url)))
    page.goto(url + "/doc/tree/live.ipynb")
    page.locator(".jp-Notebook .jp-CodeCell").first.wait_for()
    return page, wrong


def run_cell(page):
    "Run the first cell; a run sent before the kernel is attached is dropped, so ask again."
    page.get_by_text("| Idle").wait_for()
    cell = page.locator(".jp-Notebook .jp-CodeCell").first
    prompt = cell.locator(".jp-InputPrompt").element_handle()
    for _ in range(10):
        cell.locator(".cm-content").click()
        page.keyboard.press("Control+Enter")
        with contextlib.suppress(Exception):
            page.wait_for_function("e => /[*0-9]/.test(e.textContent)", arg=prompt, timeout=3000)
            break
    page.locator(".wb.stage .says").wait_for()


def shot(page, name):
    if os.environ.get("WHITEBOX_SHOTS"): page.screenshot(path=os.path.join(os.environ["WHITEBOX_SHOTS"], name))


@in_browser
def test_slider_moves_sentence_and_picture(lab, browser):
    url, tmp = lab
    page, wrong = opened(browser, url)
    run_cell(page)
    pictures = page.locator(".wb.stage img")
    assert pictures.count() == 3
    assert not page.locator(".jp-RenderedImage img").is_visible(), "the still picture hides behind the widgets"
    assert all(pictures.nth(i).get_attribute("alt") for i in range(3))
    assert "Removing the 5% ranked highest" in page.locator(".says").inner_text()
    before = pictures.nth(2).get_attribute("src")
    shot(page, "live_1300.png")
    handle = page.locator(".widget-slider .noUi-handle").first
    handle.focus()
    for _ in range(10): handle.press("ArrowRight")
    page.get_by_text("Removing the 15% ranked highest").wait_for()
    assert pictures.nth(2).get_attribute("src") != before
    assert page.evaluate("document.activeElement.classList.contains('noUi-handle')")
    page.get_by_role("button", name="as code").click()
    assert "from whitebox" in page.locator("pre.code").inner_text()
    page.locator(".widget-dropdown select").first.select_option("GradCAM")
    page.get_by_text("map of GradCAM").or_(page.locator("figcaption b", has_text="GradCAM")).first.wait_for()
    page.get_by_text("Layer").first.wait_for()
    shot(page, "code_1300.png")
    page.set_viewport_size(dict(width=400, height=900))
    page.locator(".says").scroll_into_view_if_needed()
    shot(page, "live_400.png")
    boxes = [pictures.nth(i).bounding_box() for i in range(3)]
    assert len({round(b["y"]) for b in boxes}) == 1, "the three pictures stay side by side on a phone"
    assert boxes[2]["x"] + boxes[2]["width"] <= 400
    assert not wrong, wrong
    page.keyboard.press("Control+s")
    wait_for(lambda: saved(tmp)["cells"][0]["outputs"])
    page.close()


def saved(tmp): return json.loads((tmp / "root/live.ipynb").read_text())


def wait_for(found, seconds=20):
    "Ask again until there is an answer."
    for _ in range(5 * seconds):
        if found(): return
        time.sleep(.2)
    raise TimeoutError(found)


@in_browser
@pytest.mark.parametrize("trusted", [True, False])
def test_saved_notebook_keeps_its_picture(lab, browser, trusted):
    "Opened again with a kernel that knows nothing of the widgets."
    url, tmp = lab
    if not saved(tmp)["cells"][0]["outputs"]: pytest.skip("the live test did not save")
    for session in json.load(urllib.request.urlopen(url + "/api/sessions")):
        urllib.request.urlopen(urllib.request.Request(f"{url}/api/sessions/{session['id']}", method="DELETE"))
    if not trusted:
        nb = saved(tmp)
        nb["cells"][0]["source"] = "# changed by another hand"
        (tmp / "root/live.ipynb").write_text(json.dumps(nb))
    page, _ = opened(browser, url)
    page.wait_for_timeout(3000)
    shot(page, f"again_{'trusted' if trusted else 'untrusted'}.png")
    assert page.locator(".jp-RenderedImage img").is_visible()
    page.close()
