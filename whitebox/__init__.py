"Explain image classifiers, then measure the explanations."
__version__ = "0.1.0"

import whitebox.attribution, whitebox.data, whitebox.evaluation, whitebox.models
from whitebox.attribution import check_method
from whitebox.data import Images
from whitebox.data.images import from_tensors
from whitebox.evaluation import Metric, Score, check_metric
from whitebox.explorer import explore
from whitebox.fill import Black, Blur, ChannelMean, Constant, Fill, Noise
from whitebox.method import Method
from whitebox.models import Network, Recipe, fit, normalised
from whitebox.probe import Probe
from whitebox.ranking import Elements, Patches, Pixels, Region, Superpixels, keep, rank, remove
from whitebox.report import report
from whitebox.show import show
from whitebox.store import Store
from whitebox.study import Study
from whitebox.table import COLUMNS
from whitebox.target import Class, Contrast, LogProbability, Predicted, Probability, Target
from whitebox.value import Value, parse

__all__ = ["Black", "Blur", "ChannelMean", "Class", "Constant", "Contrast", "Elements", "Fill", "Images", "LogProbability", "Method", "Metric",
           "Network", "Noise", "Patches", "Pixels", "Predicted", "Probability", "Probe", "Recipe", "Region", "Score", "Store", "Study",
           "Superpixels", "Target", "Value", "check_method", "check_metric", "explore", "fit", "from_tensors", "keep", "normalised", "parse",
           "rank", "remove", "report", "show"]
