"""Make whitebox/data/gaussian_world.safetensors from MNIST: class means and main directions within classes, 14 x 14.

    python tools/gaussian_world.py [--root DIR] [--download]
"""
import argparse
from pathlib import Path
import torch
from safetensors.torch import save_file
from whitebox.data.sources import MNIST

def statistics(split, pooled=2, directions=8):
    "Class means [K,D] and the largest within-class principal directions [D,r], each times its standard deviation"
    x, y = torch.nn.functional.avg_pool2d(split.float(), pooled).flatten(1).double(), split.y
    means = torch.stack([x[y == k].mean(0) for k in range(int(y.max()) + 1)])
    rest = x - means[y]
    variance, vectors = torch.linalg.eigh(rest.T @ rest / len(x))
    w = vectors.flip(1)[:, :directions] * variance.flip(0)[:directions].sqrt()
    sign = w.gather(0, w.abs().argmax(0, keepdim=True)).sign()
    return {'means': means.float().contiguous(), 'directions': (w * sign).float().contiguous()}

def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--root', help='folder that holds MNIST'); ap.add_argument('--download', action='store_true')
    a = ap.parse_args()
    out = Path(__file__).parents[1]/'whitebox'/'data'/'gaussian_world.safetensors'
    source = 'MNIST, Y. LeCun and C. Cortes; mean digits and principal directions of 55,000 training images, pooled 2 x 2'
    save_file(statistics(MNIST().load(a.root, a.download).train), out, metadata={'source': source})
    print(out.stat().st_size, out)

if __name__ == '__main__': main()
