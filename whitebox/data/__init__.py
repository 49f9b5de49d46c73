"Data sets: your own, published, and planted ones whose answers are known."
from .images import Images, Split, from_tensors
from .sources import CIFAR10, MNIST, Digits, FashionMNIST, Folder, Source, Square, Subset, source
from .planted import GaussianWorld, Shapes, TwoObjects

__all__ = ["CIFAR10", "Digits", "FashionMNIST", "Folder", "GaussianWorld", "Images", "MNIST", "Shapes", "Source", "Split", "Square",
           "Subset", "TwoObjects", "from_tensors", "source"]
