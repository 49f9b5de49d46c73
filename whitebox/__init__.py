"Explain image classifiers, then measure the explanations."
__version__ = "0.1.0"
