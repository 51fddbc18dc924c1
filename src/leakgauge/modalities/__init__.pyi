"""One modality for each domain: how its examples are scored, judged and shown."""

from .check import check_modality as check_modality
from .image import ImageModality as ImageModality
from .lookup import MODALITIES as MODALITIES
from .lookup import HasModality as HasModality
from .lookup import modality_of as modality_of
from .lookup import rules_of as rules_of
from .modality import Content as Content
from .modality import Layout as Layout
from .modality import Metric as Metric
from .modality import Modality as Modality
from .modality import Save as Save
from .table import TableModality as TableModality
from .text import TextModality as TextModality
from .unknown import UnknownModality as UnknownModality
