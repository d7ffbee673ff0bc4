"""ramnas: the one place that says what is packaged and what it needs."""

from pathlib import Path

from setuptools import setup

PACKAGES = {
    "ramnas_models": "models/ramnas_models",
    "ramnas_models.importers": "models/ramnas_models/importers",
    "ramnas_edge": "edge/ramnas_edge",
    "ramnas_host": "host/ramnas_host",
    "ramnas_ros": "ros2_pkg/ramnas_ros",
}

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
    "pymoo>=0.6.1",
    "rich>=13",
    "matplotlib>=3.7",
]
TEST = ["pytest>=7", "pytest-timeout>=2", "hypothesis>=6"]
DEV = [
    *HOST,
    *CPU,
    *TEST,
    "tensorboard>=2.15",  # a training writes to it where it is installed
    "ruff>=0.6",
    "mypy>=1.11",
    "vermin>=1.6",
    "types-PyYAML",
    "onnxscript>=0.5",  # torch.onnx.export needs it: a benchmark's peer
]

setup(
    name="ramnas",
    version="0.1.0",
    description="Find, calibrate and run the vision model that fits a robot",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.8",
    packages=list(PACKAGES),
    package_dir=PACKAGES,
    package_data={"ramnas_models": ["spaces/*.yaml"], "ramnas_host": ["recipes/*.yaml"]},
    data_files=[
        ("share/ament_index/resource_index/packages", ["ros2_pkg/resource/ramnas"]),
        ("share/ramnas", ["package.xml"]),
    ],
    # numpy alone: old setuptools check these at every start of a node
    install_requires=["numpy>=1.21"],
    extras_require={
        "edge": EDGE,
        # no engine in [edge]: on a Jetson a PyPI onnxruntime would overwrite the vendor's GPU build
        "cpu": [*EDGE, *CPU],
        "gpu": [*EDGE, "onnxruntime-gpu>=1.12"],
        "tensorrt": [*EDGE, "tensorrt>=8.5", "cuda-bindings>=12"],
        "jetson": [*EDGE, "jetson-stats>=4.2", "pycuda>=2022.1"],
        "host": HOST,
        "test": TEST,
        "dev": DEV,
    },
    entry_points={
        "console_scripts": [
            "ramnas = ramnas_host.__main__:main",
            "ramnas-edge = ramnas_edge.__main__:main",
        ]
    },
    zip_safe=False,
)
