"""Homomorphic encryption of updates."""

from collections.abc import Sequence
from math import sqrt
from statistics import fmean, stdev

from tables import figures
from tables.columns import control, count, exact, score
from tables.documents import Document, Row
from tables.page import Page, Plot
from tables.table import Column, Table, compact, tabulate

BLIND = "the same attack on the view of other images that bear the same labels"
NETWORKS = {"mlp 256": "MLP of width 256", "lenet": "LeNet"}


def gaps(rows: Sequence[Row]) -> list[float]:
    """Return PSNR above the control for each image."""
    own, blind = figures.values(rows, "psnr"), figures.values(rows, "control_psnr")
    return [a - b for a, b in zip(own, blind, strict=True)]


def error(rows: Sequence[Row]) -> float | None:
    """Return the standard error of PSNR above the control."""
    found = gaps(rows)
    return stdev(found) / sqrt(len(found)) if len(found) > 1 else None


ABOVE = [
    Column(
        "above control dB", lambda rows: fmean(gaps(rows)), "mean PSNR above the control", ".2f"
    ),
    Column("standard error", error, "standard error of PSNR above the control, over images", ".2f"),
]
LEAK = [count(), *score(center="mean"), control(center="mean", what=BLIND)]
ERRORS = [
    Column(
        "error, norm",
        figures.most("relative_norm"),
        "largest error of the mean, by norm, relative to the norm of the plain mean",
        ".1e",
    ),
    Column(
        "error, entry",
        figures.most("relative_largest"),
        "largest error of an entry, relative to the largest entry of the plain mean",
        ".1e",
    ),
    Column(
        "CKKS's error",
        figures.most("off"),
        "largest error of CKKS before rounding, in units of the integers",
        ".1e",
    ),
]


def milliseconds(name: str) -> Column:
    """Return the column of one part's CPU time."""
    about = f"mean CPU milliseconds to {'make keys' if name == 'keys' else name}"
    return Column(
        f"{name} ms",
        lambda rows: 1e3 * fmean(figures.values(rows, f"{name}_seconds")),
        about,
        compact,
    )


def size(name: str, field: str) -> Column:
    """Return the column of megabytes."""
    return Column(
        name,
        lambda rows: float(rows[0][field]) / 1e6,
        f"megabytes of the {'plain updates' if name == 'plain MB' else 'ciphertexts'} of all clients together",
        ".2f",
    )


def cost(document: Document) -> list[Table]:
    """Return errors and costs by parameters."""
    rows = [row for row in document.rows if row["part"] == "cost"]
    by = {
        "degree": "degree",
        "primes": lambda row: " ".join(map(str, row["primes"])),
        "bits": "bits",
    }
    n = Column("runs", figures.length, "number of runs", ".0f")
    spent = [milliseconds(name) for name in ("keys", "encrypt", "add", "decrypt")]
    sizes = [size("MB", "encrypted_bytes"), size("plain MB", "plain_bytes")]
    return [
        tabulate("Error of five clients' LeNet updates", rows, by, [n, *ERRORS]),
        tabulate("Cost of five clients' LeNet updates", rows, by, [n, *spent, *sizes]),
    ]


def tables(document: Document) -> list[Table]:
    """Return what either side reads, then errors and costs."""
    mean = [row for row in document.rows if row["part"] == "mean"]
    alone = [row for row in document.rows if row["part"] == "ciphertext"]
    network = {"network": lambda row: NETWORKS[row["network"]]}
    return [
        tabulate(
            "Holders of the key: the decrypted mean",
            mean,
            network | {"clients": "clients"},
            [*LEAK, exact()],
        ),
        tabulate("The server: one client's ciphertexts", alone, network, [*LEAK, *ABOVE]),
        *cost(document),
    ]


PAGE = Page(
    title="Homomorphic encryption of updates",
    asks="Does homomorphic encryption stop leakage, and what does it cost?",
    short="Does homomorphic encryption stop leakage, and what does it cost?",
    theme="Federated protocols",
    done=(
        "Clients with one CIFAR-10 image each encrypt their updates with CKKS at 128 bits of security. "
        f"The control is {BLIND}."
    ),
    tables=tables,
    plot=Plot(
        low="",
        high="",
        tables=(0, 1),
        alt="PSNR of key holders and of the server, with the control",
    ),
    notes=(
        "`bits` is the length of a fixed-point number in [-16, 16]. `degree` and `primes` (bits of "
        "each) are the parameters of CKKS.",
        "Rounding to fixed point changes the mean by at most 1e-5 of its norm. CKKS adds no error: "
        "its own is far below 0.5 in units of the integers, so each integer is rounded correctly.",
        "Errors are against the plain mean in float64.",
        "Times are CPU times of all five clients together. Adding and decrypting happen once. The "
        "seeding of a simulation is not included.",
        "Bytes are those of ciphertexts as SEAL saves them. This packing is not the shortest.",
        "The MLP is attacked in closed form, LeNet by L-BFGS with its label granted.",
        "The benchmark needs the extra `he`.",
    ),
)
