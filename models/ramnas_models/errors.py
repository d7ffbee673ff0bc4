"""Every error that a caller of ramnas may catch, in one tree; each message names the way out."""

from __future__ import annotations


class RamnasError(Exception):
    """The base of all; at the command line it becomes one line on stderr and exit code 2."""


class SpaceError(RamnasError):
    """A search space that cannot be read, or an arch that is not in its space."""


class BundleError(RamnasError):
    """A bundle that is incomplete, tampered with, or of another format version."""


class BudgetError(RamnasError):
    """No model of the bundle fits the latency budget."""


class BackendError(RamnasError):
    """An engine or provider that cannot be loaded, or that failed on a model."""


class EngineError(BackendError):
    """An engine that had run the models before and now failed on a frame."""


class OutOfMemoryError(BackendError):
    """The engine could not get the memory that the model needs."""


class DeviceError(RamnasError):
    """A setting of the board that does not exist, or cannot be changed or restored."""


class SourceError(RamnasError):
    """An image, folder or frame that cannot be read as an image."""


class DataError(RamnasError):
    """A data set, recipe, checkpoint or record that cannot be used."""


class FileError(RamnasError):
    """A file or folder that cannot be written: full disk, read-only, no permission."""


class WireError(RamnasError):
    """A message that is malformed, too large, or of another protocol version."""


class FleetError(RamnasError):
    """A port in use, a host or a board that cannot be reached, an agent that was lost."""
