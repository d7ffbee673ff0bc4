"""The free shared memory -> environment variables that give images room in it, and a warning."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Dict, Mapping, Tuple

SEGMENT_BYTES = 32 * 2**20  # as in config/fastdds_image.xml; every process has one segment
SEGMENTS = 3  # one for the camera, one for the node, one as room for the bookkeeping of Fast DDS
SHARED_MEMORY = Path("/dev/shm")
# the variable of Fast DDS 2 (Humble, Jazzy) and the one of Fast DDS 3
VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")


def environment(
    profile: Path,
    environ: Mapping[str, str] = os.environ,
    shared_memory: Path = SHARED_MEMORY,
) -> Tuple[Dict[str, str], str]:
    """Return the variables to set, and a warning or an empty string.

    The default segment of Fast DDS is smaller than an image of 640x480, so images are sent in parts
    and many are lost. Both ends need the profile, the camera's process too. A profile that the user
    has set is kept. Where a segment does not fit, Fast DDS falls back to UDP, with larger buffers
    than it would have without the profile.
    """
    if any(environ.get(name) for name in VARIABLES):
        return {}, ""
    needed = SEGMENTS * SEGMENT_BYTES
    free = shutil.disk_usage(shared_memory).free if shared_memory.is_dir() else 0
    warning = (
        f"{shared_memory} has {free // 2**20} MiB free, but images need {needed // 2**20} MiB: "
        "they may go over UDP, where some are lost. In a container, --ipc=host or --shm-size=256m "
        "gives more room; elsewhere, sysctl -w net.core.rmem_max=8388608 gives UDP larger buffers"
    )
    return dict.fromkeys(VARIABLES, str(profile)), warning if free < needed else ""
