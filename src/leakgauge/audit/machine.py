"""Description of the machine of a run. The last bits of a result depend on its processor, libraries and threads."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import torch

from leakgauge.records import Machine, Threads

SWITCHES = (
    "ATEN_CPU_CAPABILITY",
    "BLIS_NUM_THREADS",
    "DNNL_MAX_CPU_ISA",
    "KMP_AFFINITY",
    "MKL_CBWR",
    "MKL_DEBUG_CPU_TYPE",
    "MKL_DYNAMIC",
    "MKL_ENABLE_INSTRUCTIONS",
    "MKL_NUM_THREADS",
    "OMP_DYNAMIC",
    "OMP_NUM_THREADS",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "ONEDNN_MAX_CPU_ISA",
    "OPENBLAS_CORETYPE",
    "OPENBLAS_NUM_THREADS",
    "OPENBLAS_VERBOSE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "VECLIB_MAXIMUM_THREADS",
)
"""Environment variables that set the instructions and the number of threads of the libraries."""
LIBRARIES = (
    ("MKL", r"Math Kernel Library Version ([\d.]+)"),
    ("oneDNN", r"MKL-DNN v(\S+)"),
    ("OpenMP", r"OpenMP (\d+)"),
)
"""Libraries of torch: a name, and a pattern that finds its version in torch's description of its build."""


def machine(workers: int) -> Machine:
    """Return the machine as the header of a run holds it.

    Args:
        workers: Number of processes that run cells, each with one thread.
    """
    return Machine(
        system=f"{platform.system()} {platform.machine()}",
        processor=processor(),
        instructions=torch.backends.cpu.get_cpu_capability(),
        cores=available_cores(),
        device="cpu",
        workers=workers,
        threads=Threads(each_cell=1, interop=torch.get_num_interop_threads()),
        libraries=libraries(torch.__config__.show()),
        environment={name: os.environ[name] for name in SWITCHES if name in os.environ},
    )


def available_cores() -> int:
    """Return the number of processors that this process may use.

    It is the default number of worker processes of the command.

    Example:
        >>> from leakgauge.audit import available_cores
        >>> available_cores() >= 1
        True
    """
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor() -> str:
    """Return the name of the processor that the system reports."""
    if sys.platform == "linux":
        return named(Path("/proc/cpuinfo")) or platform.machine()
    if sys.platform == "darwin":
        command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        name = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
        return name or platform.machine()
    return platform.processor() or platform.machine()


def named(description: Path) -> str:
    """Return the name of the first processor in `/proc/cpuinfo`, or "" if it has no name."""
    try:
        text = description.read_text("utf-8", "replace")
    except OSError:
        return ""
    # For ARM processors, this file may hold only the number of the type.
    for key in ("model name", "Model", "CPU part"):
        found = re.search(rf"^{key}\s*:\s*(.+)$", text, re.MULTILINE)
        if found:
            return " ".join(found[1].split()) if key != "CPU part" else f"CPU part {found[1]}"
    return ""


def libraries(build: str) -> dict[str, str]:
    """Return the versions of the arithmetic libraries in torch's description of its build."""
    found = {name: re.search(pattern, build) for name, pattern in LIBRARIES}
    return {name: match[1] for name, match in found.items() if match}
