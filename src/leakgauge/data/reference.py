"""Reference data sets inside scikit-learn: handwritten digits and two medical tables.

The ranges of columns are fixed here. They are public knowledge, and not computed from the records.
"""

from __future__ import annotations

import torch

from leakgauge.core import Column, ImageDomain, TableDomain
from leakgauge.data.dataset import Dataset

# The ranges are plausible values in a clinic for adults, and wider than the records. The source does
# not state the meaning of the codes of sex.
DIABETES_COLUMNS = (
    Column("age", 18, 100, "years", 0),
    Column("sex", 1, 2, "code", 0),
    Column("body mass index", 10, 60, "kg/m^2", 1),
    Column("mean arterial blood pressure", 40, 180, "mm Hg", 2),
    Column("total cholesterol", 50, 400, "mg/dl", 0),
    Column("low-density lipoproteins", 10, 300, "mg/dl", 1),
    Column("high-density lipoproteins", 10, 150, "mg/dl", 1),
    Column("total cholesterol / HDL", 1, 15, "ratio", 2),
    Column("log of serum triglycerides", 2, 8, "log(mg/dl)", 4),
    Column("blood glucose", 40, 300, "mg/dl", 0),
)

DIABETES_MEDIAN = 140.5
"""Median of the disease progression one year after baseline, over the 442 patients."""

# The ranges are the minima and maxima that the source publishes, rounded outward. It states no units.
BREAST_CANCER_COLUMNS = (
    Column("mean radius", 5, 30, decimals=2),
    Column("mean texture", 5, 40, decimals=2),
    Column("mean perimeter", 40, 200, decimals=2),
    Column("mean area", 100, 3000, decimals=1),
    Column("mean smoothness", 0, 0.2, decimals=5),
    Column("mean compactness", 0, 0.4, decimals=5),
    Column("mean concavity", 0, 0.5, decimals=5),
    Column("mean concave points", 0, 0.25, decimals=5),
    Column("mean symmetry", 0.1, 0.35, decimals=4),
    Column("mean fractal dimension", 0.04, 0.1, decimals=5),
    Column("radius error", 0, 3, decimals=4),
    Column("texture error", 0, 5, decimals=4),
    Column("perimeter error", 0, 25, decimals=3),
    Column("area error", 0, 600, decimals=2),
    Column("smoothness error", 0, 0.04, decimals=6),
    Column("compactness error", 0, 0.15, decimals=6),
    Column("concavity error", 0, 0.5, decimals=5),
    Column("concave points error", 0, 0.06, decimals=6),
    Column("symmetry error", 0, 0.1, decimals=6),
    Column("fractal dimension error", 0, 0.04, decimals=6),
    Column("worst radius", 5, 40, decimals=2),
    Column("worst texture", 10, 60, decimals=2),
    Column("worst perimeter", 50, 300, decimals=1),
    Column("worst area", 100, 5000, decimals=1),
    Column("worst smoothness", 0.05, 0.25, decimals=4),
    Column("worst compactness", 0, 1.2, decimals=4),
    Column("worst concavity", 0, 1.5, decimals=4),
    Column("worst concave points", 0, 0.3, decimals=4),
    Column("worst symmetry", 0.1, 0.7, decimals=4),
    Column("worst fractal dimension", 0.05, 0.25, decimals=5),
)


def digits() -> Dataset:
    """Load 1,797 gray images of handwritten digits, with 8 x 8 pixels and ten classes.

    Returns:
        Inputs (1797, 1, 8, 8) in [0, 1], and the digits as targets.

    References:
        Alpaydin, Kaynak. Optical Recognition of Handwritten Digits. UCI Machine Learning Repository,
        1998. This is its test set.

    Example:
        >>> import leakgauge as lg
        >>> lg.data.digits().inputs.shape
        torch.Size([1797, 1, 8, 8])
    """
    # Imported here, because the import takes a second.
    from sklearn.datasets import load_digits

    bunch = load_digits()
    # A pixel counts the set bits in a block of 4 x 4, from 0 to 16.
    return Dataset(
        name="digits",
        inputs=torch.from_numpy(bunch.images)[:, None].float() / 16,
        targets=torch.from_numpy(bunch.target).long(),
        domain=ImageDomain(1, 8, 8),
        classes=10,
        class_names=tuple(str(digit) for digit in range(10)),
        licence="CC BY 4.0 (UCI Machine Learning Repository)",
    )


def diabetes() -> Dataset:
    """Load a table of 442 diabetes patients with ten columns. The class is whether the disease progressed fast.

    Returns:
        Inputs (442, 10), each column in its unit. The target is 1 if the progression after one year
        is above the median of all patients, else 0.

    References:
        Efron, Hastie, Johnstone, Tibshirani. Least Angle Regression. Annals of Statistics, 2004.

    Example:
        >>> import leakgauge as lg
        >>> data = lg.data.diabetes()
        >>> data.domain.columns[0].name, data.inputs.shape
        ('age', torch.Size([442, 10]))
    """
    # Imported here, because the import takes a second.
    from sklearn.datasets import load_diabetes

    bunch = load_diabetes(scaled=False)
    return Dataset(
        name="diabetes",
        inputs=torch.from_numpy(bunch.data).float(),
        targets=(torch.from_numpy(bunch.target) > DIABETES_MEDIAN).long(),
        domain=TableDomain(DIABETES_COLUMNS),
        classes=2,
        class_names=(
            f"progression at most its median ({DIABETES_MEDIAN})",
            f"progression above its median ({DIABETES_MEDIAN})",
        ),
        licence="none stated by the source (Efron et al. 2004); redistributed by scikit-learn",
    )


def breast_cancer() -> Dataset:
    """Load a table of 569 breast masses with 30 features of cell nuclei. The class is malignant or benign.

    Returns:
        Inputs (569, 30). The target is 0 if the mass is malignant, and 1 if it is benign.

    References:
        Wolberg, Street, Mangasarian. Breast Cancer Wisconsin (Diagnostic). UCI Machine Learning
        Repository, 1995.

    Example:
        >>> import leakgauge as lg
        >>> lg.data.breast_cancer().class_names
        ('malignant', 'benign')
    """
    # Imported here, because the import takes a second.
    from sklearn.datasets import load_breast_cancer

    bunch = load_breast_cancer()
    return Dataset(
        name="breast_cancer",
        inputs=torch.from_numpy(bunch.data).float(),
        targets=torch.from_numpy(bunch.target).long(),
        domain=TableDomain(BREAST_CANCER_COLUMNS),
        classes=2,
        class_names=("malignant", "benign"),
        licence="CC BY 4.0 (UCI Machine Learning Repository)",
    )
