from __future__ import annotations

import builtins
import io
import os
import pickle
import sys
import tarfile
import types
import zipfile
from argparse import Namespace
from collections import OrderedDict
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Iterator

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the importer needs torch")


from ramnas_models.errors import DataError
from ramnas_models.importers.attentivenas import read_checkpoint, to_supernet
from ramnas_models.space import Arch, load_space
from ramnas_models.supernet import Supernet
from tests.models.attentivenas_source import FIRST_BLOCK, PUBLISHED, State, random_state, reference

Save = Callable[[Any, bool], Path]

# -- the same network after the import -------------------------------------------------------------


@pytest.fixture(scope="module")
def state() -> State:
    return random_state()


@pytest.fixture(scope="module")
def tensors(state: State) -> State:
    return to_supernet({f"module.{name}": value for name, value in state.items()})[0]


@pytest.fixture(scope="module", params=["attentivenas", "table1"])
def net(request: pytest.FixtureRequest, tensors: State) -> Supernet:
    """Both spaces have the same tensors and differ only in one resolution."""
    supernet = Supernet(load_space(request.param), 1000).eval()
    supernet.load_state_dict(tensors)
    return supernet


def archs(net: Supernet) -> dict[str, Arch]:
    space, rng = net.space, np.random.default_rng(0)
    found = {"min": space.min(), "max": space.max()}
    if space.name == "attentivenas":
        for name, row in PUBLISHED.items():
            found[name] = space.decode([int(choice) for choice in row.split()])
        found.update({f"random {i}": space.sample(rng) for i in range(5)})
        return found
    for i in range(3):  # halving 276 gives odd sizes, where the pooled shortcut's padding matters
        row = space.encode(space.sample(rng))
        row[0] = 276
        found[f"random {i} at 276"] = space.decode(row)
    return found


@torch.no_grad()
def test_logits_survive_the_import(state: State, net: Supernet) -> None:
    generator = torch.Generator().manual_seed(1)
    for name, arch in archs(net).items():
        x = torch.randn(1, 3, arch.resolution, arch.resolution, generator=generator)
        expected = reference(state, x, arch.integers)
        scale = expected.abs().max()
        assert 0.1 < scale < 1000, name
        for logits in (net(x, arch), net.extract(arch)(x)):
            assert (logits - expected).abs().max() <= 1e-5 * scale, name


# -- the mapping -----------------------------------------------------------------------------------


def test_only_counters_and_shortcuts_that_no_arch_uses_are_left_out(state: State) -> None:
    tracked = "blocks.3.mobile_inverted_conv.depth_conv.bn.bn_tracking.144.running_mean"
    _, dropped = to_supernet({**state, tracked: torch.zeros(144)})
    shortcuts = [name for name in dropped if "shortcut" in name]
    assert len(shortcuts) == 30
    assert not {int(name.split(".")[1]) for name in shortcuts} & set(FIRST_BLOCK)
    counters = [name for name in state if name.endswith("num_batches_tracked")]
    assert set(dropped) == {*shortcuts, *counters, tracked}


def test_the_prefix_is_optional_and_the_tensors_are_float32_copies(
    state: State, tensors: State
) -> None:
    ours, _ = to_supernet({name: value.double() for name, value in state.items()})
    assert ours.keys() == tensors.keys()
    assert all(torch.equal(ours[key], tensors[key]) for key in ours)
    assert {value.dtype for value in ours.values()} == {torch.float32}
    mine = {value.data_ptr() for value in tensors.values()}
    assert not mine & {value.data_ptr() for value in state.values()}


def test_a_missing_and_a_misshapen_tensor_are_named(state: State) -> None:
    wrong = {**state, "classifier.linear.linear.bias": torch.zeros(10)}
    del wrong["blocks.8.mobile_inverted_conv.depth_conv.se.fc.reduce.bias"]
    wrong["blocks.37.shortcut.conv.conv.weight"] = torch.zeros(224, 224, 1, 1)
    with pytest.raises(DataError) as caught:
        to_supernet(wrong)
    message = str(caught.value)
    assert "missing blocks.8.mobile_inverted_conv.depth_conv.se.fc.reduce.bias" in message
    assert "classifier.linear.linear.bias is [10], not [1000]" in message
    assert "unknown 'blocks.37.shortcut.conv.conv.weight'" in message
    assert "more" not in message


def test_for_another_network_the_first_five_problems_are_named() -> None:
    other = Supernet(load_space("micro"), 10).state_dict()
    with pytest.raises(DataError, match=f"and {661 + len(other) - 5} more") as caught:
        to_supernet(dict(other))
    assert str(caught.value).count("missing first_conv.") == 5
    with pytest.raises(DataError, match="not an AttentiveNAS or AlphaNet supernet"):
        to_supernet({})


# -- the file --------------------------------------------------------------------------------------

formats = pytest.mark.parametrize("as_zip", [False, True], ids=["older format", "zip"])


class AttrDict(dict):
    """Like the publisher's config class: a dict that is its own __dict__."""

    def __init__(self, **items: Any) -> None:
        super().__init__(items)
        self.__dict__ = self


class Config(AttrDict):
    pass


AttrDict.__module__ = Config.__module__ = "utils.config"


class Payload:
    def __init__(self, function: Callable[..., Any], *args: str) -> None:
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


@contextmanager
def publishers_code() -> Iterator[None]:
    """Inside the block, the publisher's module `utils.config` can be imported."""
    config = types.ModuleType("utils.config")
    config.AttrDict, config.Config = AttrDict, Config  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "utils", types.ModuleType("utils"))
        patch.setitem(sys.modules, "utils.config", config)
        yield


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def write(content: Any, as_zip: bool) -> Path:
        path = tmp_path / "attentive_nas.pth.tar"  # the publisher's name; it is not a tar archive
        with publishers_code():
            torch.save(content, path, _use_new_zipfile_serialization=as_zip)
        return path

    return write


def checkpoint(args: Any) -> dict[str, Any]:
    """What the publisher saves into a file, with only a few tensors."""
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    model(torch.ones(1, 3, 8, 8)).square().sum().backward()
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3)
    return {
        "epoch": 360,
        "args": args,
        "state_dict": model.state_dict(prefix="module."),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": scheduler.state_dict(),
    }


@formats
def test_both_formats_are_read_without_the_publishers_code(
    save: Save,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    as_zip: bool,
) -> None:
    trap = tmp_path / "utils/config.py"  # a module of that name exists and must not be imported
    trap.parent.mkdir()
    trap.write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    config = Config(arch="attentive_nas", epochs=360, lr=0.1, seeds=[0, -1, 2**40], sampler=None)
    config["supernet_config"] = AttrDict(first_conv=AttrDict(c=[16, 24], s=2))
    for args in (config, Namespace(gpu=0, **config), dict(config)):
        content = checkpoint(args)
        read = read_checkpoint(save(content, as_zip))
        assert read.keys() == content["state_dict"].keys()
        assert all(torch.equal(read[key], content["state_dict"][key]) for key in read)
    assert "utils.config" not in sys.modules


def test_a_whole_supernet_is_read_from_a_file(save: Save, state: State, tensors: State) -> None:
    path = save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, False)
    ours, _ = to_supernet(read_checkpoint(path))
    path.unlink()  # pytest would keep the 95 MB
    assert all(torch.equal(ours[key], tensors[key]) for key in tensors)


@formats
@pytest.mark.parametrize("where", ["top", "args", "nested", "state_dict"])
@pytest.mark.parametrize("function", [os.system, builtins.eval], ids=["system", "eval"])
def test_a_malicious_pickle_is_refused_and_does_not_run(
    save: Save,
    tmp_path: Path,
    function: Callable[..., Any],
    where: str,
    as_zip: bool,
) -> None:
    marker = tmp_path / "marker"
    code = f"touch {marker}" if function is os.system else f"__import__('os').mkdir('{marker}')"
    payload, content = Payload(function, code), checkpoint(None)
    if where == "nested":
        content["args"] = Config(arch="attentive_nas", sampler=AttrDict(method=[payload]))
    elif where == "state_dict":
        content["state_dict"]["module.extra"] = payload
    elif where == "args":
        content["args"] = payload
    path = save(payload if where == "top" else content, as_zip)
    with pytest.raises(DataError, match=f"it wants to use '.*{function.__name__}'"):
        read_checkpoint(path)
    assert not marker.exists()
    with publishers_code():
        torch.load(path, weights_only=False)
    assert marker.exists()  # the payload does run where nothing stops it


@pytest.mark.parametrize("part", range(5))
def test_every_pickle_of_the_older_format_is_restricted(tmp_path: Path, part: int) -> None:
    # magic number, protocol version, system, object, storage keys
    parts: list[Any] = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, {}, []]
    marker, path = tmp_path / "marker", tmp_path / "checkpoint.pth"
    parts[part] = Payload(os.system, f"touch {marker}")
    path.write_bytes(b"".join(pickle.dumps(each, protocol=2) for each in parts))
    with pytest.raises(DataError, match=r"it wants to use '.*system'"):
        read_checkpoint(path)
    assert not marker.exists()


@pytest.mark.parametrize("protocol", [0, 4, 5])
def test_a_payload_in_another_pickle_protocol_does_not_run(tmp_path: Path, protocol: int) -> None:
    marker, path = tmp_path / "marker", tmp_path / "checkpoint.pth"
    path.write_bytes(pickle.dumps(Payload(os.system, f"touch {marker}"), protocol))
    with pytest.raises(DataError, match="checkpoint"):
        read_checkpoint(path)
    assert not marker.exists()


def test_a_config_class_that_is_called_with_arguments_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    path.write_bytes(b"\x80\x02cutils.config\nConfig\nX\x06\x00\x00\x00/a.yml\x85R.")
    with pytest.raises(DataError, match="damaged or not a torch checkpoint"):
        read_checkpoint(path)


def test_tar_archives_and_torchscript_programs_are_refused_by_name(tmp_path: Path) -> None:
    marker, path = tmp_path / "marker", tmp_path / "checkpoint.pth.tar"
    payload = pickle.dumps(Payload(os.system, f"touch {marker}"), protocol=2)
    with tarfile.open(path, "w") as tar:  # torch's oldest format
        for name in ("storages", "tensors", "pickle"):
            member = tarfile.TarInfo(name)
            member.size = len(payload)
            tar.addfile(member, io.BytesIO(payload))
    with pytest.raises(DataError, match="is a tar archive"):
        read_checkpoint(path)
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("data.pkl", "constants.pkl"):
            archive.writestr(f"archive/{name}", payload)
        archive.writestr("archive/version", "3\n")
    with pytest.raises(DataError, match="is a TorchScript program"):
        read_checkpoint(path)
    assert not marker.exists()


@formats
def test_a_truncated_checkpoint_is_refused(save: Save, as_zip: bool) -> None:
    path = save(checkpoint(None), as_zip)
    whole = path.read_bytes()
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match="damaged"):
            read_checkpoint(path)


@pytest.mark.parametrize(
    "content", [b"", b"hello, world\n", b"PK\x03\x04", b"\x80\x02}.", b"\0" * 100]
)
def test_a_file_that_is_not_a_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "checkpoint.pth"
    path.write_bytes(content)
    with pytest.raises(DataError, match="damaged or not a torch checkpoint"):
        read_checkpoint(path)


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.pth", tmp_path):
        with pytest.raises(DataError, match=f"{path} cannot be read: "):
            read_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "no entry 'state_dict'"),
        ({"model": {}}, "no entry 'state_dict'"),
        ({"state_dict": 3}, "no entry 'state_dict'"),
        ({"state_dict": {"epoch": 3}}, "'epoch' of 'state_dict' is not a tensor"),
        ({"state_dict": {"x": torch.zeros(3, device="meta")}}, "x is not a plain, dense tensor"),
        ({"state_dict": {"x": torch.eye(3).to_sparse()}}, "x is not a plain, dense tensor"),
    ],
)
def test_a_checkpoint_with_other_content_is_refused_with_the_reason(
    save: Save, content: Any, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read_checkpoint(save(content, True))


def test_reading_leaves_no_class_allowed_in_torch(save: Save) -> None:
    before = set(torch.serialization.get_safe_globals())
    read_checkpoint(save(checkpoint(Config()), True))
    assert set(torch.serialization.get_safe_globals()) == before


def test_attributes_that_hide_the_methods_of_a_dict_are_harmless(save: Save) -> None:
    weights = OrderedDict(x=torch.ones(3))
    content = OrderedDict(state_dict=weights)
    for target in (weights, content):
        target.__dict__.update(get=3, keys=3)
    assert torch.equal(read_checkpoint(save(content, True))["x"], torch.ones(3))


def test_an_old_torch_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", type(torch.__version__)("2.5.1"))
    with pytest.raises(DataError, match=r"needs torch 2\.7 or newer, this is 2\.5\.1"):
        read_checkpoint(tmp_path / "checkpoint.pth")
