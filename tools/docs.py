"""Build the site into `_docs`: nbdev stages the notebooks, then quarto renders them, or smalldocs where no quarto is.

The sidebar has one section a floor. The build fails on a broken link, on a placeholder address, and on a link to source where the
project has no address."""
import argparse, html, json, os, re, shutil, subprocess, sys
from pathlib import Path
from urllib.parse import unquote

FLOORS = ((10, "The nouns"), (20, "Data and models"), (50, "Attribution"), (70, "Evaluation"), (80, "Running and seeing"), (100, "Beyond one image"))
FOLDERS = ("tutorials", "Tutorials"), ("reproductions", "Reproductions")
PLACEHOLDER = re.compile(r"(?:https?://|@)(?:[\w-]+\.)*example\.\w[^\s\"'<]*|github\.com/example\b", re.I)
SOURCE = re.compile(r'\[source\]\([^)]*\)\{[^}]*\}\n*')

def sections(nbs):
    "The sidebar of the notebooks under `nbs`: (title, pages) for each floor and folder that has any"
    pages = sorted(p.name for p in nbs.glob("[0-9][0-9]_*.ipynb"))
    low = 0
    for high, title in FLOORS:
        yield title, [p for p in pages if low <= int(p[:2]) < high]
        low = high
    for folder, title in FOLDERS: yield title, sorted(f"{folder}/{p.name}" for p in (nbs/folder).glob("*.ipynb"))

def write_sidebar(nbs):
    "`sidebar.yml`, in JSON, which is YAML"
    contents = ["index.ipynb"] + [dict(section=title, contents=pages) for title, pages in sections(nbs) if pages]
    (nbs/"sidebar.yml").write_text(json.dumps({"website": {"sidebar": {"contents": contents}}}, indent=1) + "\n", encoding="utf-8")

def write_settings(nbs, cfg):
    "`nbdev.yml`: what the site takes from pyproject.toml; no address is written where there is none"
    site = dict(title=cfg.title, description=cfg.description)
    if cfg.doc_url: site["site-url"] = cfg.doc_url
    if cfg.git_url: site |= {"repo-url": cfg.git_url, "repo-branch": cfg.branch, "repo-actions": ["issue"]}
    text = json.dumps({"project": {"output-dir": cfg.doc_path.name}, "website": site}, indent=1) + "\n"
    (nbs/"nbdev.yml").write_text(text, encoding="utf-8")

def without_source_links(cache):
    "Take the links to source out of staged pages: without a repository they lead nowhere"
    for page in cache.rglob("*.ipynb"):
        nb = json.loads(page.read_text(encoding="utf-8"))
        for cell in nb["cells"]:
            if cell["cell_type"] == "markdown": cell["source"] = SOURCE.sub("", "".join(cell["source"])).splitlines(True)
            for out in cell.get("outputs", []):
                if "text/markdown" in (data := out.get("data", {})):
                    data["text/markdown"] = SOURCE.sub("", "".join(data["text/markdown"])).splitlines(True)
        page.write_text(json.dumps(nb), encoding="utf-8")

def rename_pages(cache, page_name):
    "Give staged pages the names nbdev links to (00_core.ipynb -> core.ipynb), here and in links; quarto does that by `output-file`"
    names = {p.name: page_name(p.name) for p in cache.rglob("*.ipynb")}
    names = {old: new for old, new in names.items() if old != new}
    for page in [*cache.rglob("*.ipynb"), cache/"sidebar.yml"]:
        text = page.read_text(encoding="utf-8")
        for old, new in names.items(): text = re.sub(rf"(?<![\w.]){re.escape(old)}", new, text)
        page.write_text(text, encoding="utf-8")
        if page.name in names: page.rename(page.with_name(names[page.name]))

def broken_links(site):
    "Links between pages of `site` that lead nowhere, as (page, address)"
    for page in sorted(site.rglob("*.html")):
        text = re.sub(r"<(script|style)\b.*?</\1>", "", page.read_text(encoding="utf-8"), flags=re.S)
        for link in re.findall(r'(?:href|src)="([^"]*)"', text):
            path = unquote(html.unescape(link).split("#")[0].split("?")[0])
            if not path or re.match(r"[a-z]+:|//", path): continue
            target = site/path.lstrip("/") if path.startswith("/") else page.parent/path
            if not target.exists(): yield page.relative_to(site).as_posix(), link

def placeholders(site):
    "Addresses in `site` that stand for one not chosen yet, as (file, address)"
    for file in sorted(p for p in site.rglob("*") if p.suffix in {".html", ".json", ".xml", ".txt", ".md"}):
        for m in PLACEHOLDER.finditer(file.read_text(encoding="utf-8")): yield file.relative_to(site).as_posix(), m[0]

def draw_formulas(site):
    "Replace TeX in the pages of `site` by MathML, which a browser draws without a script from elsewhere"
    from latex2mathml.converter import convert
    def math(m): return convert(html.unescape(m[2][2:-2]), display="block" if m[1] == "display" else "inline")
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        text = re.sub(r'<(?:link|script)\b[^>]*katex[^>]*>(?:</script>)?', "", text)
        text = re.sub(r'<span class="math (inline|display)">(.*?)</span>', math, text, flags=re.S)
        page.write_text(text, encoding="utf-8")

def without_web_fonts(site):
    "Take imports from elsewhere out of the style sheets of `site`: pages use the fonts of the reader's system"
    for sheet in site.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        sheet.write_text(re.sub(r"@import (?:url\()?[\"']?https?:[^;]*;", "", text), encoding="utf-8")

def remote(site):
    "What pages of `site` would fetch from elsewhere when opened, as (page, address)"
    for sheet in sorted(site.rglob("*.css")):
        for m in re.finditer(r"url\([\"']?(https?:[^)\"']*)", sheet.read_text(encoding="utf-8")): yield sheet.relative_to(site).as_posix(), m[1]
    for page in sorted(site.rglob("*.html")):
        for m in re.finditer(r'<(?:script|img|iframe|link)\b[^>]*?(?:src|href)="(https?:[^"]*)"', page.read_text(encoding="utf-8")):
            yield page.relative_to(site).as_posix(), m[1]

def render_small(cache, out):
    "Render with smalldocs; it says what it leaves out of Quarto's settings, which is not news"
    run = subprocess.run([shutil.which("smalldocs") or "smalldocs", "render", str(cache)], capture_output=True, text=True)
    text = "\n".join(l for l in (run.stdout + run.stderr).splitlines() if not re.search(r"output-file is not read|is ignored$", l))
    print(text)
    if run.returncode or "broken link" in text: sys.exit("smalldocs did not render the site: see above")
    draw_formulas(out)
    without_web_fonts(out)
    if found := [f"{page}: fetches {link}" for page, link in remote(out)]: sys.exit("\n".join(found))

def stage(workers):
    "The processed pages, ready for a renderer"
    import nbdev.doclinks
    from nbdev.config import get_config
    from nbdev.serve import proc_nbs
    cfg = get_config()
    os.chdir(cfg.config_path)
    write_settings(cfg.nbs_path, cfg)
    write_sidebar(cfg.nbs_path)
    nbdev.doclinks._build_modidx()
    cache = proc_nbs(cfg.nbs_path, n_workers=workers, force=True)
    if not cfg.git_url: without_source_links(cache)
    return cfg, cache

def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2, help="processes that stage the pages")
    cfg, cache = stage(parser.parse_args().workers)
    out = cache/cfg.doc_path.name
    if shutil.which("quarto"):
        from nbdev.quarto_render import render_quarto
        render_quarto(cache, out)
    else:
        from nbdev.config import nbpath2html
        rename_pages(cache, lambda name: nbpath2html(name).with_suffix(".ipynb").name)
        render_small(cache, out)
    shutil.rmtree(cfg.doc_path, ignore_errors=True)
    shutil.move(out, cfg.doc_path)
    bad = [f"{page}: broken link {link}" for page, link in broken_links(cfg.doc_path)]
    bad += [f"{page}: placeholder address {link}" for page, link in placeholders(cfg.doc_path)]
    if bad: sys.exit("\n".join(bad))
    print(f"{len(list(cfg.doc_path.rglob('*.html')))} pages in {cfg.doc_path.name}")

if __name__ == "__main__": main()
