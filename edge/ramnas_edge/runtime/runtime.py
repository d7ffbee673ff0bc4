"""The simplest way to run a bundle: one task, a frame in, a result out."""

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
    """`runtime(frame)` returns `Labels`, `Detections` or a `Mask`, depending on the task.

    Use it as a context manager, or call `close`. Its attribute `perception` tells more about what
    runs, and can change the budget, the policy and the limits between frames.
    """

    def __init__(self, perception: Perception) -> None:
        """Wrap a `Perception` that has one task and batch 1; `open` makes both."""
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
        """Open one task of a bundle, with the same arguments as `Perception.open`.

        `task` may be left out if the bundle has only one.
        """
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
        """The model that was chosen for the budget, and the latency expected of it."""
        return self.perception.choice

    @property
    def model(self) -> Model:
        """The model that runs now.

        It differs from the chosen one while that is being opened, or if policy `adaptive` stepped.
        """
        return self.perception.models[0]

    def __call__(self, frame: NDArray[np.uint8]) -> Result:
        """Run the model on one frame, a uint8 array [h, w, 3] of any size; views are allowed.

        SourceError if it is not such an array; EngineError if the engine fails on it.
        """
        return self.perception([frame])[0][0]

    def close(self) -> None:
        self.perception.close()

    def __enter__(self) -> Runtime:
        return self

    def __exit__(self, *exc: Any) -> None:
        self.close()
