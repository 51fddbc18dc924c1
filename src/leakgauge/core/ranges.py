"""Ranges of options, as types: a specification is checked against them before any compute."""

from __future__ import annotations

import math
from typing import Annotated

from annotated_types import Ge, Gt, Lt

Count = Annotated[int, Ge(1)]
Whole = Annotated[int, Ge(0)]
Positive = Annotated[float, Gt(0), Lt(math.inf)]
NonNegative = Annotated[float, Ge(0), Lt(math.inf)]
Share = Annotated[float, Ge(0), Lt(1)]
