"""True accuracies on record: never computed twice, never those of other weights or images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from ramnas_host.config import load_recipe
from ramnas_host.data.datasets import load_dataset
from ramnas_host.data.images import Dataset
from ramnas_host.training import truth as truth_module
from ramnas_host.training.distributed import Ranks
from ramnas_host.training.evaluate import Scores
from ramnas_host.training.truth import Truth, _Line, _Request, beside
from ramnas_models.space import Arch, load_space
from ramnas_models.supernet import Supernet

SPACE = load_space("micro")
ARCHS = [SPACE.sample(np.random.default_rng(seed)) for seed in range(4)]


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits", load_recipe("digits").images)


@pytest.fixture(scope="module")
def net() -> Supernet:
    torch.manual_seed(0)
    return Supernet(SPACE, 10)


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[Arch]:
    """The archs that are evaluated from now on; what they score is made up."""
    found: list[Arch] = []

    def recalibrated_subnet(net: Supernet, arch: Arch, calibration: object) -> Arch:
        return arch

    def score(subnet: Arch, split: Sequence[object]) -> Scores:
        found.append(subnet)
        return made_up(subnet)

    monkeypatch.setattr("ramnas_host.training.evaluate.recalibrated_subnet", recalibrated_subnet)
    monkeypatch.setattr("ramnas_host.training.evaluate.score", score)
    return found


def made_up(arch: Arch) -> Scores:
    return Scores(int(arch.id, 16) / 16**12, 1.0, 250)


def test_an_arch_on_record_is_not_evaluated_again(
    net: Supernet, digits: Dataset, evaluated: list[Arch], tmp_path: Path
) -> None:
    path, done = tmp_path / "new" / "accuracies.jsonl", []
    first = Truth(net, digits, path=path)
    assert first([ARCHS[1], ARCHS[0], ARCHS[1]], "selection", done.append) == [
        made_up(ARCHS[i]) for i in (1, 0, 1)
    ]
    assert evaluated == [ARCHS[1], ARCHS[0]]
    assert done == [1, 2, 3]
    assert len(path.read_text().splitlines()) == 2
    again = Truth(net, digits, path=path)
    assert again(ARCHS, "selection") == [made_up(arch) for arch in ARCHS]
    assert evaluated == [ARCHS[i] for i in (1, 0, 2, 3)]


def test_a_killed_command_has_on_record_all_that_it_evaluated(
    net: Supernet, digits: Dataset, evaluated: list[Arch], tmp_path: Path
) -> None:
    path = tmp_path / "accuracies.jsonl"

    def killed(count: int) -> None:
        if count == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Truth(net, digits, path=path)(ARCHS, "selection", killed)
    Truth(net, digits, path=path)(ARCHS, "selection")
    assert evaluated == ARCHS


def test_other_weights_and_other_images_have_records_of_their_own(
    net: Supernet, digits: Dataset, evaluated: list[Arch], tmp_path: Path
) -> None:
    path = tmp_path / "accuracies.jsonl"
    torch.manual_seed(0)
    other = Supernet(SPACE, 10)
    with torch.no_grad():
        other.state_dict()["stem.weight"][0, 0, 0, 0] += 1e-6
    fewer = msgspec.structs.replace(load_recipe("digits").images, calibration=99)
    cases = [
        (net, digits, "selection"), (other, digits, "selection"), (net, digits, "report"),
        (net, load_dataset("digits", fewer), "report"),
    ]  # fmt: skip
    for how_often in (1, 1):
        for weights, images, split in cases:
            Truth(weights, images, path=path)(ARCHS[:1], split)
        assert len(evaluated) == how_often * len(cases)


@settings(max_examples=60)
@given(cut=st.integers(0, 600), junk=st.binary(max_size=8))
def test_whatever_a_crash_leaves_at_the_end_nothing_else_is_lost(
    net: Supernet, digits: Dataset, tmp_path_factory: pytest.TempPathFactory, cut: int, junk: bytes
) -> None:
    path = tmp_path_factory.mktemp("cut") / "accuracies.jsonl"
    truth = Truth(net, digits, path=path)
    for arch in ARCHS:
        truth._keep(_Line("of", arch.id, made_up(arch)))
    data = path.read_bytes()
    path.write_bytes(data[: min(cut, len(data))] + junk)
    whole = data[:cut].count(b"\n")
    found = truth._on_record()
    assert all(found["of", arch.id] == made_up(arch) for arch in ARCHS[:whole])
    assert len(found) <= len(ARCHS)
    truth._keep(_Line("of", ARCHS[3].id, made_up(ARCHS[3])))
    found = truth._on_record()
    assert {("of", arch.id) for arch in (*ARCHS[:whole], ARCHS[3])} <= set(found)
    scores = {("of", arch.id): made_up(arch) for arch in ARCHS}
    assert all(found[key] == scores[key] for key in found)


def test_the_other_ranks_evaluate_what_the_leading_one_asks_for_until_it_is_done(
    net: Supernet, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [_Request(ARCHS[:2], "selection", "a"), _Request(ARCHS[2:], "report", "b"), None]
    served = []

    class Second(Ranks):
        def from_leader(self, value: object) -> object:
            return asked.pop(0)

    def true_scores(
        net: Supernet, archs: Sequence[Arch], dataset: Dataset, split: str, **_: object
    ) -> list[Scores]:
        served.append((archs, split))
        return [made_up(arch) for arch in archs]

    monkeypatch.setattr(truth_module, "true_scores", true_scores)
    truth = Truth(net, digits, ranks=Second(1, 2))
    truth.lead(lambda: pytest.fail("only the leading rank does the work"))
    assert served == [(ARCHS[:2], "selection"), (ARCHS[2:], "report")]
    assert not asked


def test_the_file_is_beside_the_result() -> None:
    assert beside(Path("runs/front.json")) == Path("runs/front.accuracies.jsonl")
