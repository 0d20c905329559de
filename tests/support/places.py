"""Every kind of backend beside a loopback server that speaks its vendor's wire."""

import dataclasses
from collections.abc import Callable

from fungible.config import BackendSettings
from support.azure_upstream import AzureUpstream
from support.upstream import Upstream


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """How one kind is tested.

    Attributes:
        upstream: What it talks to.
        settings: Its configuration, given the server's address without a path.
        environment: What must be set before it starts.
    """

    upstream: Callable[[], Upstream]
    settings: Callable[[str], BackendSettings]
    environment: dict[str, str] = dataclasses.field(default_factory=dict)


PLACES: dict[str, Place] = {
    "openai_http": Place(
        upstream=Upstream, settings=lambda root: BackendSettings(url=f"{root}/v1")
    ),
    "azure": Place(
        upstream=AzureUpstream,
        settings=lambda root: BackendSettings(kind="azure", url=root, api_key_env="AZURE_KEY"),
        environment={"AZURE_KEY": "azure-canary"},
    ),
}
