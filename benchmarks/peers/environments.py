"""A virtual environment per peer, made when it is first needed."""

import json
import subprocess
import sys
from pathlib import Path

from peers.catalogue import Peer

INSTALL_S = 1800
_STAMP = "installed.json"


class NotInstalledError(Exception):
    """The peer's environment is not there, or could not be made; says why."""


def interpreter(name: str, peer: Peer, directory: Path, *, install: bool) -> Path:
    """The Python that runs the peer's driver.

    Args:
        name: The peer's name, which is its folder's.
        peer: Its requirements; without any it runs in this environment.
        directory: Where the environments are.
        install: Make the environment if it is missing or was made for other requirements.

    Raises:
        NotInstalledError: It is not there and may not be, or cannot be, installed.
    """
    if not peer.requirements:
        return Path(sys.executable)
    home = directory / name
    python, stamp = home / "bin" / "python", home / _STAMP
    wanted = {"requirements": list(peer.requirements), "removed": list(peer.remove)}
    if stamp.exists() and json.loads(stamp.read_text()) == wanted:
        return python
    if not install:
        raise NotInstalledError("not installed (run once without --quick and --no-install)")
    print(f"installing {name}: {' '.join(peer.requirements)}", file=sys.stderr)
    if not python.exists():
        _run([sys.executable, "-m", "venv", str(home)])
    # pip, not uv: a CPU build of torch from a local index or wheel folder is found by pip alone.
    pip = [str(python), "-m", "pip"]
    _run([*pip, "install", "--quiet", *peer.requirements])
    if peer.remove:
        _run([*pip, "uninstall", "--quiet", "--yes", *peer.remove])
    stamp.write_text(json.dumps(wanted))
    return python


def installed_mb(name: str, directory: Path) -> int:
    """Size of a peer's installed packages in MB, links not followed; 0 without an environment."""
    packages = (directory / name / "lib").glob("python*/site-packages")
    files = (file for place in packages for file in place.rglob("*"))
    return round(sum(file.lstat().st_size for file in files if file.is_file()) / 1e6)


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=INSTALL_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise NotInstalledError(f"{' '.join(command[:4])} … took over {INSTALL_S} s") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise NotInstalledError(f"installation failed: {lines[-1]}")
