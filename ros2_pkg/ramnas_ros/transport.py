"""The machine's shared memory -> the environment that gives images room in it, and what to mend."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Dict, Mapping, Tuple

SEGMENT_BYTES = 32 * 2**20  # as config/fastdds_image.xml has it; every process has one
SEGMENTS = 3  # the camera's, the node's, and room for what Fast DDS puts around them
SHARED_MEMORY = Path("/dev/shm")
# the name of Fast DDS 2 (Humble, Jazzy), and that of Fast DDS 3
VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")


def environment(
    profile: Path,
    environ: Mapping[str, str] = os.environ,
    shared_memory: Path = SHARED_MEMORY,
) -> Tuple[Dict[str, str], str]:
    """(variables to set, a warning or an empty string).

    The default segment of Fast DDS is smaller than an image of 640x480, so that images are sent in
    parts and many of them lost. Both ends need the profile: the camera's process, too. A profile
    that the user has set is left alone. Where a segment does not fit, Fast DDS goes over UDP, in
    larger buffers than it would have without the profile.
    """
    if any(environ.get(name) for name in VARIABLES):
        return {}, ""
    needed = SEGMENTS * SEGMENT_BYTES
    free = shutil.disk_usage(shared_memory).free if shared_memory.is_dir() else 0
    warning = (
        f"{shared_memory} has {free // 2**20} MiB free and images want {needed // 2**20}: they may "
        "go over UDP and some be lost. In a container --ipc=host or --shm-size=256m gives room, "
        "elsewhere sysctl -w net.core.rmem_max=8388608 makes UDP's buffers larger"
    )
    return dict.fromkeys(VARIABLES, str(profile)), warning if free < needed else ""
