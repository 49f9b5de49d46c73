"""Render README.md from nbs/index.ipynb: `python tools/readme.py`; `--check` only says whether the two agree.

Markdown is taken as it stands with its links seen from the top folder, code cells are fenced, stored text outputs follow as comments
of what was printed. Cells with `#| hide` are left out; of those with `#| echo: false` only the outputs are shown. Pictures belong in nbs/images and are named in markdown."""
import argparse, json, posixpath, re, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r'(\]\()(?!https?:|mailto:|#|/)([^)\s]+)')

def from_top(text, folder="nbs"):
    "`text` with its relative links rewritten for a reader one folder up"
    return LINK.sub(lambda m: m[1] + posixpath.normpath(posixpath.join(folder, m[2])), text)

def outputs(cell):
    "The stored text outputs of `cell`, without colour codes"
    for out in cell.get("outputs", []):
        text = out.get("text") or out.get("data", {}).get("text/markdown") or out.get("data", {}).get("text/plain") or ""
        text = re.sub(r"\x1b\[[0-9;]*m", "", "".join(text)).strip("\n")
        if not text or "image/png" in out.get("data", {}): continue
        yield text if "text/markdown" in out.get("data", {}) else f"```text\n{text}\n```"

def render(path):
    "Markdown text of the notebook at `path`"
    parts = []
    for cell in json.loads(Path(path).read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"]).strip("\n")
        if not source or re.search(r"^#\s*\|\s*(hide|default_exp)\b", source, re.M): continue
        if cell["cell_type"] == "markdown": parts.append(from_top(source))
        elif cell["cell_type"] == "code":
            code = "\n".join(l for l in source.split("\n") if not re.match(r"#\s*\|", l)).strip("\n")
            shown = not re.search(r"^#\s*\|\s*echo:\s*false\b", source, re.M)
            parts += [f"```python\n{code}\n```"] * shown + list(outputs(cell))
    return "\n\n".join(parts) + "\n"

def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if README.md is out of date")
    fresh, readme = render(ROOT/"nbs"/"index.ipynb"), ROOT/"README.md"
    if parser.parse_args().check:
        if readme.read_text(encoding="utf-8") != fresh: sys.exit("README.md differs from nbs/index.ipynb: run python tools/readme.py")
    elif not readme.exists() or readme.read_text(encoding="utf-8") != fresh: readme.write_text(fresh, encoding="utf-8")

if __name__ == "__main__": main()
