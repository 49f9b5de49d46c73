"Networks, their training, and models of your own."
from whitebox.models.cbam import CBAMNet
from whitebox.models.hub import described, load_weights, normalised, save_weights, tiny_digits
from whitebox.models.ran import RAN
from whitebox.models.resnet import RESNETS, ConvNet, Linear, ResNet, SmallViT, Tree
from whitebox.models.simple_cnn import CAMNet, Network, Normalise, SimpleCNN, TinyCNN
from whitebox.models.training import Fitted, Recipe, accuracy, accuracy_table, fit, predict, train
from whitebox.models.warn import WARN

__all__ = ["CAMNet", "CBAMNet", "ConvNet", "Fitted", "Linear", "Network", "Normalise", "RAN", "RESNETS", "Recipe", "ResNet", "SimpleCNN", "SmallViT",
           "TinyCNN", "Tree", "WARN", "accuracy", "accuracy_table", "described", "fit", "load_weights", "normalised", "predict", "save_weights", "tiny_digits", "train"]
