"""What span attributes are called, by whom: one table, versioned as a whole.

GenAI conventions of OpenTelemetry, old (up to 1.41) and new (its own repository since), Arize's
OpenInference, OpenLLMetry's older names, vLLM's and Langfuse's. Of several names for one thing
the first that a span has counts.
"""

VERSION = 2

Names = tuple[str, ...]

OPERATION: Names = ("gen_ai.operation.name", "llm.request.type", "openinference.span.kind")
# What an operation is called in the ledger; every other one is no model call.
CALLS = {
    "chat": "chat",
    "generate_content": "generate_content",
    "text_completion": "text_completion",
    "completion": "text_completion",
    "embeddings": "embeddings",
    "embedding": "embeddings",
    "llm": "chat",
    "responses": "responses",
    "llm_request": "chat",
}
# Without an operation a span is a model call when it has one of these.
MODEL_CALL: Names = ("gen_ai.request.model", "gen_ai.response.id", "gen_ai.usage.prompt_tokens")

TEXTS: dict[str, Names] = {
    "issuer": ("gen_ai.provider.name", "gen_ai.system", "llm.provider", "llm.system"),
    "model": ("gen_ai.request.model", "llm.model_name", "embedding.model_name"),
    "response_model": ("gen_ai.response.model",),
    "response_id": ("gen_ai.response.id", "llm.response.id"),
    "tier": (
        "openai.response.service_tier",
        "gen_ai.openai.response.service_tier",
        "fungible.tier",
        "aws.bedrock.service_tier",
        "openai.request.service_tier",
        "gen_ai.openai.request.service_tier",
    ),
    "error_code": ("error.type", "exception.type"),
    # vLLM's is made of the attempt's id, where the gateway asked it.
    "request_id": ("fungible.request_id", "gen_ai.request.id"),
    "backend": ("fungible.backend",),
    "resource": ("fungible.resource", "k8s.pod.name", "azure.deployment.name"),
    "region": ("fungible.region", "cloud.region"),
}
# Who a call was for: settings may put other attributes before these.
ATTRIBUTED: dict[str, Names] = {
    "customer": ("fungible.customer", "enduser.id", "user.id", "langfuse.user.id"),
    "feature": ("fungible.feature", "gen_ai.agent.name", "langfuse.trace.name"),
    "owner": ("fungible.owner",),
    "key": ("fungible.key",),
    "session": ("session.id", "gen_ai.conversation.id", "langfuse.session.id"),
}
ADDRESS: Names = ("server.address", "net.peer.name", "http.host")
PORT: Names = ("server.port", "net.peer.port")
URL: Names = ("url.full", "http.url", "gen_ai.openai.api_base")
STREAMED: Names = ("gen_ai.request.stream", "llm.is_streaming", "gen_ai.is_streaming")
FINISH_REASONS: Names = ("gen_ai.response.finish_reasons", "llm.finish_reason")
HTTP_STATUS: Names = ("http.response.status_code", "http.status_code")

# Totals include their parts in all of these.
INPUT: Names = (
    "gen_ai.usage.input_tokens",
    "gen_ai.usage.prompt_tokens",
    "llm.token_count.prompt",
    "llm.usage.prompt_tokens",
)
OUTPUT: Names = (
    "gen_ai.usage.output_tokens",
    "gen_ai.usage.completion_tokens",
    "llm.token_count.completion",
    "llm.usage.completion_tokens",
)
TOTAL: Names = ("gen_ai.usage.total_tokens", "llm.token_count.total", "llm.usage.total_tokens")
CACHE_READ: Names = (
    "gen_ai.usage.cache_read.input_tokens",
    "gen_ai.usage.cache_read_input_tokens",
    "gen_ai.usage.input_tokens.cached",
    "llm.token_count.prompt_details.cache_read",
)
CACHE_WRITE: Names = (
    "gen_ai.usage.cache_write.input_tokens",
    "gen_ai.usage.cache_creation.input_tokens",
    "gen_ai.usage.cache_creation_input_tokens",
    "llm.token_count.prompt_details.cache_write",
)
REASONING: Names = (
    "gen_ai.usage.reasoning.output_tokens",
    "gen_ai.usage.output_tokens.reasoning",
    "llm.token_count.completion_details.reasoning",
    "llm.usage.reasoning_tokens",
)
COST: Names = ("gen_ai.usage.cost.amount", "llm.cost.total", "gen_ai.usage.cost")
CURRENCY: Names = ("gen_ai.usage.cost.currency",)

# Seconds from the start of the span to its first token.
FIRST_TOKEN_S: Names = (
    "gen_ai.response.time_to_first_chunk",
    "gen_ai.client.inference.time_to_first_chunk",
    "gen_ai.client.operation.time_to_first_chunk",
    "gen_ai.server.time_to_first_token",
    "gen_ai.latency.time_to_first_token",
)
FIRST_TOKEN_AT: Names = ("langfuse.observation.completion_start_time",)
FIRST_TOKEN_EVENTS: Names = (
    "gen_ai.first_token",
    "first_token",
    "first_chunk",
    "First Token Stream Event",
    "llm.content.completion.chunk",
    "gen_ai.content.completion.chunk",
)
