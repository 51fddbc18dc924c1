"""The report of a run: one self-contained HTML page and the recommended defenses, from records alone."""

from .defaults import LOSS as LOSS
from .frontier import Frontier as Frontier
from .frontier import Setting as Setting
from .frontier import frontiers as frontiers
from .page import PAGE as PAGE
from .page import recommendations as recommendations
from .page import render as render
from .page import write_report as write_report
from .recommendation import Recommendation as Recommendation
from .recommendation import recommend as recommend
from .run import parse as parse
