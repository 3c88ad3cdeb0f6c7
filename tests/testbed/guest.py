"""A Debian 12 with systemd in which our tree is installed: the units, the generator, and the command as /usr/bin/streammachine."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.tags import cpython_tags
from packaging.utils import parse_wheel_filename

ROOT = Path(__file__).parents[2]
TESTBED = ROOT.parent / "shared" / "testbed" / "testbed"
PACKAGES = "/opt/streammachine"
GUEST_PYTHON = (3, 11)
"""Of Debian 12."""
CREATE_TIMEOUT_S = 300
COMMAND_TIMEOUT_S = 90
LAUNCHER = "#!/usr/bin/python3\nimport sys\nfrom {module} import main\nsys.exit(main())\n"


class Guest:
    """One booted system. Its network is the host's: what it serves on 127.0.0.1 is there for us."""

    def __init__(self, name: str) -> None:
        self.name = name

    def testbed(self, *arguments: str, timeout_s: float = COMMAND_TIMEOUT_S, check: bool = True) -> str:
        """Run the testbed's script; returns what it printed. AssertionError with everything it said when it fails."""
        environment = {**os.environ, "TESTBED_NAME": self.name}
        command = [str(TESTBED), *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout_s, stdin=subprocess.DEVNULL)
        assert not check or done.returncode == 0, f"{' '.join(command[1:])}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def run(self, *command: str, check: bool = True) -> str:
        """Run a command inside; returns what it printed."""
        return self.testbed("exec", *command, check=check)

    def write(self, path: str, text: str, mode: str = "644") -> None:
        """Write a file inside, folders too."""
        script = 'mkdir -p "$(dirname "$1")" && printf %s "$2" >"$1" && chmod "$3" "$1"'
        self.run("sh", "-c", script, "sh", path, text, mode)

    def show(self, unit: str, name: str) -> str:
        """One property of a unit, as systemctl shows it."""
        return self.run("systemctl", "show", "-p", name, "--value", unit).strip()

    def journal(self, *arguments: str) -> str:
        """The messages of the journal."""
        return self.run("journalctl", "--no-pager", "-o", "cat", *arguments)

    def processes(self) -> list[str]:
        """The command lines of every process of the service's user."""
        return self.run("ps", "-o", "pid=,args=", "-u", "streammachine", check=False).splitlines()


def needed() -> str:
    """What is missing for a testbed, in words; "" when nothing is."""
    if not TESTBED.is_file():
        return f"the testbed is missing: {TESTBED} (shared/testbed beside the repository's folder)"
    if os.geteuid():
        return "the testbed boots a system, so these tests need root: run them as root, or leave them out with --ignore=tests/testbed"
    return ""


def install(guest: Guest, scratch: Path) -> None:
    """Install the working tree and what it needs: a folder that Debian's python3 looks into, and the files a package would ship."""
    packages = scratch / "streammachine"
    gather(packages)
    guest.testbed("copy", str(packages), PACKAGES)
    guest.write("/usr/lib/python3/dist-packages/streammachine.pth", f"{PACKAGES}\n")
    guest.write("/usr/bin/streammachine", LAUNCHER.format(module="appliance.cli"), "755")
    generator = "/usr/lib/systemd/system-generators/streammachine-generator"
    guest.write(generator, LAUNCHER.format(module="appliance.system.generator"), "755")
    for unit in sorted((ROOT / "systemd").iterdir()):
        if unit.suffix in {".service", ".socket", ".target", ".path"}:
            guest.write(f"/usr/lib/systemd/system/{unit.name}", unit.read_text())
    guest.write("/usr/lib/sysusers.d/streammachine.conf", (ROOT / "systemd" / "streammachine.sysusers").read_text())
    guest.run("systemd-sysusers")
    guest.run("python3", "-m", "compileall", "-q", f"{PACKAGES}/appliance")  # as a package does; the sandbox cannot


def gather(folder: Path) -> None:
    """Our package and every distribution it needs, as Debian's Python can load them, into `folder`."""
    shutil.copytree(ROOT / "appliance", folder / "appliance", ignore=shutil.ignore_patterns("__pycache__"))
    foreign = []
    for found in needs():
        if loads_there(found):
            copy_files(found, folder)
        else:
            foreign.append(f"{found.metadata['Name']}=={found.version}")
    if foreign:
        version = ".".join(map(str, GUEST_PYTHON))
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--only-binary", ":all:", "--python-version", version]
        subprocess.run([*pip, "--target", str(folder), *foreign], check=True, stdin=subprocess.DEVNULL, timeout=CREATE_TIMEOUT_S)


def needs() -> Iterator[importlib.metadata.Distribution]:
    """What `pyproject.toml` asks for, and what that asks for."""
    import tomllib

    waiting = [Requirement(text) for text in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]]
    seen = set()
    while waiting:
        one = waiting.pop()
        if one.name.lower() in seen or (one.marker and not one.marker.evaluate({"extra": "", "python_version": "3.11"})):
            continue
        seen.add(one.name.lower())
        found = importlib.metadata.distribution(one.name)
        yield found
        waiting += [Requirement(text) for text in found.requires or ()]


def loads_there(found: importlib.metadata.Distribution) -> bool:
    """Whether an installed distribution is of a wheel for any Python, or for that of Debian 12."""
    lines = (found.read_text("WHEEL") or "").splitlines()
    tags = [line.partition(":")[2].strip() for line in lines if line.startswith("Tag:")]
    usable = {(tag.interpreter, tag.abi) for tag in cpython_tags(GUEST_PYTHON)} | {("py3", "none")}
    wheels = (parse_wheel_filename(f"x-1-{tag}.whl")[3] for tag in tags)
    return any((tag.interpreter, tag.abi) in usable for wheel in wheels for tag in wheel)


def copy_files(found: importlib.metadata.Distribution, folder: Path) -> None:
    """An installed distribution's files, as its record names them; nothing that lies outside (scripts)."""
    for file in found.files or ():
        if ".." not in file.parts and "__pycache__" not in file.parts and "tests" not in file.parts:
            target = folder / str(file)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(str(file.locate()), target)
