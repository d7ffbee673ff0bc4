"""The bundle that ships with ramnas, which finds digits as boxes or masks, and frames to try.

docs/finetuning.md says how it was made and how good it is; its manifest names the licences.
"""

from __future__ import annotations

from pathlib import Path


def path() -> Path:
    """The bundle, with two models each for detection and segmentation."""
    return Path(__file__).parent / "bundle"


def frames() -> Path:
    """A folder of 320x240 images that none of the models has seen."""
    return Path(__file__).parent / "frames"
