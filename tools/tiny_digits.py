"""Train the network that ships with the library: `python tools/tiny_digits.py` writes whitebox/data/tinycnn_digits.safetensors"""
from pathlib import Path
from whitebox.data.sources import Digits
from whitebox.models.hub import save_weights
from whitebox.models.simple_cnn import TinyCNN
from whitebox.models.training import Recipe, accuracy, fit

images = Digits(size=28).load()
fitted = fit(TinyCNN(), images, Recipe(epochs=8))
save_weights(fitted.model, Path(__file__).parent.parent / "whitebox" / "data" / "tinycnn_digits.safetensors")
print(f"{accuracy(fitted.model, images.test):.2%} of {len(images.test)} test images")
