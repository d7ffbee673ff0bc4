"""One task, frame in, result out: the front door of a `Perception`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional, Tuple, Union

from ramnas_edge.runtime.perception import Perception
from ramnas_edge.vision.detection import Limits
from ramnas_models.bundle import Bundle, Model, TaskFront

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ramnas_edge.runtime.choosing import Choice
    from ramnas_edge.vision.results import Result


class Runtime:
    """`runtime(frame) -> Labels, Detections or Mask`; a context manager, or `close` it.

    What it knows of itself, and what may be set while frames come, is at `perception`.
    """

    def __init__(self, perception: Perception) -> None:
        """`perception`: of one task, batch 1."""
        self.perception = perception

    @classmethod
    def open(
        cls,
        bundle: Union[str, Path, None] = None,
        *,
        task: Optional[str] = None,
        latency_budget_ms: Optional[float] = None,
        policy: str = "fixed",
        engine: str = "auto",
        precision: str = "fp32",
        threads: int = 1,
        frame_hw: Tuple[int, int] = (480, 640),
        channels: str = "bgr",
        limits: Limits = Limits(),
    ) -> Runtime:
        """As `Perception.open`; `task` may be left out where the bundle has one."""
        return cls(
            Perception.open(
                bundle,
                tasks=(task,),
                latency_budget_ms=latency_budget_ms,
                policy=policy,
                engine=engine,
                precision=precision,
                threads=threads,
                frame_hw=frame_hw,
                channels=channels,
                limits=limits,
            )
        )

    @property
    def bundle(self) -> Bundle:
        return self.perception.bundle

    @property
    def front(self) -> TaskFront:
        return self.perception.fronts[0]

    @property
    def choice(self) -> Choice:
        """The model that the budget asks for, and what is expected of it."""
        return self.perception.choice

    @property
    def model(self) -> Model:
        """The model that runs now: another one only under policy `adaptive`."""
        return self.perception.models[0]

    def __call__(self, frame: NDArray[np.uint8]) -> Result:
        """uint8 [h, w, 3] of any size, views too -> Result; SourceError if it is no such frame."""
        return self.perception([frame])[0][0]

    def close(self) -> None:
        self.perception.close()

    def __enter__(self) -> Runtime:
        return self

    def __exit__(self, *exc: Any) -> None:
        self.close()
