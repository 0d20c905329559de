"""Every kind of backend, once for each wire it has, beside a server that speaks it."""

import dataclasses
from collections.abc import Callable

from fungible.config import BackendSettings
from support.anthropic_upstream import AnthropicUpstream
from support.aws_upstream import BedrockUpstream, SageMakerUpstream
from support.azure_upstream import AzureUpstream
from support.forms import ChatForm, Form, MessagesForm
from support.upstream import Upstream
from support.vertex_upstream import VertexUpstream


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """How one kind is tested.

    Attributes:
        upstream: What it talks to.
        settings: Its configuration, given the server's address without a path.
        environment: What must be set before it starts.
        form: The format that it speaks.
    """

    upstream: Callable[[], Upstream]
    settings: Callable[[str], BackendSettings]
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    form: Form = dataclasses.field(default_factory=ChatForm)


AWS = {
    "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "aws-secret-canary",
    "AWS_SESSION_TOKEN": "aws-session-canary",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/dev/null",
    "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
}

GOOGLE = {"GOOGLE_KEY": "google-canary"}

PLACES: dict[str, Place] = {
    "openai_http": Place(
        upstream=Upstream, settings=lambda root: BackendSettings(url=f"{root}/v1")
    ),
    "azure": Place(
        upstream=AzureUpstream,
        settings=lambda root: BackendSettings(kind="azure", url=root, api_key_env="AZURE_KEY"),
        environment={"AZURE_KEY": "azure-canary"},
    ),
    "anthropic": Place(
        upstream=AnthropicUpstream,
        settings=lambda root: BackendSettings(
            kind="anthropic", url=root, api_key_env="CLAUDE_KEY", model="claude"
        ),
        environment={"CLAUDE_KEY": "anthropic-canary"},
        form=MessagesForm(),
    ),
    "bedrock": Place(
        upstream=BedrockUpstream,
        settings=lambda root: BackendSettings(
            kind="bedrock", url=root, region="us-east-1", model="us.vendor.model-1:0"
        ),
        environment=AWS,
    ),
    "sagemaker": Place(
        upstream=SageMakerUpstream,
        settings=lambda root: BackendSettings(
            kind="sagemaker", url=root, region="us-east-1", options={"endpoint": "my-endpoint"}
        ),
        environment=AWS,
    ),
    "vertex": Place(
        upstream=VertexUpstream,
        settings=lambda root: _vertex(root, {"project": "my-project"}),
        environment=GOOGLE,
    ),
    "vertex, gemini": Place(
        upstream=VertexUpstream,
        settings=lambda root: _vertex(root, {"api": "gemini"}),
        environment=GOOGLE,
    ),
}


def _vertex(root: str, options: dict[str, str]) -> BackendSettings:
    return BackendSettings(
        kind="vertex", url=root, api_key_env="GOOGLE_KEY", model="gemini", options=options
    )
