"""What is said in figures is what the files under results/ hold, and each of these can be made again."""
import csv, json, re
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT/"results"
MADE_BY = {"tour.json": "tour", "imports.json": "imports", "attribution_speed.csv": "attribution", "training.json": "training", "rules_speed.csv": "rules", "equal_error.csv": "equal_error",
           "oracle.csv": "oracle"}
SPOKEN = re.compile(r"(\d+(?:\.\d+)?) ?(s|min|MB|GB|%)(?!\w)")

def held(name):
    "The rows of a results file"
    path = RESULTS/name
    if not path.exists(): pytest.fail(f"results/{name} is missing: python benchmarks/{MADE_BY[name]}.py", pytrace=False)
    text = path.read_text(encoding="utf-8")
    return [json.loads(text)] if path.suffix == ".json" else list(csv.DictReader(text.splitlines()))

def printed(notebook, about):
    "The stored text of the cells of `notebook` that read `about`"
    cells = json.loads((ROOT/notebook).read_text(encoding="utf-8"))["cells"]
    outputs = [out for c in cells if c["cell_type"] == "code" and about in "".join(c["source"]) for out in c["outputs"]]
    return "\n".join("".join(out.get("text") or out.get("data", {}).get("text/markdown") or out.get("data", {}).get("text/plain") or "") for out in outputs)

def strangers(text, tour):
    "Figures with a unit in `text` that are not a rounding of one of `tour`"
    known = {"s": [tour["wall"], tour["again"]], "MB": [tour["peak_mb"]], "%": [100 * tour["accuracy"]]}
    known |= {"min": [v / 60 for v in known["s"]], "GB": [v / 1000 for v in known["MB"] if v]}
    for figure, unit in SPOKEN.findall(text):
        places = len(figure.partition(".")[2])
        if figure not in {f"{v:.{places}f}" for v in known[unit] if v is not None}: yield f"{figure} {unit}"

@pytest.mark.parametrize("name", MADE_BY)
def test_results_are_there_and_name_the_command_that_makes_them(name):
    rows = held(name)
    assert rows
    for row in rows:
        script = row["command"].split()[1]
        assert script == f"benchmarks/{MADE_BY[name]}.py" and (ROOT/script).exists()
        assert {"cpu", "cores", "threads", "load", "torch", "python"} <= set(row)

def test_tour_is_a_tour():
    tour, = held("tour.json")
    assert tour["wall"] > tour["again"] > 0 and 0 < tour["accuracy"] <= 1 and tour["replicates"] >= 3

def test_a_network_of_99_percent_is_trained_in_five_minutes():
    run, = held("training.json")
    assert run["trained"] == "mnist simple_cnn" and run["accuracy"] >= .99 and run["seconds"] <= 300

def test_methods_under_rules_cost_no_more_than_they_may():
    rows = held("rules_speed.csv")
    assert {"GuidedBackprop", "DeconvNet", "DeepLIFT"} < {r["method"] for r in rows} and sum(r["method"].startswith("LRP") for r in rows) >= 4
    for r in rows: assert float(r["low"]) <= float(r["gradients"]) <= float(r["high"]) and float(r["gradients"]) <= float(r["gate"])

def test_maps_agree_with_packages_as_they_are_pinned():
    rows, settings = held("oracle.csv"), ConfigParser(delimiters=["="])
    settings.read(ROOT/"settings.ini", encoding="utf-8")
    pins = dict(pin.split("==") for pin in settings["DEFAULT"]["oracle_requirements"].split())
    assert {(r["peer"], r["version"]) for r in rows} >= set(pins.items())
    for r in rows:
        worst, bound = float(r["worst"]), float(r["bound"])
        assert r["version"] == pins.get(r["peer"], r["version"]) and int(r["comparisons"]) > 0
        assert worst >= bound if "correlation" in r["measure"] else worst <= bound

def test_attribution_rows_add_up():
    rows = held("attribution_speed.csv")
    assert {r["layout"] for r in rows} == {"same", "default"} and len({r["network"] for r in rows}) == 2
    for r in rows:
        assert float(r["ratio_low"]) <= float(r["ratio"]) <= float(r["ratio_high"])
        assert abs(float(r["captum_ms"]) / float(r["whitebox_ms"]) / float(r["ratio"]) - 1) < .25
        assert bool(r["gate"]) == (r["layout"] == "same") == bool(r["holds"])

def test_verdicts_on_errors_are_those_of_their_figures():
    rows = held("equal_error.csv")
    assert len({r["network"] for r in rows}) == 2 and len({r["contest"] for r in rows}) == 7
    for r in rows:
        if r["factor_low"]: assert 0 < float(r["factor_low"]) <= float(r["factor"]) <= float(r["factor_high"])
        for value, gate, holds in ("factor", "gate", "holds"), ("time_factor", "time_gate", "time_holds"):
            if r[gate] and int(r["images"]) >= 6: assert (r[holds] == "yes") == (float(r[value]) >= float(r[gate]))

def test_the_page_of_measurements_says_what_the_files_hold():
    "Each cell, run again, gives the text that is stored"
    from execnb.shell import CaptureShell
    path = ROOT/"nbs"/"reproductions"/"methods_measured.ipynb"
    shell = CaptureShell(path.parent)
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code": assert texts(shell.run("".join(cell["source"]))) == texts(cell["outputs"])

def texts(outputs):
    return ["".join(o.get("text") or o.get("data", {}).get("text/plain") or "") for o in outputs]

@pytest.mark.parametrize("page", ["nbs/index.ipynb"])
def test_pages_say_what_the_tour_measured(page):
    tour, = held("tour.json")
    text = printed(page, "tour.json")
    assert f"{tour['wall']:.0f} s" in text, f"{page} does not print {tour['wall']:.0f} s: run its cells again and store the outputs"
    assert list(strangers(text, tour)) == []

def test_a_stranger_among_figures_is_seen():
    tour = dict(wall=81.3, again=4.4, peak_mb=912, accuracy=.9722)
    assert list(strangers("81 s, again 4 s, 1.4 min, 912 MB, 0.9 GB, 97.2 % of 28×28", tour)) == []
    assert list(strangers("80 s, 97.3%, 4.4 s, 3 minutes", tour)) == ["80 s", "97.3 %"]
