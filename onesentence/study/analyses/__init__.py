"""One module for each analysis. To add one: write its module, register it here, and test it."""

from onesentence.study.analyses import best, copying, exchange, full, pareto, prompt, scaling, trend
from onesentence.study.analyses.analysis import Analysis

NONE = "none"  # in studies.yaml: differences from the baseline, and nothing else
ANALYSES: dict[str, Analysis] = {
    "trend": trend.ANALYSIS,
    "best": best.ANALYSIS,
    "scaling": scaling.ANALYSIS,
    "pareto": pareto.ANALYSIS,
    "prompt": prompt.ANALYSIS,
    "full": full.ANALYSIS,
    "copying": copying.ANALYSIS,
    "exchange": exchange.ANALYSIS,
}
