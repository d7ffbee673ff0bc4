"""`say_download.py REQUIREMENT` prints how much pip will download to install the requirement.

It asks pip what it would install, and the index how large these files are.
"""

import json
import subprocess
import sys
import urllib.request

requirement = sys.argv[1]
command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
report = subprocess.run(
    [*command, "--report", "-", requirement], stdout=subprocess.PIPE, check=True
)
total = 0
for package in json.loads(report.stdout)["install"]:
    url = package["download_info"]["url"]
    if not url.startswith("file:"):
        head = urllib.request.Request(url, method="HEAD")
        with urllib.request.urlopen(head, timeout=30) as answer:
            total += int(answer.headers.get("Content-Length", 0))
print(f"{requirement} and its dependencies: {total / 2**20:,.0f} MiB to download")
if total > 2**30:
    print(
        "This is the CUDA build. The CPU build has a tenth of its size; to get it, stop here\n"
        "(Ctrl-C) and add to the make command: TORCH_INDEX=https://download.pytorch.org/whl/cpu"
    )
