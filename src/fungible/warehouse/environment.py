"""Where the dbt project is, and the dbt that runs it.

dbt has an environment of its own, because its dependencies exclude some of ours. It is made once
per home from the project's lock file; `FUNGIBLE_DBT` names another dbt instead.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from fungible.errors import ConfigError, MissingExtraError

OWN_DBT = "FUNGIBLE_DBT"
REQUIREMENTS = ("dbt-core>=1.11,<1.12", "dbt-clickhouse==1.10.3")
_INSTALL_S = 600
_HINT = (
    f"pip install '{REQUIREMENTS[0]}' '{REQUIREMENTS[1]}' into an environment of its own, and set"
    f" {OWN_DBT} to its bin/dbt"
)


def find_project() -> Path:
    """The folder of `dbt_project.yml`: beside this module when installed, else of the checkout.

    Raises:
        ConfigError: The package was built without it.
    """
    here = Path(__file__).resolve()
    for folder in (here.parent / "dbt", here.parents[3] / "warehouse" / "dbt"):
        if (folder / "dbt_project.yml").is_file():
            return folder
    raise ConfigError(f"{here.parent}: the dbt project is not here", hint="install fungible again")


def project_digest(project: Path) -> str:
    """What the models are; tables that other models made are of other columns, perhaps."""
    parts = sorted([*project.glob("models/**/*"), *project.glob("macros/**/*")])
    texts = [f"{path.relative_to(project)}\n{path.read_text()}" for path in parts if path.is_file()]
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]


def find_dbt(folder: Path, project: Path, say: Callable[[str], None]) -> Path:
    """The dbt executable; its environment is made under `folder` when it is not there yet.

    Args:
        folder: `<home>/warehouse`.
        project: See `find_project`.
        say: Called before something is installed.

    Raises:
        MissingExtraError: There is none, and it cannot be installed.
    """
    if named := os.environ.get(OWN_DBT):
        if not os.access(named, os.X_OK):
            raise MissingExtraError(f"{OWN_DBT}: {named} cannot be run", hint=_HINT)
        return Path(named).absolute()
    lock = (project / "uv.lock").read_bytes()
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    # Absolute: uv takes a relative one from the project's folder.
    place = folder.absolute() / f"dbt-{hashlib.sha256(lock + python.encode()).hexdigest()[:12]}"
    ready, dbt = place / "ready", place / "bin" / "dbt"
    if not ready.is_file():
        say(f"installing dbt into {place} (once)")
        shutil.rmtree(place, ignore_errors=True)  # what an interrupted one left
        place.parent.mkdir(parents=True, exist_ok=True)
        _install(place, project)
        ready.touch()
    return dbt.absolute()


def clean_environment() -> dict[str, str]:
    """Our environment without what would lead dbt to our packages, or home to its makers."""
    ours = ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME", "UV_PROJECT", "UV_PROJECT_ENVIRONMENT")
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    # dbt imports every module called `dbt_…` that it can see: the working directory is not seen.
    quiet = {"PYTHONSAFEPATH": "1", "DO_NOT_TRACK": "1", "DBT_SEND_ANONYMOUS_USAGE_STATS": "false"}
    return kept | quiet


def _install(place: Path, project: Path) -> None:
    if uv := shutil.which("uv"):
        options = ["--quiet", "--frozen", "--no-dev", "--python", sys.executable]
        commands = [[uv, "sync", *options, "--project", str(project)]]
    else:
        pip = [str(place / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        commands = [[sys.executable, "-m", "venv", str(place)], [*pip, *REQUIREMENTS]]
    environment = clean_environment() | {"UV_PROJECT_ENVIRONMENT": str(place)}
    for command in commands:
        try:
            done = subprocess.run(
                command,
                env=environment,
                capture_output=True,
                text=True,
                timeout=_INSTALL_S,
                check=False,
            )
            said, failed = done.stderr.strip(), done.returncode != 0
        except (OSError, subprocess.TimeoutExpired) as error:
            said, failed = str(error), True
        if failed:
            last = said.splitlines()[-1] if said else "no reason was given"
            raise MissingExtraError(f"dbt cannot be installed into {place}: {last}", hint=_HINT)
