"""Reference data sets, and loaders of a user's own data.

A specification names a data set by one of LOADERS, or a user's own factory as
"package.module:factory".
"""

from leakgauge.data.archives import npz
from leakgauge.data.dataset import Dataset
from leakgauge.data.files import find_file
from leakgauge.data.folders import image_folder
from leakgauge.data.own import custom
from leakgauge.data.photographs import photos
from leakgauge.data.reference import breast_cancer, diabetes, digits
from leakgauge.data.sentences import sentences
from leakgauge.data.text import text

LOADERS = (
    "breast_cancer",
    "diabetes",
    "digits",
    "image_folder",
    "npz",
    "photos",
    "sentences",
    "text",
)

__all__ = [
    "LOADERS",
    "Dataset",
    "breast_cancer",
    "custom",
    "diabetes",
    "digits",
    "find_file",
    "image_folder",
    "npz",
    "photos",
    "sentences",
    "text",
]
