"""Read, write and run notebooks from a terminal: `python tools/nb.py show|make|run|size FILE...`

The notebook stays the only committed source; the text form lives for one edit."""
import argparse, hashlib, json, re, sys
from pathlib import Path

MARK = re.compile(r'^# %%(?: \[(markdown|raw)\])?(?: id=(\S+))?[ \t]*$', re.M)

def load(p): return json.loads(Path(p).read_text(encoding='utf-8'))

def save(nb, p):
    "nbdev's on-disk form: sorted keys, one-space indent, no ASCII escapes, final newline"
    Path(p).write_text(json.dumps(nb, sort_keys=True, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')

def to_text(nb):
    "Percent text of `nb`; markdown lines carry a leading `# `"
    out = []
    for c in nb['cells']:
        kind = '' if c['cell_type'] == 'code' else f" [{c['cell_type']}]"
        src = ''.join(c['source'])
        if kind: src = '\n'.join('# ' + l if l else '#' for l in src.split('\n'))
        out.append(f"# %%{kind} id={c.get('id', '-')}\n{src}\n")
    return '\n'.join(out)

def from_text(txt, old=None):
    "Notebook of percent text; a cell whose id and source are unchanged keeps its outputs"
    was = {c.get('id'): c for c in (old or {}).get('cells', [])}
    cells, used = [], set()
    ms = list(MARK.finditer(txt))
    for m, nxt in zip(ms, ms[1:] + [None]):
        kind, cid = m[1] or 'code', m[2]
        src = txt[m.end():nxt.start() if nxt else None].strip('\n')
        if kind != 'code': src = '\n'.join(re.sub(r'^# ?', '', l) for l in src.split('\n'))
        if cid == '-': cid = None
        if not cid or cid in used:
            n = 0
            while not cid or cid in used:
                cid = hashlib.sha1(f'{len(cells)}{n}{src}'.encode()).hexdigest()[:8]; n += 1
        used.add(cid)
        c = dict(cell_type=kind, id=cid, metadata={}, source=src.splitlines(True))
        if kind == 'code':
            prev = was.get(cid, {})
            same = ''.join(prev.get('source', [])) == src
            c |= dict(execution_count=None, outputs=prev.get('outputs', []) if same else [])
        cells.append(c)
    meta = (old or {}).get('metadata') or {'kernelspec': {'display_name': 'python3', 'language': 'python', 'name': 'python3'}}
    return dict(cells=cells, metadata=meta, nbformat=4, nbformat_minor=5)

def sizes(p):
    "Largest outputs of notebook `p` as (bytes, cell id, mime)"
    for c in load(p)['cells']:
        for o in c.get('outputs', []):
            for mime, v in (o.get('data') or {'text': o.get('text', '')}).items():
                yield len(v if isinstance(v, str) else json.dumps(v)), c['id'], mime

def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument('cmd', choices='show make run size'.split()); ap.add_argument('files', nargs='+')
    ap.add_argument('--limit', type=int, default=0, help='size: fail over this many bytes for a notebook')
    a = ap.parse_args(); bad = 0
    for f in map(Path, a.files):
        nbf = f.with_suffix('.ipynb')
        if a.cmd == 'show': sys.stdout.write(to_text(load(f)))
        elif a.cmd == 'make':   # make X.py -> X.ipynb (beside it), or pass nbs/X.ipynb with text on stdin
            txt = sys.stdin.read() if f.suffix == '.ipynb' else f.read_text(encoding='utf-8')
            save(from_text(txt, load(nbf) if nbf.exists() else None), nbf)
        elif a.cmd == 'run':
            from execnb.shell import CaptureShell
            from fastcore.nbio import read_nb, write_nb
            nb = read_nb(f); CaptureShell(f).run_all(nb, exc_stop=True); write_nb(nb, f)
        else:
            tot = f.stat().st_size; top = sorted(sizes(f), reverse=True)[:3]
            print(tot, f, top)
            if a.limit and tot > a.limit: bad += 1
    return bad
if __name__ == '__main__': sys.exit(main())
