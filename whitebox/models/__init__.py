"Networks, their training, and models of your own."
from whitebox.models.hub import described, load_weights, normalised, save_weights, tiny_digits
from whitebox.models.simple_cnn import CAMNet, Network, Normalise, SimpleCNN, TinyCNN
from whitebox.models.training import Fitted, Recipe, accuracy, accuracy_table, fit, predict, train

__all__ = ["CAMNet", "Fitted", "Network", "Normalise", "Recipe", "SimpleCNN", "TinyCNN", "accuracy", "accuracy_table", "described",
           "fit", "load_weights", "normalised", "predict", "save_weights", "tiny_digits", "train"]
