"Laws of the report: what it says is in its table, it stands alone, and nothing in a table can break out of it."
import errno, functools, html, json, os, re, shutil
from pathlib import Path

import pytest
from importlib import import_module
from whitebox.errors import StoreConflict

page = import_module("whitebox.report")     # `whitebox.report` itself is the function
NOTEBOOK = Path(__file__).resolve().parent.parent/"nbs"/"73_report.ipynb"
ATTACK = '<img src=x onerror="document.title=1"><script>document.title=1</script>'

@functools.cache
def made_up():
    "The page's made-up study: its import cells and the two cells that make it"
    cells = ["".join(c["source"]) for c in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
    names = {}
    for text in cells[1:5]: exec(compile(text, "nbs/73_report.ipynb", "exec"), names)
    return names

def study(n=6, small=False, kar=False, cells=(), **given):
    "A made-up table of `n` replicates, and its facts"
    names = made_up()
    if small: given["rankings"] = {k: names["MADE_UP"][k] for k in ("Occlusion", "Sobel", "Random")}
    if kar: given["protocols"] = (names["ROAR"], names["KAR"])
    return names["made_up"](n, **given), names["made_up_facts"](n, **dict(cells))

def pictures(columns=("Occlusion", "Sobel")):
    import torch
    x = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    order = torch.arange(64).expand(2, -1)
    return page.pictures_of(x, ["label 3", "label 7"], {c: x - .5 for c in columns}, {c: order for c in columns}, (.3, .7))

PARTIAL = dict(cells=dict(done=187, failed=2, missing=21)).items()
CASES = dict(six=study, three=lambda: study(3), two=lambda: study(2), kar=lambda: study(3, kar=True), partial=lambda: study(6, cells=PARTIAL),
             failing=lambda: study(6, certificates=(.05, -.01, -.3, .2, None)))

@functools.cache
def case(name): return CASES[name]()

def spoken(table, facts):
    "Every number that the table and the facts allow a sentence to hold"
    numbers = [v for c in ("value", "low", "high") for v in table[c].dropna()]
    said = {f(v) for v in numbers for f in (page.signed, page.percent, page._short)}
    flags = [page._read_flags(text) for text in table["flags"]]
    said |= {page._chances(f["adjusted"]) for f in flags if f.get("adjusted") is not None}
    said |= {word for f in flags for word in re.findall(r"[+−]?\.?\d+", str(f.get("tolerance") or ""))}
    said |= {page._share(t) for t in table.fraction.dropna()} | {page.percent(facts["chance"]), "95%"}
    rankings = table.method.nunique()
    counts = [*range(rankings + 1), facts["replicates"], sum(facts["cells"].values()), *facts["cells"].values()]
    return said | {str(c) for c in counts} | {"3"}     # "fewer than 3 replicates"

@pytest.mark.parametrize("name", CASES)
def test_every_number_of_a_sentence_is_in_the_table(name):
    table, facts = case(name)
    said = " ".join(f"{bold} {rest}" for bold, rest in page.sentences(table, facts))
    for label in sorted(table.method.unique(), key=len, reverse=True): said = said.replace(label, "") if label else said
    found = re.findall(r"p [=<] [\d.]+\d|[+−]?\d*\.\d+|[<>]?\d+(?:\.\d+)?%|(?<!C)\d+", said)
    assert len(found) > 3 and set(found) <= spoken(table, facts), set(found) - spoken(table, facts)

@pytest.mark.parametrize("name", CASES)
def test_a_claim_needs_six_replicates_and_every_cell(name):
    table, facts = case(name)
    said, written = " ".join(map(" ".join, page.sentences(table, facts))), page.report(table, facts)
    may = name in ("six", "failing")
    assert ("remove evidence" in said) == ("p = 0.031" in written) == ('fill="var(--c3)"' in written.split('class="result"')[1].split("</table>")[0]) == may
    for word in ("significant", "better than", "outperform"): assert word not in said

def test_what_is_missing_or_fails_comes_first():
    table, facts = study(6, small=True, cells=PARTIAL, certificates=(.05, -.01, -.3, .2, None))
    clauses = [bold for bold, _ in page.sentences(table, facts)]
    assert clauses[:3] == ["187 of 210 cells: not a result yet", "C1 fails:", "C3 fails:"]

def test_stands_alone_and_is_small():
    table, facts = case("six")
    text = page.report(table, facts, pictures())
    assert not re.findall(r"<script|<link|<iframe|@import|url\((?!#)|\son\w+=", text)
    links = re.findall(r'(?:src|href)=["\']?([^"\'\s>]+)', text)
    assert links and all(link.startswith(("data:", "#")) for link in links)
    assert len(text) < 1_000_000

def test_same_bytes_whatever_the_order_of_rows():
    table, facts = study(3, small=True)
    first = page.report(table, facts | dict(csv="-"), pictures())
    assert first == page.report(table, facts | dict(csv="-"), pictures())
    assert page.sentences(table, facts) == page.sentences(table.sample(frac=1, random_state=1), facts)

def test_a_name_is_shown_literally_wherever_it_stands():
    table, facts = study(3, small=True)
    table = table.replace({"method": {"Occlusion": ATTACK}})
    facts |= dict(question=ATTACK, data=ATTACK, network=ATTACK, command=ATTACK, versions=[ATTACK], reduced=[ATTACK], keys=[(ATTACK, ATTACK)],
                  ran=[(ATTACK, ATTACK)])
    text = page.report(table, facts, pictures((ATTACK, "$x_{$")), [(ATTACK, ATTACK, "", table[["method"]][-3:])])
    assert "<script" not in text and "<img src=x" not in text
    plain = html.unescape(re.sub(r"<wbr>", "", text))
    assert plain.count(ATTACK) > 15

def test_csv_text_cells_are_no_formulas():
    import io
    import pandas as pd
    frame = pd.DataFrame({"=a": ["=1", "+1", "-1", "@x", "\tx", "\r=x", "x=1"], "v": [-1., 2, 3, 4, 5, 6, float("nan")]})
    back = pd.read_csv(io.StringIO(page.csv_text(frame)))
    assert all(str(v)[0] == "'" for v in [back.columns[0], *back.iloc[:6, 0]]) and back.iloc[6, 0] == "x=1"
    assert back.v[0] == -1 and page.csv_text(frame, safe=False) == frame.to_csv(index=False, lineterminator="\r\n")

def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    made = page.write(tmp_path/"report.html", "old")
    def full(fd): raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(page.os, "fsync", full)
    with pytest.raises(StoreConflict, match=r"cannot be written \(No space left on device; 3 bytes needed\)\. Give a path"):
        page.write(made, "new")
    assert made.read_text() == "old" and os.listdir(tmp_path) == ["report.html"]

@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root writes anywhere")
def test_a_folder_that_may_not_be_written(tmp_path):
    (tmp_path/"shut").mkdir(mode=0o500)
    with pytest.raises(StoreConflict, match="Give a path in a folder"): page.write(tmp_path/"shut"/"report.html", "x")

# ---- in a browser

@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with sync_api.sync_playwright() as p:
        b = p.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu", "--disable-quic"])
        yield b
        b.close()

@pytest.fixture(scope="module")
def written(tmp_path_factory):
    table, facts = study(3, kar=True)
    table = table.replace({"method": {"Sobel": ATTACK, "Gradient": "Long" * 40}})
    return page.write(tmp_path_factory.mktemp("report")/"report.html",
                      page.report(table, facts | dict(question=ATTACK), pictures(("Occlusion", ATTACK)), [("Deletion", "words", "", table[:3])]))

@pytest.mark.browser
@pytest.mark.parametrize("width", [1300, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser(browser, written, width, scheme):
    tab = browser.new_page(viewport=dict(width=width, height=900), color_scheme=scheme)
    asked, said = [], []
    tab.on("request", lambda r: asked.append(r.url))
    tab.on("console", lambda m: said.append(m.text))
    tab.on("pageerror", lambda e: said.append(str(e)))
    tab.goto(written.as_uri())
    assert [u for u in asked if not u.startswith("data:")] == [written.as_uri()] and said == []
    assert tab.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [width, width]
    assert tab.title() == ATTACK and tab.evaluate("document.querySelectorAll('script,[onerror]').length") == 0
    assert tab.evaluate("[...document.images].every(i => i.alt && i.complete && i.naturalWidth > 0)")
    assert tab.evaluate("document.querySelectorAll('.panels svg').length") == 12
    tab.close()

@pytest.mark.browser
def test_buttons_switch_pictures_without_a_script(browser, written):
    tab = browser.new_page(java_script_enabled=True)
    tab.goto(written.as_uri())
    def seen(): return [tab.locator(f".v{i}:visible").count() for i in range(3)]
    assert seen() == [0, 4, 0]                                  # 2 images × 2 methods, 30% first
    tab.get_by_text("map", exact=True).click()
    assert seen() == [4, 0, 0]
    tab.keyboard.press("ArrowLeft")                             # from the keyboard too: round to the last
    assert seen() == [0, 0, 4]
    with tab.expect_download() as download: tab.get_by_text("The whole table as CSV").click()
    assert Path(download.value.path()).read_text(encoding="utf-8").startswith("study,data,network,")
    tab.close()
