"""A small bundle that ships with ramnas, and frames to try it on: digits as boxes and as masks.

docs/finetuning.md says how it was made and how good it is; its licences are in its manifest.
"""

from __future__ import annotations

from pathlib import Path


def path() -> Path:
    """The bundle: detection and segmentation, two models each."""
    return Path(__file__).parent / "bundle"


def frames() -> Path:
    """A folder of images of 320x240 that none of the models has seen."""
    return Path(__file__).parent / "frames"
