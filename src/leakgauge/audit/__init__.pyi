"""Audits: read a specification, plan its cells, run them and write their records."""

from .case import Case as Case
from .case import Cell as Cell
from .folder import check_folder as check_folder
from .folder import in_order as in_order
from .folder import without_times as without_times
from .keeper import Plan as Plan
from .keeper import Run as Run
from .machine import available_cores as available_cores
from .run import audit as audit
from .run import execute as execute
from .run import plan as plan
from .run import plan_from as plan_from
from .specification import Source as Source
from .specification import default_text as default_text
from .specification import parse as parse
from .specification import read as read
from .utility import Utility as Utility
